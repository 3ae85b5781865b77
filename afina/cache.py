"""The user's cache: what can be made again, for every run on a machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from afina.recipe.home import from_home


def user_cache() -> Path | None:
    """Where what can be made again is kept: ``$AFINA_CACHE``, else ``afina`` in the user's cache folder; None where
    there is no such place: HOME is unset, and the system knows no such user."""
    if own := os.environ.get("AFINA_CACHE"):
        return from_home(own)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "afina"
    try:
        return Path.home() / ".cache/afina"
    except RuntimeError:
        return None


def once_for_all(folder: Path, write: Callable[[Path], object]) -> Path:
    """A folder of the user's cache, written where it is not there. Of several processes that want it at once one writes
    and the others wait for it: under one name beside it they would take each other's half.

    Args:
        write: given the folder, which it gives its name when all is in it (:func:`~afina.whole.whole_folder`).
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():  # another may have written it while this one waited
                write(folder)
    return folder
