"""What a verb prints and how it ends: results to stdout, remarks to stderr, the exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


def open_streams() -> None:
    """Make printing safe: characters that the terminal's encoding lacks are written as escapes, and a stream that was
    closed before we began swallows what it is given."""
    for name, mode, errors in (("stdin", "r", "replace"), ("stdout", "w", "backslashreplace"), ("stderr", "w", "")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # for good
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors or "backslashreplace")


def nobody_reads() -> None:
    """Whoever read our output has left (``| head``): what is still to be written is for nobody."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nothing, stream.fileno())


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

    def ask(question: str) -> bool:
        try:
            return typer.confirm(question, err=True)
        except typer.Abort:  # Ctrl-C where an answer was wanted: not a yes, not a no
            raise KeyboardInterrupt from None

    return ask
