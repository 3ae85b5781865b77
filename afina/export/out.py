"""The folder that an export goes into."""

from __future__ import annotations

from pathlib import Path

from afina.errors import RecipeError


def check_out(out: Path) -> None:
    """
    Raises:
        RecipeError: something else than an export stands there.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "README.md").is_file())):
        raise RecipeError(f"{out} is there and is no export", "name another folder, or remove it", "--out")
    if out.is_dir() and (out / "recipe.yaml").exists():
        raise RecipeError(f"{out} is a run", "name another folder", "--out")
