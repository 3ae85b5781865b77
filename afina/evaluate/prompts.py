"""The prompts of a recipe that the trained model goes on behind."""

from __future__ import annotations

from pathlib import Path

from afina.errors import DataError
from afina.recipe import Recipe

CONTINUATIONS_FILE = "continuations.jsonl"
"""In the run's folder: every text that was written, with the tokens that the model produced."""


def prompts_file(recipe: Recipe) -> Path | None:
    """The file of ``evaluate.prompts``."""
    return Path(recipe.root) / recipe.evaluate.prompts if recipe.evaluate.prompts else None


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file, one a line; blank lines between them say nothing.

    Raises:
        DataError: it is not UTF-8, holds none, or one of them twice.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start})", "save the file as UTF-8", str(file)) from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError("holds no prompt", "write one prompt a line, or leave `evaluate.prompts` out", str(file))
    if twice := next((each for number, each in enumerate(prompts) if each in prompts[:number]), None):
        raise DataError(f"holds the prompt {twice[:60]!r} twice", "leave one of the two lines", str(file))
    return prompts
