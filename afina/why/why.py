"""Why a run answers what it answers: what its sources did, and the rows behind one answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from afina.errors import RecipeError
from afina.evaluate.probes import stored_turns
from afina.model.open_model import OpenModel
from afina.outcome import find_outcome
from afina.record import Record, read_rows
from afina.run import hash_file
from afina.text.document import Message
from afina.tokenizer.encode import Row
from afina.walk.base import back_end, identity, pad_id, renderer
from afina.walk.context import Context
from afina.walk.models import open_trained
from afina.whole import write_json
from afina.why.effects import Effects, effects_of, question_row
from afina.why.rows import TrainedRow, split_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from afina.why.indexing_torch import OpenIndex


@dataclass(frozen=True)
class AskedAnswer:
    """What is explained."""

    question: str
    answer: str
    own: bool
    """The model's own greedy answer; false: one that was given."""
    stopped: bool
    """It ended by itself (or was given)."""
    before: float
    """Loss of this answer in nats per token, of the base."""
    after: float
    """With the adapter."""

    def as_json(self) -> dict[str, Any]:
        return vars(self).copy()


@dataclass(frozen=True)
class ScoredRow:
    """One training row, and how it speaks for an answer."""

    row: TrainedRow
    score: float
    """By :data:`METHOD` from -1 to 1. By :data:`UNROLLED` the nats per token by which the answer's loss is said to rise
    without the row. Below 0 it speaks against it."""

    def as_json(self) -> dict[str, Any]:
        return {"score": self.score, **self.row.as_json()}


METHOD = "EK-FAC"
"""By which rows are scored (:mod:`afina.why.ekfac_torch`)."""
UNROLLED = "unrolled training"
"""By which they are where the training itself is differentiated (:mod:`afina.why.unrolled_torch`)."""


@dataclass(frozen=True)
class Why:
    """All that was found out."""

    run: str
    effects: Effects
    asked: AskedAnswer | None = None
    spoke_for: tuple[ScoredRow, ...] = ()
    """The strongest first."""
    spoke_against: tuple[ScoredRow, ...] = ()
    indexed: int = 0
    """Rows that were looked at."""
    left_out: int = 0
    """Rows of preferences and ratings, which are not in the index."""
    method: str = METHOD

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"run": self.run, "effects": self.effects.as_json()}
        if self.asked:
            values |= {
                "method": self.method,
                "asked": self.asked.as_json(),
                "for": [each.as_json() for each in self.spoke_for],
                "against": [each.as_json() for each in self.spoke_against],
                "rows": {"indexed": self.indexed, "left_out": self.left_out},
            }
        return values


def explain(
    context: Context,
    question: str | None,
    answer: str | None = None,
    top: int = 10,
    *,
    through_training: bool = False,
) -> Why:
    """What each source of a run did, and the rows behind the answer to a question.

    Args:
        question: none for the sources alone.
        answer: the one to explain; the model's own greedy answer where not given.
        top: rows of each sign, at most.
        through_training: rows are scored by differentiating the training itself, which is done again for that.

    Raises:
        RecipeError: the run has no adapter that torch computes with, the answer is empty, `top` is below 1, or the
            training is none that can be differentiated.
        DataError: no row of it is learned as a text or an answer, or its tokenizer has no chat template.
        DoesNotFit: the states of the training do not fit the memory or the disk.
        ResultError: the training, done again, ends elsewhere than the run did.
    """
    from afina.why.indexing_torch import index_key, open_index

    _check(context, question, answer, top)
    if through_training:
        from afina.why.through_training_torch import check_covered

        check_covered(context)
    model, base = open_trained(context)
    effects = effects_of(context, model, base, index_key(context), identity(context))
    if question is None:
        return Why(str(context.folder), effects)
    asked, row = _asked(context, model, base, question, answer)
    if through_training:
        from afina.why.through_training_torch import effects_of_rows

        del model, base  # the training opens its own
        rows, scores_QE = effects_of_rows(context, [row])
        both = _both_signs(rows, scores_QE[0].numpy(), top)
        return Why(str(context.folder), effects, asked, *both, indexed=len(rows), method=UNROLLED)
    index = open_index(context, model)
    both = _both_signs(index.rows, index.scores(row), top)
    return Why(str(context.folder), effects, asked, *both, indexed=len(index.rows), left_out=index.left_out)


