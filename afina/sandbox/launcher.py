"""Start a foreign program with limits, and isolated from everything else where its code is not to be trusted.

:func:`run_limited` has two ways:

- **Limited** (no :class:`View`): a session of its own in the given folder, an environment that names nothing of the
  user's (no keys, no proxies, no home), bounds on processor seconds, memory and file size, the network cut off where
  the system permits it (:func:`network_cut`). The file system is **not** hidden. For compilers, which read code and do
  not run it; what code names as a file to include could show in their messages.
- **Isolated** (with a :class:`View`): :mod:`afina.sandbox.isolation_inside` gives the program namespaces of its own. It
  sees what the view names, read-only, and a working folder in memory that is gone afterwards; no network, no other
  process, no capability; its memory, processes and files are bounded together. For code that runs. Where the system
  does not permit that (:func:`isolation_missing`), the program is not started.

In both, what the program writes is read through pipes and bounded, and whatever it started ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.temporary import temporary_folder

FILE_BYTES = 1 << 28
INSIDE = Path(__file__).with_name("isolation_inside.py")

_NO_MEMORY = re.compile(
    r"^(?:error: OutOfMemory|MemoryError\b.*)$|\bout of memory\b|memory allocation of", re.MULTILINE
)

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
class ProgramLimits:
    """What a program may use."""

    seconds: float = 60.0
    memory_bytes: int = 4 << 30
    """Address space of each process (compilers map more than they touch); isolated, also what all of them fill."""
    output_bytes: int = 4 << 20
    """What it may write to its outputs."""
    disk_bytes: int = FILE_BYTES
    """Largest file; isolated, also all files together."""
    processes: int = 64
    """Processes and threads at a time, where it is isolated."""


@dataclass(frozen=True, slots=True)
class View:
    """What an isolated program sees, beside the system's own programs and libraries."""

    readable: tuple[str, ...] = ()
    """Files and folders, at their own paths."""
    writable: tuple[str, ...] = ()
    """Folders outside the working folder that it may write to: a trusted compiler's cache, never a program's."""


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """How a program ended."""

    code: int
    """Exit code; the negative number of the signal that ended it."""
    output: str
    """What it wrote, errors included, in the order in which it came."""
    stopped: str = ""
    """Which limit ended it, in words; empty where none did."""
    stdout: str = ""
    """What it wrote to its standard output alone."""


def run_limited(
    command: Sequence[str],
    folder: Path,
    limits: ProgramLimits,
    variables: Mapping[str, str] | None = None,
    *,
    view: View | None = None,
    stdin: bytes = b"",
    take: Sequence[str] = (),
) -> ProgramOutcome:
    """Run a program in `folder` and wait for it and all that it started.

    Args:
        command: the program and its words; the program must exist.
        folder: working folder, home and temporary folder of the program. Isolated, it works on a copy.
        limits: when it is ended.
        variables: environment variables beside the few that it gets anyway.
        view: isolate it, and what it sees; None only limits it.
        stdin: what it reads.
        take: isolated, the names of files that come back into `folder`: regular files only, never a link; one that
            is not there at the end is not there.

    Raises:
        RecipeError: the program was to be isolated, and the system does not permit it, or does not start where it
            sees no more than the view. Nothing was run.

    >>> with temporary_folder("example") as folder:
    ...     run_limited([sys.executable, "-c", "print(6 * 7)"], folder, ProgramLimits()).output
    '42\\n'
    """
    place = str(folder if view is None else folder.resolve())
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": place, "TMPDIR": place, "LANG": "C.UTF-8"}
    environment |= {"NO_COLOR": "1"} | dict(variables or {})
    seconds = max(1, round(limits.seconds) + 1)
    if view is not None:
        environment["PATH"] = os.pathsep.join([str(Path(command[0]).parent), "/usr/local/bin", "/usr/bin", "/bin"])
        spec = {
            "folder": place,
            "command": list(command),
            "variables": environment,
            "readable": view.readable,
            "writable": view.writable,
            "memory": limits.memory_bytes,
            "disk": limits.disk_bytes,
            "processes": limits.processes,
            "seconds": seconds,
        }
        return _run_isolated(spec, folder, limits, stdin, take)
    bounds = (seconds, limits.memory_bytes, limits.disk_bytes)
    launch = [*network_cut(), sys.executable, "-I", "-S", "-c", _LAUNCH, *map(str, bounds), *command]
    return _run(launch, place, environment, limits, stdin)


def _run_isolated(
    spec: Mapping[str, object], folder: Path, limits: ProgramLimits, stdin: bytes, take: Sequence[str]
) -> ProgramOutcome:
    with contextlib.ExitStack() as opened:
        targets = {name: opened.enter_context(tempfile.TemporaryFile()) for name in take}
        report = opened.enter_context(tempfile.TemporaryFile())
        alive, held = os.pipe()  # the other side ends when this end is closed, whatever became of us
        opened.callback(os.close, alive)
        numbers = {name: file.fileno() for name, file in targets.items()}
        passed = [report.fileno(), held, *numbers.values()]
        words = json.dumps({**spec, "take": numbers, "result": report.fileno(), "alive": held})
        launch = [sys.executable, "-I", "-S", str(INSIDE), words]
        try:
            outcome = _run(launch, "/", {"LANG": "C.UTF-8"}, limits, stdin, passed)
        finally:
            os.close(held)
        report.seek(0)
        said = report.read()
        found: dict[str, Any] = json.loads(said) if said else {"code": -signal.SIGKILL}  # what watches it was ended
        if "refused" in found:
            raise _refusal(found["refused"])
        if "unstarted" in found:
            fix = "it sees the system and its own folder only: name what else it needs in the task's `readable`"
            raise RecipeError(f"isolated, {found['unstarted']}", fix)
        if outcome.stopped:
            return outcome
        for name in take:
            (folder / name).unlink(missing_ok=True)
        for name in found.get("taken", ()):
            targets[name].seek(0)
            with (folder / name).open("wb") as out:
                shutil.copyfileobj(targets[name], out)
            (folder / name).chmod(0o755)
    return _judged(found["code"], replace(outcome, stopped=found.get("stopped", "")), limits)


