"""Processes that read are killed: only what they had begun is done again, and the result is the same to the byte."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import killed
import pytest
from killed import NOTES, begun
from test_dataset_near import SLURM, corpus, recipe, slurm

from afina.dataset.audit.audit import audit_files
from afina.dataset.audit.describe import describe_summary
from afina.dataset.build.build import build_dataset
from afina.dataset.processes import TIMES, in_processes
from afina.errors import AfinaError
from afina.recipe import Datatrove, NearDuplicates, Recipe
from afina.run import hash_folder, read_json


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    monkeypatch.setenv(NOTES, str(folder))
    return folder


def test_a_killed_process_costs_its_own_job_alone():
    """One pool for all would lose the jobs of its other processes too."""
    again: Counter[int] = Counter()
    done = in_processes(partial(killed.squared, {2: 1}), range(6), 2, where=str, again=again)
    assert list(done) == [0, 1, 4, 9, 16, 25]
    assert again == {2: 1} and begun() == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 1, "5": 1}


def test_a_job_that_kills_its_process_each_time_is_an_error_with_its_name():
    done = in_processes(partial(killed.squared, {1: TIMES}), range(3), 1, where=lambda job: f"rows {job}")
    assert next(done) == 0
    with pytest.raises(AfinaError, match=r"rows 1: the process that worked on it was killed 3 times"):
        next(done)
    assert begun() == {"0": 1, "1": TIMES}


def test_what_a_job_raises_is_raised_and_jobs_are_asked_for_as_they_begin():
    asked: list[int] = []

    def jobs():
        for job in range(1000):
            asked.append(job)
            yield job

    with pytest.raises(LookupError, match="no such job"):
        list(in_processes(killed.never, jobs(), 1, where=str))
    assert len(asked) == 1


def five_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    corpus(folder, list(range(40)))
    monkeypatch.setattr("afina.dataset.build.part.BATCH_FILES", 9)
    return recipe(folder, near_duplicates=NearDuplicates(on="drop"), validation=0.2)


def test_one_and_two_workers_write_the_same_bytes_and_a_killed_ones_batch_alone_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The build ended in a traceback of `concurrent.futures`."""
    wanted = five_batches(tmp_path / "in", monkeypatch)
    one = build_dataset(wanted, tmp_path / "one", workers=1)
    monkeypatch.setattr("afina.dataset.build.gather.read_elsewhere", partial(killed.read_or_die, 2))
    two = build_dataset(wanted, tmp_path / "two", workers=2)
    assert begun() == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 1}
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")
    assert two == one | {"read_again": {"n18.txt": 1}} and read_json(tmp_path / "two/dataset.json") == one
    assert "again             1 x n18.txt" in describe_summary(two)


def in_engine(wanted: Recipe, **datatrove: Any) -> Recipe:
    engine = {"engine": "datatrove", "datatrove": Datatrove(**datatrove)}
    return wanted.model_copy(update={"dataset": wanted.dataset.model_copy(update=engine)})


@pytest.mark.long
def test_a_task_of_datatrove_that_is_killed_is_done_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """datatrove's own local executor waits for it without end."""
    wanted = five_batches(tmp_path / "in", monkeypatch)
    one = build_dataset(wanted, tmp_path / "one", workers=1)
    monkeypatch.setattr("afina.dataset.build.datatrove_tasks.PartsBlock", killed.DyingBlock)
    two = build_dataset(in_engine(wanted), tmp_path / "two", workers=2)
    assert begun() == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 1}
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")
    assert two == one | {"read_again": {"n18.txt": 1}}


@pytest.mark.long
def test_a_task_of_slurm_that_is_killed_is_submitted_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wanted = five_batches(tmp_path / "in", monkeypatch)
    one = build_dataset(wanted, tmp_path / "one", workers=1)
    dies = '[ "$SLURM_ARRAY_TASK_ID" = 2 ] && mkdir "$0.dead" 2>/dev/null && kill -9 $$'
    counts = f'echo "$SLURM_ARRAY_TASK_ID" >> {tmp_path}/tasks'
    slurm(tmp_path / "slurm", monkeypatch, srun=f"{counts}\n{dies}\n{SLURM['srun']}")
    two = build_dataset(in_engine(wanted, executor="slurm", partition="cpu"), tmp_path / "two")
    assert (tmp_path / "tasks").read_text().split() == ["0", "1", "2", "3", "4", "0"]  # then an array of one
    assert two == one | {"read_again": {"n18.txt": 1}}
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")


def test_no_more_processes_read_and_look_than_the_control_group_grants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Threads did; of 96 processors a pod of 3 began 96 processes, each with a Python of its own."""
    monkeypatch.setattr("afina.machine.granted_processors", lambda: 3.5)
    monkeypatch.setattr("afina.machine.processors", lambda: 96)
    asked: list[int] = []

    def here(do: Any, jobs: Any, workers: int, **_: Any) -> Any:
        asked.append(workers)
        return map(do, jobs)

    for room in ("build.gather", "audit.chunks"):
        monkeypatch.setattr(f"afina.dataset.{room}.in_processes", here)
    monkeypatch.setattr("afina.dataset.build.gather.FEWEST_BYTES", 0)
    build_dataset(five_batches(tmp_path / "in", monkeypatch), tmp_path / "dataset")
    assert asked == [3]
    monkeypatch.setattr("afina.dataset.audit.chunks.CHUNK_ROWS", 5)
    monkeypatch.setattr("afina.dataset.audit.chunks.FEWEST_ROWS", 5)
    rows = "".join(f'{{"prompt": "Question {row}?", "completion": "Answer {row}."}}\n' for row in range(30))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    audit_files([tmp_path / "rows.jsonl"])
    assert {*asked} == {3} and len(asked) > 1


def test_an_audit_whose_process_is_killed_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It ended in a traceback."""
    rows = "".join(f'{{"prompt": "Question {row % 12}?", "completion": "Answer {row}."}}\n' for row in range(30))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    here = audit_files([tmp_path / "rows.jsonl"])
    monkeypatch.setattr("afina.dataset.audit.chunks.CHUNK_ROWS", 5)
    monkeypatch.setattr("afina.dataset.audit.chunks.FEWEST_ROWS", 5)
    monkeypatch.setattr("afina.dataset.audit.chunks._look_elsewhere", killed.look_or_die)
    monkeypatch.setattr("afina.dataset.audit.chunks.usable_processors", lambda: 2)
    there = audit_files([tmp_path / "rows.jsonl"])
    assert begun() == {"11": 2, "16": 1, "21": 1, "26": 1, "6": 1}
    assert there.findings == here.findings and here.findings
