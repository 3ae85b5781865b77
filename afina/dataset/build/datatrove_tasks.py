"""The parts of a build made by a datatrove pipeline: in processes here, on a Slurm cluster, or on Ray.

One task a batch, our own functions as its only block, so the dataset is the same whoever runs it. What goes
between the tasks and the build lies in the run's folder, which the cluster's machines must see under the same path.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from afina.dataset.build.part import DatasetPart, FileBatch, read_elsewhere
from afina.dataset.processes import TIMES, in_processes
from afina.errors import AfinaError, RecipeError
from afina.recipe import Recipe
from afina.whole import write_whole

POLL_SECONDS = 5.0
"""How often Slurm is asked whether a job is still there."""


@dataclass(frozen=True, slots=True)
class PartsBlock:
    """A datatrove pipeline step: a task reads its batch and leaves its part on the disk; nothing flows further."""

    recipe_json: str = field(repr=False)
    todo: Mapping[int, FileBatch] = field(repr=False)
    """Rank of a task -> its batch."""
    folder: Path

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[object]:  # noqa: ARG002
        """As datatrove calls a step: `data` would come from the step before."""
        batch = self.todo[rank]
        part = read_elsewhere(self.recipe_json, batch, self.folder)
        write_whole(_part_file(self.folder, batch), pickle.dumps(part))
        return iter(())


def read_by_datatrove(
    recipe: Recipe, todo: Sequence[FileBatch], folder: Path, workers: int, again: Counter[int]
) -> Iterator[DatasetPart]:
    """The parts of `todo`, in order.

    Args:
        folder: where parts, and datatrove's logs, lie until they are no longer needed.
        workers: processes of the local executor, where the recipe names no number.
        again: is told how often each batch was begun anew, by its number.

    Raises:
        RecipeError: datatrove, Slurm or Ray is not installed.
        AfinaError: a task failed, the error says where its log is; or its process was killed each time.
    """
    try:
        import datatrove.executor  # noqa: F401
    except ImportError:
        raise RecipeError(
            "`dataset.engine: datatrove` needs datatrove", "pip install 'afina[datatrove]'", "dataset.engine"
        ) from None

    folder = folder.resolve()  # a task may start in another folder
    logs = folder / "datatrove"
    block = PartsBlock(recipe.model_dump_json(), {batch.number: batch for batch in todo}, folder)
    if recipe.dataset.datatrove.executor == "local":
        _run_here(block, min(recipe.dataset.datatrove.workers or workers, len(todo)), logs, again)
    else:
        RUN[recipe.dataset.datatrove.executor](recipe, block, logs, again)
    for batch in todo:
        file = _part_file(folder, batch)
        if not file.is_file():
            kept = folder.parent.parent / "datatrove-logs"
            if kept.exists():
                shutil.rmtree(kept)
            if logs.exists():
                logs.rename(kept)  # the rest of a dataset that did not come to be is removed
            raise AfinaError(
                f"datatrove's task {batch.number} of {len(todo)} ended without its part",
                "look at its log; the build starts anew with the same command",
                str(kept),
            )
        yield pickle.loads(file.read_bytes())


def _run_here(block: PartsBlock, workers: int, logs: Path, again: Counter[int]) -> None:
    task = partial(_run_task, replace(block, todo={}), len(block.todo), logs)
    for _ in in_processes(task, block.todo.values(), workers, where=attrgetter("path"), again=again):
        pass


def _run_task(block: PartsBlock, tasks: int, logs: Path, batch: FileBatch) -> None:
    """What datatrove's local executor does for one task, in a process of ours: its `run` waits without end for the task
    of a process that was killed."""
    from datatrove.executor import LocalPipelineExecutor

    pipeline = [replace(block, todo={batch.number: batch})]
    LocalPipelineExecutor(pipeline, tasks=tasks, logging_dir=str(logs))._run_for_rank(batch.number, batch.number)


def _run_on_slurm(recipe: Recipe, block: PartsBlock, logs: Path, again: Counter[int]) -> None:
    for last in (*[False] * (TIMES - 1), True):
        lost = _run_array(recipe, block, logs)
        if not lost or last:
            return  # whoever collects the parts says which are missing
        again.update(lost)


def _run_array(recipe: Recipe, block: PartsBlock, logs: Path) -> list[int]:
    """Run the tasks that are not complete as one job array; returns those that are not complete after it."""
    from datatrove.executor import SlurmPipelineExecutor

    wanted = recipe.dataset.datatrove
    executor = SlurmPipelineExecutor(
        [block],
        tasks=len(block.todo),
        workers=wanted.workers or -1,
        time=wanted.time,
        partition=wanted.partition,
        qos="",
        mem_per_cpu_gb=wanted.memory_gb,
        job_name=f"afina-{recipe.name}",
        # The same environment on the cluster's machines; without one, whatever they find first.
        venv_path=str(Path(sys.prefix) / "bin/activate") if sys.prefix != sys.base_prefix else None,
        logging_dir=str(logs),
    )
    try:
        executor.run()
        while executor.get_incomplete_ranks() and _is_queued(str(executor.job_id)):
            time.sleep(POLL_SECONDS)
        return list(executor.get_incomplete_ranks())
    except FileNotFoundError as error:
        raise RecipeError(
            f"`dataset.datatrove.executor: slurm` needs Slurm's program {error.filename}",
            "start this on a machine that may submit jobs, or set executor: local",
            "dataset.datatrove.executor",
        ) from None
    except subprocess.CalledProcessError as error:
        raise RecipeError(
            f"Slurm refused the job (exit code {error.returncode}): {' '.join(map(str, error.cmd))}",
            "look at dataset.datatrove: partition, time and memory_gb",
            "dataset.datatrove",
        ) from None


def _is_queued(job: str) -> bool:
    """Whether Slurm still has tasks of a job, waiting or running."""
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and bool(asked.stdout.strip())


def _run_on_ray(recipe: Recipe, block: PartsBlock, logs: Path, again: Counter[int]) -> None:  # noqa: ARG001
    """Ray starts a task whose process was killed again by itself, and does not say so."""
    try:
        import ray
    except ImportError:
        raise RecipeError(
            "`dataset.datatrove.executor: ray` needs ray", "pip install ray", "dataset.datatrove.executor"
        ) from None
    from datatrove.executor.ray import RayPipelineExecutor

    wanted = recipe.dataset.datatrove
    ray.init(address=os.environ.get("RAY_ADDRESS"), ignore_reinit_error=True)
    RayPipelineExecutor(
        [block],
        tasks=len(block.todo),
        workers=wanted.workers or -1,
        mem_per_cpu_gb=wanted.memory_gb,
        logging_dir=str(logs),
    ).run()


RUN: dict[str, Callable[[Recipe, PartsBlock, Path, Counter[int]], None]] = {
    "slurm": _run_on_slurm,
    "ray": _run_on_ray,
}


def _part_file(folder: Path, batch: FileBatch) -> Path:
    return folder / f"{batch.number:06d}.part"
