"""A training's state as torch's tensors: copied, put back, and written as the files of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from afina.train.checkpoint import LoopState, checked_best, read_state, write_best, write_checkpoint
from afina.train.optimizer_torch import optimizer_tensors, restore_optimizer
from afina.train.ranks import Ranks
from afina.train.shard_torch import gathered, own_part


@dataclass
class Snapshot:
    """Everything that the next step depends on, as plain tensors."""

    state: LoopState
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    random: dict[str, torch.Tensor]
    carried: dict[str, torch.Tensor] = field(default_factory=dict)
    """What a recurrent model has kept of all that it has read; empty of every other one."""

    @classmethod
    def of(
        cls,
        model: Any,
        optimizer: torch.optim.Optimizer,
        state: LoopState,
        random: dict[str, torch.Tensor],
        carried: dict[str, torch.Tensor],
        *,
        keep: bool = True,
    ) -> Snapshot:
        """The present state. Its tensors are those of the model, see :meth:`copied`; sharded ones are put together,
        which all ranks have to do, and those without ``keep`` hold nothing of it."""
        weights = {name: weight.detach().contiguous() for name, weight in trained_parameters(model).items()}
        weights, moments = (gathered(part, keep=keep) for part in (weights, optimizer_tensors(optimizer)))
        return cls(replace(state), weights, moments, random, dict(carried))

    def copied(self) -> Snapshot:
        """The same in memory of its own, off the GPU, so that later steps do not change it."""
        weights, optimizer, carried = (
            {name: value.to("cpu", copy=True) for name, value in part.items()}
            for part in (self.weights, self.optimizer, self.carried)
        )
        return Snapshot(self.state, weights, optimizer, dict(self.random), carried)

    @torch.no_grad()
    def restore(self, model: Any, optimizer: torch.optim.Optimizer, carried: dict[str, torch.Tensor]) -> LoopState:
        """Put a loop back exactly where it was; returns its state, free to change.

        Args:
            carried: what the model carries now; becomes what it carried then.
        """
        _copy_weights(self.weights, model, "the snapshot")
        restore_optimizer(optimizer, self.optimizer)
        set_random_states(self.random)
        device = next(model.parameters()).device
        carried.clear()
        carried.update({name: value.to(device, copy=True) for name, value in self.carried.items()})
        return replace(self.state)

    def write(self, folder: Path, prefix: str = "") -> None:
        """Write the files."""
        for name in ("weights", "optimizer", "random", *(["carried"] if self.carried else [])):
            save_file(getattr(self, name), folder / f"{prefix}{name}.safetensors")
        (folder / f"{prefix}state.json").write_text(json.dumps(asdict(self.state), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, prefix: str = "") -> Snapshot:
        """Read the files."""
        files = [folder / f"{prefix}{name}.safetensors" for name in ("weights", "optimizer", "random", "carried")]
        return cls(read_state(folder, prefix), *(load_file(file) for file in files if file.exists()))


def trained_parameters(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name, tied ones once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_checkpoint(
    folder: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: LoopState,
    carried: dict[str, torch.Tensor],
    *,
    keep: int,
    good: Snapshot | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Write the state of a loop and forget all but the newest `keep` checkpoints.

    Args:
        carried: what a recurrent model has kept of all that it has read.
        good: the state to go back to when the loss becomes NaN or infinite. It travels along, so that a
            training that was killed goes back to the same state as one that was not.
        ranks: those that train together: all call this, and come back when the first one has written all of it.

    Raises:
        DiskFull: what was there before is untouched.
    """
    ranks = ranks or Ranks()
    target = folder / f"step-{state.step:08d}"
    present = Snapshot.of(model, optimizer, state, ranks.all_random(random_states()), carried, keep=ranks.first)
    if good is not None:
        good = replace(good, random=ranks.all_random(good.random))
    if ranks.first:
        write_checkpoint(target, present, good, keep)
    ranks.wait()
    return target


def load_checkpoint(
    folder: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    carried: dict[str, torch.Tensor],
    ranks: Ranks | None = None,
) -> tuple[LoopState, Snapshot | None]:
    """Put a loop back exactly where it was; returns its state and the last good one.

    Each rank takes its own part of the generators' states; one that was not there then keeps its present ones.
    """
    ranks, fresh = ranks or Ranks(), random_states()
    found = [Snapshot.read(folder)]
    if (folder / "good-state.json").exists():
        found.append(Snapshot.read(folder, "good-"))
    for snapshot in found:
        snapshot.random = ranks.own_random(snapshot.random) or fresh
    return found[0].restore(model, optimizer, carried), found[1] if len(found) > 1 else None


def save_best(folder: Path, model: Any, state: LoopState, ranks: Ranks | None = None) -> None:
    """Keep the weights of the best held-out loss in ``best/``; the best before is replaced when they are whole."""
    trained = {name: weight.detach().contiguous() for name, weight in trained_parameters(model).items()}
    weights = gathered(trained, keep=ranks is None or ranks.first)
    if ranks and not ranks.first:
        return
    write_best(folder, state, partial(save_file, weights))


@torch.no_grad()
def load_best(folder: Path, model: Any, state: LoopState) -> None:
    """Give the model the weights that had the best held-out loss.

    Raises:
        AfinaError: they are damaged, or are not those of ``state.best_step``.
    """
    file = checked_best(folder, state)
    _copy_weights(load_file(file), model, str(file.parent))


def random_states() -> dict[str, torch.Tensor]:
    """The states of the generators that dropout and noise draw from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, torch.Tensor]) -> None:
    """Put back what :func:`random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def _copy_weights(weights: dict[str, torch.Tensor], model: Any, where: str) -> None:
    parameters = trained_parameters(model)
    if weights.keys() != parameters.keys():
        raise ValueError(f"{where} holds other weights than this model trains")
    for name, weight in weights.items():
        parameters[name].copy_(own_part(weight, parameters[name]))
