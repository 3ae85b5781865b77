"""``docs/recipe.md``: a table of every key, from the recipe's own fields. ``make docs`` runs this file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from afina.recipe.code import Check
from afina.recipe.keys import Key, keys_of
from afina.recipe.part import RecipePart
from afina.recipe.parts import Recipe
from afina.recipe.starter import yaml_value

_HEAD = """\
# Every key of a recipe

Written by `make docs` from the fields in `afina/recipe/`. `afina recipe init docs` writes a recipe with the keys that
matter first, `--full` one with all of them; `afina recipe schema` tells your editor the same. Any key can be set on the
command line too: `afina run my-docs.yaml train.epochs=2`. An unknown key is an error.
"""


def reference() -> str:
    """The whole page, as Markdown."""
    blocks = [_HEAD, *_sections(Recipe, "", "The top level")]
    blocks += [*_sections(Check, "checks[]", "`checks` in the rows of a task of code")]
    return "\n".join(blocks)


def _sections(part: type[RecipePart], path: str, title: str) -> Iterator[str]:
    """A part's heading, text and table, then those of the parts inside it."""
    keys = list(keys_of(part, path))
    rows = [f"| `{key.name}` | {_default(key)} | {_values(key)} | {_cell(key.help)} |" for key in keys]
    about = "" if part is Recipe else f"{_paragraphs(part)}\n\n"
    table = "\n".join(["| key | default | may be | what it does |", "|---|---|---|---|", *rows])
    yield f"## {title}\n\n{about}{table}\n"
    for key in keys:
        if key.part:
            yield from _sections(key.part, f"{key.path}[]" if key.many else key.path, f"`{_title(key)}`")


def _title(key: Key) -> str:
    return f"{key.path}[]" if key.many else key.path


def _paragraphs(part: type[RecipePart]) -> str:
    """A part's docstring without examples, each paragraph on a line."""
    paragraphs = (part.__doc__ or "").partition(">>>")[0].split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs if each.strip())


def _default(key: Key) -> str:
    if key.field.is_required():
        return "must be given"
    return "" if key.always else f"`{yaml_value(key.default)}`"


def _values(key: Key) -> str:
    if not key.part:
        return _cell(key.values)
    link = f"[{'list of mappings' if key.many else 'mapping'}](#{re.sub(r'[^a-z_-]', '', _title(key))})"
    return link if key.always or key.many else f"{link}; null"


def _cell(text: str) -> str:
    """Text of a table's cell: outside of code, nothing is taken for markup."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
