"""Why a run answers what it answers: what its sources did, and the rows behind one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afina.errors import RecipeError
from afina.model.open_model import OpenModel
from afina.outcome import find_outcome
from afina.record import read_rows
from afina.run import write_json
from afina.text.document import Message
from afina.walk.base import back_end, identity, pad_id, renderer
from afina.walk.context import Context
from afina.walk.models import open_trained
from afina.why.effects import Effects, effects_of, question_row, turns_of
from afina.why.rows import TrainedRow


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
    """From -1 to 1; below 0 it speaks against it."""

    def as_json(self) -> dict[str, Any]:
        return {"score": self.score, **self.row.as_json()}


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

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"run": self.run, "effects": self.effects.as_json()}
        if self.asked:
            values |= {
                "asked": self.asked.as_json(),
                "for": [each.as_json() for each in self.spoke_for],
                "against": [each.as_json() for each in self.spoke_against],
                "rows": {"indexed": self.indexed, "left_out": self.left_out},
            }
        return values


def explain(context: Context, question: str | None, answer: str | None = None, top: int = 10) -> Why:
    """What each source of a run did, and the rows behind the answer to a question.

    Args:
        question: none for the sources alone.
        answer: the one to explain; the model's own greedy answer where not given.
        top: rows of each sign, at most.

    Raises:
        RecipeError: the run has no adapter that torch computes with, the answer is empty, or `top` is below 1.
        DataError: no row of it is learned as a text or an answer, or its tokenizer has no chat template.
    """
    from afina.why.indexing_torch import index_key, open_index

    _check(context, question, answer, top)
    model, base = open_trained(context)
    effects = effects_of(context, model, base, index_key(context), identity(context))
    if question is None:
        return Why(str(context.folder), effects)
    asked, row = _asked(context, model, base, question, answer)
    index = open_index(context, model)
    scores = index.scores(row)
    order = scores.argsort(kind="stable")[::-1].tolist()
    found = [ScoredRow(index.rows[number], float(scores[number])) for number in order]
    return Why(
        run=str(context.folder),
        effects=effects,
        asked=asked,
        spoke_for=tuple(each for each in found[:top] if each.score > 0),
        spoke_against=tuple(each for each in found[: -top - 1 : -1] if each.score < 0),
        indexed=len(index.rows),
        left_out=index.left_out,
    )


MISSES, MOST_MISSES = "why/misses.json", 50


@dataclass(frozen=True)
class Miss:
    """A question of a probe that the adapter answers wrongly, and the rows that speak for what it wrote."""

    question: str
    answer: str
    reference: str
    probe: str
    rows: tuple[ScoredRow, ...]

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "rows": [each.as_json() for each in self.rows]}


@dataclass(frozen=True)
class Misses:
    """Those of a run."""

    run: str
    found: tuple[Miss, ...]
    more: int
    """Wrong answers beyond the first :data:`MOST_MISSES`."""

    def as_json(self) -> dict[str, Any]:
        return {"run": self.run, "misses": [each.as_json() for each in self.found], "more": self.more}


def explain_misses(context: Context, question: str | None = None, top: int = 3) -> Misses:
    """The rows behind each wrong answer of a measured run; kept in its folder as ``why/misses.json``.

    Args:
        question: must be none.

    Raises:
        RecipeError: as :func:`explain`; a question is given too, or the run was not measured.
    """
    from afina.why.indexing_torch import open_index

    _check(context, None, None, top)
    if question is not None:
        raise RecipeError("--misses brings its own questions", "leave the question out, or --misses", "--misses")
    answers = read_rows(context.folder / "predictions.jsonl")
    if answers is None:
        raise RecipeError("this run was not measured", f"measure it first: `afina eval {context.folder}`", "--misses")
    wrong = [
        row for row in answers if row.flag("adapter_correct") is False and row.text("adapter") and "tools" not in row
    ]
    model, _ = open_trained(context)
    index, found = open_index(context, model), list[Miss]()
    with context.open_progress("misses") as progress:
        for row in wrong[:MOST_MISSES]:
            scores = index.scores(question_row(context, turns_of(row), row.required_text("adapter")))
            order = scores.argsort(kind="stable")[::-1][:top].tolist()
            rows = tuple(ScoredRow(index.rows[number], float(scores[number])) for number in order if scores[number] > 0)
            asked, said, right = (row.text(key) or "" for key in ("prompt", "adapter", "reference"))
            found.append(Miss(asked, said, right, row.text("probe") or "", rows))
            progress(len(found), min(len(wrong), MOST_MISSES), "wrong answers")
    misses = Misses(str(context.folder), tuple(found), max(0, len(wrong) - MOST_MISSES))
    write_json(context.folder / MISSES, misses.as_json())
    return misses


def _check(context: Context, question: str | None, answer: str | None, top: int) -> None:
    """Refuse what cannot be explained, before any weight is read."""
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


def _asked(context: Context, model: Any, base: OpenModel, question: str, answer: str | None) -> tuple[AskedAnswer, Any]:
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
