"""Are the losses those of the models? The committed rows read again, by the code that evaluation uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.evaluate.loss import (
    JudgedMeans,
    LossScore,
    RowLoss,
    compare_losses,
    judged_means,
    mean_loss,
    row_losses,
)
from afina.evaluate.scores import SIDES, Scores
from afina.evaluate.windows import ReadWindows, compare_windows, context_of, cut_windows, window_bits
from afina.model.readers import reader_of
from afina.recipe import METHODS, First, Recipe, Source
from afina.recipe.methods import JUDGED
from afina.record import Record
from afina.score.paired import with_stored_ends
from afina.text.example import read_examples
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row, encode_examples
from afina.verify.held_against import HeldAgainst, mean_within

PARTS = ("loss", "replay_loss", "pairs", "intrinsic", "windows")
"""Of the scores."""
LARGEST_LOSS = 700.0
"""Of which evaluation takes the perplexity."""


@dataclass(frozen=True)
class RowsAgain:
    """What was held out, as the run encoded it."""

    plain: Sequence[Row]
    judged: Sequence[Row]
    windows: Sequence[str]


@dataclass(frozen=True)
class LossesOfModel:
    """One model's."""

    loss: LossScore | None
    replay_loss: LossScore | None
    pairs: JudgedMeans | None
    rows: list[RowLoss]
    windows: tuple[ReadWindows, tuple[list[float], int]] | None


def rows_again(data: Path, renderer: Renderer, recipe: Recipe, again: Record) -> RowsAgain:
    """Encode the held-out rows of a dataset folder.

    Args:
        recipe: the committed part of it.
        again: what of it says how rows are learned.

    Raises:
        AfinaError: that is damaged, or the rows cannot be encoded by it.
    """
    file = data / "validation.jsonl"
    examples = [*read_examples(file)]
    learned = _learned_by(recipe, again, max((each.source for each in examples), default=0))
    rows: list[Row] = []
    for stage in ("first", "second") if learned.train.first else ("second",):
        own = [each for each in examples if learned.stage_of(each.source, each.kind) == stage]
        rows += encode_examples(own, renderer, learned).rows
    plain, judged = ([row for row in rows if (row.example.kind in JUDGED) is wanted] for wanted in (False, True))
    windows = again.required_record("windows")
    count, size = windows.required_whole("count"), windows.required_whole("bytes")
    return RowsAgain(plain, judged, cut_windows(file, size, count) if count > 0 and size > 0 else [])


def _learned_by(recipe: Recipe, again: Record, sources: int) -> Recipe:
    """The recipe with the methods that say which tokens of a row are learned.

    Args:
        sources: the highest number of a source that a row names.
    """
    named = {key: again.text(key) for key in ("method", "first")}
    for key, value in named.items():
        if value not in METHODS and not (key == "first" and value is None):
            raise again.wrong(key, f"one of {', '.join(METHODS)}", value)
    train = recipe.train.model_copy(update={"method": named["method"]})
    if named["first"] is None:
        return recipe.model_copy(update={"train": train})
    stages = again.texts("stages")
    if len(stages) <= sources or not set(stages) <= {"auto", "first", "second"}:
        raise again.wrong("stages", "auto, first or second for each source of the dataset", stages)
    train = train.model_copy(update={"first": First.model_construct(method=named["first"])})
    placed = [Source.model_construct(path=".", stage=stage) for stage in stages]
    return recipe.model_copy(update={"train": train, "sources": placed})


