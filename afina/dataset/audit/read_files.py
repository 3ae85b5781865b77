"""Read any files for an audit: what a build would stop at is noted instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from afina.errors import DataError, Problem
from afina.recipe import Dataset, Recipe, Source, Train
from afina.run import Progress, no_progress
from afina.sources import placed_files, plan_sources, read_sources
from afina.sources.rows import large_columns
from afina.text.code_blocks import CodeBlock, document_blocks
from afina.text.document import Document, Ledger, Split
from afina.text.example import Example
from afina.text.formats import has_own_lines, kind_of
from afina.text.lines import file_lines
from afina.text.sections import split_sections
from afina.text.splits import PlacedFile, recognise

SECTION_CHARS = 2048
FEWEST_LINES = 20
"""A text of fewer lines is not worth a word about line loaders."""


@dataclass
class RefusedRows:
    """Rows of one kind that a build would stop at."""

    count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """What is wrong -> rows; of what names a place in its row only the first hundred kinds."""
    shown: list[dict[str, str]] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        """Note one."""
        self.count += 1
        if what in self.kinds or len(self.kinds) < 100:
            self.kinds[what] += 1
        if len(self.shown) < 5:
            self.shown.append({"where": where, "text": what})


@dataclass
class AuditReading:
    """What was noted while files were read."""

    problems: list[Problem] = field(default_factory=list)
    refused: dict[str, RefusedRows] = field(default_factory=dict)
    """Finding -> the rows that a build would stop at."""
    inverted: RefusedRows = field(default_factory=RefusedRows)
    """Preferences whose own scores say that the worse answer is the better one."""
    columns: dict[str, dict[str, float]] = field(default_factory=dict)
    """Path -> columns left out that hold much of its text, with their share."""
    skipped: dict[str, str] = field(default_factory=dict)
    files: int = 0
    examples: Counter[str] = field(default_factory=Counter)
    """Of each file, how many it gave."""
    lines: int = 0
    """Lines of text files, and how many of them are blank: what a line-per-example loader would see."""
    blank_lines: int = 0
    texts: list[dict[str, str]] = field(default_factory=list)
    languages: frozenset[str] = frozenset()
    """Whose code is to be checked, and the blocks found."""
    blocks: list[CodeBlock] = field(default_factory=list)


def find_splits(paths: Sequence[Path]) -> dict[str, Split]:
    """What each file is for, where names tell (:mod:`afina.text.splits`), by its path as in `Example.path`."""
    placed: list[PlacedFile] = []
    for path in paths:
        root, recipe = _recipe_of(path)
        # What is wrong with a file is told when it is read.
        planned = plan_sources(recipe, Ledger(), [])
        for file in (file for source in planned for file in placed_files(source)):
            shown, family = ((root / place).as_posix() for place in (file.path, file.family))
            placed.append(PlacedFile(shown, family, file.split))
    return recognise(placed)


def _recipe_of(path: Path) -> tuple[Path, Recipe]:
    """The folder above a path, as it was given, and a recipe that reads the path."""
    path = path if path.name not in ("", "..") else path.resolve()
    # The method and base play no part in reading.
    recipe = Recipe(
        name="audit",
        root=str(path.parent.resolve()),
        sources=[Source(path=path.name)],
        train=Train(method="scratch"),
        dataset=Dataset(on_unreadable="drop"),
    )
    return path.parent, recipe


def read_files(
    path: Path,
    reading: AuditReading,
    progress: Progress = no_progress,
    *,
    only: Container[str] | None = None,
    without: Container[str] = (),
) -> Iterator[Example]:
    """The rows of a file or folder as they are, policies aside; texts in sections.

    Errors of single rows or files end up in ``reading.problems``.

    Args:
        only: the files to be read; None: all of them.
        without: files not to be read.
    """
    root, recipe = _recipe_of(path)

    def wanted(file: str) -> bool:
        shown = (root / file).as_posix()
        return shown not in without and (only is None or shown in only)

    ledger = Ledger()
    try:
        for document in read_sources(recipe, ledger, progress, wanted):
            shown = replace(document, path=(root / document.path).as_posix())
            if shown.kind == "unreadable":
                rows = reading.refused.setdefault(shown.meta["finding"], RefusedRows())
                rows.add(f"{shown.path}:{shown.line}", shown.meta["what"])
                continue
            if reading.languages:
                found = document_blocks(shown, Path())
                reading.blocks += (block for block in found if block.language in reading.languages)
            for example in _examples(shown, reading):
                reading.examples[shown.path] += 1
                yield example
    except DataError as error:
        reading.problems += [replace(item, where=(root / item.where).as_posix()) for item in error.problems]
    reading.columns |= {
        (root / entry.path).as_posix(): shares
        for entry in ledger.files
        if (shares := large_columns(entry.chars_in, entry.dropped))
    }
    reading.files += len(ledger.files)
    reading.skipped |= ledger.skipped


def _examples(document: Document, reading: AuditReading) -> Iterator[Example]:
    if document.kind == "messages":
        if said_otherwise := document.meta.get("scores_inverted"):
            reading.inverted.add(f"{document.path}:{document.line}", said_otherwise)
        yield Example(
            messages=document.messages,
            tools=document.tools,
            rejected=document.rejected,
            label=document.label,
            path=document.path,
            line=document.line,
            sha256=document.sha256,
        )
        return
    if kind_of(document.path) in ("text", "markdown") and has_own_lines(document.path):
        _count_lines(document, reading)
    in_file = file_lines(document, Path())
    for section in split_sections(document, SECTION_CHARS):
        text, line = section.context + section.text, in_file(section.line)
        yield Example(text, path=document.path, line=line, sha256=document.sha256, heading=section.heading)


def _count_lines(document: Document, reading: AuditReading) -> None:
    # The file itself: in a document, includes are already in their place.
    lines = Path(document.path).read_text(encoding="utf-8", errors="replace").splitlines()
    if len(lines) < FEWEST_LINES:
        return
    blank = sum(1 for line in lines if not line.strip())
    fences = sum(1 for line in lines if line.lstrip().startswith("```")) // 2
    reading.lines += len(lines)
    reading.blank_lines += blank
    text = f"each line becomes an example: {len(lines)} examples, {blank} blank; {fences} code blocks torn apart"
    reading.texts.append({"where": document.path, "text": text})
