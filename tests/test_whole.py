"""Files and folders are there whole or not at all, whatever ends who writes them; a full disk is said."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from afina.cache import once_for_all
from afina.errors import DiskFull
from afina.recipe import Recipe, Source
from afina.run import Run, read_metrics
from afina.whole import disk_errors, whole_folder, write_whole

RECIPE = Recipe(name="test", base="a/b", sources=[Source(path=".")])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Stop(BaseException):
    """As a Ctrl-C would: not an `Exception`."""


def test_write_whole_replaces(tmp_path: Path) -> None:
    file = tmp_path / "new/folder/a.txt"
    write_whole(file, "um")
    write_whole(file, b"dois")
    assert file.read_bytes() == b"dois"
    assert names(file.parent) == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O"), Stop()])
def test_write_whole_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os if failing == "fsync" else Path, failing, fail)
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    with pytest.raises(DiskFull if full else type(error)) as caught:
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    if isinstance(caught.value, DiskFull):
        (problem,) = caught.value.problems
        assert problem.where == str(file)
        assert "free)" in problem.what
        assert "start the same command again" in problem.fix


def test_two_processes_that_write_one_file_of_a_cache_each_write_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under one name beside it, the second moved away what the first was writing, which then found it no more."""
    kept, flush = tmp_path / "shape.json", os.fsync

    def meanwhile(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", flush)
        with ThreadPoolExecutor(1) as other:
            other.submit(write_whole, kept, "theirs", shared=True).result()
        assert kept.read_text() == "theirs"
        flush(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(kept, "ours", shared=True)
    assert kept.read_text() == "ours" and names(tmp_path) == ["shape.json"]


WRITES = """
import os, sys
from pathlib import Path
from afina.whole import write_whole
def wait(_):
    print(flush=True)
    sys.stdin.read()
os.fsync = wait
write_whole(Path(sys.argv[1]), "theirs", shared=True)
"""


@contextlib.contextmanager
def writing(file: Path) -> Iterator[Any]:
    """A process that has written a file of a cache but not yet given it its name; it goes on when its input ends."""
    command, pipe = [sys.executable, "-c", WRITES, str(file)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "\n"
            assert f"{file.name}.{child.pid}-" in "".join(names(file.parent))
            yield child
        finally:
            child.kill()


def test_what_a_killed_process_left_beside_a_file_of_a_cache_is_removed_by_the_next_and_nothing_else(
    tmp_path: Path,
) -> None:
    """It stayed for good: it has a name that no other process writes under. A kill -9, beside one that goes on."""
    others = ["a.partial", "b.7-x.partial", "c.7-7.partial.md"]
    for name in others:
        (tmp_path / name).touch()
    with writing(tmp_path / "killed.json") as killed, writing(tmp_path / "alive.json") as alive:
        killed.kill()
        killed.wait()
        assert len(names(tmp_path)) == len(others) + 2
        write_whole(tmp_path / "next.json", "ours", shared=True)
        assert [name.partition(f".{alive.pid}-")[0] for name in names(tmp_path)] == sorted(
            [*others, "alive.json", "next.json"]
        )
        alive.communicate()
        assert alive.returncode == 0
    assert names(tmp_path) == sorted([*others, "alive.json", "next.json"])
    assert (tmp_path / "alive.json").read_text() == "theirs"


def test_a_file_taken_for_a_killed_ones_before_its_lock_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be written without a lock, and the next to come would take it away."""
    import fcntl

    lock, flush, held = fcntl.flock, os.fsync, []

    def remove_first(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        (beside,) = tmp_path.iterdir()
        beside.unlink()
        lock(handle, how)

    def look(handle: int) -> None:
        (beside,) = tmp_path.iterdir()
        with beside.open() as opened, pytest.raises(BlockingIOError):
            lock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(beside)
        monkeypatch.setattr(os, "fsync", flush)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    monkeypatch.setattr(os, "fsync", look)
    write_whole(tmp_path / "a.json", "ours", shared=True)
    assert len(held) == 1 and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), Stop()])
def test_nothing_of_a_file_of_a_cache_stays_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFull if isinstance(error, OSError) else Stop):
        write_whole(tmp_path / "a.json", "ours", shared=True)
    assert names(tmp_path) == []


def test_of_two_that_want_a_folder_of_the_cache_at_once_one_writes_it(tmp_path: Path) -> None:
    """Each removed what the other had begun under the same name beside it."""
    wanted, begun = tmp_path / "kept", threading.Event()
    written: list[Path] = []

    def write(folder: Path) -> None:
        with whole_folder(folder) as beside:
            (beside / "first").touch()
            written.append(beside)
            begun.set()
            time.sleep(0.2)  # in which the other one comes
            (beside / "second").touch()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(once_for_all, wanted, write)
        begun.wait()
        second = pool.submit(once_for_all, wanted, write)
        assert first.result() == second.result() == wanted
    assert names(wanted) == ["first", "second"] and len(written) == 1
    once_for_all(wanted, write)
    assert len(written) == 1


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "no room"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "no"), False),
        (ValueError("something else"), False),
    ],
)
def test_disk_errors_knows_a_full_disk_in_any_words(tmp_path: Path, error: Exception, full: bool) -> None:
    with pytest.raises(DiskFull if full else type(error)), disk_errors(tmp_path / "not/yet/there"):
        raise error


def test_whole_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with whole_folder(target) as beside:
        (beside / "inner").mkdir()
        (beside / "inner/a").write_text("1")
        assert not target.exists()
    assert (target / "inner/a").read_text() == "1"
    with whole_folder(target) as beside:
        (beside / "b").write_text("2")
        assert names(target) == ["inner"], "the old one stands until the new one is complete"
    assert names(target) == ["b"]
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("a defect"), Stop(), KeyboardInterrupt()])
def test_whole_folder_keeps_the_old_one_when_it_fails(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "result"
    with whole_folder(target) as beside:
        (beside / "a").write_text("old")
    with (
        pytest.raises(DiskFull if isinstance(error, OSError) else type(error)),
        whole_folder(target) as beside,
    ):
        (beside / "a").write_text("new")
        raise error
    assert (target / "a").read_text() == "old"
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("full", ["result", "result.partial"])
def test_a_disk_without_room_for_a_name_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """It may be full at the very last, as the old folder is put aside or the new one gets its name."""
    target = tmp_path / "result"
    with whole_folder(target) as beside:
        (beside / "a").write_text("old")
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if path.name == full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, to)

    with pytest.raises(DiskFull), whole_folder(target) as beside:
        (beside / "a").write_text("new")
        monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.undo()
    assert (target / "a").read_text() == "old"
    assert names(tmp_path) == ["result"]


def test_whole_folder_fills_the_one_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with whole_folder(Path()) as beside:
        (beside / "a").write_text("1")
    assert names(tmp_path) == ["here"] and names(tmp_path / "here") == ["a"]


@pytest.mark.parametrize("there", [True, False])
def test_what_a_person_keeps_beside_a_folder_stays(tmp_path: Path, there: bool) -> None:
    """`mv out out.old`, and written anew: the copy was taken for what a kill had left, and removed."""
    for name in ("result.old", "result.partial", *(["result"] if there else [])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text(name)
    for _ in range(2):
        with whole_folder(tmp_path / "result", of_a_person=True) as beside:
            (beside / "a").write_text("1")
    assert names(tmp_path) == ["result", "result.old", "result.partial"] and names(tmp_path / "result") == ["a"]
    assert all((tmp_path / name / "mine").read_text() == name for name in ("result.old", "result.partial"))


def test_whole_folder_sweeps_up_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "result.partial").mkdir()
    (tmp_path / "result.partial/half").write_text("x")
    with whole_folder(tmp_path / "result") as beside:
        (beside / "a").write_text("1")
    assert names(tmp_path) == ["result"]
    assert names(tmp_path / "result") == ["a"]


def test_killed_while_a_folder_is_filled(tmp_path: Path) -> None:
    """A real kill -9 in the middle."""
    code = f"""
from pathlib import Path
from afina.whole import whole_folder
with whole_folder(Path({str(tmp_path / "result")!r})) as beside:
    (beside / "a").write_text("half")
    print("ready", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["result.partial"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"needs the right to mount a small file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    write_whole(tiny_disk / "a", "old")
    with pytest.raises(DiskFull, match=r"KiB free"):
        write_whole(tiny_disk / "a", b"x" * 200_000)
    assert (tiny_disk / "a").read_text() == "old"
    with pytest.raises(DiskFull), whole_folder(tiny_disk / "folder") as beside:
        (beside / "b").write_bytes(b"x" * 200_000)
    assert names(tiny_disk) == ["a"]


def test_a_full_disk_in_the_middle_of_the_metrics(tiny_disk: Path) -> None:
    """The events before are kept, and after making room the next ones are readable."""
    with Run.open(tiny_disk / "run", RECIPE, print) as run:
        run.log("step", step=1)
        (tiny_disk / "filler").write_bytes(b"x" * (os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_bsize))
        with pytest.raises(DiskFull):
            for step in range(2, 2000):
                run.log("step", step=step)
        (tiny_disk / "filler").unlink()
        logged = len(read_metrics(tiny_disk / "run"))
        assert logged >= 1
    with Run.open(tiny_disk / "run", RECIPE, print) as run:
        run.log("after")
    events = read_metrics(tiny_disk / "run")
    assert [events[0]["step"], events[-1]["event"]] == [1, "after"]
