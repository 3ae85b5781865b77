"""An example as the model sees it: token by token, what is learned set apart."""

from __future__ import annotations

from dataclasses import replace

from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Renderer

GREEN, GREY, PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[0m"


def show_tokens(example: Example, renderer: Renderer, *, color: bool) -> str:
    """The tokens of an example between bars; learned ones green, or in square brackets without colour."""
    where = f"{example.path}:{example.line}"
    if example.rejected is not None:
        worse = (*example.messages[:-1], Message(role="assistant", content=example.rejected))
        sides = [replace(example, messages=messages, rejected=None) for messages in (example.messages, worse)]
        return "\nrejected: ".join(show_tokens(side, renderer, color=color) for side in sides)
    encoded = renderer.conversation(example.messages, where) if example.messages else renderer.text(example.text)
    shown = []
    for token, learned in zip(encoded.ids, encoded.mask, strict=True):
        text = renderer.tokenizer.decode([token]).replace("\n", "\\n")
        if color:
            shown.append(f"{GREEN if learned else GREY}{text}{PLAIN}")
        else:
            shown.append(f"[{text}]" if learned else text)
    counts = f"{len(encoded.ids)} tokens, {encoded.targets} learned"
    return f"{where}  ({counts})\n" + ("|" if color else "").join(shown)
