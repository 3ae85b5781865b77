"""Contestants of a benchmark: each in a process of its own, in turn, with one line of JSON as its result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

MARK = "RESULT "
TURN = "TURN"


def print_result(result: Any) -> None:
    """What a contestant ends with, on stdout."""
    print(MARK + json.dumps(result), flush=True)


def run_contestant(command: Sequence[object], **options: Any) -> tuple[Any, str]:
    """Run a contestant; returns its result, or None and the end of what it said."""
    return result_of(
        subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    )


def result_of(done: subprocess.CompletedProcess[str]) -> tuple[Any, str]:
    """The result of a contestant that has ended, or None and the end of what it said."""
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        return None, (done.stdout + done.stderr)[-2000:]
    return json.loads(line.removeprefix(MARK)), ""


def wait_for_turn() -> None:
    """In a contestant of `run_in_turns`: let the others do their step, and come back when it is this one's turn."""
    print(TURN, flush=True)
    if not sys.stdin.readline():
        sys.exit("whoever gave the turns is gone")


def run_in_turns(commands: Mapping[str, Sequence[object]]) -> dict[str, Any]:
    """Run contestants of which one works at a time: each is made ready, then all do a step, in an order that rotates.

    A machine that is lent changes its speed from minute to minute, and with it what processes that run one after the
    other seem to be worth (8 % up or down, for the same work); two steps a second apart are hardly touched by it.

    Returns:
        Each one's result.

    Raises:
        SystemExit: one ended without a result.
    """
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile("w+"))
        running: dict[str, subprocess.Popen[str]] = {}

        def work(name: str) -> None:
            """Read what it says until its step is done or it has ended."""
            for line in running[name].stdout or ():
                if line.startswith(MARK):
                    results[name] = json.loads(line.removeprefix(MARK))
                if line.startswith((MARK, TURN)):
                    return
            said.seek(0)
            sys.exit(f"{name} failed:\n{said.read()[-2000:]}")

        for name, command in commands.items():
            words = [str(part) for part in command]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
            running[name] = stack.enter_context(subprocess.Popen(words, text=True, **pipes))
            stack.callback(running[name].kill)
            work(name)
        order = list(running)
        while order := [name for name in order if name not in results]:
            for name in order:
                print(file=running[name].stdin, flush=True)
                work(name)
            order.append(order.pop(0))
    return results


def peak_bytes(process: int | str = "self") -> int:
    """The most memory that a process itself has held, told by Linux; 0 of one that has ended.

    Not `ru_maxrss`, which counts whoever started it as well. It stands here because peers' Pythons have no afina.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
