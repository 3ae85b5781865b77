"""A question with the answer that is learned of it: what the checks of answers look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from afina.dataset.audit.one_example import body, is_prose
from afina.text.answer_flaws import after_thinking
from afina.text.code_blocks import without_fences
from afina.text.example import Example


@dataclass(frozen=True, slots=True)
class Exchange:
    """One learned answer and the turn before it; of a text the text alone."""

    prompt: str
    answer: str
    """Without its thoughts."""
    prose: str
    """The answer without its fenced code."""
    asked: bool = True
    """False: a text."""
    rejected: str | None = None
    """The worse answer, where this is the better one."""
    said_before: str = ""
    """All earlier turns."""


def exchanges(example: Example) -> Iterator[Exchange]:
    """All that is learned of an example, answer by answer; nothing of a file of code."""
    if not example.messages:
        if is_prose(example):
            text = body(example)
            yield Exchange("", text, without_fences(text) if "```" in text or "~~~" in text else text, asked=False)
        return
    last = len(example.messages) - 1
    for place, message in enumerate(example.messages):
        if message["role"] != "assistant" or not message.get("learned", True):
            continue
        said = message["content"]
        answer = after_thinking(said) if "</think>" in said else said.strip()
        if not answer:
            continue
        yield Exchange(
            prompt=example.messages[place - 1]["content"] if place else "",
            answer=answer,
            prose=without_fences(answer) if "```" in answer or "~~~" in answer else answer,
            rejected=example.rejected if place == last else None,
            said_before="\n".join(each["content"] for each in example.messages[:place]) if place > 1 else "",
        )
