"""Watching a run: its folder alone is read, each byte once, nothing is written, no lock is taken."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from called import call_afina
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from report_fixture import events as report_events
from report_fixture import jsonl
from waiting import LONGEST
from watch_screens import document, picture
from watched import (
    NOW,
    START,
    began,
    finished_files,
    held_out,
    overfitting,
    start,
    step,
    steps,
    working,
    write_watched,
)

from afina.errors import RecipeError
from afina.run import parse_json, read_metrics
from afina.watch import lock
from afina.watch.chart import TextCurve, draw_chart
from afina.watch.frame import frame
from afina.watch.live import watch_live
from afina.watch.lock import lock_holder
from afina.watch.reader import RunReader, last_sample
from afina.watch.view import WARNING_KINDS, RunView

ROOT = Path(__file__).resolve().parent.parent


def look(folder: Path, now: float = NOW) -> RunView:
    return RunReader(folder, clock=lambda: now).look()


def kinds(view: RunView) -> list[str]:
    return [each.kind for each in view.warnings]


# ---- what is read


def test_only_new_bytes_are_read(tmp_path: Path) -> None:
    """What was read is overwritten in its place by as many zeros: read again it would count as unreadable."""
    run = write_watched(tmp_path, [*start(), *steps(50)])
    reader = RunReader(run)
    assert reader.look().trainings[0].step == 50
    file = run / "metrics.jsonl"
    with file.open("r+b") as opened:
        opened.write(b"0" * (file.stat().st_size - 1))
        opened.seek(0, os.SEEK_END)
        opened.write(jsonl([step(51, 0.5)]).encode())
    training = reader.look().trainings[0]
    assert (training.step, len(training.steps), training.steps["loss"][0]) == (51, 51, 3.0)
    assert not kinds(reader.look())


@given(st.data())
def test_a_log_read_in_pieces_is_the_log_read_whole(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Cut at any byte, any number of times; a last line that is half-written waits."""
    events = [*start(), *steps(6), held_out(6, 2.0), {"event": "resumed", "step": 4}, *steps(4, after=4)]
    whole = jsonl(events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    run = write_watched(tmp_path_factory.mktemp("run"), [])
    reader = RunReader(run)
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        with (run / "metrics.jsonl").open("ab") as out:
            out.write(whole[begin:end])
        view = reader.look()
    at_once = look(write_watched(tmp_path_factory.mktemp("whole"), events))
    assert view.as_json() | {"run": ""} == at_once.as_json() | {"run": ""}
    assert [*view.trainings[0].steps["step"]] == [1, 2, 3, 4, 5, 6, 7, 8]


@given(st.data())
def test_steps_done_again_count_once(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """A training that is resumed and goes back at random, to its end: what counts is what `read_metrics` says."""
    events: list[dict[str, Any]] = start(20)
    at, made = 0, 0
    while at < 20:
        made += 1
        at += 1
        events.append(step(at, loss=float(made)))
        if at % 5 == 0:
            events.append(held_out(at, float(made)))
        chance = data.draw(st.integers(0, 9)) if made < 60 else 9
        to = data.draw(st.integers(0, at)) if chance < 2 else at
        if chance == 0:
            events.append({"event": "resumed", "step": to})
        elif chance == 1:
            events.append({"event": "went_back", "step": at, "to": to, "reason": "NaN", "rate_factor": 0.5})
        at = to
    run = write_watched(tmp_path_factory.mktemp("run"), events)
    training = look(run).trainings[0]
    counted = read_metrics(run)
    assert list(zip(training.steps["step"], training.steps["loss"], strict=True)) == [
        (each["step"], each["loss"]) for each in counted if each["event"] == "step"
    ]
    assert [(each.step, each.loss) for each in training.held_out] == [
        (each["step"], each["loss"]) for each in counted if each["event"] == "validation"
    ]


def test_a_log_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    run = write_watched(tmp_path, [*start(), *steps(50)])
    reader = RunReader(run)
    assert reader.look().trainings[0].step == 50
    write_watched(tmp_path, [*start(), *steps(3)])
    assert reader.look().trainings[0].step == 3


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", '{"event": "step", "step": 1e999}', "\x00\x00", "3}, {"])
def test_lines_that_are_no_events_are_counted(tmp_path: Path, line: str) -> None:
    text = jsonl([*start(), *steps(3)]) + line + "\n" + jsonl(steps(2, after=3))
    view = look(write_watched(tmp_path, [], metrics_jsonl=text))
    assert view.trainings[0].step == 5
    readable = line in ("", '{"event": "step", "step": 1e999}')
    assert kinds(view) == ([] if readable else ["unreadable_lines"])


def test_values_of_a_wrong_kind_are_not_known(tmp_path: Path) -> None:
    odd = step(4, 1.0, memory_bytes=None, tokens_per_second="fast", learning_rate=[1])
    training = look(write_watched(tmp_path, [*start(), *steps(3), odd])).trainings[0]
    assert (training.step, training.memory_bytes, training.learning_rate) == (4, None, None)
    assert training.tokens_per_second == 2000.0, "the median of those that are known"
    assert len({len(column) for column in training.steps.columns.values()}) == 1


def test_both_trainings_of_a_run_are_told_apart(tmp_path: Path) -> None:
    first = [{**each, "stage": "first"} for each in [*start()[1:], *steps(10), held_out(10, 2.5)]]
    view = look(write_watched(tmp_path, [began("first"), *first, *start(), *steps(4)]))
    assert [(each.name, each.step, len(each.held_out)) for each in view.trainings] == [
        ("first", 10, 1),
        ("train", 4, 0),
    ]
    retired = look(write_watched(tmp_path, [began("first"), *first, {"event": "retired", "stage": "first"}, *steps(4)]))
    assert [each.name for each in retired.trainings] == ["train"]


def test_a_long_log_is_read_faster_than_its_lines_parsed_one_by_one(tmp_path: Path) -> None:
    """A million steps take a second or two where the machine is idle. Of three readings the quickest counts."""
    run = write_watched(tmp_path, [*start(10_000), *steps(10_000)])
    lines = (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    ours, theirs = [], []
    for _ in range(3):
        begin = time.process_time()
        assert len([parse_json(line) for line in lines]) == 10_003
        middle = time.process_time()
        assert look(run).trainings[0].step == 10_000
        ours.append(time.process_time() - middle)
        theirs.append(middle - begin)
    assert min(ours) < 0.8 * min(theirs)


# ---- nothing is touched


def test_watching_writes_nothing_and_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_watched(tmp_path / "run", overfitting(), **finished_files())
    lock = FileLock(run / ".lock")
    lock.acquire(timeout=0)
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in [run, *run.iterdir()]}

    def fail(*_: object) -> None:
        raise AssertionError("a lock was taken")

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(fcntl, "lockf", fail)
    reader = RunReader(run)
    for _ in range(3):
        view = reader.look()
    assert view.state == "running" and f"process {os.getpid()}" in view.reason
    assert before == {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in [run, *run.iterdir()]}
    monkeypatch.undo()
    lock.release()
    assert reader.look().state == "finished"


def test_a_lock_of_posix_is_seen_too(tmp_path: Path) -> None:
    """As Linux makes of every lock on NFS, and macOS tells of its own."""
    file = tmp_path / ".lock"
    file.touch()
    code = f"import fcntl; f = open({str(file)!r}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline()
    assert lock_holder(file) == child.pid
    child.communicate("\n")
    assert lock_holder(file) is None


def test_a_lock_that_a_long_list_passed_over_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives `/proc/locks` in pieces. Where another lock ends between two of them, a line is passed over: a run at
    work was told as killed."""
    file = tmp_path / ".lock"
    file.touch()
    about = file.stat()
    others = "7: POSIX  ADVISORY  WRITE 1 00:21:9 0 EOF\n" * 99
    place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    lists = iter([others, f"{others}8: FLOCK  ADVISORY  WRITE 4711 {place} 0 EOF\n"])
    monkeypatch.setattr(lock, "LOCKS", SimpleNamespace(read_text=lambda **_: next(lists)))
    assert lock_holder(file) == 4711
    monkeypatch.setattr(lock, "LOCKS", SimpleNamespace(read_text=lambda **_: others))
    assert lock_holder(file) is None


# ---- states


def test_states_of_a_process_that_works_is_killed_goes_on_and_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with working(run) as process:
        reader = RunReader(run)
        view = reader.look()
        assert (view.state, view.stage) == ("running", "train")
        assert f"process {process.pid}" in view.reason
        assert view.training and view.training.step == 5
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        view = reader.look()
        assert (view.state, view.reason) == ("killed", "it ended without a word in the stage train, after step 5")
    with working(run) as process:
        assert reader.look().state == "running"
        process.communicate("\n")
    view = reader.look()
    assert (view.state, view.stages) == ("trained", ("train",))


@pytest.mark.parametrize(
    ("end", "error", "what", "fix"),
    [
        (
            "from afina.errors import DoesNotFit; raise DoesNotFit('a row is too long', 'cut it', 'a.md:3')",
            "DoesNotFit",
            "a row is too long",
            "cut it",
        ),
        ("raise SystemExit(143)", "SystemExit", "stopped by signal 15", "to go on: afina run"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "interrupted", "to go on: afina run"),
        ("1 / 0", "ZeroDivisionError", "ZeroDivisionError: division by zero", ""),
    ],
)
def test_a_run_that_stopped_says_why(tmp_path: Path, end: str, error: str, what: str, fix: str) -> None:
    with working(tmp_path / "run", end) as process:
        process.communicate("\n")
    view = look(tmp_path / "run")
    assert (view.state, view.error) == ("stopped", error)
    assert view.reason == f"it stopped in the stage train, after step 5: {what}"
    assert view.problems[0].what == what and view.problems[0].fix.startswith(fix)
    assert fix in frame(view).replace("\n  ", " ")


def test_states_by_the_folder_alone(tmp_path: Path) -> None:
    run = write_watched(tmp_path, [])
    assert look(run).state == "not trained"
    write_watched(run, [began("dataset")])
    assert look(run).reason == "it ended without a word in the stage dataset"
    write_watched(run, [*start()[1:], *steps(7)])
    assert look(run).reason == "it ended without a word in the stage train, after step 7", "of a version without stages"
    write_watched(run, [*start(), *steps(7)], **finished_files())
    view = look(run)
    assert (view.state, view.verdict) == ("finished", "learned: yes, broke: nothing")
    (run / "finished.json").write_text("{")
    view = look(run)
    assert view.state == "damaged" and "finished.json" in view.problems[0].where


def test_what_is_no_run_is_refused_and_the_runs_beside_it_are_named(tmp_path: Path) -> None:
    write_watched(tmp_path / "runs/one", [])
    with pytest.raises(RecipeError, match="runs/one"):
        RunReader(tmp_path / "runs/two")
    reader = RunReader(tmp_path / "runs/one")
    shutil.rmtree(tmp_path / "runs/one")
    with pytest.raises(RecipeError, match="not there any more"):
        reader.look()


# ---- warnings


FALLS = [*start(), *steps(200), *(held_out(25 * n, 3.0 - 0.2 * n) for n in range(1, 9))]
NOISY = [*start(), *steps(200), *(held_out(25 * n, loss) for n, loss in enumerate((2, 1.9, 2, 1.92, 2, 1.95), 1))]
BACK = {"event": "went_back", "step": 9, "to": 0, "reason": "at step 10 the loss is nan", "rate_factor": 0.5}
HALVED = {"event": "smaller_batches", "step": 4, "splits": 2, "reason": "out of memory"}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (FALLS, []),
        (overfitting(), ["overfitting"]),
        (overfitting(150), []),  # the lowest is 25 steps ago
        (NOISY, []),  # it does not rise beyond its own noise
        ([*start(), *steps(200, 3.0, 2.99), held_out(200, 3.0)], ["not_falling"]),
        ([*start(), *steps(40, 3.0, 2.99), held_out(40, 3.0)], []),  # too early to say
        ([*start(), *steps(100), *steps(100, 1.0, 2.5, after=100), held_out(200, 2.0)], ["rising"]),
        ([*start(), *steps(100), *steps(100, 1.0, 1.1, after=100), held_out(200, 2.0)], []),
        ([*start(), *steps(9), BACK, *steps(9), held_out(9, 2.0)], ["went_back"]),
        ([*start(), *steps(3), HALVED, *steps(9, after=3), held_out(9, 2.0)], ["smaller_batches"]),
        ([*start(), *steps(3), step(4, 1.0, memory_bytes=21.5 * 2**30), held_out(4, 2.0)], ["memory_nearly_full"]),
        ([*FALLS, *(step(200 + n, 1.0, tokens_per_second=900.0) for n in range(1, 30))], ["slower"]),
        ([*start(), *steps(120)], ["no_validation"]),  # past its first epoch
        ([*start(), *steps(50)], []),
    ],
)
def test_warnings(tmp_path: Path, events: list[dict[str, Any]], expected: list[str]) -> None:
    view = look(write_watched(tmp_path, events))
    assert kinds(view) == expected
    assert all(json.loads(json.dumps(view.as_json()))["warnings"][n]["figures"] == dict(each.figures)
               for n, each in enumerate(view.warnings))  # fmt: skip


def test_a_run_that_logs_nothing_is_silent(tmp_path: Path) -> None:
    run = write_watched(tmp_path, [*start(), *steps(100)])
    with FileLock(run / ".lock"):
        assert kinds(look(run, now=START + 100 + 60)) == []
        assert kinds(look(run, now=START + 100 + 600)) == ["silent"]


def test_a_finished_training_that_still_learned(tmp_path: Path) -> None:
    run = write_watched(tmp_path, FALLS, **finished_files())
    assert kinds(look(run)) == ["still_falling"]
    assert look(run).warnings[0].figures["fell_by"] == pytest.approx(0.2 / 1.6)


def test_the_figures_of_overfitting(tmp_path: Path) -> None:
    (found,) = look(write_watched(tmp_path, overfitting())).warnings
    assert found.kind in WARNING_KINDS and found.step == 125
    assert {key: found.figures[key] for key in ("best_step", "best_loss", "step", "held_out_loss")} == {
        "best_step": 125, "best_loss": 1.6, "step": 200, "held_out_loss": 1.93
    }  # fmt: skip
    assert found.figures["train_loss"] < found.figures["train_loss_then"]


def test_what_is_left_counts_from_the_last_step(tmp_path: Path) -> None:
    run = write_watched(tmp_path, [*start(300), *steps(200)])
    with FileLock(run / ".lock"):
        view = look(run, now=START + 203)
    assert view.training and view.training.eta_seconds == pytest.approx(97)
    assert look(run, now=START + 203).training.eta_seconds is None, "it does not run"  # type: ignore[union-attr]
    write_watched(tmp_path, [*start(300), *steps(200), began() | {"time": START + 900}])
    with FileLock(run / ".lock"):
        assert look(run, now=START + 901).training.eta_seconds is None, "no step since it went on"  # type: ignore[union-attr]


def test_a_file_that_is_moved_away_while_it_is_read_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier recipe's results are moved aside: whoever looked just then ended with a traceback."""
    run = write_watched(tmp_path, [*start(300), *steps(5)], **finished_files())
    whole = last_sample(run / "samples.jsonl")

    def moved(path: Path) -> Any:
        path.rename(path.with_suffix(".moved"))
        return last_sample(path)

    reader = RunReader(run)
    with monkeypatch.context() as while_read:
        while_read.setattr("afina.watch.reader.last_sample", moved)
        assert reader.look().sample is None
    (run / "samples.moved").rename(run / "samples.jsonl")
    assert reader.look().sample == whole is not None


def test_a_clock_that_was_set_back_adds_nothing_to_what_is_left(tmp_path: Path) -> None:
    """It was an hour more; and a process that had just gone on was taken for one that had made its steps."""
    run = write_watched(tmp_path, [*start(300), *steps(200)])
    with FileLock(run / ".lock"):
        assert look(run, now=START + 200 - 3600).training.eta_seconds == pytest.approx(100)  # type: ignore[union-attr]
        write_watched(tmp_path, [*start(300), *steps(200), began() | {"time": START - 3600}])
        assert look(run, now=START - 3599).training.eta_seconds is None  # type: ignore[union-attr]


# ---- frames


@pytest.mark.parametrize("width", [40, 80, 132])
def test_a_frame_keeps_to_its_width(tmp_path: Path, width: int) -> None:
    hostile = jsonl([{"prompt": "p\x1b[2Jp" * 60, "adapter": "a\x07\u202e" + "x" * 300, "base": "b"}])
    run = write_watched(tmp_path, overfitting(), **{**finished_files(), "samples_jsonl": hostile})
    text = frame(look(run), width, 24)
    assert max(map(len, text.splitlines())) <= width
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
    assert "FINISHED" in text and "overfits" in text


def test_a_frame_for_a_terminal_of_ascii(tmp_path: Path) -> None:
    run = write_watched(tmp_path, [*overfitting(), {"event": "resumed", "step": 200}])
    text = frame(look(run), ascii_only=True)
    assert text.isascii() and "*" in text and " o" in text and "#####" in text


def test_a_chart_of_one_point_and_of_none() -> None:
    assert any("*" in line for line in draw_chart(TextCurve([(1, 2.0)]), 40, 6, ascii_only=True))
    assert "nothing to draw" in draw_chart(TextCurve([(1, float("nan"))]), 40, 6)[0]


# ---- the verb


def test_once_prints_a_frame_and_json_the_values(tmp_path: Path) -> None:
    run = write_watched(tmp_path / "run", overfitting())
    shown = call_afina("watch", run, "--once").stdout
    assert shown.startswith("KILLED  clube\nit ended without a word in the stage train, after step 200\n")
    values = json.loads(call_afina("watch", run, "--json").stdout)
    assert (values["state"], values["trainings"][0]["step"], values["warnings"][0]["kind"]) == (
        "killed",
        200,
        "overfitting",
    )
    assert "there is no run here" in call_afina("watch", tmp_path, check=2).stderr


def test_without_textual_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RunReader(write_watched(tmp_path, overfitting()))
    monkeypatch.setitem(sys.modules, "textual", None)
    with pytest.raises(RecipeError, match=r"pip install 'afina\[watch\]', or print one picture with --once"):
        watch_live(reader)
    monkeypatch.undo()
    with pytest.raises(RecipeError, match="needs a terminal"):
        watch_live(reader)


# ---- the monitor


def monitor_of(folder: Path, **changed: Any) -> Any:
    from afina.watch.monitor_textual import Monitor

    return Monitor(RunReader(folder, clock=lambda: NOW), **changed)


@pytest.mark.parametrize("size", [(80, 24), (60, 24), (160, 50)])
def test_the_monitor_shows_state_chart_and_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_watched(Path("runs/clube"), overfitting(), samples_jsonl=finished_files()["samples_jsonl"])
    lines = asyncio.run(picture(monitor_of(run), size=size))
    text = "\n".join(lines)
    assert lines[0] == "KILLED  clube"
    for said in (
        "step 200 of 300",
        "held out 1.93",
        "2,000 tokens/s",
        "! the held-out loss rose",
        "Em que ano",
        " q quit",
    ):
        assert said in text, text
    assert sum(any("\u2800" < letter < "\u2900" for letter in line) for line in lines) >= 3, text
    assert max(map(len, lines)) <= size[0] and len(lines) <= size[1]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["2"], "learning rate"),
        (["3"], "tokens per second"),
        (["4"], "memory, MiB"),
        (["3", "1"], "o held out"),
        (["question_mark"], "Nothing is written"),
        (["question_mark", "escape"], "o held out"),
        (["w"], "training loss fell from"),
    ],
)
def test_keys_of_the_monitor(tmp_path: Path, keys: list[str], said: str) -> None:
    run = write_watched(tmp_path, overfitting())
    assert said in "\n".join(asyncio.run(picture(monitor_of(run), *keys)))


