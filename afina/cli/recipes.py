"""``afina recipe``: write a starter recipe; print the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afina.cli.output import say

if TYPE_CHECKING:
    pass


def recipe_init(
    kind: Annotated[str, typer.Argument(metavar="docs|chat|preference|scratch", help="What you have.")],
    to: Annotated[Path | None, typer.Option("--to", help="File to write; to the screen where not given.")] = None,
) -> None:
    """Write a commented starter recipe."""
    from afina.errors import RecipeError
    from afina.run import write_whole
    from afina.starter import starter

    text = starter(kind)
    if to is None:
        print(text, end="")
    elif to.exists():
        raise RecipeError(f"{to} is there already", "choose another name, or remove it")
    else:
        write_whole(to, text)
        say(f"wrote {to}; next: afina run {to}")


def recipe_schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    from afina.recipe import recipe_schema as schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
