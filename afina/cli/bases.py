"""``afina base``: look at a base before anything is done with it."""

from __future__ import annotations

from typing import Annotated

import typer

from afina.cli.arguments import AsJson
from afina.cli.output import show


def base_show(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A base's folder or hub id.")], as_json: AsJson = False
) -> None:
    """What a base is, its size, how it talks, how it can be trained, and what was proven of its architecture."""
    from afina.base_page import base_page

    page = base_page(base)
    show(page.as_json(), as_json, page.describe())
