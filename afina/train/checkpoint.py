"""Checkpoints: whole or not there.

A checkpoint is a folder ``checkpoints/step-00000120/`` written beside its place and renamed when
it is complete. Everything in it is safetensors or JSON, nothing is a pickle:

    weights.safetensors     the trained parameters
    optimizer.safetensors   AdamW's moments and step counts
    random.safetensors      the states of the random number generators
    state.json              step, position in the data, what it was trained on
    good-*                  the same four files of the last good state, where there is one
    hashes.json             SHA-256 of each file above

The newest whole one is found on resume; a damaged one is named and passed over.
``checkpoints/best/`` holds the weights with the best held-out loss.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from afina.errors import AfinaError
from afina.run import hash_file, whole_folder
from afina.train.optimizer import optimizer_tensors, restore_optimizer
from afina.train.ranks import Ranks
from afina.train.shard_torch import gathered, own_part

STEPS = "step-????????"


@dataclass
class LoopState:
    """Where the loop stands; with weights, optimizer and generators, all that the next step depends on."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    """Spent in steps."""
    wall_seconds: float = 0.0
    """Spent in the loop as a whole, with validations and checkpoints; what the budget counts."""
    fingerprint: str = ""
    """Hash of the recipe, the data and the base that this state belongs to."""
    threads: int = 0
    ranks: int = 1
    """How many processes trained together."""
    rate_factor: float = 1.0
    """Halved each time that training had to go back."""
    tries: int = 0
    """How many times it went back."""
    splits: int = 0
    """Every micro-batch is cut in 2**splits parts, since a whole one did not fit the memory."""
    loss: float | None = None
    constant_steps: int = 0
    """For how many steps the loss has not moved."""
    best_step: int = 0
    best_loss: float | None = None
    waited: int = 0
    """Held-out losses measured since the best one."""
    stopped: str = ""
    """Why training ended before its last step; empty while it has not."""


@dataclass
class Snapshot:
    """Everything that the next step depends on, as plain tensors."""

    state: LoopState
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    random: dict[str, torch.Tensor]

    @classmethod
    def of(
        cls,
        model: Any,
        optimizer: torch.optim.Optimizer,
        state: LoopState,
        random: dict[str, torch.Tensor],
        *,
        keep: bool = True,
    ) -> Snapshot:
        """The present state. Its tensors are those of the model, see :meth:`copied`; sharded ones are put together,
        which all ranks have to do, and those without ``keep`` hold nothing of it."""
        weights = {name: weight.detach().contiguous() for name, weight in trained_parameters(model).items()}
        weights, averages = (gathered(part, keep=keep) for part in (weights, optimizer_tensors(optimizer)))
        return cls(replace(state), weights, averages, random)

    def copied(self) -> Snapshot:
        """The same in memory of its own, off the GPU, so that later steps do not change it."""
        weights, optimizer = (
            {name: value.to("cpu", copy=True) for name, value in part.items()}
            for part in (self.weights, self.optimizer)
        )
        return Snapshot(self.state, weights, optimizer, dict(self.random))

    @torch.no_grad()
    def restore(self, model: Any, optimizer: torch.optim.Optimizer) -> LoopState:
        """Put a loop back exactly where it was; returns its state, free to change."""
        _copy_weights(self.weights, model, "the snapshot")
        restore_optimizer(optimizer, self.optimizer)
        set_random_states(self.random)
        return replace(self.state)

    def write(self, folder: Path, prefix: str = "") -> None:
        """Write the four files."""
        for name in ("weights", "optimizer", "random"):
            save_file(getattr(self, name), folder / f"{prefix}{name}.safetensors")
        (folder / f"{prefix}state.json").write_text(json.dumps(asdict(self.state), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, prefix: str = "") -> Snapshot:
        """Read the four files."""
        parts = [load_file(folder / f"{prefix}{name}.safetensors") for name in ("weights", "optimizer", "random")]
        return cls(LoopState(**json.loads((folder / f"{prefix}state.json").read_text(encoding="utf-8"))), *parts)


def trained_parameters(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name, tied ones once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_checkpoint(
    folder: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: LoopState,
    *,
    keep: int,
    good: Snapshot | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Write the state of a loop and forget all but the newest `keep` checkpoints.

    Args:
        good: the state to go back to when the loss stops being a number. It travels along, so that a
            training that was killed goes back to the same state as one that was not.
        ranks: those that train together: all call this, and come back when the first one has written all of it.

    Raises:
        DiskFull: what was there before is untouched.
    """
    ranks = ranks or Ranks()
    target = folder / f"step-{state.step:08d}"
    present = Snapshot.of(model, optimizer, state, ranks.all_random(random_states()), keep=ranks.first)
    if good is not None:
        good = replace(good, random=ranks.all_random(good.random))
    if ranks.first:
        _write_checkpoint(target, present, good, keep)
    ranks.wait()
    return target


