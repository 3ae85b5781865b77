"""The examples of a build between reading and writing: on the disk, with what becomes of each in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from afina.dataset.build.choose import DUPLICATE, TRAIN, WRONG_CODE, find_duplicates
from afina.dataset.build.code_policy import CodeReport, check_code
from afina.dataset.build.document_notes import Notes
from afina.dataset.build.gather import gather
from afina.dataset.build.intake import Intake
from afina.dataset.build.part import DatasetPart
from afina.dataset.build.spool import DropSpool, ExampleColumns, Spool
from afina.dataset.dropped import Dropped
from afina.errors import DataError
from afina.recipe import Recipe
from afina.run import Progress
from afina.text.document import Ledger
from afina.text.example import Example, read_examples
from afina.text.identity import content_key
from afina.text.masking import mask_example
from afina.text.near_duplicates import Signatures
from afina.text.personal_data import mask

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Corpus:
    """All examples, numbered: first those of the documents, then the questions made from them."""

    recipe: Recipe
    folder: Path
    """Where the spools lie."""
    intake: Intake
    """The counters of all documents."""
    ledger: Ledger
    notes: Notes | None
    columns: ExampleColumns
    spools: list[Path]
    """Files of examples, in the order of their numbers."""
    drops: list[DropSpool]
    fate: np.ndarray
    """For each example what becomes of it, see :mod:`~afina.dataset.build.choose`."""
    same_as: np.ndarray
    """For each example which one stays instead of it; itself where it stays."""
    said: dict[int, str] = field(default_factory=dict)
    """For wrong code what its compiler said."""
    code: CodeReport = field(default_factory=CodeReport)
    read: int = 0
    """How many examples came from documents; the others were made."""
    read_again: dict[str, int] = field(default_factory=dict)
    """First file of a batch -> how often it was read again, as its process was killed."""

    def rows(self, first: int = 0) -> Iterator[tuple[int, Example]]:
        """The examples that stay, with their numbers, from `first` on."""
        for row, example in enumerate(example for file in self.spools for example in read_examples(file)):
            if row >= first and self.fate[row] == TRAIN:
                yield row, example

    @property
    def staying(self) -> Staying:
        """The examples of documents that stay; can be iterated again and again."""
        return Staying(self)

    def has_any(self, rows: range) -> bool:
        """Whether the words of any of these examples stay: the example itself, or one that is the same."""
        return any(
            self.fate[row] == TRAIN or (self.fate[row] == DUPLICATE and self.fate[self.same_as[row]] == TRAIN)
            for row in rows
        )

    def leave_out_wrong_code(self, first: int, progress: Progress) -> None:
        """Check the code of the examples from `first` on, and apply the recipe's policy.

        Raises:
            DataError, RecipeError: as :func:`~afina.dataset.build.code_policy.check_code`.
        """
        if not self.recipe.dataset.check_code:
            return
        report, refused = check_code(self.recipe, self.rows(first), progress)
        if self.recipe.dataset.personal_data != "keep":  # a compiler quotes the line that it refuses
            report = CodeReport([{name: mask(value).text for name, value in row.items()} for row in report.rows])
            refused = {row: mask(lines).text for row, lines in refused.items()}
        self.code.rows.extend(report.rows)
        self.said |= refused
        for row in refused:
            self.fate[row] = WRONG_CODE

    def add_made(self, name: str, examples: Iterable[Example], dropped: Iterable[Dropped]) -> None:
        """Add questions made from documents: masked as the documents are, and none that stands there already.

        They are additions, so their characters are no part of the sum.

        Args:
            name: of their file.
            dropped: what could not be made.
        """
        import numpy as np

        policy = self.recipe.dataset.personal_data
        spool, drops = Spool(self.folder / f"{name}.jsonl"), DropSpool(self.folder / f"{name}.dropped.jsonl")
        stay = np.nonzero(self.fate == TRAIN)[0].tolist()
        known = {self.columns.content[row]: self.columns.where(row) for row in reversed(stay)}
        for item in dropped:
            drops.append(item if policy == "keep" else item.masked())
        for example in examples:
            where = f"{example.path}:{example.line}"
            masked = mask_example(example) if policy != "keep" else None
            if masked:
                self.intake.personal_data.update(masked.kinds)
                example = masked.example
                if masked.kinds and policy == "drop":
                    row = (example.source, "", example.messages)
                    drops.append(Dropped("personal_data", where, *row, rejected=example.rejected, label=example.label))
                    continue
            key = int(content_key(example), 16)
            if key in known:
                row = (example.source, "", example.messages)
                drops.append(Dropped("duplicate", where, *row, same_as=known[key]))
                continue
            known[key] = where
            spool.append(example)
        spool.close()
        drops.close()
        added = len(spool.columns)
        self.columns.extend(spool.columns)
        self.spools.append(spool.file)
        self.drops.append(drops)
        self.fate = np.concatenate([self.fate, np.full(added, TRAIN, np.uint8)])
        self.same_as = np.concatenate([self.same_as, np.arange(len(self.same_as), len(self.columns))])


@dataclass(frozen=True, slots=True)
class Staying:
    """The examples of documents that stay, read from the disk each time."""

    corpus: Corpus

    def __iter__(self) -> Iterator[Example]:
        return (example for row, example in self.corpus.rows() if row < self.corpus.read)


def read_corpus(recipe: Recipe, folder: Path, progress: Progress, workers: int | None = None) -> Corpus:
    """Read, clean, mask and cut all documents, find duplicates, check code.

    Args:
        folder: where the parts lie until the dataset is written.
        workers: processes that read; see :func:`~afina.dataset.build.gather.gather`.

    Raises:
        DataError: for broken files, and for rows that the recipe's policies do not allow: all in one error.
    """
    folder.mkdir()
    ledger, intake, columns = Ledger(), Intake(recipe), ExampleColumns()
    notes = Notes(recipe) if Notes.wanted(recipe) else None
    parts, problems, again = gather(recipe, ledger, folder, progress, workers, notes)
    for part in parts:
        intake.absorb(part.intake)
        columns.extend(part.intake.examples.columns)
        part.intake.examples.columns = ExampleColumns()
    fate, same_as = find_duplicates(columns, _signatures(parts, folder, recipe), recipe, intake, ledger.splits)
    problems += intake.problems()
    if problems:
        raise DataError(problems=problems)
    spools = [part.intake.examples.file for part in parts]
    drops = [part.intake.dropped for part in parts]
    corpus = Corpus(recipe, folder, intake, ledger, notes, columns, spools, drops, fate, same_as, read=len(columns))
    corpus.read_again = again
    corpus.leave_out_wrong_code(0, progress)
    return corpus


def _signatures(parts: Sequence[DatasetPart], folder: Path, recipe: Recipe) -> np.ndarray | None:
    """The signatures of all parts as one table on the disk; None where near duplicates are kept."""
    if recipe.dataset.near_duplicates.on == "keep":
        return None
    with (folder / "signatures").open("w+b") as whole:
        for part in parts:
            with part.intake.examples.signatures.open("rb") as own:
                shutil.copyfileobj(own, whole)
        return Signatures(whole).table()
