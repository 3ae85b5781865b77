"""The command line, or another program in Python, in a fork of the tests' own process.

A process of its own: it has an exit code, its own working folder and environment, and can be killed at any moment.
But it does not load torch, transformers and PEFT once more, which costs ten seconds of processor time each time.
Where loading itself is the point, tests start `python -m afina`; and where MLX computes: the threads that it started in
the tests' own process are not there in a fork, which would wait for them for ever (`start_afina`).
"""

from __future__ import annotations

import codecs
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

CODECS = ("utf-8-sig", "utf-16", "cp1252", "latin-1")
"""Loaded by Python when they are first asked for: another user may not look into the folder that it lies in."""


class Forked:
    """`afina WORDS...` in a process that may still run. Its output goes to files, so that no pipe can fill up.

    Args:
        script: a file that is run instead, as `python FILE WORDS...` would.
    """

    def __init__(
        self,
        words: list[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        *,
        script: Path | None = None,
    ) -> None:
        self.words, self.program = words, str(script or "afina")
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # done() closes them
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            given = os.environ if environment is None else environment
            _become(self.program, words, folder, given, self.out, self.err, user)

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code; the negative signal where it was killed."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def done(self) -> subprocess.CompletedProcess[str]:
        """What it said, when it has ended."""
        code = self.wait()
        said = []
        for file in (self.out, self.err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
            file.close()
        return subprocess.CompletedProcess([self.program, *self.words], code, *said)


def start_afina(*words: str | Path, folder: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """`afina WORDS...` in `folder`, in a Python of its own; `check` is the exit code that it has to end with."""
    command = [sys.executable, "-m", "afina", *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def _become(
    program: str,
    words: list[str],
    folder: Path,
    environment: Mapping[str, str],
    out: BinaryIO,
    err: BinaryIO,
    user: int | None = None,
) -> None:
    """Never returns: the child must not go on with the parent's tests."""
    code: object = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in enumerate((nothing, out.fileno(), err.fileno())):
            os.dup2(file, number)
        # pytest has put its own objects in these places.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        encoding = environment.get("PYTHONIOENCODING", "utf-8")
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding, closefd=False)  # noqa: SIM115
        os.chdir(folder)
        if environment is not os.environ:
            os.environ.clear()
            os.environ.update(environment)
        if user is not None:
            for name in CODECS:
                codecs.lookup(name)
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            tempfile.tempdir = None  # the parent's
        sys.argv = [program, *words]
        if program == "afina":
            from afina import cli

            cli.main()
        else:
            runpy.run_path(program, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001  # told on stderr, and the exit code says it
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
