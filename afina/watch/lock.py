"""Whether another process works in a run, told without taking the lock: who asked by taking it would keep that process
out for a moment."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

LOCKS = Path("/proc/locks")
AT_ONCE = 2048
"""Bytes of the list that Linux gives at once, at least (a page of memory). Of a longer one, a line is passed over where
another lock ends between two pieces: then a run at work would be told as killed."""
LOOKS = 4
"""At a long list in which a lock does not stand. Each misses one that is held where just then another one ends."""
UNNAMED = 0
"""Stands for a process whose number the system does not tell."""


def lock_holder(lock: Path) -> int | None:
    """The process that holds a lock file of :class:`filelock.FileLock`; None where nobody does.

    Linux lists its locks; macOS answers ``F_GETLK`` for those of ``flock`` too, and Linux does for those on NFS.
    """
    try:
        found = lock.stat()
    except OSError:
        return None
    holder = _in_list(found)
    return _asked(lock) if holder is None else holder


def _in_list(lock: os.stat_result) -> int | None:
    """The holder by ``/proc/locks``: ``1: FLOCK  ADVISORY  WRITE 5010 fe:00:3277808 0 EOF``."""
    for _ in range(LOOKS):
        try:
            listed = LOCKS.read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        holder = _named_in(listed, lock)
        if holder is not None or len(listed) < AT_ONCE:
            return holder
    return None


def _named_in(listed: str, lock: os.stat_result) -> int | None:
    device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}"
    for line in listed.splitlines():
        words = line.split()
        if "FLOCK" not in words[1:2] or len(words) < 6 or not words[5].endswith(f":{lock.st_ino}"):
            continue
        # On btrfs and overlays a file's status names another device than the list does.
        if words[5] == f"{device}:{lock.st_ino}" or _has_open(words[4], lock):
            return int(words[4]) if words[4].isdecimal() else UNNAMED
    return None


def _has_open(process: str, lock: os.stat_result) -> bool:
    """Whether a process has the file open; False as well where it may not be asked."""
    try:
        return any(os.path.samestat(each.stat(), lock) for each in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def _asked(lock: Path) -> int | None:
    """The holder by ``F_GETLK``, which asks and takes nothing."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    # struct flock: Linux has type, whence, start, length, process; macOS start, length, process, type, whence.
    mac = sys.platform == "darwin"
    form, kind, process = ("qqihh", 3, 2) if mac else ("hhqqi4x", 0, 4)
    asked = [0, 0, 0, fcntl.F_RDLCK, os.SEEK_SET] if mac else [fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0]
    try:
        with lock.open("rb") as opened:
            answer = struct.unpack(form, fcntl.fcntl(opened, fcntl.F_GETLK, struct.pack(form, *asked)))
    except OSError:  # a file system without locks
        return None
    if answer[kind] == fcntl.F_UNLCK:
        return None
    return max(UNNAMED, answer[process])


def command_of(process: int) -> str:
    """What a process was started as, shortened; empty where the system does not tell."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode("utf-8", errors="replace").split("\0")
    except OSError:
        return ""
    named = [Path(word).name if n < 2 else word for n, word in enumerate(words) if word]
    text = " ".join(named)
    return text if len(text) <= 60 else text[:59] + "…"
