"""A training's state as MLX's arrays: kept, put back, and written as the files of a checkpoint.

MLX's arrays never change: a step puts new ones in their place. So a state is kept by holding on to its arrays.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mlx.core as mx
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_unflatten

from afina.model.mlx.arrays_mlx import Arrays, read_arrays, save_arrays
from afina.model.mlx.mlx_model import MlxModel
from afina.train.checkpoint import LoopState, read_state


@dataclass(frozen=True)
class MlxSnapshot:
    """Everything that the next step depends on, as plain arrays."""

    state: LoopState
    weights: Arrays
    optimizer: Arrays
    random: Arrays

    @classmethod
    def of(cls, model: MlxModel, optimizer: Optimizer, state: LoopState, random: Arrays) -> MlxSnapshot:
        """The present state, computed: nothing of it waits to be."""
        found = cls(replace(state), trained_weights(model), dict(tree_flatten(optimizer.state)), dict(random))
        mx.eval(found.weights, found.optimizer, found.random)
        return found

    def restore(self, model: MlxModel, optimizer: Optimizer) -> LoopState:
        """Put a loop back exactly where it was; returns its state, free to change."""
        set_weights(model, self.weights, "the snapshot")
        optimizer.state = tree_unflatten(list(self.optimizer.items()))
        set_random_state(self.random)
        return replace(self.state)

    def write(self, folder: Path, prefix: str = "") -> None:
        """Write the files."""
        for name in ("weights", "optimizer", "random"):
            save_arrays(getattr(self, name), folder / f"{prefix}{name}.safetensors")
        (folder / f"{prefix}state.json").write_text(json.dumps(asdict(self.state), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, prefix: str = "") -> MlxSnapshot:
        """Read the files."""
        held = [read_arrays(folder / f"{prefix}{name}.safetensors") for name in ("weights", "optimizer", "random")]
        return cls(read_state(folder, prefix), *held)


def trained_weights(model: MlxModel) -> Arrays:
    """The arrays that training changes, by name."""
    return dict(tree_flatten(model.network.trainable_parameters()))


def set_weights(model: MlxModel, weights: Arrays, where: str) -> None:
    """Give a model the arrays that :func:`trained_weights` gave."""
    if {name: each.shape for name, each in weights.items()} != {n: e.shape for n, e in trained_weights(model).items()}:
        raise ValueError(f"{where} holds other weights than this model trains")
    model.network.update(tree_unflatten(list(weights.items())), strict=False)


def random_state() -> Arrays:
    """The state of the generator that dropout draws from."""
    return {"key": mx.array(mx.random.state[0])}


def set_random_state(random: Arrays) -> None:
    """Put back what :func:`random_state` gave: the key's two words are those of a seed."""
    high, low = random["key"].tolist()
    mx.random.seed(high << 32 | low)
