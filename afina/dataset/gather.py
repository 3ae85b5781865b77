"""Read, clean, cut and hash files into parts on the disk: in one process, in several, or as a datatrove pipeline.

A **part** is what some consecutive files became. Parts are the same and stand in the same order whoever makes them.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from afina.dataset.intake import Intake
from afina.dataset.notes import Notes
from afina.dataset.spool import DropSpool, Spool
from afina.errors import Problem, RecipeError
from afina.recipe import WEB, Recipe
from afina.run import Progress
from afina.sources import PlannedSource, plan_sources
from afina.sources.document import Ledger

BATCH_BYTES = 4 << 20
"""Consecutive small files are read together up to this size; a larger file alone."""
BATCH_FILES = 256
FEWEST_BYTES = 16 << 20
"""Below this another process starts in more time than it saves."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive files of one source, to be read together."""

    number: int
    source: int
    """Position in the planned sources."""
    first: int
    end: int


@dataclass(slots=True)
class Part:
    """What a batch of files became: files on the disk, and what is to be added up."""

    batch: Batch
    intake: Intake
    """Its `examples` are a closed :class:`Spool`, its `dropped` a closed :class:`DropSpool`."""
    ledger: Ledger
    problems: list[Problem]


def batches(recipe: Recipe, planned: Sequence[PlannedSource]) -> tuple[list[Batch], int]:
    """The files of all sources in portions, and how many bytes they are in all."""
    found: list[Batch] = []
    total = 0
    for position, source in enumerate(planned):
        first = size = 0
        for place, (path, _) in enumerate(source.jobs):
            file = Path(recipe.root) / path
            size += file.stat().st_size if file.is_file() else 0
            if size >= BATCH_BYTES or place + 1 - first >= BATCH_FILES or place + 1 == len(source.jobs):
                found.append(Batch(len(found), position, first, place + 1))
                total += size
                first, size = place + 1, 0
    return found, total


@dataclass(frozen=True, slots=True)
class Plan:
    """The sources of a recipe, found once in each process."""

    recipe: Recipe
    ledger: Ledger
    """Of `planned`."""
    planned: list[PlannedSource]
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, recipe: Recipe, ledger: Ledger) -> Plan:
        """Find the files; what is wrong with a source is kept in `problems`."""
        problems: list[Problem] = []
        return cls(recipe, ledger, plan_sources(recipe, ledger, problems), problems)


@lru_cache(maxsize=1)
def _plan_here(recipe_json: str) -> Plan:
    return Plan.of(Recipe.model_validate_json(recipe_json), Ledger())


def read_elsewhere(recipe_json: str, batch: Batch, folder: Path) -> Part:
    """:func:`read_batch` in another process: what goes there is a text."""
    return read_batch(_plan_here(recipe_json), batch, folder)


def read_batch(plan: Plan, batch: Batch, folder: Path, notes: Notes | None = None) -> Part:
    """Read one batch and write its part into `folder`.

    Args:
        plan: of the sources.
        batch: which files.
        folder: gets ``N.jsonl``, ``N.dropped.jsonl`` and, where near duplicates matter, ``N.signatures``.
        notes: see every document too.
    """
    recipe, ledger = plan.recipe, plan.ledger
    before = Ledger(list(ledger.files), dict(ledger.skipped))
    ledger.files.clear()
    ledger.skipped.clear()
    name = f"{batch.number:06d}"
    near = recipe.dataset.near_duplicates.on != "keep"
    examples = Spool(folder / f"{name}.jsonl", folder / f"{name}.signatures" if near else None)
    intake = Intake(recipe, examples, DropSpool(folder / f"{name}.dropped.jsonl"), notes=notes)
    problems: list[Problem] = []
    for document in plan.planned[batch.source].read(batch.first, batch.end, problems):
        intake.take(document)
    intake.examples.close()
    intake.dropped.close()
    intake.notes = None
    own = Ledger(list(ledger.files), dict(ledger.skipped))
    ledger.files[:], ledger.skipped = before.files, before.skipped
    return Part(batch, intake, own, problems)


