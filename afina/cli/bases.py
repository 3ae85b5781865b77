"""``afina base``: look at a base before anything is done with it, and write it as a folder."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson
from afina.cli.output import say, show

BaseName = Annotated[
    str, typer.Argument(metavar="BASE", help="A folder, a GGUF file, package:NAME that holds one, or a hub id.")
]


def base_show(
    base: BaseName,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Put a few general questions to it.")] = True,
    as_json: AsJson = False,
) -> None:
    """What a base is, its size, how it talks, how it can be trained, what was proven of its architecture, and what it
    already answers."""
    from afina.base_answers import ask_base
    from afina.base_page import base_page
    from afina.progress import StageProgress

    page = base_page(base)
    if not ask or not page.has_weights:
        show(page.as_json(), as_json, page.describe())
        return
    if not as_json:
        show(None, False, page.describe())
    with StageProgress("questions", quiet=as_json) as progress:
        found = ask_base(base, page.shape, progress=progress, say=say)
    show(page.as_json() | found.as_json(), as_json, found.describe())


def base_import(
    base: BaseName,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="The folder to write; it must not be there yet.")],
    as_json: AsJson = False,
) -> None:
    """Write a base as a Hugging Face folder: a GGUF as safetensors, anything else as it is."""
    from afina.model.base_copy import copy_base

    found = copy_base(base, to, say=say)
    show(found, as_json, f"{found['folder']}: {found['what']}; name it as `base`")
