"""A run's folder: nothing half-written under its final name, what is skipped, what is done again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import AfinaError, DiskFull, RecipeError
from afina.recipe import Recipe, Source
from afina.run import (
    Run,
    disk_errors,
    hash_file,
    hash_folder,
    hash_value,
    held_folder,
    once_for_all,
    read_json,
    read_metrics,
    temporary_folder,
    whole_folder,
    write_json,
    write_whole,
)

RECIPE = Recipe(name="test", base="a/b", sources=[Source(path=".")])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Stop(BaseException):
    """As a Ctrl-C would: not an `Exception`."""


# ---- whole files and folders


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


WORKS = """
import signal, sys
from afina.run import temporary_folder
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
with temporary_folder("test") as folder:
    (folder / "a").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def working(place: Path) -> Iterator[tuple[Any, Path]]:
    """A process that works in a temporary folder below `place` until its input ends, and the folder."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKS], env={**os.environ, "TMPDIR": str(place)}, **pipes) as child:
        try:
            folder = Path(child.stdout.readline().strip())
            assert names(folder) == ["a"] and folder.is_relative_to(place)
            yield child, folder
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_no_temporary_folder_outlives_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM ended the process at once, and its folder stayed."""
    with working(tmp_path) as (child, _):
        child.send_signal(number)
        code = child.wait()
    assert names(tmp_path) == []
    assert code == (-number if number == signal.SIGINT else 128 + number)


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "afina-home-of-somebody"
    other.mkdir()
    with working(tmp_path) as (killed, left), working(tmp_path) as (alive, used):
        killed.kill()
        killed.wait()
        assert left.exists()
        with held_folder("first") as first, held_folder("second") as second:
            assert not left.parent.exists() and names(used) == ["a"]
            assert first.exists() and second.exists() and other.exists()
        alive.communicate()
    assert names(tmp_path) == [other.name]


def test_a_fork_is_ended_by_a_signal_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its parent would clear away is not its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("test") as folder:
        process = os.fork()
        if process == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM
        assert folder.exists()


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
from afina.run import whole_folder
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


def test_damaged_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    write_json(file, {"é": 1})
    assert read_json(file) == {"é": 1}
    file.write_text(file.read_text()[:-4])
    with pytest.raises(AfinaError, match=r"scores.json: damaged"):
        read_json(file)


# ---- hashes


def test_hashes_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a").startswith("ba7816bf8f01cfea")  # the example of FIPS 180
    assert hash_value({"a": 1, "b": 2}) == hash_value({"b": 2, "a": 1}) != hash_value({"a": 1, "b": 3})


def test_hash_folder_sees_names_and_contents(tmp_path: Path) -> None:
    def hash_of(files: dict[str, str]) -> str:
        folder = tmp_path / hash_value(files)
        for name, text in files.items():
            write_whole(folder / name, text)
        return hash_folder(folder)

    one = hash_of({"a": "1", "b/c": "2"})
    assert one != hash_of({"a": "2", "b/c": "1"})
    assert one != hash_of({"a": "1", "b/d": "2"})
    assert one != hash_of({"a": "1"})
    (tmp_path / "copy").mkdir()
    write_whole(tmp_path / "copy/b/c", "2")
    write_whole(tmp_path / "copy/a", "1")
    assert hash_folder(tmp_path / "copy") == one, "the place and the order of writing do not count"


# ---- stages


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, said: list[str]) -> Iterator[Run]:
    with Run.open(tmp_path / "run", RECIPE, said.append) as opened:
        yield opened


def worker(run: Run, text: str, done: list[str]) -> Callable[[], dict[str, Any]]:
    """A stage that writes `out` and says how it went."""

    def work() -> dict[str, Any]:
        done.append(text)
        write_whole(run.folder / "out", text)
        return {"text": text}

    return work


