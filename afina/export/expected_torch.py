"""What the run's own model does with the stored questions and the held-out rows: what an export is held against.

B prompts    T tokens of a row    V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import torch

from afina.export.origin import Origin
from afina.export.programs import text_of
from afina.model.choices import choose_precision
from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import Request
from afina.model.load_torch import load_base, open_adapter, pick_device, this_machine
from afina.recipe.methods import JUDGED
from afina.run import Progress, no_progress, read_stages
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
TRAINED, HELD_OUT = "dataset/train.jsonl", "dataset/validation.jsonl"
"""Files of a run."""
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
    holds_marks: bool = False
    """Whether the messages hold marks of the base, which other programs do not read as words."""


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
    held_out_file = origin.run / HELD_OUT  # gone where the run was copied without it
    examples = (
        [each for each in read_examples(held_out_file) if each.kind not in JUDGED] if held_out_file.is_file() else []
    )
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
            marked = bool(renderer.marks_in(messages))
            prompt = renderer.prompt(messages)
            found.append(ExpectedAnswer(tuple(messages), prompt, stored=each.trained, holds_marks=marked))
        return found, limit
    given, limit = TEXT_TOKENS
    texts = [each.text for each in read_examples(origin.run / TRAINED) if each.text][:QUESTIONS]
    return [ExpectedAnswer((), renderer.text(text).ids[:given]) for text in texts], limit


@dataclass
class GivenAgain:
    """Whether the run's model gives the stored answers where it computes as it was measured."""

    tried: list[str]
    """How it was opened."""
    missing: list[tuple[str, str, str]]
    """Answers that it gave in none of these ways: the question, what is stored, what it says."""


def given_again(origin: Origin, expected: Expected, progress: Progress = no_progress) -> GivenAgain:
    """Ask the run's model for the stored answers that it did not give in 32 bits, in the run's own precision.

    Once all together and once each alone: in few bits it also rounds by what stands beside it in a batch.
    """
    open_ones = [
        each
        for each in expected.asked
        if each.stored is not None and text_of(origin.tokenizer, each.tokens) != each.stored
    ]
    first, tried = {id(each): text_of(origin.tokenizer, each.tokens) for each in open_ones}, ["32 bits"]
    for how, model in _as_measured(origin):
        tried.append(how)
        for together in (open_ones, *([each] for each in open_ones)):
            together = [each for each in together if any(each is left for left in open_ones)]
            again = [replace(each) for each in together]
            _answer(again, expected.limit, model, origin, progress)
            right = [
                each
                for each, new in zip(together, again, strict=True)
                if text_of(origin.tokenizer, new.tokens) == each.stored
            ]
            open_ones = [each for each in open_ones if not any(each is given for given in right)]
        if not open_ones:
            return GivenAgain(tried[1:], [])
    missing = [(_question(each, origin), each.stored or "", first[id(each)]) for each in open_ones]
    return GivenAgain(tried, missing)


def _as_measured(origin: Origin) -> Iterator[tuple[str, Any]]:
    """The run's model by the back end, on the device and in the precisions that it was measured in, one after the
    other."""
    recipe = origin.recipe
    device = pick_device(recipe.device) if recipe.device == "auto" or _is_there(recipe.device) else torch.device("cpu")
    four_bit = recipe.adapter.kind == "qlora" and origin.adapter is not None
    stages = origin.run / "stages.json"
    trained = read_stages(stages).get("train", {}).get("inputs", {}) if stages.is_file() else {}
    computed = trained.get("computed", {})
    here, noted = choose_precision(recipe, this_machine(device)), computed.get("precision")
    if computed.get("backend") == "mlx" and find_spec("mlx_lm"):
        from afina.model.mlx.adapter_mlx import open_adapter as open_by_mlx
        from afina.model.mlx.open_mlx import open_base

        by_mlx = open_base(origin.base, recipe, precision=noted)
        yield f"{noted} by MLX", open_by_mlx(by_mlx, origin.adapter) if origin.adapter else by_mlx
        if four_bit:
            return  # torch's 4 bits are others, and a Mac has no bitsandbytes
    for precision in dict.fromkeys([noted or here, here]):
        if precision == "fp32" and device.type == "cpu" and not four_bit:
            continue  # that is what was compared
        model = load_base(origin.base, recipe, device, four_bit=four_bit, precision=precision)
        on = f"{precision} on {device.type}" + (", its base in 4 bits" if four_bit else "")
        yield on, open_adapter(model, origin.adapter) if origin.adapter else model


def _is_there(device: str) -> bool:
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(device, True)


def _question(each: ExpectedAnswer, origin: Origin) -> str:
    return each.messages[-1]["content"] if each.messages else str(origin.tokenizer.decode(each.prompt))


def _answer(asked: Sequence[ExpectedAnswer], limit: int, model: Any, origin: Origin, progress: Progress) -> None:
    if not asked:
        return
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
