"""Checkpoints: whole or not there.

A checkpoint is a folder ``checkpoints/step-00000120/`` written beside its place and renamed when
it is complete. Everything in it is safetensors or JSON, nothing is a pickle:

    weights.safetensors     the trained parameters
    optimizer.safetensors   the optimizer's moments and step counts
    random.safetensors      the states of the random number generators
    carried.safetensors     of a recurrent model alone: what it has kept of the stream, see afina.train.stream
    state.json              step, position in the data, what it was trained on
    good-*                  the same files of the last good state, where there is one
    hashes.json             SHA-256 of each file above

The newest whole one is found on resume; a damaged one is named and passed over.
``checkpoints/best/`` holds the weights with the best held-out loss. How tensors come into these files and out of
them is in :mod:`afina.train.snapshot_torch` and :mod:`afina.train.snapshot_mlx`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

from afina.errors import AfinaError
from afina.run import hash_file, read_mapping
from afina.whole import remove, whole_folder

STEPS = "step-????????"


@dataclass
class LoopState:
    """Where the loop stands; with weights, optimizer and generators, all that the next step depends on."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    """Spent in steps."""
    thread_seconds: float = 0.0
    """Of them, those in which the loop's own thread was on a processor."""
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


class Writes(Protocol):
    """A state that writes itself: the files of a checkpoint."""

    def write(self, folder: Path, prefix: str = "") -> None:
        """Write them, each name with the prefix."""


def write_checkpoint(target: Path, present: Writes, good: Writes | None, keep: int) -> None:
    """Write a checkpoint beside its place, put it there when it is whole, and forget all but the newest `keep`.

    Args:
        good: the state to go back to, which travels along.

    Raises:
        DiskFull: what was there before is untouched.
    """
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with whole_folder(target) as beside:
        present.write(beside)
        if good is not None:
            good.write(beside, "good-")
        write_hashes(beside)
    for old in sorted(folder.glob(STEPS))[:-keep]:
        remove(old)
    for begun in (*folder.glob(STEPS + ".partial"), *folder.glob(STEPS + ".old")):  # left by a kill
        remove(begun)


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of steps that training went back behind."""
    for checkpoint in folder.glob(STEPS):
        if int(checkpoint.name.removeprefix("step-")) > step:
            remove(checkpoint)


def newest_checkpoint(folder: Path, fingerprint: str, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint that belongs to `fingerprint`; others are named and passed over."""
    for candidate in sorted(folder.glob(STEPS), reverse=True):
        problem = checkpoint_problem(candidate)
        if problem is None and read_state(candidate).fingerprint != fingerprint:
            problem = "belongs to another recipe, other data or another base"
        if problem is None:
            return candidate
        say(f"train: checkpoint {candidate.name} {problem}; passed over")
    return None


def checkpoint_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when every file has the hash that was noted."""
    try:
        hashes = read_mapping(folder / "hashes.json", "weights.safetensors", "state.json")
    except AfinaError:
        return "has no readable hashes.json"
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            return f"lacks {name}"
        if hash_file(folder / name) != expected:
            return f"is damaged ({name})"
    return None


def read_state(folder: Path, prefix: str = "") -> LoopState:
    """Where the loop stood, of a checkpoint that :func:`checkpoint_problem` finds nothing wrong with.

    Raises:
        AfinaError: a newer version wrote it. To pass it over would cost what was trained.
    """
    file = folder / f"{prefix}state.json"
    found = read_mapping(file)
    if unknown := sorted(found.keys() - {each.name for each in fields(LoopState)}):
        raise AfinaError(
            f"holds what this version of afina does not know ({', '.join(unknown[:3])}): a newer one wrote it",
            f"go on with that version; or remove {folder} to go on from the checkpoint before it",
            str(file),
        )
    return LoopState(**found)


def write_best(folder: Path, state: LoopState, write_weights: Callable[[Path], object]) -> None:
    """Keep the weights of the best held-out loss in ``best/``; the best before is replaced when they are whole.

    Args:
        write_weights: writes them to a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder / "best") as beside:
        write_weights(beside / "weights.safetensors")
        (beside / "state.json").write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
        write_hashes(beside)


def checked_best(folder: Path, state: LoopState) -> Path:
    """The file of the weights that had the best held-out loss.

    Raises:
        AfinaError: they are damaged, or are not those of ``state.best_step``.
    """
    best, old = folder / "best", folder / "best.old"
    if old.exists() and not best.exists():  # killed between the two renames of whole_folder
        old.rename(best)
    problem = checkpoint_problem(best)
    if problem is None and read_state(best).step != state.best_step:
        problem = f"is not of step {state.best_step}"
    if problem is not None:
        raise AfinaError(
            f"the best state {problem}", "remove the folder `checkpoints` and start the same command again", str(best)
        )
    return best / "weights.safetensors"


def write_hashes(folder: Path) -> None:
    """Note the SHA-256 of every file of a folder in ``hashes.json``."""
    hashes = {file.name: hash_file(file) for file in sorted(folder.iterdir())}
    (folder / "hashes.json").write_text(json.dumps(hashes, indent=2), encoding="utf-8")
