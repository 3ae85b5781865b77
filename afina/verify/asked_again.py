"""Does the model answer as it is stored to have answered? Asked again, greedily, by the code that evaluation uses.

An answer that comes out otherwise is no other model's yet: numbers are added up in another order on another machine.
The model is led along the stored answer, and says how much likelier it holds each token that it would have written
itself: a rounding is nearly a tie, another model's answer is not. An answer that is stored as one that ended has to
end there, and one that is stored as cut has to fill its room. Whoever picks the better side of every tie is found out
by the picking: rounding turns as many right answers wrong as wrong ones right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.evaluate.choice import Choice
from afina.evaluate.choice_ranks import rank_choices
from afina.evaluate.intervals import sign_test
from afina.evaluate.probes import Question
from afina.model.back_ends import INSTALL
from afina.model.choices import Precision, choose_precision
from afina.model.generate.engine_torch import Engine
from afina.model.generate.generate_torch import Answer, Sampling, generate
from afina.model.generate.led import TOP, Led, lead
from afina.model.generate.request import Request, TokenLogprob
from afina.model.open_model import OpenModel, without_adapter
from afina.model.readers import reader_of
from afina.model.rounding import tolerance
from afina.recipe import Recipe
from afina.record import Record
from afina.run import Progress, no_progress
from afina.tokenizer.chat import Renderer
from afina.tokenizer.pieces import read_tokenizer
from afina.verify.proof import of_the_export

KINDS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
PICKED = 0.001
"""Below this p, rounding that favours one side is none: eleven of eleven."""
SPARE = 8
"""Of a cut answer's room so many parts, less one, have to be filled."""
HALF = "\N{REPLACEMENT CHARACTER}"
"""Where an answer was cut within a character."""
WHO = {"base": "the base", "adapter": "the trained model"}
"""The models by their names in rows."""


@dataclass(frozen=True)
class AskedRow:
    """A stored answer's question."""

    question: Question
    row: Record
    room: int
    """New tokens at most."""
    role: str
    """Of its probe."""
    worth: Callable[[Answer], float]
    """Of an answer to it: true where it counts as right, else false; or what a task's metric gives it."""
    ids: Sequence[int] | None = None
    """The tokens that it is asked in, where no template makes them of the question."""

    def prompt(self, renderer: Renderer) -> list[int]:
        """The tokens that it is asked in."""
        if self.ids is not None:
            return list(self.ids)
        return renderer.prompt(self.question.messages, self.question.tools)

    def stored(self, name: str) -> Answer:
        """A model's stored answer.

        Args:
            name: as rows call the model.
        """
        return Answer(self.row.required_text(name), 0, self.row.required_flag(f"{name}_stopped"))


@dataclass
class AskedAgain:
    """What came of asking; `wrong` decides."""

    asked: int = 0
    equal: int = 0
    """Word for word the stored ones."""
    rounded: list[str] = field(default_factory=list)
    """Where an answer parts from the stored one at tokens that are nearly as likely."""
    wrong: list[str] = field(default_factory=list)
    turned: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    """Of those that rounding turned: model, role, whether the stored one is the better (or the one that ends) -> how
    many."""

    def add(self, other: AskedAgain) -> None:
        """Count another model's answers to these."""
        self.asked, self.equal = self.asked + other.asked, self.equal + other.equal
        self.rounded += other.rounded
        self.wrong += other.wrong
        self.turned += other.turned

    def picked(self) -> Iterator[str]:
        """Where what is called rounding favours one side beyond chance (sign test, p < :data:`PICKED`)."""
        for name, role in sorted({(name, role) for name, role, _ in self.turned}):
            stored, here = (self.turned[name, role, is_stored] for is_stored in (True, False))
            p = sign_test(min(stored, here), stored + here)
            if p < PICKED:
                yield (
                    f"{WHO[name]}'s answers ({role}) part within rounding, and not as rounding does: {stored} are "
                    f"better as stored and worse here, {here} the other way round (p = {p:.1g})"
                )


@dataclass(frozen=True)
class OpenedAgain:
    """The exported model, opened to be asked."""

    trained: Any
    base: OpenModel | None
    """The model before training; None where it is not here."""
    limit: float
    """Nats by which a token may be ahead of the stored one and be rounding."""
    kl: float
    """Largest mean KL divergence, in nats, that is rounding."""


@dataclass(frozen=True)
class Held:
    """Where the exported model lies, and how."""

    folder: Path
    """A folder that transformers opens."""
    adapter: bool
    """Whether it is an adapter, else it is a model."""
    weights: str | None = None
    """How a model's weights are held (``bf16``, ``q4_k``), where that says by how much answers may part."""


