"""An example as the model sees it: token by token, what is learned set apart."""

from __future__ import annotations

from dataclasses import replace

from afina.recipe.methods import JUDGED
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Encoded, Renderer

GREEN, GREY, PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[0m"


def show_tokens(example: Example, renderer: Renderer, *, color: bool) -> str:
    """The tokens of an example between bars; learned ones green, or in square brackets without colour."""
    where = f"{example.path}:{example.line}"
    if example.rejected is not None:
        worse = (*example.messages[:-1], Message(role="assistant", content=example.rejected))
        sides = [replace(example, messages=turns, rejected=None, label=True) for turns in (example.messages, worse)]
        return "\nrejected: ".join(show_tokens(side, renderer, color=color) for side in sides)
    if not example.messages:
        return _shown(renderer.text(example.text), where, renderer, color=color)
    made = renderer.rows(example.messages, where, tools=example.tools, last_only=example.kind in JUDGED)
    shown = [_shown(row, where, renderer, color=color) for row in made.rows]
    return "\n".join([*([f"{len(shown)} rows: {made.why}"] if made.why else []), *shown])


def _shown(encoded: Encoded, where: str, renderer: Renderer, *, color: bool) -> str:
    shown = []
    for token, learned in zip(encoded.ids, encoded.mask, strict=True):
        text = renderer.tokenizer.decode([token]).replace("\n", "\\n")
        if color:
            shown.append(f"{GREEN if learned else GREY}{text}{PLAIN}")
        else:
            shown.append(f"[{text}]" if learned else text)
    counts = f"{len(encoded.ids)} tokens, {encoded.targets} learned"
    return f"{where}  ({counts})\n" + ("|" if color else "").join(shown)