def test_the_monitor_follows_and_q_leaves(tmp_path: Path) -> None:
    run = write_watched(tmp_path, [*start(), *steps(20)])

    async def watch() -> None:
        monitor = monitor_of(run, every_seconds=0.05)
        async with monitor.run_test(size=(80, 24)) as pilot:

            async def shows(step: int) -> None:
                async with asyncio.timeout(LONGEST):
                    while monitor.view is None or monitor.view.training.step != step:
                        await asyncio.sleep(0.02)

            await shows(20)
            with (run / "metrics.jsonl").open("a") as out:
                out.write(jsonl(steps(5, after=20)))
            await shows(25)
            await pilot.press("q")
        assert monitor.return_code == 0

    asyncio.run(watch())


def test_a_run_that_is_removed_ends_the_monitor(tmp_path: Path) -> None:
    run = write_watched(tmp_path / "run", overfitting())

    async def watch() -> Any:
        monitor = monitor_of(run, every_seconds=0.05)
        async with monitor.run_test(size=(80, 24)):
            shutil.rmtree(run)
            async with asyncio.timeout(LONGEST):
                while not monitor.ended_by:
                    await asyncio.sleep(0.02)
        return monitor.ended_by

    assert "not there any more" in str(asyncio.run(watch()))


def test_the_screens_in_the_docs_are_what_is_shown() -> None:
    """`make docs` writes them again."""
    text = (ROOT / "docs/watch.md").read_text(encoding="utf-8")
    assert text.count("```text") == 3
    assert document(text) == text, "run `make docs`"


