"""A verb of afina as a child process: its JSON, what it says meanwhile, and its end whenever it is wanted.

What reads data or opens a tokenizer takes memory and time, which the studio's own process has to keep small, and a
child can be stopped in the middle.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from afina.errors import AfinaError, DataError, Problem
from afina.run import parse_json

ChildState = Literal["running", "done", "failed", "cancelled"]
FINDINGS = DataError.exit_code
"""How an audit ends whose findings are fatal: its result is whole."""
STOP_SECONDS = 5.0
"""Until a child that was asked to end is ended."""


def child_environment() -> dict[str, str]:
    """This process's, so that the child finds the same package and asks no network for a base."""
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


class VerbChild:
    """``python -m afina WORDS --json``, started at once, in a session of its own."""

    def __init__(self, words: Sequence[str]) -> None:
        self.started = time.monotonic()
        self.said = ""
        """Its last line of progress or remarks."""
        self._seconds: float | None = None
        self._cancelled = False
        self._ended = threading.Event()
        self._result = tempfile.TemporaryFile()  # noqa: SIM115  read when the child has ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", "afina", *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=self._result,
            stderr=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,
        )
        self._value: Any = None
        self._failure: AfinaError | None = None
        threading.Thread(target=self._read, name="verb", daemon=True).start()

    @property
    def state(self) -> ChildState:
        """Whether it still works, and how it ended."""
        if not self._ended.is_set():
            return "running"
        return "cancelled" if self._cancelled else "failed" if self._failure else "done"

    @property
    def seconds(self) -> float:
        """Since it was started; all that it took, once it has ended."""
        return self._seconds if self._seconds is not None else time.monotonic() - self.started

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why it failed."""
        return self._failure.problems if self._failure else ()

    def value(self) -> Any:
        """What it printed; waits for its end.

        Raises:
            AfinaError: what the verb raised, or that it ended without a result.
        """
        self._ended.wait()
        if self._cancelled:
            raise AfinaError("stopped before it was done", "ask again")
        if self._failure:
            raise self._failure
        return self._value

    def cancel(self) -> None:
        """End it, and all that it started; returns when it has ended."""
        if self._ended.is_set():
            return
        self._cancelled = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            if self._ended.wait(STOP_SECONDS):
                return

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said = line.decode(errors="replace").strip() or self.said
        code = self._process.wait()
        self._seconds = time.monotonic() - self.started
        self._result.seek(0)
        printed = self._result.read()
        self._result.close()
        try:
            self._value = parse_json(printed)
        except ValueError:
            what = f"it ended without a result (exit code {code}): {self.said}"
            self._failure = AfinaError(what, "the same verb in a terminal says more")
        else:
            if isinstance(self._value, dict) and "exit_code" in self._value:
                self._failure = AfinaError(problems=[Problem(**each) for each in self._value["problems"]])
            elif code not in (0, FINDINGS):
                self._failure = AfinaError(f"it ended with exit code {code}: {self.said}", "see what it says")
        self._ended.set()
