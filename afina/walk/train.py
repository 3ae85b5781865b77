"""The stages ``first`` and ``train``: a training of :mod:`afina.walk.run_training`, and what it tells later plans."""

from __future__ import annotations

from typing import Any

from afina.walk.commit import commit
from afina.walk.context import Context
from afina.walk.memory import advice_on_memory
from afina.walk.planning import note_measured
from afina.walk.run_training import run_training
from afina.walk.training_inputs import training_inputs
from afina.walk.trainings import Training, trainings_of


def train_inputs(context: Context, *, name: str) -> dict[str, Any]:
    """All that what the training learns depends on."""
    return training_inputs(context, _training(context, name))


def train(context: Context, *, name: str) -> dict[str, Any]:
    """Commit to what will judge it, train, and note what was predicted beside what was measured."""
    training = _training(context, name)
    inputs = training_inputs(context, training)
    commit(context, training, inputs)
    with advice_on_memory(context):
        measured = run_training(context, training, inputs)
    note_measured(context, measured)
    return measured


def release_ranks(context: Context) -> None:
    """After the last training the other processes are not needed any more."""
    if context.ranks:
        context.ranks.leave()


def _training(context: Context, name: str) -> Training:
    return next(training for training in trainings_of(context.recipe) if training.name == name)
