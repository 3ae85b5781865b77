"""Paths that begin in somebody's home."""

from __future__ import annotations

from pathlib import Path


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
