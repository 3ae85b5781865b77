"""Start a foreign program (a compiler) with limits: seconds, memory, output, and no network where that can be had.

What holds: the program runs in a session of its own in a temporary folder, with an environment that names
nothing of the user's (no keys, no proxies, no home), under ``setrlimit`` bounds on processor seconds, memory and
file size; when its time is over, the whole process group is killed. The network is cut off with ``unshare --net``
on Linux where the system permits it (:func:`network_cut`); elsewhere the programs started here have no
reason to use it, but are not kept from it. The file system is **not** hidden: code that is only compiled can name
a file to include, and what it names could show in the compiler's messages. Nothing of the code is ever run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OUTPUT_BYTES = 1 << 16
FILE_BYTES = 1 << 28

_NO_MEMORY = re.compile(r"^(?:error: OutOfMemory|MemoryError)$|\bout of memory\b|memory allocation of", re.MULTILINE)

# Limits are set by a small program between us and the compiler: `preexec_fn` is not safe beside threads.
_LAUNCH = """
import os, resource, sys
seconds, memory, size = (int(word) for word in sys.argv[1:4])
for which, value in (("CPU", seconds), ("AS", memory), ("FSIZE", size), ("CORE", 0)):
    limit = getattr(resource, "RLIMIT_" + which, None)
    if limit is not None:
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            pass  # macOS knows no bound on address space; a hard limit below ours holds anyway
os.execvp(sys.argv[4], sys.argv[4:])
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use."""

    seconds: float = 60.0
    memory_bytes: int = 4 << 30
    """Address space. Compilers map more than they touch."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    code: int
    """Exit code; the negative number of the signal that ended it."""
    output: str
    """Beginning of what it wrote, errors included."""
    stopped: str = ""
    """Which limit ended it, in words; empty where none did."""


def run_limited(
    command: Sequence[str], folder: Path, limits: Limits, variables: Mapping[str, str] | None = None
) -> Outcome:
    """Run a program in `folder` and wait for it.

    Args:
        command: the program and its words; the program must exist.
        folder: working folder, home and temporary folder of the program.
        limits: when it is ended.
        variables: environment variables beside the few that it gets anyway.

    >>> import tempfile
    >>> run_limited([sys.executable, "-c", "print(6 * 7)"], Path(tempfile.mkdtemp()), Limits()).output
    '42\\n'
    """
    place = str(folder)
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": place, "TMPDIR": place, "LANG": "C.UTF-8"}
    bounds = (max(1, round(limits.seconds) + 1), limits.memory_bytes, FILE_BYTES)
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, *map(str, bounds)]
    log = folder / ".output"
    with log.open("wb") as out:
        running = subprocess.Popen(
            [*network_cut(), *launch, *command],
            cwd=folder,
            env=environment | {"NO_COLOR": "1"} | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stopped = ""
        try:
            running.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            stopped = f"not finished after {limits.seconds:g} s"
        finally:
            _kill_group(running)
    with log.open("rb") as written:
        output = written.read(OUTPUT_BYTES).decode("utf-8", "replace")
    code = running.returncode
    if not stopped and code == -signal.SIGXCPU:
        stopped = f"not finished after {limits.seconds:g} s"
    elif not stopped and (code < 0 or (code and _NO_MEMORY.search(output))):
        stopped = f"ended by signal {-code}" if code < 0 else f"more than {limits.memory_bytes / 2**30:g} GiB needed"
    return Outcome(code, output, stopped)


def _kill_group(running: subprocess.Popen[bytes]) -> None:
    """End what is left of a program and of all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


@cache
def network_cut() -> tuple[str, ...]:
    """The words before a command that take the network away; empty where the system does not permit it."""
    if shutil.which("unshare"):
        for words in (("unshare", "--net"), ("unshare", "--map-root-user", "--net")):
            tried = subprocess.run([*words, "true"], capture_output=True, check=False)
            if tried.returncode == 0:
                return words
    return ()
