"""Jobs for other processes, of which one is killed before it is done. Those find them by name, so this loads little."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTES = "AFINA_TEST_NOTES"
"""Variable that names the folder in which each beginning is noted."""


def begin(job: object) -> int:
    """Note that a job is begun; the how manieth time that is."""
    folder = Path(os.environ[NOTES])
    times = 1 + len(list(folder.glob(f"{job}-*")))
    (folder / f"{job}-{times}").write_text(str(os.getpid()), encoding="utf-8")
    return times


def begun() -> dict[str, int]:
    """Job -> how often it was begun."""
    jobs = [file.name.rpartition("-")[0] for file in Path(os.environ[NOTES]).iterdir()]
    return {job: jobs.count(job) for job in sorted(jobs)}


def squared(killed: dict[int, int], job: int) -> int:
    """The job's square; its process dies the first times, as many as `killed` says."""
    if begin(job) <= killed.get(job, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return job * job


def never(_: object) -> None:
    """A job that raises."""
    raise LookupError("no such job")


def read_or_die(victim: int, recipe_json: str, batch: Any, folder: Path) -> Any:
    """`read_elsewhere`, whose process dies once over half a row of one batch."""
    from afina.dataset.build.part import read_elsewhere

    if begin(batch.number) == 1 and batch.number == victim:
        (folder / f"{batch.number:06d}.jsonl").write_text('{"text": "half a ro', encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)
    return read_elsewhere(recipe_json, batch, folder)


@dataclass(frozen=True)
class DyingBlock:
    """datatrove's step, whose process dies once in the third task."""

    recipe_json: str
    todo: Mapping[int, Any]
    folder: Path

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[object]:
        """As datatrove calls it."""
        from afina.dataset.build.datatrove_tasks import PartsBlock

        if begin(rank) == 1 and rank == 2:
            (self.folder / f"{rank:06d}.part").write_bytes(b"half a part")
            os.kill(os.getpid(), signal.SIGKILL)
        return PartsBlock(self.recipe_json, self.todo, self.folder)(data, rank, world_size)


def look_or_die(expected: str, chunk: Any) -> Any:
    """An audit's look at a chunk, whose process dies once over the chunk that begins in line 11."""
    from afina.dataset.audit.chunks import look_at

    split, examples = chunk
    if begin(examples[0].line) == 1 and examples[0].line == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return look_at(split, expected, examples)
