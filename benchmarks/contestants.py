"""Contestants of a benchmark: each in a process of its own, in turn, with one line of JSON as its result."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

MARK = "RESULT "


def print_result(result: Any) -> None:
    """What a contestant ends with, on stdout."""
    print(MARK + json.dumps(result), flush=True)


def run_contestant(command: Sequence[object], **options: Any) -> tuple[Any, str]:
    """Run a contestant; returns its result, or None and the end of what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        return None, (done.stdout + done.stderr)[-2000:]
    return json.loads(line.removeprefix(MARK)), ""
