"""A run started as a process, in a session of its own: it outlives who started it, the studio or a server for agents.

Who works in a run is what its lock says (:mod:`afina.watch.lock`), whoever started it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from afina.errors import RecipeError
from afina.watch.lock import lock_holder

AFINA = (sys.executable, "-m", "afina")
LOG, RESULT = "console.log", "console.json"
"""What the process says (remarks and errors), and what it gives, in the run's folder."""
LONGEST_ENDING = 10.0
"""Seconds that a process may take to end after it has let its run go: its libraries are taken down."""


def start_process(
    command: Sequence[str], folder: Path, *, cwd: Path | None = None, also: Mapping[str, str] | None = None
) -> int:
    """Start a command that works in a run's folder. No Ctrl-C and no closed terminal of ours reaches it.

    Args:
        folder: the run's, made where it is not there.
        also: further variables of its environment.

    Returns:
        Its number.

    Raises:
        RecipeError: a process works in that run, or was started there and has not ended; a file that it writes is a
            link, or cannot be written.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _result_alone(folder / RESULT) as result:
            _check_free(folder)
            result.truncate(0)
            with _opened(folder / LOG, os.O_APPEND) as log:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=result,
                    stderr=log,
                    cwd=cwd,
                    start_new_session=True,
                    env=environment() | dict(also or {}),
                )
    except RecipeError:  # somebody else's process is in it
        raise
    except BaseException:  # short of memory or of processes: the name stays free
        if new:
            _forget(folder)
        raise
    threading.Thread(target=process.wait, daemon=True).start()  # nobody else takes its exit code
    return process.pid


def _forget(folder: Path) -> None:
    """Remove a folder that holds nothing but what a process would have written to."""
    for name in (LOG, RESULT):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody has put something there meanwhile
        folder.rmdir()


def environment(*, offline: bool = False) -> dict[str, str]:
    """Of a verb's process: as this one's, and what it says comes at once; offline, the hub's cache is all that it
    asks. The folder that it works in may be anybody's and hold a ``json.py``: Python looks for no modules there."""
    own = {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    return {**os.environ, **own} | ({"HF_HUB_OFFLINE": "1"} if offline else {})


@contextlib.contextmanager
def _result_alone(path: Path) -> Iterator[BinaryIO]:
    """``console.json`` opened and locked. A process that gets it as its output keeps the lock until it ends: the run's
    own lock is taken only when it has loaded its libraries, seconds later, and whoever asks again before that would
    start another. One that has let its run go is waited for: its run's state is told as stopped already.

    Raises:
        RecipeError: a process works in the run, or one that was started here before has not ended.
    """
    import fcntl

    with _opened(path) as result:
        for _ in range(int(LONGEST_ENDING / 0.1)):
            try:
                fcntl.flock(result, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _check_free(path.parent)
                time.sleep(0.1)
            except OSError:  # a file system without locks: the run's own lock refuses the second process
                break
        else:
            what = "a process that was started here has not ended"
            raise RecipeError(what, "wait until its state shows, a few seconds", str(path.parent))
        yield result


def _check_free(folder: Path) -> None:
    """Refuse a run that a process holds."""
    if (holder := lock_holder(folder / ".lock")) is not None:
        what = f"process {holder} works in this run"
        raise RecipeError(what, "wait for it, stop it, or give the new run another name", str(folder))


def _opened(path: Path, flags: int = 0) -> BinaryIO:
    """A file for what a process writes; never through a link, which would write over what it leads to.

    Raises:
        RecipeError: it is a link, or cannot be written.
    """
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags, 0o666), "wb")
    except OSError as error:
        why = "it is a link" if path.is_symlink() else error.strerror
        raise RecipeError(f"cannot be written: {why}", "remove it: it is made anew", str(path)) from error
