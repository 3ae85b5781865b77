"""What :mod:`afina.sandbox.launcher` starts to isolate a program (Linux only, the standard library only).

    python -I -S isolation_inside.py SPEC     SPEC: JSON, see :func:`main`

    this process ── new namespaces ──> process 1 in them ── file system, no rights ──> the program
                                       watches memory and processes, reports by a pipe, ends all

The program sees the folders that it may read, a working folder and ``/tmp`` in memory, a few devices and its own
processes. It has no network, no capability and no way to get one. Process 1 is no more than it is; the kernel keeps
the program from touching it (it cannot be traced or signalled). When process 1 ends, so does everything.

Order matters. With CAP_SYS_ADMIN (root) mounts come first, then the change to `NOBODY` and a user namespace of its
own: so folders that only root may enter can be shown, and the program has a user whose processes are counted. Without
it the user namespace comes first. In both cases the program is user `NOBODY`, without rights outside.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import select
import signal
import stat
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
"""What programs of the system need to start."""
DEVICES = ("null", "zero", "full", "random", "urandom")
WATCH_SECONDS = 0.02

# linux/sched.h, linux/mount.h, linux/prctl.h
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
SYS_MOUNT_SETATTR, READ_ONLY, NOSUID, NODEV = 442, 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000

# Calls that the program may not make. Memory that no limit counts (memfd, System V), other namespaces (which would
# give it mounts of its own), ways into other processes, and parts of the kernel that nothing judged here needs.
SYSCALLS: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "clone": 56, "clone3": 435, "socket": 41,
            "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
            "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "semget": 64, "msgget": 68,
            "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "open_by_handle_at": 304,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "clone": 220, "clone3": 435, "socket": 198,
            "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_getfd": 438,
            "memfd_create": 279, "memfd_secret": 447, "shmget": 194, "semget": 190, "msgget": 186,
            "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
            "userfaultfd": 282, "open_by_handle_at": 265,
        },
    ),
}  # fmt: skip
EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, SYS_MOUNT_SETATTR)
"""io_uring_*, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr: the same number everywhere."""

_C = ctypes.CDLL(None, use_errno=True)


class IsolationRefused(Exception):
    """A step of the isolation that this system does not permit."""


def call(what: str, function: Callable[..., int], *values: object) -> None:
    """A C function that gives -1 where it fails."""
    if function(*values) == -1:
        raise IsolationRefused(f"{what}: {os.strerror(ctypes.get_errno())}")


def main(spec: Mapping[str, Any]) -> int:
    """Isolate and run ``spec["command"]``.

    Args:
        spec: `folder` (its files are copied into the working folder, which has the same path), `command`, `variables`,
            `readable`, `writable` (folders shown at their own paths), `memory`, `disk` (bytes), `processes`,
            `seconds` (of a processor), `take` (name of a file to give back -> descriptor to write it to), `result`
            (descriptor for the report: ``{"code", "stopped", "taken"}``; ``{"refused"}`` where isolation failed;
            ``{"unstarted"}`` where the program did not start) and `alive` (a pipe; when its other end is closed,
            everything ends).
    """
    result = int(spec["result"])
    for descriptor in (result, int(spec["alive"]), *spec["take"].values()):
        os.set_inheritable(descriptor, False)
    os.umask(0o022)
    try:
        privileged = is_privileged()
        namespaces = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
        if privileged:
            call("new namespaces", _C.unshare, namespaces)
        else:
            own_user_namespace(os.geteuid(), os.getegid(), namespaces)
        first = os.fork()
    except (IsolationRefused, OSError) as error:
        report(result, {"refused": str(error)})
        return 1
    if first == 0:
        try:
            os._exit(process_one(spec, result, privileged))
        except BaseException as error:  # noqa: BLE001  whatever it is, nothing runs, and the one who asked is told
            report(result, {"refused": f"{type(error).__name__}: {error}"})
            os._exit(1)
    os.waitpid(first, 0)
    return 0


def is_privileged() -> bool:
    """Whether this process may mount and become `NOBODY`: root, not kept from it by a container."""
    if os.geteuid() != 0 or not effective_capabilities() >> 21 & 1:  # CAP_SYS_ADMIN
        return False
    maps = (Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").splitlines() for kind in ("uid", "gid"))
    return all(any(int(a) <= NOBODY < int(a) + int(n) for a, _, n in map(str.split, lines)) for lines in maps)


def effective_capabilities() -> int:
    """This process's effective capabilities, a bit each."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)


def own_user_namespace(user: int, group: int, more: int = 0) -> None:
    """A user namespace in which `user`, who this process is outside, is `NOBODY`."""
    call("a new user namespace", _C.unshare, NEWUSER | more)
    for name, text in (("setgroups", "deny"), ("gid_map", f"{NOBODY} {group} 1"), ("uid_map", f"{NOBODY} {user} 1")):
        try:
            Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
        except OSError as error:
            if name != "setgroups" or not isinstance(error, PermissionError):  # set before by a container
                raise IsolationRefused(f"{name} of a new user namespace: {error.strerror}") from error


