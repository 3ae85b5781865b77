"""The folder that an export goes into."""

from __future__ import annotations

import os
from pathlib import Path

from afina.errors import LOOK, RecipeError

CARD = "README.md"
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
    if place == here or place in here.parents:
        raise RecipeError(f"{out} is the folder that you are in, or above it", "name one below it", "--out")
    kept = [each.name for each in out.iterdir()] if out.is_dir() else []
    if own := sorted(name for name in kept if name.startswith(".") and name != ".DS_Store"):
        raise RecipeError(
            f"{out} is an export in which somebody keeps other things ({', '.join(own[:3])}): they would be gone",
            "export into another folder, and copy its files over these",
            "--out",
        )
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "no folder can be made in it" if above.is_dir() else "it is a file"
        raise RecipeError(f"{above}: {why}", LOOK, "--out")


def _is_export(out: Path) -> bool:
    """Whether nothing lies there, or what an export has written, by its card."""
    if not out.is_dir():
        return False
    card = out / CARD
    if not card.is_file():
        return not any(out.iterdir())
    text = card.read_text(encoding="utf-8", errors="replace")
    return text.startswith(_BEGINS) and _TAG in text and _ENDS in text
