"""What every verb does with its command line before its own work."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

TEXTS = ("[QUESTION]", "TEXT")
"""How the helps call what is a text and no name: its verb says what such a text has to be."""


class Verb(TyperCommand):
    """A verb that takes no empty name: a path of no letters is the folder that one stands in, a key of none keeps
    everybody out. A shell writes one for a variable that is not set (``--out "$OUT"``)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Click's own.

        Raises:
            RecipeError: an option or an argument is given, and empty.
        """
        given = self.make_parser(ctx).parse_args(args=[*args])[0]
        names = [param for param in self.get_params(ctx) if param.metavar not in TEXTS]
        empty = [shown_name(param) for param in names if _is_empty(given.get(str(param.name)))]
        if empty and not ctx.resilient_parsing:
            from afina.errors import Problem, RecipeError

            fix = "write what is meant, or leave it out; a shell's variable that is not set leaves nothing behind"
            raise RecipeError(problems=[Problem("its value is empty", fix, name) for name in empty])
        return super().parse_args(ctx, args)


def shown_name(param: Any) -> str:
    """An option or an argument as its verb's help calls it."""
    return str(max(param.opts, key=len)) if param.param_type_name == "option" else str(param.metavar or param.name)


def _is_empty(value: Any) -> bool:
    """Whether a value that was given, or one of several, is a text without letters."""
    if isinstance(value, list | tuple):
        return any(map(_is_empty, value))
    return isinstance(value, str) and not value.strip()
