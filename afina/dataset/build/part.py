"""A part: what some consecutive files became, on the disk. The same files give the same part, whoever reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from afina.dataset.build.document_notes import Notes
from afina.dataset.build.intake import Intake
from afina.dataset.build.spool import DropSpool, Spool
from afina.errors import Problem
from afina.recipe import Recipe
from afina.sources import PlannedSource, plan_sources
from afina.text.document import Ledger

BATCH_BYTES = 4 << 20
"""Consecutive small files are read together up to this size; a larger file alone."""
BATCH_FILES = 256


@dataclass(frozen=True, slots=True)
class FileBatch:
    """Consecutive files of one source, to be read together."""

    number: int
    source: int
    """Position in the planned sources."""
    first: int
    end: int
    path: str
    """Of its first file, for messages."""


@dataclass(slots=True)
class DatasetPart:
    """What a batch of files became: files on the disk, and what is to be added up."""

    batch: FileBatch
    intake: Intake
    """Its `examples` are a closed :class:`Spool`, its `dropped` a closed :class:`DropSpool`."""
    ledger: Ledger
    problems: list[Problem]


def batches(recipe: Recipe, planned: Sequence[PlannedSource]) -> tuple[list[FileBatch], int]:
    """The files of all sources in portions, and how many bytes they are in all."""
    found: list[FileBatch] = []
    total = 0
    for position, source in enumerate(planned):
        first = size = 0
        for place, (path, _) in enumerate(source.jobs):
            file = Path(recipe.root) / path
            size += file.stat().st_size if file.is_file() else 0
            if size >= BATCH_BYTES or place + 1 - first >= BATCH_FILES or place + 1 == len(source.jobs):
                found.append(FileBatch(len(found), position, first, place + 1, source.jobs[first][0]))
                total += size
                first, size = place + 1, 0
    return found, total


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """The sources of a recipe, found once in each process."""

    recipe: Recipe
    ledger: Ledger
    """Of `planned`."""
    planned: list[PlannedSource]
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, recipe: Recipe, ledger: Ledger) -> ReadingPlan:
        """Find the files; what is wrong with a source is kept in `problems`."""
        problems: list[Problem] = []
        return cls(recipe, ledger, plan_sources(recipe, ledger, problems), problems)


@lru_cache(maxsize=1)
def _plan_here(recipe_json: str) -> ReadingPlan:
    return ReadingPlan.of(Recipe.model_validate_json(recipe_json), Ledger())


def forget_plan() -> None:
    """Let the next :func:`read_elsewhere` of this process look for the files again."""
    _plan_here.cache_clear()


def read_elsewhere(recipe_json: str, batch: FileBatch, folder: Path) -> DatasetPart:
    """:func:`read_batch` in another process: what goes there is a text."""
    return read_batch(_plan_here(recipe_json), batch, folder)


def read_batch(plan: ReadingPlan, batch: FileBatch, folder: Path, notes: Notes | None = None) -> DatasetPart:
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
    return DatasetPart(batch, intake, own, problems)