def test_stage_is_done_once(run: Run, said: list[str], tmp_path: Path) -> None:
    done: list[str] = []
    assert run.stage("dataset", {"epochs": 2}, ["out"], worker(run, "a", done)) == {"text": "a"}
    assert run.stage("dataset", {"epochs": 2}, ["out"], worker(run, "b", done)) == {"text": "a"}
    run.close()
    with Run.open(tmp_path / "run", RECIPE, said.append) as again:
        assert again.stage("dataset", {"epochs": 2}, ["out"], worker(again, "c", done)) == {"text": "a"}
    assert done == ["a"]
    assert said == ["dataset: done before, unchanged, kept"] * 2


def test_stage_is_redone_when_an_input_changed_and_the_old_is_kept(run: Run, said: list[str]) -> None:
    done: list[str] = []
    run.stage("train", {"train": {"epochs": 2, "seed": 0}}, ["out"], worker(run, "two", done), replaces=["out"])
    run.stage("train", {"train": {"epochs": 3, "seed": 0}}, ["out"], worker(run, "three", done), replaces=["out"])
    run.stage("train", {"train": {"epochs": 4, "seed": 1}}, ["out"], worker(run, "four", done), replaces=["out"])
    assert (run.folder / "out").read_text() == "four"
    assert (run.folder / "replaced/1-train/out").read_text() == "two"
    assert (run.folder / "replaced/2-train/out").read_text() == "three"
    assert "train: redone, because of train.epochs: 2 -> 3" in said
    assert "train: redone, because of train.epochs: 3 -> 4; train.seed: 0 -> 1" in said
    assert any(str(run.folder / "replaced/1-train") in line for line in said)


def test_a_long_list_of_changes_is_counted(run: Run, said: list[str]) -> None:
    done: list[str] = []
    run.stage("plan", {f"k{i}": i for i in range(9)} | {"text": "x" * 60}, ["out"], worker(run, "a", done))
    run.stage("plan", {f"k{i}": -i - 1 for i in range(9)} | {"text": "y" * 60}, ["out"], worker(run, "b", done))
    assert said[0].startswith("plan: redone, because of k0: 0 -> -1; k1: 1 -> -2;")
    assert said[0].endswith(" and 4 more")


@pytest.mark.parametrize("harm", ["edit", "remove"])
def test_stage_is_redone_when_its_files_are_not_its_own(run: Run, said: list[str], harm: str) -> None:
    done: list[str] = []
    run.stage("dataset", {}, ["out"], worker(run, "a", done))
    if harm == "edit":
        (run.folder / "out").write_text("tampered")
    else:
        (run.folder / "out").unlink()
    run.stage("dataset", {}, ["out"], worker(run, "b", done))
    assert done == ["a", "b"]
    assert said == ["dataset: redone, because its files on disk are not the ones that it wrote"]


def test_a_stage_that_fails_is_not_finished(run: Run, tmp_path: Path) -> None:
    done: list[str] = []

    def fail() -> dict[str, Any]:
        raise DiskFull("full", "make room")

    with pytest.raises(DiskFull):
        run.stage("dataset", {}, ["out"], fail)
    run.close()
    with Run.open(tmp_path / "run", RECIPE, print) as again:
        assert again.stages == {}
        again.stage("dataset", {}, ["out"], worker(again, "a", done))
    assert done == ["a"]


def test_inputs_that_json_writes_differently_do_not_count_as_changed(run: Run) -> None:
    """A tuple comes back as a list, a number key as text, a path as text."""
    done: list[str] = []
    for _ in range(2):
        run.stage("a", {"pair": (1, 2), "path": Path("x"), "by": {1: "one"}}, ["out"], worker(run, "a", done))
    assert done == ["a"]


