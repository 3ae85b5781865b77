"""Finished runs as points of a curve of losses: what they may be put together by, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.errors import AfinaError, DataError, RecipeError
from afina.evaluate.scores import FILE as SCORES
from afina.manifest import read_manifest
from afina.outcome import find_outcome
from afina.plan.scaling import TrainedPoint
from afina.recipe import read_saved_recipe
from afina.record import Record, read_record
from afina.run import hash_file, read_mapping, read_stages

REPEATS = 4.0
"""Times that text may be read before reading it again teaches clearly less than new text would (Muennighoff et al.,
arXiv 2305.16264)."""


@dataclass(frozen=True)
class ScalingRuns:
    """Points that may be put on one curve."""

    points: tuple[TrainedPoint, ...]
    unit: str
    kind: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _FinishedRun:
    """What is read of a run's folder."""

    name: str
    parameters: float
    tokens: float
    epochs: float
    kind: str
    tokenizer: str
    held_out: str
    """Hash of the rows that its loss was measured on."""
    loss: float | None
    """Nats per token on these."""
    windows: str
    """Hash of the windows of held-out text; empty where it read none."""
    lost: int
    """Characters of these that no token holds, and nobody predicts."""
    bits_per_byte: float | None
    """On these."""


def scaling_runs(folders: Sequence[Path]) -> ScalingRuns:
    """The parameters, tokens and losses of runs from scratch.

    Losses are bits per byte where all have read the same windows of held-out text and none folds what another one
    predicts, and else nats per token, for which tokenizer and held-out rows have to be the same.

    Raises:
        RecipeError, DataError: a folder is no finished run from scratch, or the runs cannot be compared; every problem
            at once.
    """
    if not folders:
        raise RecipeError("no runs are named", "afina plan scaling runs/small runs/large ...", "plan scaling")
    runs: list[_FinishedRun] = []
    errors: list[AfinaError] = []
    for folder in folders:
        try:
            runs.append(_read(folder))
        except AfinaError as error:
            errors.append(error)
    if len({folder.resolve() for folder in folders}) < len(folders):
        errors.append(RecipeError("a run is named twice", "name each run once", "plan scaling"))
    if errors:
        raise type(errors[0])(problems=[problem for error in errors for problem in error.problems])
    if len(kinds := sorted({run.kind for run in runs})) > 1:
        what = f"the runs are of several kinds ({', '.join(kinds)}), and each scales by a curve of its own"
        raise DataError(what, "name runs of one kind", "plan scaling")
    losses, unit = _comparable(runs)
    points = [TrainedPoint(run.name, run.parameters, run.tokens, loss) for run, loss in zip(runs, losses, strict=True)]
    return ScalingRuns(tuple(points), unit, kinds[0], tuple(_notes(runs)))


def _read(folder: Path) -> _FinishedRun:
    """One run.

    Raises:
        RecipeError: it is no run. DataError: it is none from scratch, or is not finished.
    """
    recipe = read_saved_recipe(folder)
    if recipe.train.method != "scratch":
        what = f"is of method {recipe.train.method}: what its base has read is not among its tokens"
        raise DataError(what, "name runs of method scratch", str(folder))
    manifest, scores = read_manifest(folder), read_record(folder / SCORES)
    stages = read_stages(folder / "stages.json")
    if manifest is None or manifest.trained is None or scores is None or "train" not in stages:
        raise DataError("is not finished", f"finish it: afina run {folder / 'recipe.yaml'}", str(folder))
    if stopped := stages["train"]["result"].get("stopped"):
        what = f"ended before its schedule did ({stopped}): its loss is not that of its tokens"
        raise DataError(what, "train it to its end (without train.patience)", str(folder))
    model = find_outcome(folder, recipe).folder
    config = Record(read_mapping(model / "config.json"), str(model / "config.json"))
    cell = config.text("cell")
    windows = scores.record("windows")
    return _FinishedRun(
        name=folder.name,
        parameters=manifest.trained.parameters or manifest.measured["parameters"],
        tokens=manifest.measured["tokens"],
        epochs=recipe.train.epochs,
        kind=f"{config['model_type']}{f' {cell}' if cell else ''}",
        tokenizer=hash_file(model / "tokenizer.json"),
        held_out=manifest.dataset.text("validation_sha256") or "",
        loss=scores.record("loss").record("after").number("loss"),
        windows=windows.text("sha256") or "",
        lost=windows.whole("lost") or 0,
        bits_per_byte=windows.record("after").number("bits_per_byte"),
    )


def _comparable(runs: Sequence[_FinishedRun]) -> tuple[list[float], str]:
    """Their losses in one unit."""
    bits = [run.bits_per_byte for run in runs if run.bits_per_byte is not None]
    same_windows = len(bits) == len(runs) and len({run.windows for run in runs}) == 1
    if same_windows and len({run.lost for run in runs}) == 1:
        return bits, "bits per byte"
    losses = [run.loss for run in runs if run.loss is not None]
    same = len({run.tokenizer for run in runs}) == len({run.held_out for run in runs}) == 1
    if same and len(losses) == len(runs):
        return losses, "nats per token"
    if same_windows:
        lost = ", ".join(f"{run.name}: {run.lost:,}" for run in runs)
        what = f"the tokenizers fold or lack different characters of the windows ({lost}): bits per byte do not compare"
        fix = "name runs whose tokenizers fold alike (scratch.lowercase, scratch.normalize_numbers)"
        raise DataError(what, fix, "plan scaling")
    differ = "tokenizers" if len({run.tokenizer for run in runs}) > 1 else "held-out rows"
    what = "a run has no held-out loss" if same else f"the losses are over different {differ} and do not compare"
    fix = "measure all on the same windows of held-out text (afina eval RUN): bits per byte compare"
    raise DataError(what, fix, "plan scaling")


def _notes(runs: Sequence[_FinishedRun]) -> list[str]:
    notes = []
    if repeated := [run for run in runs if run.epochs > REPEATS]:
        most = max(run.epochs for run in repeated)
        notes.append(
            f"{len(repeated)} of the runs read their text up to {most:g} times; the curve counts every reading as new "
            f"text, which holds up to about {REPEATS:g} (Muennighoff et al., arXiv 2305.16264)"
        )
    if len({run.tokenizer for run in runs}) > 1:
        notes.append("tokens are those of each run's own tokenizer")
    return notes
