"""What a base answers already: afina's own general questions, in Portuguese and in English."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from afina.model.base import find_base
from afina.model.shape import Shape
from afina.plan.device import Device, local_device
from afina.recipe import Chat, Recipe, Source
from afina.run import Progress, no_progress
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.units import show_bytes, show_seconds

LANGUAGES = ("pt", "en")
ASKED = 8
"""Questions in each language."""
LONGEST_ANSWER = 32
"""Tokens."""
LONGEST_WAIT = 90.0
"""Seconds that the answers may take, by what the machine reads of memory in a second."""
SHOWN = 4
"""Answers printed of each language."""


@dataclass(frozen=True, slots=True)
class BaseAnswer:
    """One question, and what the base says."""

    language: str
    question: str
    reference: str
    answer: str
    right: bool
    """The reference stands in it."""
    stopped: bool
    """It ended by itself."""


@dataclass(frozen=True, slots=True)
class BaseAnswers:
    """All of them, or why there are none."""

    answers: tuple[BaseAnswer, ...] = ()
    why_not: str = ""

    def describe(self) -> str:
        """For people, a line each."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.why_not:
            yield f"not asked: {self.why_not}"
            return
        yield f"what it answers already (greedy, at most {LONGEST_ANSWER} tokens)"
        for language in LANGUAGES:
            own = [each for each in self.answers if each.language == language]
            right, stopped = sum(each.right for each in own), sum(each.stopped for each in own)
            yield f"  {language}: {right} of {len(own)} right, {stopped} ended by themselves"
            for each in own[:SHOWN]:
                said = " ".join(each.answer.split())
                shown = said[:100] + ("..." if len(said) > 100 else "")
                yield f"    {'+' if each.right else '-'} {each.question} -> {shown}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        from dataclasses import asdict

        return {"not_asked": self.why_not or None, "answers": [asdict(each) for each in self.answers]}


def ask_base(
    base: str,
    shape: Shape,
    *,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda _: None,
    device: Device | None = None,
) -> BaseAnswers:
    """Ask a base that was looked at.

    Args:
        device: this machine, where not given.

    Raises:
        BaseError: its weights are missing or damaged.
    """
    if why := _too_large(shape, device or local_device()):
        return BaseAnswers(why_not=why)
    folder = find_base(base, say=say)
    tokenizer = load_tokenizer(str(folder), Chat())
    if not tokenizer.chat_template:
        return BaseAnswers(why_not="it has no chat template, so that no question can be put to it")
    from afina.evaluate.derive import general_questions
    from afina.evaluate.probes import ask
    from afina.model.load_torch import load_base, pick_device

    questions = [(each, question) for each in LANGUAGES for question in general_questions(each)[:ASKED]]
    recipe = Recipe(name="looked-at", base=str(folder), sources=[Source(path=".")])
    model = load_base(folder, recipe, pick_device("auto"))
    answers = ask(
        model,
        Renderer(tokenizer, Chat()),
        [question for _, question in questions],
        max_new_tokens=LONGEST_ANSWER,
        progress=progress,
    )
    made = [
        BaseAnswer(each, asked.prompt, asked.reference, said.text, asked.grade(said.text).said, said.stopped)
        for (each, asked), said in zip(questions, answers, strict=True)
    ]
    return BaseAnswers(tuple(made))


def _too_large(shape: Shape, device: Device) -> str:
    """Why this machine is not made to answer; empty where it may."""
    held = shape.parameters * (2 if device.kind == "cuda" else 4)
    if held > device.usable_bytes:
        return f"its weights take {show_bytes(held)}, and {device.name} has {show_bytes(device.usable_bytes)} for them"
    seconds = LONGEST_ANSWER * held / device.bytes_per_second
    if seconds > LONGEST_WAIT:
        return f"it would take about {show_seconds(seconds)} on {device.name}; `afina serve` and ask it yourself"
    return ""