def test_begin_sets_aside_what_other_inputs_left(run: Run, said: list[str]) -> None:
    write_whole(run.folder / "checkpoints/step-1/weights", "of two epochs")
    run.begin("train", {"epochs": 2}, ["checkpoints"])
    assert (run.folder / "checkpoints").exists(), "the first start takes nothing away"
    run.begin("train", {"epochs": 2}, ["checkpoints"])
    assert (run.folder / "checkpoints").exists(), "the same inputs go on"
    run.begin("train", {"epochs": 3}, ["checkpoints"])
    assert not (run.folder / "checkpoints").exists()
    assert (run.folder / "replaced/1-train/checkpoints/step-1/weights").read_text() == "of two epochs"
    assert said[0] == "train: started anew, because of epochs: 2 -> 3"


# ---- the lock


def test_a_run_is_open_once(run: Run) -> None:
    with pytest.raises(RecipeError, match="another afina works in this run"):
        Run.open(run.folder, RECIPE, print)
    run.close()
    Run.open(run.folder, RECIPE, print).close()


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from afina.recipe import Recipe, Source
from afina.run import Run
run = Run.open(Path({str(tmp_path / "run")!r}), Recipe(name="t", base="a/b", sources=[Source(path=".")]), print)
print("open", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(RecipeError, match="another afina"):
            Run.open(tmp_path / "run", RECIPE, print)
        child.kill()
    Run.open(tmp_path / "run", RECIPE, print).close()


# ---- metrics


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_log_appends_one_event_a_line(run: Run) -> None:
    run.log("step", step=1, loss=2.5)
    run.log("remark", text="não\nacabou")
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert "não" in lines[1]
    assert {key: read_metrics(run.folder)[0][key] for key in ("event", "step", "loss")} == {
        "event": "step",
        "step": 1,
        "loss": 2.5,
    }


def write_events(folder: Path, *events: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_steps_done_again_count_once_the_later_one(tmp_path: Path) -> None:
    write_events(
        tmp_path,
        {"event": "step", "step": 1, "loss": 9},
        {"event": "step", "step": 2, "loss": 8},
        {"event": "validation", "step": 2, "loss": 7},
        {"event": "step", "step": 3, "loss": 6},
        {"event": "resumed", "step": 1},
        {"event": "step", "step": 2, "loss": 80},
        {"event": "validation", "step": 2, "loss": 70},
        {"event": "resumed", "step": 2},
    )
    events = read_metrics(tmp_path)
    assert [(each["event"], each["step"], each.get("loss")) for each in events] == [
        ("step", 1, 9),
        ("step", 3, 6),
        ("resumed", 1, None),
        ("step", 2, 80),
        ("validation", 2, 70),
        ("resumed", 2, None),
    ]


def test_steps_before_a_new_start_do_not_count(tmp_path: Path) -> None:
    write_events(
        tmp_path,
        {"event": "step", "step": 1, "loss": 9},
        {"event": "step", "step": 2, "loss": 8},
        {"event": "train_started_anew"},
        {"event": "step", "step": 1, "loss": 5},
    )
    assert [each.get("loss") for each in read_metrics(tmp_path)] == [None, 5]


@given(cut=st.integers(0, 400), count=st.integers(1, 6))
def test_cut_anywhere_the_whole_lines_survive(tmp_path_factory: pytest.TempPathFactory, cut: int, count: int) -> None:
    """Whatever byte a kill stopped at, in a letter of two bytes as well; what is logged next is readable."""
    folder = tmp_path_factory.mktemp("run")
    events = [{"event": "step", "step": step, "text": "não"} for step in range(count)]
    lines = [json.dumps(event, ensure_ascii=False).encode() for event in events]
    whole = b"".join(line + b"\n" for line in lines)
    (folder / "metrics.jsonl").write_bytes(whole[:cut])
    ends = [sum(len(line) + 1 for line in lines[: position + 1]) - 1 for position in range(count)]
    complete = sum(end <= cut for end in ends)
    assert read_metrics(folder) == events[:complete]
    with Run.open(folder, RECIPE, print) as run:
        run.log("resumed")
    after = read_metrics(folder)
    assert after[:-1] == events[:complete]
    assert after[-1]["event"] == "resumed"
