"""Attacks on the sandbox: each is stopped, said, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import longer, until

from afina.errors import RecipeError
from afina.sandbox import launcher as sandbox
from afina.sandbox.isolation_inside import EVERYWHERE, SYSCALLS
from afina.sandbox.launcher import ProgramLimits, ProgramOutcome, View, check_isolation, isolation_missing, run_limited

isolated = pytest.mark.skipif(bool(isolation_missing()), reason=f"code cannot be isolated here: {isolation_missing()}")
needs_unshare = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode != 0,
    reason="needs `unshare --user`",
)
PYTHON = str(Path(sys.executable).resolve())
VIEW = View((sys.base_prefix,))
FEW = ProgramLimits(seconds=20, memory_bytes=512 << 20, disk_bytes=16 << 20)
"""Generous in time, so that a slow machine changes nothing; what must last ends earlier by another limit."""
BRIEF = ProgramLimits(seconds=1, memory_bytes=512 << 20)


def attack(folder: Path, code: str, limits: ProgramLimits = FEW, **more: object) -> ProgramOutcome:
    return run_limited([PYTHON, "-c", code], folder, limits, view=VIEW, **more)  # type: ignore[arg-type]


def alive(mark: str) -> list[int]:
    """Processes whose command line holds a text."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
    return found


# ---- what a harmless program gets


@isolated
def test_a_program_reads_writes_and_answers(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("olá", encoding="utf-8")
    code = "import sys; open('out.txt', 'w').write(open('in/a.txt').read() + sys.stdin.read()); sys.exit(3)"
    outcome = attack(tmp_path, code, stdin=b"!", take=["out.txt", "none.txt"])
    assert (outcome.code, outcome.output, outcome.stopped) == (3, "", "")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "olá!"
    assert not (tmp_path / "none.txt").exists()


@isolated
def test_both_outputs_and_more_input_than_a_pipe_holds(tmp_path: Path) -> None:
    code = "import sys; print(len(sys.stdin.read())); print('error', file=sys.stderr)"
    outcome = attack(tmp_path, code, stdin=b"x" * 1_000_000)
    assert outcome.stdout == "1000000\n" and sorted(outcome.output.split()) == ["1000000", "error"]
    assert attack(tmp_path, "print('not read')", stdin=b"x" * 1_000_000).stdout == "not read\n"


@isolated
def test_it_is_nobody_without_any_right(tmp_path: Path) -> None:
    said = attack(
        tmp_path, "import os; print(os.getuid(), os.getgroups()); print(open('/proc/self/status').read())"
    ).output
    assert said.startswith("65534 ")
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


# ---- limits


@isolated
def test_an_endless_loop(tmp_path: Path) -> None:
    assert attack(tmp_path, "while True: pass", BRIEF).stopped == "not finished after 1 s"


@isolated
def test_a_program_that_closes_its_outputs_and_goes_on(tmp_path: Path) -> None:
    code = "import os, time; os.write(1, b'begun'); os.close(1); os.close(2); time.sleep(600)"
    for seconds in longer(1.0):
        outcome = attack(tmp_path, code, replace(BRIEF, seconds=seconds))
        assert outcome.stopped == f"not finished after {seconds:g} s"
        if outcome.output == "begun":
            break


@isolated
def test_a_fork_bomb(tmp_path: Path) -> None:
    mark = f"bomb-{os.getpid()}"
    code = f"import os\nwhile True:\n  try: os.fork()\n  except OSError: pass  # {mark}"
    assert attack(tmp_path, code).stopped == "more than 64 processes"
    assert not alive(mark)


@isolated
def test_ten_gigabytes(tmp_path: Path) -> None:
    assert attack(tmp_path, "b = bytearray(10 << 30)").stopped == "more than 0.5 GiB needed"


@isolated
def test_memory_that_many_processes_share_out(tmp_path: Path) -> None:
    """Each of them stays below the limit of one process."""
    code = (
        "import os, time\nfor _ in range(40):\n  if not os.fork():\n    b = os.urandom(1 << 20) * 99; time.sleep(9)\n"
    )
    assert attack(tmp_path, code + "time.sleep(600)").stopped == "more than 0.5 GiB needed"


@isolated
@pytest.mark.parametrize(
    "code",
    [
        "import os; os.memfd_create('x')",
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); assert c.shmget(0, 1 << 20, 0o1600) != -1",
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); assert c.unshare(0x10000000) != -1",
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); assert c.ptrace(16, 1, 0, 0) != -1",
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); assert c.mount(b'x', b'/tmp', b'tmpfs', 0, None) != -1",
        "import os; os.chroot('/tmp')",
    ],
)
def test_calls_that_would_lead_around_the_limits(tmp_path: Path, code: str) -> None:
    outcome = attack(tmp_path, code)
    assert outcome.code == 1 and ("not permitted" in outcome.output or "AssertionError" in outcome.output)


