"""Paths that begin in somebody's home, and those that a process may read."""

from __future__ import annotations

import os
from pathlib import Path

ROOTS = "AFINA_ROOTS"
"""Variable with the folders that texts may include files from, as ``PATH`` is written; unset: any folder."""


def from_home(path: str | Path) -> Path:
    """A path with its ``~`` or ``~name`` replaced. Where nobody is called so it stays as it is: it is not there, and
    whoever looks for it says that.

    >>> from_home("~nobody-has-this-name/model")
    PosixPath('~nobody-has-this-name/model')
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def in_roots(path: Path) -> bool:
    """Whether a file, links followed, lies in the folders that :data:`ROOTS` names; any where it names none."""
    named = os.environ.get(ROOTS, "")
    return not named or any(path.is_relative_to(folder) for folder in named.split(os.pathsep))