def _run(
    launch: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    limits: ProgramLimits,
    stdin: bytes,
    passed: Sequence[int] = (),
) -> ProgramOutcome:
    """Start a program, feed and read it until it ends or a limit is reached."""
    with subprocess.Popen(
        launch,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=passed,
    ) as running:
        try:
            whole, printed, stopped = _converse(running, stdin, limits)
        finally:
            _kill_group(running)
    output, stdout = (bytes(part).decode("utf-8", "replace") for part in (whole, printed))
    return _judged(running.returncode, ProgramOutcome(0, output, stopped, stdout), limits)


def _converse(
    running: subprocess.Popen[bytes], stdin: bytes, limits: ProgramLimits
) -> tuple[bytearray, bytearray, str]:
    """Write and read, waiting for neither, until it ends: (both outputs, the standard one, which limit ended it)."""
    assert running.stdin and running.stdout and running.stderr
    until = time.monotonic() + limits.seconds
    late = f"not finished after {limits.seconds:g} s"
    whole, printed = bytearray(), bytearray()
    waiting = memoryview(stdin)
    os.set_blocking(running.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(running.stdin, selectors.EVENT_WRITE)
        selector.register(running.stdout, selectors.EVENT_READ)
        selector.register(running.stderr, selectors.EVENT_READ)
        while selector.get_map():
            ended = running.poll() is not None  # what it left behind may hold its outputs open
            if (left := until - time.monotonic()) <= 0:
                return whole, printed, late
            events = selector.select(0 if ended else min(left, 0.05))
            if ended and not events:
                return whole, printed, ""
            for key, _ in events:
                if key.fileobj is running.stdin:
                    with contextlib.suppress(BlockingIOError):
                        try:
                            waiting = waiting[os.write(key.fd, waiting[: 1 << 16]) :]
                        except BrokenPipeError:  # it does not read on
                            waiting = waiting[:0]
                    if not waiting:
                        selector.unregister(key.fileobj)
                        running.stdin.close()
                elif read := os.read(key.fd, 1 << 16):
                    whole += read
                    printed += read if key.fileobj is running.stdout else b""
                    if len(whole) > limits.output_bytes:
                        return whole, printed, f"wrote more than {limits.output_bytes / 2**20:g} MiB"
                else:
                    selector.unregister(key.fileobj)
    try:
        running.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return whole, printed, late
    return whole, printed, ""


def _judged(code: int, outcome: ProgramOutcome, limits: ProgramLimits) -> ProgramOutcome:
    """The outcome of a program that ended with `code`: which limit that means."""
    stopped = outcome.stopped
    if not stopped and code == -signal.SIGXCPU:
        stopped = f"not finished after {limits.seconds:g} s"
    elif not stopped and code == -signal.SIGXFSZ:
        stopped = f"a file larger than {limits.disk_bytes / 2**20:g} MiB"
    elif not stopped and code < 0:
        stopped = f"ended by signal {-code}"
    elif not stopped and code and _NO_MEMORY.search(outcome.output):
        stopped = f"more than {limits.memory_bytes / 2**30:g} GiB needed"
    return replace(outcome, code=code, stopped=stopped)


def _kill_group(running: subprocess.Popen[bytes]) -> None:
    """End what is left of a program and of all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


# ---- what this machine can do


def check_isolation(where: str = "") -> None:
    """
    Raises:
        RecipeError: this machine cannot isolate a program, and why; nothing runs unprotected.
    """
    if reason := isolation_missing():
        raise _refusal(reason, where)


@cache
def isolation_missing() -> str:
    """Why a program cannot be isolated here; empty where it can be. Tried once, with a program that does nothing."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"it needs Linux on x86-64 or 64-bit ARM, this is {sys.platform} on {platform.machine()}"
    release = platform.release()
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < (5, 14):
        return f"it needs Linux 5.14 or newer, this is {release}"
    with temporary_folder("code") as folder:
        try:
            outcome = run_limited(["/bin/sh", "-c", "echo $((6 * 7))"], folder, ProgramLimits(), view=View())
        except RecipeError as error:
            return error.problems[0].what.removeprefix(_CANNOT)
    return "" if outcome.stdout == "42\n" else f"a first program failed: {outcome.stopped or outcome.output[:200]}"


_CANNOT = "code cannot be isolated on this machine, and it never runs unprotected: "


def _refusal(reason: str, where: str = "") -> RecipeError:
    return RecipeError(
        _CANNOT + reason,
        "permit user namespaces (Docker: --security-opt seccomp=unconfined --security-opt systempaths=unconfined; "
        "Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0), or judge code elsewhere: remove the task",
        where,
    )


@cache
def network_cut() -> tuple[str, ...]:
    """The words before a command that take the network away; empty where the system does not permit it."""
    if shutil.which("unshare"):
        for words in (("unshare", "--net"), ("unshare", "--map-root-user", "--net")):
            tried = subprocess.run([*words, "true"], capture_output=True, check=False)
            if tried.returncode == 0:
                return words
    return ()
