"""The command line in the tests' own process: the quickest way to ask it, and what a test replaces there is seen by it.

`forked.py` has the other two: a fork, which can be killed and has a working folder and environment of its own, and a
Python of its own.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from afina import cli


def call_afina(*words: object, folder: Path | None = None, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """`afina WORDS...` in `folder`, or where the test is; `check` is the exit code it has to end with, None: any."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    given = ["afina", *map(str, words)]
    with (
        contextlib.chdir(folder or "."),
        patch.object(sys, "argv", given),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    assert check is None or code == check, "".join(said)
    return subprocess.CompletedProcess(given, code, *said)
