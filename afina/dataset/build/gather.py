"""Read, clean, cut and hash files into parts on the disk: in one process, in several, or as a datatrove pipeline."""

from __future__ import annotations

from collections import Counter
from functools import partial
from operator import attrgetter
from pathlib import Path

from afina.dataset.build.datatrove_tasks import read_by_datatrove
from afina.dataset.build.document_notes import Notes
from afina.dataset.build.part import (
    DatasetPart,
    ReadingPlan,
    batches,
    forget_plan,
    read_batch,
    read_elsewhere,
)
from afina.dataset.processes import in_processes
from afina.errors import Problem, RecipeError
from afina.machine import usable_processors
from afina.recipe import WEB, Recipe
from afina.run import Progress
from afina.text.document import Ledger

FEWEST_BYTES = 16 << 20
"""Below this another process starts in more time than it saves."""


def gather(
    recipe: Recipe,
    ledger: Ledger,
    folder: Path,
    progress: Progress,
    workers: int | None = None,
    notes: Notes | None = None,
) -> tuple[list[DatasetPart], list[Problem], dict[str, int]]:
    """All parts in the order of the recipe, and all problems of the sources; with the batches (by their first file)
    whose process was killed, and how often each was read again.

    Args:
        recipe: the resolved recipe; ``dataset.engine`` says who does the work.
        ledger: gets what became of every file.
        folder: where the parts lie until they are no longer needed.
        progress: is told which files are read.
        workers: processes; None takes one per processor where there is enough to read. Each is started
            anew (spawned), so a script that asks for several, or for datatrove, needs ``if __name__ == "__main__":``.
        notes: see every document too; then this process reads alone.

    Raises:
        RecipeError: an unknown encoding, a missing library; or `notes` with ``dataset.engine: datatrove``.
        AfinaError: the process of one batch was killed each time it was begun.
    """
    if notes and recipe.dataset.engine == "datatrove":
        raise RecipeError(
            "`dataset.engine: datatrove` reads in other processes, and cannot make questions or split by file",
            "set `dataset.engine: own`",
            "dataset.engine",
        )
    plan = ReadingPlan.of(recipe, ledger)
    planned, problems = plan.planned, plan.problems
    todo, size = batches(recipe, planned)
    if workers is None:
        workers = usable_processors()
        workers = workers if size >= FEWEST_BYTES else 1
    # Each process finds the files for itself: it would ask every website again.
    alone = notes or any(source.path.startswith(WEB) for source in recipe.sources)
    workers = 1 if alone else max(1, min(workers, len(todo)))
    parts: list[DatasetPart] = []
    total, done = sum(len(source.jobs) for source in planned), 0
    documents, known = [0] * len(planned), [0] * len(planned)
    progress(0, total, "reading")
    again: Counter[int] = Counter()
    forget_plan()  # files may have changed since an earlier dataset of this process
    if recipe.dataset.engine == "datatrove":
        made = read_by_datatrove(recipe, todo, folder, workers, again)
    elif workers > 1:
        read = partial(read_elsewhere, recipe.model_dump_json(), folder=folder)
        made = in_processes(read, todo, workers, where=attrgetter("path"), again=again)
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
    return parts, problems, {todo[number].path: times for number, times in sorted(again.items())}
