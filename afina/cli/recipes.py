"""``afina recipe``: write a starter recipe; print the schema."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from afina.cli.output import json_text, say


def recipe_init(
    kind: Annotated[str, typer.Argument(metavar="docs|chat|preference|scratch", help="What you have.")],
    to: Annotated[Path | None, typer.Option("--to", help="File to write; to the screen where not given.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Every key, with its default and what it does.")] = False,
) -> None:
    """Write a commented starter recipe."""
    from afina.errors import RecipeError
    from afina.recipe.starter import starter, to_set
    from afina.whole import write_whole

    text = starter(kind, full=full, file=str(to) if to else None)
    if to is None:
        print(text, end="")
    elif to.exists():
        raise RecipeError(f"{to} is there already", "choose another name, or remove it")
    else:
        write_whole(to, text)
        say(f"wrote {to}; open it and set {to_set(kind)}, then: afina plan {shlex.quote(str(to))}")


def recipe_schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    from afina.recipe import recipe_schema as schema

    print(json_text(schema()))
