"""The folder that an export goes into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from afina.errors import LOOK, RecipeError
from afina.run import what_runs_left

CARD = "README.md"
EXPORTS = "export"
"""In a run's folder: where its exports are."""
WEIGHTS = (".safetensors", ".gguf")
"""Endings of files whose hashes a card tells."""
_BEGINS, _TAG, _ENDS = "---\n", '\ntags: ["afina"', "\nWritten by afina "
"""What every card that an export writes has; see :mod:`afina.export.card`."""


def check_out(out: Path) -> None:
    """Refuse a folder that an export must not take the place of: all that lies in it would be gone.

    Raises:
        RecipeError: it is somebody's own, holds what no export writes, or cannot be made.
    """
    if out.is_dir() and (out / "recipe.yaml").exists():
        raise RecipeError(f"{out} is a run", "name another folder", "--out")
    if out.exists() and not _is_export(out):
        raise RecipeError(f"{out} is there and is no export", "name another folder, or remove it", "--out")
    here, place = Path.cwd().resolve(), out.resolve()
    for run in place.parents:
        if what_runs_left(run) and place.relative_to(run).parts[0] != EXPORTS:
            raise RecipeError(
                f"{out} lies among what {run.name} has written, which is known by its hashes",
                f"name one below {run / EXPORTS}, or a folder elsewhere",
                "--out",
            )
    if place == here or place in here.parents:
        raise RecipeError(f"{out} is the folder that you are in, or above it", "name one below it", "--out")
    kept = [each.name for each in out.iterdir()] if out.is_dir() else []
    if own := sorted(name for name in kept if name.startswith(".") and name != ".DS_Store"):
        raise RecipeError(
            f"{out} is an export in which somebody keeps other things ({', '.join(own[:3])}): they would be gone",
            "export into another folder, and copy its files over these",
            "--out",
        )
    if own := sorted(_added_to(out)):
        raise RecipeError(
            f"{out} is an export beside which somebody keeps {', '.join(own[:3])}: it would be gone",
            "move it elsewhere, or name another folder",
            "--out",
        )
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "no folder can be made in it" if above.is_dir() else "it is a file"
        raise RecipeError(f"{above}: {why}", LOOK, "--out")


def _added_to(out: Path) -> Iterator[str]:
    """What of an export's folder is not the export's: weights that its card does not name, such as those that somebody
    has rounded since, and other exports below it."""
    card = out / CARD
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8", errors="replace")
    for each in out.iterdir():
        if each.suffix in WEIGHTS and f"`{each.name}` here" not in text:
            yield each.name
        elif each.is_dir() and _is_export(each) and any(each.iterdir()):
            yield f"{each.name}/"


def _is_export(out: Path) -> bool:
    """Whether nothing lies there, or what an export has written, by its card."""
    if not out.is_dir():
        return False
    card = out / CARD
    if not card.is_file():
        return not any(out.iterdir())
    text = card.read_text(encoding="utf-8", errors="replace")
    return text.startswith(_BEGINS) and _TAG in text and _ENDS in text
