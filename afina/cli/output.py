"""What a verb prints and how it ends: results to stdout, remarks to stderr, the exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from afina.errors import AfinaError


_printed: set[str] = set()
"""``json``, where a value was printed for a machine: it reads one."""


def open_streams() -> None:
    """Make printing safe: characters that the terminal's encoding lacks are written as escapes, and a stream that was
    closed before we began swallows what it is given. Nothing has been printed yet."""
    _printed.clear()
    for name, mode, errors in (("stdin", "r", "replace"), ("stdout", "w", "backslashreplace"), ("stderr", "w", "")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # for good
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors or "backslashreplace")


def from_shell(words: list[str]) -> list[str]:
    """Options whose value begins in the home, as a shell writes it out where it stands by itself: bash leaves
    ``--runs=~/runs`` alone, and a folder called ``~`` would be made.

    >>> [each.endswith("/runs") and "~" not in each for each in from_shell(["--runs=~/runs", "--", "--runs=~/runs"])]
    [True, False, False]
    """
    ours = words.index("--") if "--" in words else len(words)
    return [*map(_at_home, words[:ours]), *words[ours:]]


def _at_home(word: str) -> str:
    name, _, value = word.partition("=")
    if not (name.startswith("--") and (value == "~" or value.startswith("~/"))):
        return word
    from afina.recipe.home import from_home

    return f"{name}={from_home(value)}"


def nobody_reads(*streams: Any) -> None:
    """Whoever read our output has left (``| head``): what is still to be written is for nobody."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in streams or (sys.stdout, sys.stderr):
        os.dup2(nothing, stream.fileno())


def say(text: str) -> None:
    """A remark, to stderr."""
    from afina.progress import say as to_stderr

    to_stderr(text)


def json_text(value: Any) -> str:
    """JSON for stdout. Characters that its encoding may lack are written as JSON's escapes: those of
    :func:`open_streams` (``\\xe9``, ``\\U0001f600``) no reader of JSON takes."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return json.dumps(value, ensure_ascii="utf" not in encoding, indent=2, default=str)


def show(value: Any, as_json: bool, text: str) -> None:
    """The result, to stdout: `text` for people, `value` with ``--json``. It stands whether or not anybody reads it."""
    if as_json:
        _printed.add("json")
    try:
        print(json_text(value) if as_json else text)
    except BrokenPipeError:
        nobody_reads(sys.stdout)


def show_error(error: AfinaError) -> None:
    """An error for a machine, to stdout, where no value stands there that it would follow."""
    if "json" not in _printed:
        print(json_text(error.as_json()))


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