def _both_signs(
    rows: Sequence[TrainedRow], scores: NDArray[Any], top: int
) -> tuple[tuple[ScoredRow, ...], tuple[ScoredRow, ...]]:
    """The rows that speak for what is answered, and those that speak against it, the strongest first."""
    order = scores.argsort(kind="stable")[::-1].tolist()
    found = [ScoredRow(rows[number], float(scores[number])) for number in (*order[:top], *order[top:][-top:])]
    spoke_for = tuple(each for each in found[:top] if each.score > 0)
    return spoke_for, tuple(each for each in reversed(found) if each.score < 0)[:top]


MISSES, MOST_MISSES = "why/misses.json", 50


@dataclass(frozen=True)
class Miss:
    """A question of a probe that the adapter answers wrongly, and the rows behind it."""

    question: str
    answer: str
    reference: str
    probe: str
    rows: tuple[ScoredRow, ...]
    """Those that speak for what it wrote."""
    hurt: tuple[ScoredRow, ...]
    """Those that speak against the reference: a step on them makes the right answer less likely."""

    def as_json(self) -> dict[str, Any]:
        rows = {key: [each.as_json() for each in held] for key, held in (("rows", self.rows), ("hurt", self.hurt))}
        return {**vars(self), **rows}


@dataclass(frozen=True)
class Misses:
    """Those of a run."""

    run: str
    predictions: str
    """SHA-256 of the answers that they are taken from."""
    found: tuple[Miss, ...]
    more: int
    """Wrong answers beyond the first :data:`MOST_MISSES`."""
    empty: int
    """Wrong answers that say nothing: no row speaks for that."""
    with_tools: int
    """Wrong answers to questions with tools, which are not looked at."""

    def as_json(self) -> dict[str, Any]:
        values = {key: value for key, value in vars(self).items() if key != "found"}
        return values | {"misses": [each.as_json() for each in self.found]}


def explain_misses(context: Context, question: str | None = None, answer: str | None = None, top: int = 3) -> Misses:
    """The rows behind each wrong answer of a measured run, and those that hurt; kept in its folder as
    ``why/misses.json``.

    Args:
        question, answer: must be none.
        top: rows of each kind, at most.

    Raises:
        RecipeError: as :func:`explain`; a question or an answer is given too, or the run was not measured.
    """
    from afina.why.indexing_torch import open_index

    _check(context, None, None, top)
    if question is not None or answer is not None:
        fix = "leave question and --answer out, or --misses"
        raise RecipeError("--misses brings its own questions and answers", fix, "--misses")
    file = context.folder / "predictions.jsonl"
    answers = read_rows(file)
    if answers is None:
        raise RecipeError("this run was not measured", f"measure it first: `afina eval {context.folder}`", "--misses")
    wrong = [row for row in answers if row.flag("adapter_correct") is False]
    told = in_turn(row for row in wrong if row.text("adapter") and "tools" not in row)
    model, _ = open_trained(context)
    index, found = open_index(context, model), list[Miss]()
    with context.open_progress("misses") as progress:
        for row in told[:MOST_MISSES]:
            found.append(_miss(context, index, row, top))
            progress(len(found), min(len(told), MOST_MISSES), "wrong answers")
    with_tools = sum("tools" in row for row in wrong)
    misses = Misses(
        str(context.folder),
        hash_file(file),
        tuple(found),
        more=max(0, len(told) - MOST_MISSES),
        empty=len(wrong) - len(told) - with_tools,
        with_tools=with_tools,
    )
    write_json(context.folder / MISSES, misses.as_json())
    return misses


def in_turn(rows: Iterable[Record]) -> list[Record]:
    """The first row of each probe, then the second of each, and so on: of the first fifty each probe has some."""
    by_probe: dict[str | None, list[Record]] = {}
    for row in rows:
        by_probe.setdefault(row.text("probe"), []).append(row)
    return [row for turn in zip_longest(*by_probe.values()) for row in turn if row is not None]


