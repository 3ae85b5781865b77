"""Where an answer ends in what a chat template writes, and which token a model learns to stop with.

ChatML    Faro<|im_end|>\\n               the first mark after what was said
calls     ...<call_end><calls_end><eos>   the last mark that stays when the conversation goes on
GLM-4     Faro                            no mark of its own: the next turn's, <|user|> or <|observation|>
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from afina.text.document import Message, value_texts
from afina.tokenizer.abilities import written_forms


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """What stands after the prompt, up to and with the token that ends the answer."""

    text: str
    stop: str


def behind(prompt: str, whole: str, turns: Sequence[Message]) -> str | None:
    """What a template writes after the prompt: behind it, or behind the last turn's words and what asks for an answer
    where it writes the turns before otherwise once an answer follows (Mistral moves the system text). None where that
    is not found, once."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    last = turns[-1]["content"].strip() if turns else ""
    asks = prompt[prompt.rfind(last) :]
    return whole.partition(asks)[2] if last and last in prompt and whole.count(asks) == 1 else None


def left_out(answer: Message, tail: str) -> str:
    """What of an answer a template does not give back, in words; empty where all is there.

    Args:
        tail: what the template writes after the prompt.
    """
    if answer["content"].strip() not in tail:
        if answer.get("tool_calls"):
            return "the chat template leaves out what an answer says beside its calls"
        return "the chat template does not give the answer back word for word"
    for piece in _called(answer):
        if not any(form in tail for form in written_forms(piece)):
            return f"the chat template leaves out a part of a call ({piece[:40]!r})"
    return ""


def find_end(answer: Message, tail: str, stops: Sequence[str], goes_on: Callable[[], str]) -> AnswerEnd | None:
    """Where the answer ends; None where nothing that could be learned to stop with follows it.

    Args:
        tail: what the template writes after the prompt.
        stops: marks that may end an answer, the tokenizer's own end token first.
        goes_on: what it writes after the prompt once another turn follows; empty where it refuses that.
    """
    if answer.get("tool_calls"):
        found = _after_calls(answer, tail, stops, goes_on())
    else:
        found = _after_content(answer["content"].strip(), tail, stops)
    return found or _by_next_turn(tail, stops, goes_on())


def _after_content(content: str, tail: str, stops: Sequence[str]) -> AnswerEnd | None:
    for stop in stops:
        found = tail.find(stop)
        while found >= 0:
            if tail[:found].rstrip().endswith(content):
                return AnswerEnd(tail[: found + len(stop)], stop)
            found = tail.find(stop, found + 1)
    return None


def _after_calls(answer: Message, tail: str, stops: Sequence[str], longer: str) -> AnswerEnd | None:
    marks = [(match.end(), match.group()) for match in re.finditer("|".join(map(re.escape, stops)), tail)]
    plain = tail
    for end, mark in marks:
        plain = plain[: end - len(mark)] + "\0" * len(mark) + plain[end:]
    pieces = [form for piece in [answer["content"].strip(), *_called(answer)] for form in written_forms(piece) if form]
    said = max(plain.rfind(piece) + len(piece) for piece in pieces if piece in plain)
    after = [(end, mark) for end, mark in marks if end > said]
    shared = next((at for at, pair in enumerate(zip(tail, longer, strict=False)) if pair[0] != pair[1]), len(tail))
    shared = min(shared, len(longer))
    if not (kept := [each for each in after if each[0] <= shared] or after):
        return None
    end, mark = kept[-1]
    return AnswerEnd(tail[:end], mark)


def _by_next_turn(tail: str, stops: Sequence[str], longer: str) -> AnswerEnd | None:
    """The mark of the next turn, where it stands directly behind the answer."""
    said = tail.rstrip()
    if not longer.startswith(said):
        return None
    space = len(longer[len(said) :]) - len(longer[len(said) :].lstrip())
    start = len(said) + space
    stop = next((each for each in stops if longer.startswith(each, start)), None)
    return AnswerEnd(longer[: start + len(stop)], stop) if stop else None


def _called(answer: Message) -> list[str]:
    """Names and values of its calls."""
    functions = [call["function"] for call in answer.get("tool_calls", ())]
    return [text for each in functions for text in (each["name"], *value_texts(each["arguments"])) if text]
