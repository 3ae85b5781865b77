"""The rows behind an answer by differentiating the run's own training (:mod:`afina.why.unrolled_torch`).

The training is done again once, from its own start, and its states are kept in the run's folder ``why/training``, a
checkpoint each; that it ends where the run ended is looked at. Each question then takes the way back alone.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from afina.errors import AfinaError, DoesNotFit, Problem, RecipeError, ResultError
from afina.machine import main_memory
from afina.outcome import find_outcome
from afina.run import hash_folder, hash_value
from afina.tokenizer.encode import Row
from afina.train.backend_torch import TorchBackend
from afina.train.checkpoint import checkpoint_problem, read_state, write_checkpoint
from afina.train.snapshot_torch import Snapshot
from afina.units import show_bytes, show_seconds
from afina.walk.chosen_settings import choices_of
from afina.walk.context import Context
from afina.walk.rows import encoded_rows
from afina.walk.to_train import open_to_train
from afina.walk.trainings import trainings_of
from afina.whole import remove
from afina.why.index import FOLDER, TRAINING
from afina.why.rows import TrainedRow, described
from afina.why.unrolled_torch import UnrolledTraining

VERSION = 2
"""Of what is kept of a training: another one trains again."""
APART = 0.01
"""How far from the run's adapter the training may end when it is done again, as a share of the way from its start. On
another machine sums are rounded otherwise."""
BACKWARDS = 6
"""Times as long as a step the way back over it takes, about: it is taken again and differentiated twice."""
ADJOINTS = 20
"""Numbers of 8 bytes that each trained number takes for each asked answer, beside the steps between two kept states."""


def check_covered(context: Context) -> None:
    """Refuse a training that is not differentiated here, before any weight is read; every reason at once.

    Raises:
        RecipeError: naming what is not covered.
    """
    recipe, trained = context.recipe, context.run.stages.get("train")
    if trained is None:
        raise RecipeError(
            "this folder does not say how it was trained (stages.json), and the training cannot be done again",
            "ask the folder in which it was trained",
            str(context.folder),
        )
    settings, computed, took = recipe.train, trained["inputs"]["computed"], trained["result"]
    reasons = {
        "adapter.kind": (recipe.adapter.kind != "lora", f"{recipe.adapter.kind}: its weights in 4 bits"),
        "adapter.variant": (
            recipe.adapter.variant not in ("lora", "rslora"),
            f"{recipe.adapter.variant}: its start, or a part of its gradient that it leaves out",
        ),
        "train.method": (settings.facts.file != "answers", f"{settings.method}: its loss"),
        "train.first": (settings.first is not None, "a training in two stages"),
        "train.patience": (settings.patience is not None, "the choice of the best weights"),
        "train.neftune_alpha": (settings.neftune_alpha is not None, "its noise"),
        "train.optimizer": (computed["optimizer"] != "adamw", f"{computed['optimizer']}: its update"),
        "train.precision": (computed["precision"] != "fp32", f"{computed['precision']}: rounded gradients"),
        "train.kernels": (computed["kernels"] != "torch", f"{computed['kernels']}: kernels without second derivatives"),
        "train.compile": (bool(computed["compile"]), "compiled layers"),
    }
    found = [(key, what) for key, (refused, what) in reasons.items() if refused]
    found += [("train", f"{took[name]} {what}") for name, usual, what in HAPPENED if took.get(name, usual) > usual]
    if found:
        fix = "ask without --through-training, or train it plainly: LoRA, sft or cpt, AdamW, fp32, torch kernels"
        raise RecipeError(
            problems=[Problem(f"--through-training does not differentiate {what}", fix, key) for key, what in found]
        )


HAPPENED = (
    ("went_back", 0, "returns to an earlier step"),
    ("splits", 0, "halvings of the micro-batches"),
    ("ranks", 1, "processes"),
)
"""What a training notes of itself, and what that is where nothing happened to it."""


def effects_of_rows(context: Context, asked: Sequence[Row]) -> tuple[list[TrainedRow], torch.Tensor]:
    """Each example of the run's training once, and by how many nats per token the loss of each asked answer is said to
    rise without it (below 0: to fall); Q x examples in float64.

    Raises:
        RecipeError: see :func:`check_covered`.
        DoesNotFit: the states do not fit the memory or the disk.
        ResultError: the training, done again, ends elsewhere than the run did.
    """
    check_covered(context)
    training, inputs = trainings_of(context.recipe)[-1], context.run.stages["train"]["inputs"]
    choices = choices_of(context, inputs)
    opened, rows = open_to_train(context, training, choices), encoded_rows(context)[training.name][0].rows
    backend = opened.backend
    assert isinstance(backend, TorchBackend) and not backend.carries_state, "an adapter is no recurrent model"
    if any(not weight.is_floating_point() for weight in opened.model.parameters()):
        fix = "ask without --through-training, or train over the base in full precision"
        raise RecipeError("--through-training does not differentiate a base in 4 or 8 bits", fix, "base")
    fingerprint = hash_value(
        {
            "version": VERSION,
            "inputs": inputs,
            "adapter": hash_folder(find_outcome(context.folder, context.recipe).folder),
        }
    )
    folder = context.folder / FOLDER / TRAINING
    with context.open_progress("why") as progress:
        unrolled = UnrolledTraining(backend, rows, choices.settings(training.settings), context.recipe.seed, progress)
        whole = _is_kept(folder, unrolled, fingerprint)
        _plan(context, unrolled, len(asked), whole=whole)
        if not whole:
            _train_again(context, opened.model, unrolled, folder, fingerprint)
        begun = time.monotonic()
        effects_QR = unrolled.effects(asked, lambda number: Snapshot.read(_place(folder, number)))
        context.tell(f"the way back took {show_seconds(time.monotonic() - begun)}")
    if not bool(effects_QR.isfinite().all()):
        raise ResultError(
            "what the rows do to this answer is no number: the training is too steep to be differentiated",
            "ask without --through-training",
            "--through-training",
        )
    return _by_example(rows, -effects_QR)


def _by_example(rows: Sequence[Row], scores_QR: torch.Tensor) -> tuple[list[TrainedRow], torch.Tensor]:
    """Rows of one example (blocks, answers, repeats) added up."""
    numbers: dict[Any, int] = {}
    owners = [numbers.setdefault(row.origin, len(numbers)) for row in rows]
    scores_QE = torch.zeros(len(scores_QR), len(numbers), dtype=scores_QR.dtype)
    scores_QE.index_add_(1, torch.tensor(owners), scores_QR)
    firsts = {owner: row for row, owner in zip(reversed(rows), reversed(owners), strict=True)}
    return [described(firsts[number].example) for number in range(len(numbers))], scores_QE


def _place(folder: Path, number: int) -> Path:
    return folder / f"step-{number:08d}"


def _is_kept(folder: Path, unrolled: UnrolledTraining, fingerprint: str) -> bool:
    """Whether all states of this training are there, each as it was written."""
    places = [_place(folder, number) for number in unrolled.kept]
    return all(checkpoint_problem(each) is None and read_state(each).fingerprint == fingerprint for each in places)


def _plan(context: Context, unrolled: UnrolledTraining, asked: int, *, whole: bool) -> None:
    """Say what it will take.

    Raises:
        DoesNotFit: the memory or the disk has no room for it.
    """
    numbers, steps = unrolled.numbers, unrolled.steps
    memory = numbers * (4 * 4 * unrolled.every + 8 * ADJOINTS * asked)
    disk = 0 if whole else 3 * 4 * numbers * len(unrolled.kept)
    seconds = context.run.stages["train"]["result"]["train_seconds"]
    parts = [] if whole else [f"its {steps} steps again ({show_seconds(seconds)} when it was trained)"]
    parts += [f"backwards through them (about {show_seconds(BACKWARDS * seconds)})"]
    room = f"{show_bytes(memory)} of memory beside what training takes" + (
        f", {show_bytes(disk)} of disk" if disk else ""
    )
    context.tell(f"through the training: {', then '.join(parts)}; {room}")
    on_gpu = unrolled.backend.device.type == "cuda"
    free = torch.cuda.mem_get_info()[0] if on_gpu else main_memory().usable
    for need, there, what in ((memory, free, "memory"), (disk, shutil.disk_usage(context.folder).free, "disk")):
        if need > there:
            raise DoesNotFit(
                f"the states of {steps} steps of {numbers:,} trained numbers take {show_bytes(need)} of {what}, and "
                f"{show_bytes(there)} are free",
                "ask without --through-training, or ask a run of fewer steps or of a smaller adapter.rank",
                "--through-training",
            )


def _train_again(context: Context, model: Any, unrolled: UnrolledTraining, folder: Path, fingerprint: str) -> None:
    """Train, keep the states, and look whether it ended where the run did; what did not is removed again. The state at
    the end is written after that look: with it the states are whole, and whoever was stopped before it looks again.

    Raises:
        ResultError: it ended elsewhere.
    """
    ended: list[Snapshot] = []

    def keep(number: int, snapshot: Snapshot) -> None:
        snapshot.state.fingerprint = fingerprint
        if number == unrolled.steps:
            ended.append(snapshot)
        else:
            write_checkpoint(_place(folder, number), snapshot, None, keep=sys.maxsize)

    remove(folder)
    begun, start = time.monotonic(), _tensors(model)
    try:
        unrolled.again(keep)
    except AfinaError:
        remove(folder)
        raise
    end = _tensors(model)
    saved = load_file(find_outcome(context.folder, context.recipe).folder / "adapter_model.safetensors")
    if saved.keys() != end.keys():
        apart = float("inf")
    else:
        way, off = (
            sum(float((saved[name].double() - other[name].double()).square().sum()) for name in saved) ** 0.5
            for other in (start, end)
        )
        apart = off / max(way, 1e-30)
    if not apart <= APART:
        remove(folder)
        raise ResultError(
            f"the training, done again, ends elsewhere than the run did (by {apart:.2g} of the way that it went)",
            "ask on the machine that trained it, with its versions (manifest.json), or without --through-training",
            "--through-training",
        )
    write_checkpoint(_place(folder, unrolled.steps), ended[0], None, keep=sys.maxsize)
    same = f"within {apart:.1g} of the way that it went" if apart else "bit for bit"
    took = show_seconds(time.monotonic() - begun)
    context.tell(f"the training, done again in {took}, ends where the run did: {same}")


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in get_peft_model_state_dict(model).items()}
