"""An example as the model sees it: token by token, what is learned set apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from afina.errors import Problem
from afina.recipe.methods import JUDGED
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Encoded, Renderer
from afina.tokenizer.template import NotRendered

GREEN, GREY, PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One token of a row."""

    text: str
    """By itself: of a character whose bytes are several tokens' only a replacement mark."""
    id: int
    learned: bool


@dataclass(frozen=True, slots=True)
class ShownSide:
    """The rows that an example is learned from, or the two sides of a preference one after the other."""

    rows: list[list[ShownToken]]
    why: str = ""
    """Why there are several rows; empty where one was asked for."""
    rejected: bool = False
    """Whether this is the worse answer of a preference."""
    problem: Problem | None = None
    """Why there is no row."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def shown_sides(example: Example, renderer: Renderer) -> Iterator[ShownSide]:
    """The tokens of an example; of a preference those of the better answer, then those of the worse one."""
    if example.rejected is not None:
        worse = (*example.messages[:-1], Message(role="assistant", content=example.rejected))
        for turns, rejected in ((example.messages, False), (worse, True)):
            side = replace(example, messages=turns, rejected=None, label=True)
            yield replace(next(shown_sides(side, renderer)), rejected=rejected)
        return
    if not example.messages:
        yield ShownSide([_tokens(renderer.text(example.text), renderer)])
        return
    where = f"{example.path}:{example.line}"
    try:
        made = renderer.rows(example.messages, where, tools=example.tools, last_only=example.kind in JUDGED)
    except NotRendered as error:  # the next example may be another matter
        yield ShownSide([], problem=error.problems[0])
        return
    yield ShownSide([_tokens(row, renderer) for row in made.rows], made.why)


def show_tokens(example: Example, renderer: Renderer, *, color: bool) -> str:
    """The tokens of an example between bars; learned ones green, or in square brackets without colour."""
    where = f"{example.path}:{example.line}"
    return "\nrejected: ".join(_side_text(side, where, color=color) for side in shown_sides(example, renderer))


def _tokens(encoded: Encoded, renderer: Renderer) -> list[ShownToken]:
    return [
        ShownToken(renderer.tokenizer.decode([token]), token, learned)
        for token, learned in zip(encoded.ids, encoded.mask, strict=True)
    ]


def _side_text(side: ShownSide, where: str, *, color: bool) -> str:
    if side.problem:
        return f"{where}  (no tokens)\n{side.problem.what}\n  -> {side.problem.fix}"
    shown = [_row_text(row, where, color=color) for row in side.rows]
    return "\n".join([*([f"{len(shown)} rows: {side.why}"] if side.why else []), *shown])


def _row_text(row: list[ShownToken], where: str, *, color: bool) -> str:
    shown = []
    for token in row:
        text = token.text.replace("\n", "\\n")
        if color:
            shown.append(f"{GREEN if token.learned else GREY}{text}{PLAIN}")
        else:
            shown.append(f"[{text}]" if token.learned else text)
    counts = f"{len(row)} tokens, {sum(token.learned for token in row)} learned"
    return f"{where}  ({counts})\n" + ("|" if color else "").join(shown)