# ---- process 1


def process_one(spec: Mapping[str, Any], result: int, privileged: bool) -> int:
    """Make the file system, give every right away, start the program, watch it."""
    folder = str(spec["folder"])
    make_root(spec)
    if privileged:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        call("PR_SET_DUMPABLE", _C.prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self is not its own
        own_user_namespace(NOBODY, NOBODY)
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    drop_capabilities()
    call("PR_SET_DUMPABLE", _C.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of what process 1 does not handle, the kernel keeps it
    os.chdir(folder)
    told, tell = os.pipe()  # closed by a successful exec
    program = os.fork()
    if program == 0:
        os.close(told)
        start(spec, tell)
    os.close(tell)
    with os.fdopen(told, "rb") as failed:
        if why := failed.read():
            report(result, {"unstarted": why.decode()})
            return 1
    code, stopped = watch(program, spec)
    end_others()
    taken = [name for name, target in spec["take"].items() if give_back(name, target, int(spec["disk"]))]
    report(result, {"code": code, "stopped": stopped, "taken": taken})
    return 0


def make_root(spec: Mapping[str, Any]) -> None:
    """A file system with nothing but what the program may see; the old one is gone afterwards."""
    folder, disk = str(spec["folder"]), int(spec["disk"])
    call("private mounts", _C.mount, None, b"/", None, MS_REC | MS_PRIVATE, None)
    given = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the mount below hides it
    root = folder
    mount_memory(root, 1 << 20)
    for place in ("/tmp", folder):
        Path(root + place).mkdir(parents=True)
        mount_memory(root + place, disk)
    copy_tree(given, root + folder)
    os.close(given)
    for place in (*SYSTEM, *spec["readable"]):
        show(place, root, READ_ONLY | NOSUID | NODEV)
    for place in spec["writable"]:
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
        show(place, root, NOSUID | NODEV)
    for name in DEVICES:
        show(f"/dev/{name}", root, NOSUID)
    Path(root, "dev/fd").symlink_to("/proc/self/fd")
    Path(root, "dev/shm").symlink_to("/tmp")
    Path(root, "proc").mkdir()
    options = MS_NOSUID | MS_NODEV
    call("/proc of its own", _C.mount, b"proc", f"{root}/proc".encode(), b"proc", options, b"subset=pid")
    os.chdir(root)
    call("pivot_root", pivot_root, b".", b".")
    call("leaving the old file system", _C.umount2, b".", MNT_DETACH)
    os.chdir("/")
    call("read-only root", _C.mount, None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None)


def pivot_root(new: bytes, old: bytes) -> int:
    """pivot_root(2), which libc does not offer by name."""
    return int(_C.syscall(SYSCALLS[platform.machine()][1]["pivot_root"], new, old))


def mount_memory(place: str, size: int) -> None:
    """A file system in memory, `size` bytes at most."""
    options = f"size={size},nr_inodes=65536,mode=755,uid={NOBODY},gid={NOBODY}"
    where, flags = place.encode(), MS_NOSUID | MS_NODEV
    call(f"a file system in memory at {place}", _C.mount, b"tmpfs", where, b"tmpfs", flags, options.encode())


def show(place: str, root: str, attributes: int) -> None:
    """Make a file or folder visible below the new root, at its own path; a link as a link; what is not here, not."""
    source, target = Path(place), Path(root + place)
    if not os.path.lexists(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        return  # within a folder that is shown already
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    call(f"showing {place}", _C.mount, bytes(source), bytes(target), None, MS_BIND | MS_REC, None)
    wanted = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    arguments = AT_FDCWD, bytes(target), AT_RECURSIVE, wanted, ctypes.c_size_t(32)
    call(f"rights of {place}", _C.syscall, SYS_MOUNT_SETATTR, *arguments)


def copy_tree(source: int, target: str) -> None:
    """Copy the regular files below an open folder, owned by `NOBODY`; links and the like are left."""
    for entry in os.scandir(source):
        to = f"{target}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            Path(to).mkdir()
            inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            copy_tree(inner, to)
            os.close(inner)
        elif entry.is_file(follow_symlinks=False):
            opened = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            with os.fdopen(opened, "rb") as file, Path(to).open("wb") as out:
                while block := file.read(1 << 20):
                    out.write(block)
                os.fchmod(out.fileno(), 0o755 if os.fstat(opened).st_mode & stat.S_IXUSR else 0o644)
        else:
            continue
        os.chown(to, NOBODY, NOBODY)


def drop_capabilities() -> None:
    """Give away every capability, for good."""
    for capability in range(64):
        if _C.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == -1:
            break  # one more than the kernel knows
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    call("capset", _C.capset, header, ctypes.create_string_buffer(24))
    if effective_capabilities():
        raise IsolationRefused("capabilities are left")
    call("PR_SET_NO_NEW_PRIVS", _C.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# ---- the program


def start(spec: Mapping[str, Any], tell: int) -> NoReturn:
    """Become the program, under limits; what goes wrong is told through a pipe that exec closes."""
    try:
        os.setsid()
        for which, value in (
            (resource.RLIMIT_CPU, spec["seconds"]),
            (resource.RLIMIT_AS, spec["memory"]),
            (resource.RLIMIT_FSIZE, spec["disk"]),
            (resource.RLIMIT_NPROC, spec["processes"] + 3),  # with those that are not its own
            (resource.RLIMIT_NOFILE, 256),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
        ):
            hard = resource.getrlimit(which)[1]
            bound = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
            resource.setrlimit(which, (bound, bound))
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
            signal.signal(ignored, signal.SIG_DFL)
        forbid_calls()
        os.execvpe(spec["command"][0], spec["command"], dict(spec["variables"]))
    except BaseException as error:  # noqa: BLE001  the same
        os.write(tell, f"{spec['command'][0]} does not start: {error}".encode())
    os._exit(127)


def forbid_calls() -> None:
    """The filter of system calls (seccomp): what is forbidden fails with EPERM."""
    machine, numbers = SYSCALLS[platform.machine()]
    code = call_filter(machine, numbers)
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(program))
    filters = ctypes.create_string_buffer(header, len(header))
    call("seccomp", _C.prctl, PR_SET_SECCOMP, 2, filters, 0, 0)


def call_filter(machine: int, numbers: Mapping[str, int]) -> bytes:
    """The filter as BPF: struct seccomp_data holds the call's number at 0, the machine at 4, argument 0 at 16."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, denied, missing = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38  # EPERM, ENOSYS

    def words(*steps: tuple[int, int, int, int]) -> bytes:
        return b"".join(struct.pack("=HBBI", *step) for step in steps)

    code = words((load, 0, 0, 4), (equal, 1, 0, machine), (give, 0, 0, kill), (load, 0, 0, 0))
    code += words((at_least, 0, 1, 0x40000000), (give, 0, 0, kill))  # x86-64's other numbering
    special = {"clone", "clone3", "socket"}
    for number in (*(number for name, number in numbers.items() if name not in special), *EVERYWHERE):
        code += words((equal, 0, 1, number), (give, 0, 0, denied))
    # Without clone3, whose flags cannot be looked at, libc takes clone.
    code += words((equal, 0, 1, numbers["clone3"]), (give, 0, 0, missing))
    spaces = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | 0x2000000  # and NEWCGROUP
    code += words(
        (equal, 0, 4, numbers["clone"]), (load, 0, 0, 16), (any_bit, 0, 1, spaces), (give, 0, 0, denied),
        (give, 0, 0, allow),
        (equal, 0, 4, numbers["socket"]), (load, 0, 0, 16), (equal, 1, 0, 1), (give, 0, 0, denied),  # only AF_UNIX
        (give, 0, 0, allow),
        (give, 0, 0, allow),
    )  # fmt: skip
    return code


# ---- watching it


def watch(program: int, spec: Mapping[str, Any]) -> tuple[int, str]:
    """Wait for the program's end: (exit code or negative signal, which limit ended it)."""
    asked = select.poll()
    asked.register(int(spec["alive"]), 0)  # only that nobody holds its other end any more
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        while True:  # what the program left behind is buried too
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return -signal.SIGKILL, "its end was not seen"
            if ended == program:
                return os.waitstatus_to_exitcode(status), ""
            if ended == 0:
                break
        if asked.poll(0):
            os._exit(1)  # afina is gone: so is everything here
        processes, resident = count_processes()
        if processes > int(spec["processes"]):
            return -signal.SIGKILL, f"more than {spec['processes']} processes"
        if resident > int(spec["memory"]):
            return -signal.SIGKILL, f"more than {int(spec['memory']) / 2**30:g} GiB needed"
        signal.sigtimedwait([signal.SIGCHLD], WATCH_SECONDS)


def count_processes() -> tuple[int, int]:
    """Threads of all processes but this one, and the bytes of memory that they fill."""
    threads = resident = 0
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or place.name == "1":
            continue
        try:
            text = (place / "status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key == "Threads":
                threads += int(value)
            elif key in ("RssAnon", "RssShmem"):
                resident += int(value.split()[0]) * 1024
    return threads, resident


def end_others() -> None:
    """Kill every process but this one, and wait until they are gone."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def give_back(name: str, target: int, limit: int) -> bool:
    """Copy a regular file of the working folder to an open descriptor; False where there is none."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode) or about.st_size > limit:
            return False
        while block := os.read(opened, 1 << 20):
            os.write(target, block)
        return True
    finally:
        os.close(opened)


def report(result: int, values: Mapping[str, object]) -> None:
    """Write the report; whoever asked may be gone."""
    try:
        os.write(result, json.dumps(values).encode())
    except OSError:
        return


if __name__ == "__main__":
    words: Sequence[str] = sys.argv
    sys.exit(main(json.loads(words[1])))