def _miss(context: Context, index: OpenIndex, row: Record, top: int) -> Miss:
    asked, said, right = (row.text(key) or "" for key in ("prompt", "adapter", "reference"))
    turns = stored_turns(row)

    def signs(answer: str) -> tuple[tuple[ScoredRow, ...], tuple[ScoredRow, ...]]:
        return _both_signs(index.rows, index.scores(question_row(context, turns, answer)), top)

    behind, hurt = signs(said)[0], signs(right)[1] if right else ()
    return Miss(asked, said, right, row.text("probe") or "", behind, hurt)


def check_signs(question: str | None, *, against: bool, misses: bool, through_training: bool = False) -> None:
    """Refuse a sign where there is nothing that has two, and a training differentiated for no answer.

    Raises:
        RecipeError: the rows against an answer are asked for, and no answer is; or the same of the training.
    """
    if through_training and (misses or question is None):
        what = "--through-training goes back through the training for one answer, and none is asked for"
        raise RecipeError(what, "write a question in quotes behind the run, without --misses", "--through-training")
    if against and (misses or question is None):
        what = "--against shows the other sign of one answer's rows; --misses shows both, and sources have none"
        raise RecipeError(what, "write a question in quotes behind the run, or leave --against out", "--against")


def _check(context: Context, question: str | None, answer: str | None, top: int) -> None:
    """Refuse what cannot be explained, before any weight is read.

    Raises:
        RecipeError: with the reason; among them that the rows are not there any more.
    """
    outcome = find_outcome(context.folder, context.recipe)
    if outcome.kind != "adapter":
        raise RecipeError(
            "this run trained every weight, and a gradient of every row over all of them is not kept",
            "train an adapter over the same base with the same sources (adapter.kind: lora), and ask that run",
            str(context.folder),
        )
    if back_end(context).name == "mlx":
        raise RecipeError(
            "this run is computed by MLX, and gradients of single rows are taken by torch alone",
            "copy the run's folder and write `backend: torch` into its recipe.yaml: torch opens the same adapter",
            str(context.folder),
        )
    if not split_file(context, "train").is_file():
        context.check_dataset()
    if top < 1:
        raise RecipeError(f"--top {top} shows no row", "give a number from 1 on", "--top")
    if question is not None and not question.strip():
        raise RecipeError("the question is empty", "write it in quotes behind the run", "question")
    if answer is not None and question is None:
        raise RecipeError(
            "--answer needs the question that it answers", "write it in quotes behind the run", "--answer"
        )
    if answer is not None and not answer.strip():
        raise RecipeError("the answer is empty", "leave --answer out for the model's own", "--answer")


def _asked(context: Context, model: Any, base: OpenModel, question: str, answer: str | None) -> tuple[AskedAnswer, Row]:
    """The answer to explain, and it as a row."""
    from afina.evaluate.loss import row_losses
    from afina.model.generate.generate_torch import generate
    from afina.model.readers import reader_of

    turns, stopped, own = [Message(role="user", content=question)], True, answer is None
    if answer is None:
        limit = context.recipe.evaluate.max_new_tokens
        prompt = renderer(context).prompt(turns)
        said = generate(model, renderer(context), [prompt], max_new_tokens=limit, say=context.tell)[0]
        answer, stopped = said.text, said.stopped
        if not answer:
            raise RecipeError(
                "the model answers nothing to this question: it stops at once",
                "give the answer to explain: --answer TEXT",
                "question",
            )
    row = question_row(context, turns, answer)
    settings: Mapping[str, int] = {"pad_id": pad_id(context), "batch_tokens": context.recipe.train.batch_tokens}
    after = row_losses(reader_of(model), [row], **settings)[0]
    with base() as untrained:
        before = row_losses(reader_of(untrained), [row], **settings)[0]
    losses = (each.learned / max(1, each.learned_tokens) for each in (before, after))
    return AskedAnswer(question, answer, own, stopped, *losses), row
