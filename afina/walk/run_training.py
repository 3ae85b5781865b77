"""One training, from its rows to the folder of its result. Every rank comes here; only the first one writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from afina import __version__
from afina.outcome import outcome_kind
from afina.run import hash_value
from afina.walk.base import identity, renderer
from afina.walk.chosen_settings import choices_of
from afina.walk.context import Context
from afina.walk.reference import REFERENCE
from afina.walk.rows import encoded_rows
from afina.walk.to_train import open_to_train
from afina.walk.training_figures import peak_flops_of, versions_of, what_is_adapted, what_it_took
from afina.walk.trainings import Training
from afina.whole import whole_folder, write_json

if TYPE_CHECKING:
    from afina.model.choices import Choices
    from afina.train.backend import Backend
    from afina.train.checkpoint import LoopState

BEFORE_TRAINING = ("dataset", "audit", "tokenizer", "tokens", "plan", "first", "reference")
"""Stages whose time counts against the budget when training begins."""


def run_training(context: Context, training: Training, inputs: dict[str, Any]) -> dict[str, Any]:
    """Train, resuming from the newest whole checkpoint; leaves ``adapter/`` or ``model/``, in ``first/`` for the first
    of two trainings.

    Args:
        inputs: of the stage; their hash is the checkpoints' fingerprint.

    Returns:
        What it took; empty for a rank that is not the first.
    """
    from afina.model.adapter_torch import save_trained
    from afina.model.stops import set_stops

    encoded_rows(context)  # before any connection to other ranks is opened, which does not wait for ever
    choices, fingerprint = choices_of(context, inputs), hash_value(inputs)
    context.run.say(f"{training.name}: {choices}")
    opened = open_to_train(context, training, choices)
    model, device, backend = opened.model, opened.device, opened.backend
    peak_flops, source = peak_flops_of(device, choices.precision)
    if peak_flops and context.ranks:
        peak_flops *= context.ranks.world
    is_adapted, text = what_is_adapted(model, opened.packed)
    if text:
        context.run.say(f"{training.name}: {text}")
    started = time.monotonic()
    with _tracking(context, training, fingerprint) as log:
        computing = asdict(choices) | {"versions": versions_of(choices.backend), "device": str(device)}
        log("computing", **computing, peak_flops=peak_flops, peak_flops_source=source)
        state = _loop(context, training, choices, backend, log, fingerprint, peak_flops)
    weights = opened.weights()
    if context.ranks and not context.ranks.first:
        return {}
    kind = outcome_kind(context.recipe)
    with whole_folder(context.folder / training.folder / kind) as beside:
        set_stops(model, renderer(context).stop_ids(), renderer(context).tokenizer)
        save_trained(model, beside, weights)
        opened.write_beside(beside)
        renderer(context).tokenizer.save_pretrained(beside)
        if kind == "adapter":
            write_json(beside / "afina.json", {"base": identity(context).as_json(), "afina": __version__})
    took = what_it_took(model, state, backend, device, peak_flops)
    took["ranks"] = context.ranks.world if context.ranks else 1
    if choices.backend == "mlx":  # its threads are its own
        took["own_share"] = None
    return took | is_adapted | choices.as_json() | {"wall_seconds": round(time.monotonic() - started, 3)}


def _loop(
    context: Context,
    training: Training,
    choices: Choices,
    backend: Backend,
    log: Callable[..., None],
    fingerprint: str,
    peak_flops: float | None,
) -> LoopState:
    """The call of the trainer."""
    from afina.train.loop import TrainingJob, train

    recipe, settings = context.recipe, choices.settings(training.settings)
    rows, validation = (encoded.rows for encoded in encoded_rows(context)[training.name])
    if training.needs_reference:
        from afina.train.reference_torch import read_reference

        file = context.folder / REFERENCE
        rows, validation = (read_reference(file, each, training.settings) for each in (rows, validation))
    job = TrainingJob(
        context.folder / training.folder / "checkpoints",
        fingerprint,
        seed=recipe.seed,
        budget=recipe.budget,
        earlier_seconds=sum(
            stage["seconds"]
            for name, stage in context.run.stages.items()
            if name in BEFORE_TRAINING and name != training.name
        ),
        peak_flops=peak_flops,
    )
    with context.open_progress(training.name) as progress:
        return train(backend, rows, validation, settings, job, log=log, say=context.run.say, progress=progress)


def _tracking(context: Context, training: Training, fingerprint: str) -> AbstractContextManager[Callable[..., None]]:
    """The log of a training, with the trackers that the recipe names behind it."""
    from afina.train.trackers import tracked

    run, recipe = context.run, context.recipe
    if context.ranks and not context.ranks.first:  # only the first process is heard
        return nullcontext(run.log)
    shown = recipe.model_dump(mode="json", include={"base", "adapter", "seed"})
    return tracked(
        run.log if training.name == "train" else partial(run.log, stage=training.name),
        run.say,
        training.settings.trackers,
        name=recipe.name,
        folder=context.folder,
        stage=training.name,
        training=fingerprint,
        settings=shown | {"train": training.settings.model_dump(mode="json")},
    )