@isolated
def test_endless_output(tmp_path: Path) -> None:
    outcome = attack(tmp_path, "import os\nwhile True: os.write(1, b'x' * 65536)")
    assert outcome.stopped == "wrote more than 4 MiB" and len(outcome.output) < 5 << 20


@isolated
@pytest.mark.parametrize("place", [".", "/tmp"])
@pytest.mark.parametrize("files", [1, 10])
def test_files_of_ten_gigabytes(tmp_path: Path, place: str, files: int) -> None:
    write = f"  for _ in range({10240 // files}): f.write(bytes(1 << 20))"
    code = f"for n in range({files}):\n  f = open(f'{place}/x{{n}}', 'wb')\n{write}"
    outcome = attack(tmp_path, code)
    assert outcome.code and ("No space left" in outcome.output or "File too large" in outcome.output)
    assert not list(tmp_path.iterdir())


@isolated
def test_a_million_empty_files(tmp_path: Path) -> None:
    outcome = attack(tmp_path, "for n in range(1_000_000): open(f'x{n}', 'w').close()")
    assert "No space left" in outcome.output or outcome.stopped
    assert not list(tmp_path.iterdir())


# ---- what lies outside


@isolated
def test_nothing_is_written_outside(tmp_path: Path) -> None:
    own, beside = tmp_path / "own", tmp_path / "beside"
    own.mkdir()
    beside.mkdir()
    mark = f"afina-test-{os.getpid()}"
    places = [beside, Path.home(), Path(__file__).parent, Path("/tmp"), Path("/var/tmp"), Path("/usr"), Path("/etc")]
    names = [str(place / mark) for place in places] + ["/proc/sys/kernel/hostname", f"/dev/{mark}", f"../{mark}"]
    code = f"for name in {names!r}:\n  try: open(name, 'w').write('x'); print(name)\n  except OSError: pass"
    written = attack(own, code).stdout.split()
    assert all(name.startswith(("/tmp/", "..")) for name in written), "only its own /tmp"
    assert not [name for name in names if name.endswith(mark) and Path(own, name).exists()]


@isolated
def test_files_and_secrets_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "secret.txt").write_text("sk-secret")
    names = [
        str(tmp_path / "secret.txt"),
        __file__,
        "/etc/passwd",
        "/etc/shadow",
        "/proc/1/environ",
        "/proc/kcore",
        "/proc/1/mem",
    ]
    code = "import os\nprint(dict(os.environ), os.listdir('/'), os.listdir('/proc'))\n"
    code += f"for name in {names!r}:\n  try: print('READ', open(name).read())\n  except OSError: pass"
    said = attack(own, code).output
    assert "secret" not in said.replace(str(tmp_path), "") and "READ" not in said and "PATH" in said


