"""What a verb prints and how it ends: results to stdout, remarks to stderr, the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import typer


def say(text: str) -> None:
    """A remark, to stderr."""
    from afina.progress import say as to_stderr

    to_stderr(text)


def show(value: Any, as_json: bool, text: str) -> None:
    """The result, to stdout: `text` for people, `value` with ``--json``."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str) if as_json else text)


def end_by(verdict: dict[str, Any]) -> None:
    """Exit code 5 where the recipe's limits are missed."""
    from afina.errors import ResultError

    if not verdict["passed"]:
        raise typer.Exit(ResultError.exit_code)


def choice(option: str, given: str, known: tuple[str, ...]) -> Any:
    """One of `known`, or an error that names the nearest."""
    from afina.errors import RecipeError
    from afina.recipe import nearest

    if given not in known:
        close = nearest(given, known)
        raise RecipeError(f"{option} {given} is not known", f"use {close or ' or '.join(known)}", option)
    return given


def confirm(yes: bool) -> Callable[[str], bool] | None:
    """Ask the person at the terminal; nobody where this is a script or the answer is given."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: typer.confirm(question, err=True)
