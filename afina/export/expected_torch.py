"""What the run's own model does with the stored questions and the held-out rows: what an export is held against.

B prompts    T tokens of a row    V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from afina.export.origin import Origin
from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import Request
from afina.recipe.methods import JUDGED
from afina.run import Progress, no_progress
from afina.serve.identity import QUESTIONS, stored_answers
from afina.text.document import Message
from afina.text.example import read_examples
from afina.tokenizer.encode import encode_examples

if TYPE_CHECKING:
    import numpy as np

ROWS = 64
"""Held-out rows that are read at most."""
LOGIT_BYTES = 512 * 2**20
"""Memory for the logits that are kept; beyond it, only the losses of rows are."""
TEXT_TOKENS = (16, 32)
"""Without a chat template: how much of a held-out text is given, how much is written."""


@dataclass
class ExpectedAnswer:
    """A prompt, and how the run's model answers it."""

    messages: tuple[Message, ...]
    """Empty where a plain text is continued."""
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    """The answer, without its stop token."""
    stopped: bool = False
    stored: str | None = None
    """What stands in the run."""


@dataclass
class Read:
    """A row of tokens as the run's model reads it."""

    ids: list[int]
    mask: list[bool]
    """Whose loss counts."""
    losses_T: np.ndarray[Any, Any] | None = None
    """Nats of tokens 1 to the last."""
    logits_TV: np.ndarray[Any, Any] | None = None
    """At every place; None where they were not kept."""


@dataclass
class Expected:
    """All of it."""

    limit: int
    """New tokens of an answer."""
    asked: list[ExpectedAnswer]
    answers: list[Read]
    """Prompts with their answers, in the order of `asked`."""
    rows: list[Read]
    """Of the held-out part."""
    rows_there: int
    """How many the held-out part has."""

    @property
    def context(self) -> int:
        """Tokens that a program has to hold at once."""
        longest = max((len(each.prompt) + self.limit for each in self.asked), default=1)
        return max([longest, *(len(row.ids) for row in self.rows)])


def expected_of(origin: Origin, model: Any, progress: Progress = no_progress) -> Expected:
    """Ask the run's model what the export will be asked.

    Raises:
        RecipeError: the run was never measured.
    """
    asked, limit = _questions(origin)
    _answer(asked, limit, model, origin, progress)
    answers = [
        Read(each.prompt + each.tokens, [False] * len(each.prompt) + [True] * len(each.tokens)) for each in asked
    ]
    examples = [each for each in read_examples(origin.run / "dataset/validation.jsonl") if each.kind not in JUDGED]
    rows = encode_examples(examples, origin.renderer, origin.recipe).rows
    held_out = [Read(row.ids, row.mask) for row in rows[:ROWS]]
    room = LOGIT_BYTES
    for number, read in enumerate([*answers, *held_out], start=1):
        room -= _read(model, read, room)
        progress(number, len(answers) + len(held_out), "rows read by the run's model")
    return Expected(limit, asked, answers, held_out, len(rows))


def _questions(origin: Origin) -> tuple[list[ExpectedAnswer], int]:
    renderer = origin.renderer
    if origin.tokenizer.chat_template:
        stored, limit = stored_answers(origin.run)
        found = []
        for each in stored:
            messages = cast(list[Message], [dict(turn) for turn in each.messages])
            found.append(ExpectedAnswer(tuple(messages), renderer.prompt(messages), stored=each.trained))
        return found, limit
    given, limit = TEXT_TOKENS
    texts = [each.text for each in read_examples(origin.run / "dataset/train.jsonl") if each.text][:QUESTIONS]
    return [ExpectedAnswer((), renderer.text(text).ids[:given]) for text in texts], limit


def _answer(asked: Sequence[ExpectedAnswer], limit: int, model: Any, origin: Origin, progress: Progress) -> None:
    engine = Engine(model, origin.tokenizer, origin.renderer.stop_ids())
    of = {engine.submit(Request(prompt=each.prompt, max_new_tokens=limit)): each for each in asked}
    done = 0
    while engine.busy:
        for produced in engine.step():
            if produced.done:
                each, done = of[produced.id], done + 1
                each.tokens, each.stopped = list(produced.done.tokens), produced.done.finish == "stop"
                progress(done, len(asked), "answers of the run's model")


@torch.no_grad()
def _read(model: Any, read: Read, room: int) -> int:
    """Fill in losses and, where there is room, logits; returns the bytes kept."""
    device = next(model.parameters()).device
    logits_TV = model(torch.tensor([read.ids], device=device)).logits[0].float()
    targets_T = torch.tensor(read.ids[1:], device=device)
    read.losses_T = torch.nn.functional.cross_entropy(logits_TV[:-1], targets_T, reduction="none").cpu().numpy()
    size = logits_TV.numel() * 4
    if size > room:
        return 0
    read.logits_TV = logits_TV.cpu().numpy()
    return size