def open_again(held: Held, base: Path | None, recipe: Recipe, *, measured_in: str | None, by_mlx: bool) -> OpenedAgain:
    """Open an export as its run was measured.

    Args:
        base: its folder; may be None for a model, whose base is then not asked.
        measured_in: the precision that the training noted.
        by_mlx: whether MLX held the base in its own few bits; of an adapter alone.

    Raises:
        BaseError: the base cannot be opened.
        ResultError: the export cannot.
        RecipeError: it needs MLX, which is not here.
    """
    from afina.model.load_torch import load_base, open_adapter, pick_device, this_machine

    if held.adapter and base is None:
        what = "an adapter is asked over its base, and none is named"
        raise BaseError(what, "name it: --base BASE", str(held.folder))
    if by_mlx and find_spec("mlx_lm") is None:
        raise RecipeError("it was measured over a base in few bits of MLX, which is not installed", INSTALL)
    if by_mlx and base is not None:
        from afina.model.mlx.adapter_mlx import open_adapter as open_by_mlx
        from afina.model.mlx.open_mlx import open_base

        found: Precision = next((each for each in KINDS if each == measured_in), "bf16")
        model = of_the_export(open_by_mlx, open_base(base, recipe, precision=found), held.folder)
        kl, limit = tolerance(KINDS[found])
        return OpenedAgain(model, partial(without_adapter, model), limit, kl)
    device = pick_device(recipe.device)
    here = choose_precision(recipe, this_machine(device))
    kinds = [KINDS[each] for each in KINDS if each in (here, measured_in)]
    tolerances = [tolerance(kind) for kind in (*kinds, *([held.weights] if held.weights else []))]
    kl, limit = max(kl for kl, _ in tolerances), max(limit for _, limit in tolerances)
    opened = partial(load_base, recipe=recipe, device=device, four_bit=recipe.adapter.kind == "qlora")
    if not held.adapter:
        model = of_the_export(load_base, held.folder, recipe, device)
        return OpenedAgain(model, (lambda: nullcontext(opened(base))) if base else None, limit, kl)
    assert base is not None
    model = of_the_export(open_adapter, opened(base), held.folder)
    return OpenedAgain(model, partial(without_adapter, model), limit, kl)


def ask_again(
    model: Any,
    renderer: Renderer,
    rows: Sequence[AskedRow],
    name: str,
    limit: float,
    progress: Progress = no_progress,
    *,
    reads: Any = None,
) -> AskedAgain:
    """Ask a model, and hold its answers against the stored ones.

    Args:
        name: as rows call the model: ``base`` or ``adapter``.
        limit: nats that are rounding.
        reads: the committed base's tokenizer, which has to read the same texts of the tokens that are written.
    """
    prompts = [each.prompt(renderer) for each in rows]
    rooms = [each.room for each in rows]
    answers = generate(model, renderer, prompts, max_new_tokens=rooms, sampling=Sampling(ids=True), progress=progress)
    found = AskedAgain(asked=len(rows))
    led = Leader(model, renderer, limit)
    who = WHO[name]
    if reads is not None:
        found.wrong += _read_otherwise(who, [answer.ids for answer in answers], renderer.tokenizer, reads)
    for each, prompt, answer in zip(rows, prompts, answers, strict=True):
        stored = each.stored(name)
        if (answer.text, answer.stopped) == (stored.text, stored.stopped):
            found.equal += 1
            continue
        texts, rounding = led.along(prompt, stored, each.room)
        said = f"{who}, asked {each.question.prompt!r:.80}"
        if rounding:
            found.rounded.append(f"{said}: {'; '.join(texts) or 'alone it answers as stored'}")
            if (as_stored := each.worth(stored)) != (here := each.worth(answer)):
                found.turned[name, each.role, as_stored > here] += 1
            if stored.stopped != answer.stopped:
                found.turned[name, "whether they end", stored.stopped] += 1
        else:
            why = f" ({texts[-1]})" if texts else ""
            found.wrong.append(f"{said}, answers {answer.text!r:.80}; stored is {stored.text!r:.80}{why}")
    return found


def _read_otherwise(who: str, answers: Sequence[Sequence[int]], tokenizer: Any, reads: Any) -> Iterator[str]:
    """That the same tokens are other texts to another tokenizer, where they are."""
    texts = ((tokenizer.decode(list(ids)), reads.decode(list(ids))) for ids in answers)
    if other := [pair for pair in texts if pair[0] != pair[1]]:
        yield (
            f"{who}: the export's tokenizer reads {len(other)} of {len(answers)} answers otherwise than the base's, "
            f"such as {other[0][0]!r:.60} for {other[0][1]!r:.60}: it is another tokenizer"
        )


