"""Folders in the system's temporary one that no process leaves behind, however it ends.

They are gone with the block that works in them, after SIGTERM and SIGHUP too; what a kill leaves is told by a lock that
nobody holds, and removed when the next one is made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

IN_USE = ".in-use"
"""Lock file of a :func:`held_folder`, held as long as somebody works there."""


@contextlib.contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """A :func:`held_folder` that a signal clears away too (:func:`signals_unwind`)."""
    with signals_unwind(), held_folder(kind) as folder:
        yield folder


@contextlib.contextmanager
def held_folder(kind: str) -> Iterator[Path]:
    """A folder in the system's temporary one, for this user alone, that is gone with the block.

    A kill leaves no time for that. What a killed process of this user left is removed when the next such folder is
    made, whatever for: it has a lock that nobody holds any more.

    Args:
        kind: what it is for, a word; it lies below ``afina-KIND-*``.
    """
    _remove_left_behind()
    with contextlib.ExitStack() as at_the_end:
        new = Path(tempfile.mkdtemp(prefix=".afina-"))
        at_the_end.callback(shutil.rmtree, new, ignore_errors=True)
        lock = FileLock(new / IN_USE, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except OSError:  # a file system without locks; whoever has some must not find one to take
            (new / IN_USE).unlink(missing_ok=True)
        # It has the name by which it is looked for from here on, where its lock is held.
        above = new.rename(new.with_name(f"afina-{kind}-{new.name.rpartition('-')[2]}"))
        at_the_end.callback(shutil.rmtree, above, ignore_errors=True)
        at_the_end.callback(lock.release)
        (above / kind).mkdir(mode=0o700)
        yield above / kind


def _remove_left_behind() -> None:
    """Remove the folders of :func:`held_folder` that nobody holds."""
    for lock in Path(tempfile.gettempdir()).glob(f"afina-*/{IN_USE}"):
        with contextlib.suppress(OSError):  # held, or another user's
            if lock.parent.is_symlink() or (hasattr(os, "geteuid") and lock.parent.stat().st_uid != os.geteuid()):
                continue
            with FileLock(lock, timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, end this process by way of its blocks, with the exit code of
    128 + the signal; only where they would have ended it at once."""
    own = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() != own:  # a fork: it has nothing of ours to clear away
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise SystemExit(128 + number)

    def here() -> bool:
        return threading.current_thread() is threading.main_thread()  # no other may ask for signals

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if here() and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, end)
        yield
    finally:
        for number in taken:
            if here() and signal.getsignal(number) is end:  # nobody has taken it over meanwhile
                signal.signal(number, signal.SIG_DFL)