def gather(
    recipe: Recipe,
    ledger: Ledger,
    folder: Path,
    progress: Progress,
    workers: int | None = None,
    notes: Notes | None = None,
) -> tuple[list[Part], list[Problem]]:
    """All parts in the order of the recipe, and all problems of the sources.

    Args:
        recipe: the resolved recipe; ``dataset.engine`` says who does the work.
        ledger: gets what became of every file.
        folder: where the parts lie until they are no longer needed.
        progress: is told which files are read.
        workers: processes; None takes one per processor where there is enough to read. Each is started
            anew (spawned), so a script that asks for several needs ``if __name__ == "__main__":``.
        notes: see every document too; then this process reads alone.

    Raises:
        RecipeError: an unknown encoding, a missing library; or `notes` with ``dataset.engine: datatrove``.
    """
    if notes and recipe.dataset.engine == "datatrove":
        raise RecipeError(
            "`dataset.engine: datatrove` reads in other processes, and cannot make questions or split by file",
            "set `dataset.engine: own`",
            "dataset.engine",
        )
    plan = Plan.of(recipe, ledger)
    planned, problems = plan.planned, plan.problems
    todo, size = batches(recipe, planned)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = workers if size >= FEWEST_BYTES else 1
    # Each process finds the files for itself: it would ask every website again.
    alone = notes or any(source.path.startswith(WEB) for source in recipe.sources)
    workers = 1 if alone else max(1, min(workers, len(todo)))
    parts: list[Part] = []
    total, done = sum(len(source.jobs) for source in planned), 0
    documents, known = [0] * len(planned), [0] * len(planned)
    progress(0, total, "reading")
    recipe_json = recipe.model_dump_json()
    _plan_here.cache_clear()  # files may have changed since an earlier dataset of this process
    if recipe.dataset.engine == "datatrove":
        made = _by_datatrove(recipe_json, todo, folder, workers)
    elif workers > 1:
        made = _in_processes(recipe_json, todo, folder, workers)
    else:
        made = (read_batch(plan, batch, folder, notes) for batch in todo)
    for part in made:
        parts.append(part)
        ledger.files += part.ledger.files
        for path, reason in part.ledger.skipped.items():
            planned[part.batch.source].reading.skip(path, reason)
        problems += part.problems
        documents[part.batch.source] += part.intake.documents
        known[part.batch.source] += len(part.problems)
        done += part.batch.end - part.batch.first
        progress(done, total, planned[part.batch.source].jobs[part.batch.end - 1][0])
    for source, count, wrong in zip(planned, documents, known, strict=True):
        if not count and not wrong:
            problems.append(source.nothing())
    return parts, problems


def _in_processes(recipe_json: str, todo: Sequence[Batch], folder: Path, workers: int) -> Iterator[Part]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = [pool.submit(read_elsewhere, recipe_json, batch, folder) for batch in todo[: 2 * workers]]
        for batch in todo[2 * workers :]:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(read_elsewhere, recipe_json, batch, folder))
        for job in waiting:
            yield job.result()


def _by_datatrove(recipe_json: str, todo: Sequence[Batch], folder: Path, workers: int) -> Iterator[Part]:
    """The same parts, made by a datatrove pipeline: one task a batch, our functions as its block."""
    try:
        from datatrove.executor import LocalPipelineExecutor
    except ImportError:
        raise RecipeError(
            "`dataset.engine: datatrove` needs datatrove", "pip install afina[datatrove]", "dataset.engine"
        ) from None

    block = DatatroveBlock(recipe_json, todo, folder)
    LocalPipelineExecutor(
        [block], tasks=len(todo), workers=workers, logging_dir=str(folder / "datatrove"), start_method="spawn"
    ).run()
    for batch in todo:
        yield pickle.loads(_part_file(folder, batch).read_bytes())


@dataclass(frozen=True, slots=True)
class DatatroveBlock:
    """A datatrove pipeline step: task N reads batch N and leaves its part on the disk; nothing flows to a next step."""

    recipe_json: str = field(repr=False)
    todo: Sequence[Batch] = field(repr=False)
    folder: Path

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[object]:  # noqa: ARG002
        """As datatrove calls a step: `data` would come from the step before."""
        for batch in self.todo[rank::world_size]:
            part = read_elsewhere(self.recipe_json, batch, self.folder)
            _part_file(self.folder, batch).write_bytes(pickle.dumps(part))
        return iter(())


def _part_file(folder: Path, batch: Batch) -> Path:
    return folder / f"{batch.number:06d}.part"