def losses_of(model: Any, held: RowsAgain, renderer: Renderer, recipe: Recipe, *, from_nothing: bool) -> LossesOfModel:
    """Measure one model.

    Args:
        from_nothing: whether random weights were trained, to which longer rows than those of the training mean nothing.
    """
    tokenizer, reader = renderer.tokenizer, reader_of(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    options: Any = {"pad_id": pad, "batch_tokens": reader.tokens_at_once(recipe.train.batch_tokens)}
    windows = None
    if held.windows:
        context = context_of(reader, recipe.train.max_length if from_nothing else None)
        read = ReadWindows.of(held.windows, renderer, context)
        windows = read, window_bits(reader, read, **options)
    losses = row_losses(reader, held.plain, **options)
    replay = [(row, loss) for row, loss in zip(held.plain, losses, strict=True) if row.example.replay]
    return LossesOfModel(
        loss=mean_loss(held.plain, losses),
        replay_loss=mean_loss([row for row, _ in replay], [loss for _, loss in replay]),
        pairs=judged_means(reader, held.judged, pad_id=pad, batch_tokens=recipe.train.batch_tokens)
        if held.judged
        else None,
        rows=losses,
        windows=windows,
    )


def hold_losses(
    stored: Scores, held: RowsAgain, mine: tuple[LossesOfModel | None, LossesOfModel], kl: float, found: HeldAgainst
) -> None:
    """Hold the stored losses against those computed here.

    Args:
        mine: of the base, where it is here, and of the trained model.
        kl: see :func:`~afina.verify.held_against.mean_within`.
    """
    found.computed = True
    if mine[0] is None:
        found.left.append("the losses of the base, and what is told of both: it is not here (--base BASE)")
    for key in ("loss", "replay_loss", "pairs"):
        theirs = getattr(stored, key)
        measured = getattr(mine[1], key)
        if (theirs is None) != (measured is None):
            there = "is there, and no row is held out that it could be of" if theirs else "is left out"
            found.wrong.append(f"scores.json: `{key}` {there}")
        elif theirs is not None:
            for side, model in zip(SIDES, mine, strict=True):
                if model is not None:
                    _hold_side(f"{key}.{side}", getattr(model, key), getattr(theirs, side), kl, found)
    _hold_intrinsic(stored.intrinsic, held, mine, kl, found)
    _hold_windows(stored, mine, kl, found)


def _hold_side(name: str, mine: LossScore | JudgedMeans, theirs: Record, kl: float, found: HeldAgainst) -> None:
    if isinstance(mine, LossScore):
        _hold_loss(name, mine.as_json(), theirs, mean_within(kl, mine.tokens), found)
        return
    score = mine.score()
    near = mine.near(2 * mean_within(kl, 1)) / max(1, score.pairs)
    margin = 2 * mean_within(kl, len(mine.gains) or min(len(mine.good), len(mine.bad)))
    found.values(name, score.as_json(), theirs, {"margin": margin, "accuracy": near})


def _hold_loss(name: str, mine: dict[str, Any], theirs: Record, within: float, found: HeldAgainst) -> None:
    """A loss with what it is counted over, and the perplexity, which follows from it."""
    perplexity = mine.pop("perplexity")
    bits = within * mine["tokens"] / (max(1, mine["utf8_bytes"]) * math.log(2))
    found.values(name, mine, theirs, {"loss": within, "bits_per_byte": bits})
    stored = theirs.number("perplexity")
    if stored is None or stored <= 0:
        found.exactly(f"{name}.perplexity", perplexity, stored)
    elif not same_loss(math.log(stored), mine["loss"], within):
        found.wrong.append(f"scores.json: {name}.perplexity is {stored}, computed again {perplexity}")


def same_loss(stored: float, mine: float, within: float) -> bool:
    """Whether the logarithm of a perplexity is a loss, as far as evaluation tells one.

    >>> same_loss(700.0, 900.0, 0.0), same_loss(1.5, 1.5, 0.0), same_loss(1.5, 1.6, 0.01)
    (True, True, False)
    """
    return abs(stored - min(mine, LARGEST_LOSS)) <= max(within, 1e-9 * abs(stored), 1e-12)


def _hold_intrinsic(
    theirs: Record, held: RowsAgain, mine: tuple[LossesOfModel | None, LossesOfModel], kl: float, found: HeldAgainst
) -> None:
    if bool(theirs) != bool(held.plain):
        there = "are there, and no row is held out that they could be of" if theirs else "are left out"
        found.wrong.append(f"scores.json: the losses by kinds of tokens (`intrinsic`) {there}")
        return
    if not held.plain:
        return
    before, after = mine
    for what, values in compare_losses(held.plain, (before or after).rows, after.rows).items():
        stored = theirs.required_record(what)
        within = mean_within(kl, values["after"]["tokens"])
        for side, model in zip(SIDES, mine, strict=True):
            if model is not None:
                _hold_loss(f"intrinsic.{what}.{side}", values[side], stored.required_record(side), within, found)
        if before is not None:
            ends = dict.fromkeys(("value", "low", "high"), 2 * within)
            difference = stored.required_record("difference")
            counted = with_stored_ends(values["difference"], difference.values)
            found.values(f"intrinsic.{what}.difference", counted, difference, ends)


def _hold_windows(
    stored: Scores, mine: tuple[LossesOfModel | None, LossesOfModel], kl: float, found: HeldAgainst
) -> None:
    before, after = (model.windows if model else None for model in mine)
    if (stored.windows is None) != (after is None):
        there = "are there, and no text is held out that they could be of" if stored.windows else "are left out"
        found.wrong.append(f"scores.json: the windows of text (`windows`) {there}")
        return
    if stored.windows is None or after is None:
        return
    read, counted = after
    told = compare_windows(read, (before or after)[1], counted).as_json()
    theirs = Record(stored.windows.as_json(), "scores.json", "windows")
    for key in sorted(told.keys() - {*SIDES, "change"}):
        found.exactly(f"windows.{key}", told[key], theirs.values[key])
    tokens = told["after"]["tokens"]
    within = mean_within(kl, tokens)
    bits = within * tokens / (told["bytes"] * math.log(2))
    for side, model in zip(SIDES, (before, after), strict=True):
        if model is not None:
            ends = {"bits_per_byte": bits, "low": 3 * bits, "high": 3 * bits, "loss": within}
            ends["accuracy"] = 1 / tokens + math.sqrt(2 * kl)
            ends["perplexity"] = within * told[side]["perplexity"] * math.exp(within)
            found.values(f"windows.{side}", told[side], theirs.required_record(side), ends)
    if before is not None and told["change"]:
        ends = {"value": 2 * bits, "low": 3 * bits, "high": 3 * bits}
        found.values("windows.change", told["change"], theirs.record("change"), ends)
