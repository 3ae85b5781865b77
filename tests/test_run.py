"""A run's folder: what is logged, what is skipped, what is done again, who may work in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import AfinaError, DiskFull, RecipeError
from afina.recipe import Recipe, Source
from afina.run import Run, hash_file, hash_folder, hash_value, read_json, read_metrics
from afina.whole import write_json, write_whole

RECIPE = Recipe(name="test", base="a/b", sources=[Source(path=".")])


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
