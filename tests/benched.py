"""Benchmarks in the tests' own process, their contestants in forks of it: neither loads torch once more."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import Forked

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


def opened(name: str, patch: pytest.MonkeyPatch) -> Any:
    """The module of a benchmark."""
    patch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module(name)
    if hasattr(module, "run_contestant"):
        patch.setattr(module, "run_contestant", run_in_a_fork)
    return module


def started(module: Any, patch: pytest.MonkeyPatch, *words: object) -> None:
    """`python benchmarks/NAME.py WORDS...`, here."""
    patch.setattr(sys, "argv", [module.__file__, *map(str, words)])
    module.main()


def run_in_a_fork(command: Sequence[object], **_: Any) -> tuple[Any, str]:
    """What `run_contestant` gives, of our own contestants."""
    from contestants import result_of

    python, script, *words = map(str, command)
    assert python == sys.executable, "a peer's Python is not a fork of this one"
    return result_of(Forked(words, Path.cwd(), script=Path(script)).done())