@isolated
def test_no_connection_and_no_names(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        outcome = attack(tmp_path, f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")
        assert outcome.code == 1 and "Operation not permitted" in outcome.output
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "gaierror" in attack(tmp_path, "import socket; socket.getaddrinfo('localhost.example', 80)").output
    for family in ("AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"):
        assert attack(tmp_path, f"import socket; socket.socket(socket.{family}, 1)").code == 1


@isolated
def test_killing_what_watches_it(tmp_path: Path) -> None:
    code = "import os\nfor n in range(1, 65):\n  try: os.kill(os.getppid(), n)\n  except OSError: pass\nprint('on')"
    assert attack(tmp_path, code) == ProgramOutcome(0, "on\n", "", "on\n")
    assert attack(tmp_path, "import os; os.kill(0, 9)").stopped == "ended by signal 9"
    lowered = "import resource, time; resource.prlimit(1, resource.RLIMIT_CPU, (0, 0)); time.sleep(600)"
    assert attack(tmp_path, lowered, BRIEF).stopped, "it ends only itself"


@isolated
def test_a_daemon_ends_with_it(tmp_path: Path) -> None:
    """It has begun before its parent is done."""
    mark = f"daemon-{os.getpid()}"
    code = (
        "import os, time\nread, write = os.pipe()\nif not os.fork():\n  os.setsid()\n"
        "  if not os.fork():\n    os.write(write, b'x')\n    time.sleep(600)\n  os._exit(0)\n"
        f"os.read(read, 1)\nprint('done')  # {mark}"
    )
    outcome = attack(tmp_path, code)
    assert outcome.stdout == "done\n" and not outcome.stopped
    assert not alive(mark)


@isolated
@pytest.mark.parametrize(
    "code",
    [
        "os.symlink('/etc/passwd', 'back')",
        "os.symlink('/proc/self/fd/0', 'back')",
        "os.mkfifo('back')",
        "os.mkdir('back')",
        "os.link('/etc/ld.so.cache', 'back')",
    ],
)
def test_only_regular_files_come_back(tmp_path: Path, code: str) -> None:
    attack(tmp_path, f"import os; {code}", take=["back"])
    assert not list(tmp_path.iterdir())


@isolated
def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "secret").write_text("x")
    (own / "link").symlink_to(tmp_path / "secret")
    assert attack(own, "import os; print(os.listdir('.'))").stdout == "[]\n"


@isolated
def test_a_compilers_cache_is_the_only_other_place(tmp_path: Path) -> None:
    own, cache = tmp_path / "own", tmp_path / "cache"
    own.mkdir()
    cache.mkdir()
    view = View((sys.base_prefix,), (str(cache),))
    code = f"open({str(cache / 'x')!r}, 'w').write('y')"
    assert run_limited([PYTHON, "-c", code], own, FEW, view=view).code == 0
    assert (cache / "x").read_text() == "y"


@isolated
def test_everything_ends_with_afina_itself(tmp_path: Path) -> None:
    mark = f"orphan-{os.getpid()}"
    code = f"import time\nprint({mark!r}, flush=True)\ntime.sleep(600)"
    start = (
        "import sys; from pathlib import Path; from afina.sandbox.launcher import *\n"
        f"run_limited([{PYTHON!r}, '-c', {code!r}], Path({str(tmp_path)!r}), "
        "ProgramLimits(), view=View((sys.base_prefix,)))"
    )
    afina = subprocess.Popen([sys.executable, "-c", start])
    until(lambda: len(alive(mark)) >= 3, said=lambda: "afina, what watches, the program")
    afina.send_signal(signal.SIGKILL)
    afina.wait()
    until(lambda: not alive(mark))


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the package ziglang")
@pytest.mark.parametrize(("machine", "table"), [("x86_64", "X64"), ("aarch64", "Arm64")])
def test_numbers_of_the_forbidden_calls(machine: str, table: str) -> None:
    """They are those of Zig's standard library, of both machines."""
    spec = importlib.util.find_spec("ziglang")
    assert spec and spec.submodule_search_locations
    text = Path(spec.submodule_search_locations[0], "lib/std/os/linux/syscalls.zig").read_text(encoding="utf-8")
    listed = text.partition(f"pub const {table} = enum(usize)")[2].partition("\n};")[0]
    numbers = {name: int(number) for name, number in re.findall(r"^    (\w+) = (\d+),$", listed, re.MULTILINE)}
    assert {name: numbers[name] for name in SYSCALLS[machine][1]} == SYSCALLS[machine][1]
    everywhere = "io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen fsconfig fsmount fspick"
    assert tuple(numbers[name] for name in [*everywhere.split(), "mount_setattr"]) == EVERYWHERE


# ---- where it cannot be had


def test_a_machine_without_isolation_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "isolation_missing", lambda: "no namespaces")
    with pytest.raises(RecipeError, match=r"never runs unprotected: no namespaces\n.*permit user namespaces"):
        check_isolation()


@needs_unshare
@isolated
def test_the_kernels_own_refusal_is_told_and_nothing_runs(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from afina.sandbox.launcher import *\n"
        "try: run_limited(['/bin/sh', '-c', 'echo ran'], Path(sys.argv[1]), ProgramLimits(), view=View())\n"
        "except Exception as error: print(type(error).__name__, error, bool(isolation_missing()))"
    )
    limit = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    words = ["unshare", "-Ur", "sh", "-c", limit, "sh", sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    assert said.startswith("RecipeError code cannot be isolated") and said.endswith("True\n")


@needs_unshare
@isolated
def test_without_the_right_to_mount(tmp_path: Path) -> None:
    """Where this is no root, or one whom a container holds, the user namespace comes first: the same result."""
    code = (
        "import os, sys; from pathlib import Path; from afina.sandbox.launcher import *\n"
        "words = ['/bin/sh', '-c', 'id -u; echo x > /usr/x; ls /']\n"
        "told = run_limited(words, Path(sys.argv[1]), ProgramLimits(), view=View())\n"
        "print(told.stdout)"
    )
    words = ["unshare", "-Ur", sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    assert said[0] == "65534" and "root" not in said and "home" not in said
    assert not Path("/usr/x").exists()


@isolated
def test_a_program_that_is_not_seen_is_no_wrong_answer(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"does not start.*\n.*readable"):
        run_limited(["/no/such/compiler"], tmp_path, FEW, view=View())