# ---- a real training


def test_the_log_of_the_report_is_understood(tmp_path: Path) -> None:
    """The log that the report's tests use, of an older version: no times, no stages."""
    view = look(write_watched(tmp_path, report_events()))
    assert view.training and (view.training.step, view.training.resumed) == (600, (240,))
    assert len(view.training.held_out) == 6


@pytest.mark.long
def test_a_real_training_is_watched_is_killed_and_ends(tmp_path: Path) -> None:
    from test_recurrent import write_project

    recipe = write_project(tmp_path, "gru")
    run = tmp_path / "runs/towns"
    command = [str(Path(sys.executable).parent / "afina"), "run", str(recipe), "train.epochs=30", "--yes"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = set()
    while process.poll() is None:
        if (run / "metrics.jsonl").exists():
            view = RunReader(run).look()
            seen.add((view.state, view.stage))
            if view.training and view.training.step >= 3:
                break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = RunReader(run).look()
    assert killed.state == "killed" and killed.stage == "train" and killed.training and killed.training.step >= 3
    assert ("running", "train") in seen, seen
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    done = RunReader(run).look()
    assert done.state == "finished" and done.verdict
    assert done.training and done.training.step == done.training.planned_steps and done.training.best
    assert done.training.best.figures["bits_per_byte"] > 0