def choose_again(
    model: Any,
    renderer: Renderer,
    choices: Sequence[tuple[Choice, Record]],
    name: str,
    recipe: Recipe,
    limit: float,
    progress: Progress = no_progress,
) -> AskedAgain:
    """Have a model choose again among the sentences, and hold its scores of them against the stored ones."""
    tokenizer = renderer.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    ranked = rank_choices(
        reader_of(model),
        renderer,
        [choice for choice, _ in choices],
        recipe.dataset.language,
        pad_id=pad,
        batch_tokens=recipe.train.batch_tokens,
        progress=progress,
    )
    found = AskedAgain(asked=len(choices))
    who = WHO[name]
    for (choice, row), mine in zip(choices, ranked, strict=True):
        chosen = row.required_flag(f"{name}_correct")
        true, *others = mine.scores
        said = f"{who}, to choose for {choice.prompt!r:.80}"
        if mine.right == chosen:
            found.equal += 1
        elif (lead := abs(true - max(others))) <= limit:
            found.rounded.append(f"{said}: the true sentence is within {lead:.2g} nats of another")
            found.turned[name, "choice", chosen] += 1
        else:
            taken = "the true sentence" if mine.right else f"{choice.sentences[1 + others.index(max(others))]!r:.80}"
            stored = "the true" if chosen else "another"
            found.wrong.append(f"{said}, takes {taken}; stored is that it took {stored} one")
    return found


class Leader:
    """Leads one model along stored answers.

    Args:
        limit: nats that are rounding.
    """

    def __init__(self, model: Any, renderer: Renderer, limit: float) -> None:
        self._model, self._renderer, self._limit = model, renderer, limit
        self._token_bytes: Callable[[int], bytes] | None = None

    def along(self, prompt: Sequence[int], stored: Answer, room: int) -> tuple[list[str], bool]:
        """Where the model parts from a stored answer, and whether all of that is rounding."""
        tokenizer = self._renderer.tokenizer
        text = stored.text if stored.stopped else stored.text.rstrip(HALF)
        own: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        # One that ended has its end token behind the last. One that was cut fills its room; its tokens may be a few
        # less here, as text is cut into fewer than a model may write it in.
        longest = room + 1 if stored.stopped else max(min(room, len(own)), room - room // SPARE)
        stops = frozenset(self._renderer.stop_ids())
        led = Led(text, own, self._bytes_of(), stops, self._limit, stopped=stored.stopped)
        return lead(led, self._writer(prompt), longest)

    def may_say(self, prompt: Sequence[int], text: str) -> bool:
        """Whether rounding may have the model begin its answer with a text: it parts from it within the limit alone."""
        own: list[int] = self._renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        led = Led(text, own, self._bytes_of(), frozenset(self._renderer.stop_ids()), self._limit)
        write, most = self._writer(prompt), 2 * len(own) + SPARE  # the model may write it in more tokens
        while led.left and len(led.ids) < most and (written := write(led.ids, 1)):
            if (parting := led.along(written)) and parting[1] > self._limit:
                return False
        return not led.left

    def may_part(self, prompt: Sequence[int], room: int) -> bool:
        """Whether rounding may have the model answer otherwise: somewhere two tokens are nearly as likely."""
        engine = Engine(self._model, self._renderer.tokenizer, self._renderer.stop_ids())
        most = room if engine.context is None else min(room, engine.context - len(prompt))
        engine.submit(Request(prompt=list(prompt), max_new_tokens=most))
        leads: list[float] = []
        while engine.busy:
            leads += [each.done.lead for each in engine.step() if each.done and each.done.lead is not None]
        return min(leads, default=0.0) <= self._limit

    def _writer(self, prompt: Sequence[int]) -> Callable[[list[int], int], list[TokenLogprob]]:
        """What the model writes behind a beginning of its answer."""
        # Without stop tokens: an end is a token like others here, with its likelihood.
        engine = Engine(self._model, self._renderer.tokenizer, [])

        def write(begun: list[int], most: int) -> list[TokenLogprob]:
            room = most if engine.context is None else min(most, engine.context - len(prompt) - len(begun))
            if room < 1:
                return []
            engine.submit(Request(prompt=[*prompt, *begun], max_new_tokens=room, logprobs=TOP))
            written: list[TokenLogprob] = []
            while engine.busy:
                for produced in engine.step():
                    written += produced.logprobs
            return written

        return write

    def _bytes_of(self) -> Callable[[int], bytes]:
        """The bytes that a token stands for; of a mark, its name: a stored answer holds it so."""
        if self._token_bytes is None:
            tokenizer = self._renderer.tokenizer
            table = of_the_export(read_tokenizer, tokenizer, "the export's tokenizer")

            def token_bytes(token: int) -> bytes:
                piece = next(iter(table.of([token])))
                return piece.data or str(tokenizer.decode([token])).encode()

            self._token_bytes = token_bytes
        return self._token_bytes
