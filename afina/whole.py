"""Files and folders that are there whole or not at all, whatever ends who writes them.

A file is written beside its place, flushed to the disk and renamed (:func:`write_whole`), a folder is filled under
another name and renamed when it is complete (:func:`whole_folder`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from afina.errors import DiskFull
from afina.units import show_bytes


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn "no space left" into an error that says where, how much is free and what to do.

    safetensors reports a full disk in its own exception, so the text is looked at as well.
    """
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and "os error 28" not in str(error).lower() and "no space left" not in str(error).lower():
            raise
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        raise DiskFull(
            f"the disk is full ({show_bytes(free)} free)",
            "make room and start the same command again: it goes on from the last whole state",
            str(place),
        ) from error


def write_whole(path: Path, content: str | bytes, *, shared: bool = False) -> None:
    """Write a file so that its final name only ever holds all of it.

    Args:
        shared: whether several processes may write it at once, as in the user's cache (:func:`own_partial`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), own_partial(path) if shared else _partial(path) as beside:
        with beside.open("wb") as out:
            out.write(content.encode() if isinstance(content, str) else content)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    _flush_folder(path.parent)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """The name beside a file under which it is written by who alone writes it; gone where that fails."""
    beside = path.with_name(f"{path.name}.partial")
    try:
        yield beside
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


_OWN_PARTIAL = re.compile(r"\.\d+-\d+\.partial$")


@contextlib.contextmanager
def own_partial(path: Path) -> Iterator[Path]:
    """The name beside a file under which it is written where several processes or threads may do so at once: one for
    each, since under one name the first would move away what the second is writing. Rename it to the file inside of the
    block; what is not renamed is gone with it.

    It is locked until then. What a killed process left has a lock that nobody holds any more, and is removed by the
    next process that writes into the folder, whichever file; nobody could have read it. Where the file system has no
    locks it stays.
    """
    _remove_left_partial(path.parent.resolve())
    beside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(os.close, _locked(beside))
        at_the_end.callback(beside.unlink, missing_ok=True)
        yield beside


def _locked(file: Path) -> int:
    """Make a file and lock it, where there are locks; the lock is held until the handle is closed."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(handle, wait=True) or _still(handle, file):
            return handle
        os.close(handle)  # removed between the two lines above as what nobody holds


def _lock(handle: int, *, wait: bool) -> bool:
    """Whether the lock of an opened file could be taken. ``filelock`` is not asked: it takes locks of files that are
    nothing else, and older ones of it empty them."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):  # Windows; held, or a file system without locks
        return False
    return True


def _still(handle: int, file: Path) -> bool:
    """Whether a file is the one that was opened: it may have been removed or renamed meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), file.lstat())
    except FileNotFoundError:
        return False


@cache
def _remove_left_partial(folder: Path) -> None:
    """Remove what killed processes have left of :func:`own_partial`; once a process and folder, since a cache may hold
    thousands of files."""
    for left in folder.glob("*.partial"):
        if not _OWN_PARTIAL.search(left.name):
            continue
        with contextlib.suppress(OSError), left.open("rb+") as opened:  # another user's, or renamed meanwhile
            if _lock(opened.fileno(), wait=False) and _still(opened.fileno(), left):
                left.unlink()  # while its lock is ours nobody writes under that name


def write_json(path: Path, content: object, *, shared: bool = False) -> None:
    """:func:`write_whole` for JSON, readable by people."""
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=2, default=str) + "\n", shared=shared)


PARTIAL, OLD = ".partial", ".old"
"""Behind a folder's name while the next one is filled, and while that takes its place."""


@contextlib.contextmanager
def whole_folder(path: Path, *, of_a_person: bool = False) -> Iterator[Path]:
    """Fill a folder beside its place; it gets its name only when the block ends well.

    What stood there before is replaced at that moment and not earlier. After a failure or a
    kill, the old folder is untouched and what was begun is removed (at the latest by the next call).

    Args:
        of_a_person: whether somebody chose the place, and may keep a ``NAME.old`` of their own beside it: the names
            beside it are then none that a person gives.
    """
    path = path.resolve() if path.name in ("", "..") else path  # `.` has no name to put another one beside
    own = ".afina" if of_a_person else ""
    beside, old = (path.with_name(f"{path.name}{own}{ending}") for ending in (PARTIAL, OLD))
    if old.exists() and not path.exists():  # killed between the two renames below
        old.rename(path)
    remove(beside)
    with disk_errors(path):
        try:
            beside.mkdir(parents=True)
            yield beside
            for file in beside.rglob("*"):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            if path.exists() or path.is_symlink():
                remove(old)
                path.rename(old)
            beside.rename(path)
        except BaseException:
            if old.exists() and not path.exists():  # a folder that is full has no room for another name either
                old.rename(path)
            shutil.rmtree(beside, ignore_errors=True)
            raise
    remove(old)
    _flush_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, or what is no folder where one should be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut (where the system can)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