def _write_checkpoint(target: Path, present: Snapshot, good: Snapshot | None, keep: int) -> None:
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with whole_folder(target) as beside:
        present.write(beside)
        if good is not None:
            good.write(beside, "good-")
        _write_hashes(beside)
    for old in sorted(folder.glob(STEPS))[:-keep]:
        shutil.rmtree(old)
    for begun in (*folder.glob(STEPS + ".partial"), *folder.glob(STEPS + ".old")):  # left by a kill
        shutil.rmtree(begun)


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of steps that training went back behind."""
    for checkpoint in folder.glob(STEPS):
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)


def newest_checkpoint(
    folder: Path, fingerprint: str, say: Callable[[str], None], ranks: Ranks | None = None
) -> Path | None:
    """The newest whole checkpoint that belongs to `fingerprint`; others are named and passed over. Of several ranks
    the first one looks."""
    if ranks and ranks.world > 1:
        found: Path | None = ranks.from_first(newest_checkpoint(folder, fingerprint, say) if ranks.first else None)
        return found
    for candidate in sorted(folder.glob(STEPS), reverse=True):
        problem = checkpoint_problem(candidate)
        if problem is None and json.loads((candidate / "state.json").read_text())["fingerprint"] != fingerprint:
            problem = "belongs to another recipe, other data or another base"
        if problem is None:
            return candidate
        say(f"train: checkpoint {candidate.name} {problem}; passed over")
    return None


def checkpoint_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when every file has the hash that was noted."""
    try:
        hashes = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "has no readable hashes.json"
    if not isinstance(hashes, dict) or not {"weights.safetensors", "state.json"} <= hashes.keys():
        return "has no readable hashes.json"
    for name, expected in hashes.items():
        if not (folder / name).exists():
            return f"lacks {name}"
        if hash_file(folder / name) != expected:
            return f"is damaged ({name})"
    return None


def load_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, ranks: Ranks | None = None
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
    return found[0].restore(model, optimizer), found[1] if len(found) > 1 else None


def save_best(folder: Path, model: Any, state: LoopState, ranks: Ranks | None = None) -> None:
    """Keep the weights of the best held-out loss in ``best/``; the best before is replaced when they are whole."""
    trained = {name: weight.detach().contiguous() for name, weight in trained_parameters(model).items()}
    weights = gathered(trained, keep=ranks is None or ranks.first)
    if ranks and not ranks.first:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder / "best") as beside:
        save_file(weights, beside / "weights.safetensors")
        (beside / "state.json").write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
        _write_hashes(beside)


@torch.no_grad()
def load_best(folder: Path, model: Any, state: LoopState) -> None:
    """Give the model the weights that had the best held-out loss.

    Raises:
        AfinaError: they are damaged, or are not those of ``state.best_step``.
    """
    best, old = folder / "best", folder / "best.old"
    if old.exists() and not best.exists():  # killed between the two renames of whole_folder
        old.rename(best)
    problem = checkpoint_problem(best)
    if problem is None and json.loads((best / "state.json").read_text())["step"] != state.best_step:
        problem = f"is not of step {state.best_step}"
    if problem is not None:
        raise AfinaError(
            f"the best state {problem}", "remove the folder `checkpoints` and start the same command again", str(best)
        )
    _copy_weights(load_file(best / "weights.safetensors"), model, str(best))


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


def _write_hashes(folder: Path) -> None:
    hashes = {file.name: hash_file(file) for file in sorted(folder.iterdir())}
    (folder / "hashes.json").write_text(json.dumps(hashes, indent=2), encoding="utf-8")
