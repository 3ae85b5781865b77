"""Contestants of a benchmark: each in a process of its own, in turn, with one line of JSON as its result."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARK = "RESULT "


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


def peak_bytes(process: int | str = "self") -> int:
    """The most memory that a process itself has held, told by Linux; 0 of one that has ended.

    Not `ru_maxrss`, which counts whoever started it as well. It stands here because peers' Pythons have no afina.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
