"""Sources: files, folders, websites, code, pairs and rows become :class:`Document`.

Every character that comes in goes out or is counted with a reason (:class:`FileLedger`); every
file that is not read is listed with one (:attr:`Ledger.skipped`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from afina.errors import DataError, Problem
from afina.recipe import HUB, WEB, Recipe, Source
from afina.run import Progress, no_progress
from afina.sources.files import SourceFile, SourceReading, check_encoding, expand, read_text
from afina.sources.hub import hub_address, read_hub
from afina.sources.pairs import match_pairs, read_pair
from afina.sources.parsers import has_docling, read_with_docling
from afina.sources.repeated import with_repeated
from afina.sources.saved import declared_splits
from afina.sources.web import SiteFile, in_its_encoding, site_files, with_address
from afina.text.document import Document, FileLedger, Ledger, Message, visible
from afina.text.formats import format_as, load_function
from afina.text.splits import PlacedFile, by_name, recognise, split_named

__all__ = [
    "Document",
    "FileLedger",
    "Ledger",
    "Message",
    "PlannedSource",
    "placed_files",
    "plan_sources",
    "read_source",
    "read_sources",
    "visible",
]

_SHOWN = 100
_SMALL_BYTES = 1 << 16
"""Up to this size a file that its reader opens itself is looked at first: it may be empty."""

_Job = tuple[str, Callable[[], Iterator[Document]]]
"""A file's path, and what reads it."""


def read_sources(
    recipe: Recipe, ledger: Ledger, progress: Progress = no_progress, wanted: Callable[[str], bool] | None = None
) -> Iterator[Document]:
    """The documents of every source, in the recipe's order, while `ledger` fills.

    Documents that can be read come first; then all that cannot is raised in one error.

    Args:
        wanted: whether a file is to be read, by its path; None: every one. A source of which nothing is wanted is no
            source without text.

    Raises:
        DataError: unreadable files, broken rows, sources without text; all at once.
        RecipeError: an unknown encoding or a broken `stem`.
    """
    problems: list[Problem] = []
    planned = plan_sources(recipe, ledger, problems)
    if wanted:
        chosen = [replace(source, jobs=[job for job in source.jobs if wanted(job[0])]) for source in planned]
        planned = [own for own, source in zip(chosen, planned, strict=True) if own.jobs or not source.jobs]
    total, done = sum(len(source.jobs) for source in planned), 0

    def started(path: str) -> None:
        nonlocal done
        progress(done, total, path)
        done += 1

    for source in planned:
        yield from _read(source, problems, started)
    progress(done, total, "read")
    _raise(problems)


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """A source whose files are known but not read; any portion of them can be read, in any process."""

    reading: SourceReading
    jobs: Sequence[_Job]

    def read(
        self, first: int, end: int, problems: list[Problem], started: Callable[[str], None] = lambda _: None
    ) -> Iterator[Document]:
        """The documents of the files from `first` to before `end`; what cannot be read is added to `problems`."""
        known, entered = len(problems), len(self.reading.ledger.files)
        for path, job in self.jobs[first:end]:
            started(path)
            try:
                yield from job()
            except DataError as error:
                problems += error.problems
        if len(problems) == known:
            for entry in self.reading.ledger.files[entered:]:
                assert entry.balanced, f"characters of {entry.path} do not add up: {entry}"

    def nothing(self) -> Problem:
        """The problem of a source that gave no document, with what was left out and why."""
        return _nothing(self.reading, len(self.jobs))


def plan_sources(recipe: Recipe, ledger: Ledger, problems: list[Problem]) -> list[PlannedSource]:
    """The files of every source, in the recipe's order; what is wrong with a source is added to `problems`.

    What the files are for, where their names tell, goes to ``ledger.splits``.

    Raises:
        RecipeError: an unknown encoding.
    """
    root, drops = Path(recipe.root), recipe.dataset.on_unreadable == "drop"
    readings = [SourceReading(source, place, root, ledger, drops) for place, source in enumerate(recipe.sources)]
    for reading in readings:
        check_encoding(reading)
    planned = []
    for reading in readings:
        try:
            planned.append(PlannedSource(reading, _jobs(reading)))
        except DataError as error:
            problems += error.problems
    ledger.splits |= recognise(file for each in planned for file in placed_files(each))
    return planned


def placed_files(planned: PlannedSource) -> Iterator[PlacedFile]:
    """The files of a source as far as their splits count."""
    source = planned.reading.source
    if source.splits == "ignore" or source.kind == "pairs" or source.path.startswith(WEB):
        return
    if source.path.startswith(HUB):
        address = hub_address(source.path, "")
        yield PlacedFile(source.path, f"{HUB}{address.name}?{address.config}", split_named(address.split))
        return
    declared: dict[str, PlacedFile] = {}
    for folder in {above for path, _ in planned.jobs for above in (planned.reading.root / path).parents[:3]}:
        family = planned.reading.relative(folder)
        for file, split in declared_splits(folder):
            path = planned.reading.relative(file)
            declared[path] = PlacedFile(path, family, split)
    yield from (declared.get(path) or by_name(path) for path, _ in planned.jobs)


def read_source(source: Source, position: int, root: Path, ledger: Ledger) -> Iterator[Document]:
    """The documents of one source.

    Args:
        position: the source's place in the recipe, for errors and :attr:`Document.source`.
        root: the folder that its paths are relative to.

    Raises:
        DataError, RecipeError: as :func:`read_sources`.
    """
    reading = SourceReading(source, position, root, ledger)
    check_encoding(reading)
    problems: list[Problem] = []
    yield from _read(PlannedSource(reading, _jobs(reading)), problems, lambda _: None)
    _raise(problems)


def _jobs(reading: SourceReading) -> list[_Job]:
    """The files of a source, each with what reads it."""
    if reading.source.kind == "pairs":
        pairs = match_pairs(reading)
        return [(pair[0].path, lambda pair=pair: read_pair(pair, pairs, reading)) for pair in pairs]  # type: ignore[misc]
    path = reading.source.path
    if path.startswith(HUB):
        address = hub_address(path, f"sources.{reading.position}.path")
        return [(path, lambda: read_hub(address, reading))]
    if path.startswith(WEB):
        sites = site_files(reading)
        pages = [(site.file.full, site.page.encoding or reading.source.encoding) for site in sites]
        reading = with_repeated(reading, [page for page, site in zip(pages, sites, strict=True) if _is_html(site.file)])
        return [(site.file.path, lambda site=site: _read_page(site, reading)) for site in sites]  # type: ignore[misc]
    files = expand(reading, path, reading.source.kind)
    reading = with_repeated(reading, [(file.full, reading.source.encoding) for file in files if _is_html(file)])
    return [(file.path, lambda file=file: _read_file(file, reading)) for file in files]  # type: ignore[misc]


def _is_html(file: SourceFile) -> bool:
    return file.kind == "html"


def _read_page(site: SiteFile, reading: SourceReading) -> Iterator[Document]:
    """The documents of a page of a website, in the encoding that it declares."""
    yield from with_address(_read_file(site.file, in_its_encoding(reading, site)), site)


def _read_file(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """One file's documents. A file without text is an error where it was named, else skipped."""
    found = format_as(file.path, file.kind)
    if found.docling and has_docling():
        yield from read_with_docling(file, reading)
        return
    read = load_function(found.reader)
    if found.packed or (found.opens and file.full.stat().st_size > _SMALL_BYTES):
        yield from read(file, reading)
        return
    opened = read_text(reading, file.full)
    if not opened.text.strip():
        reading.ledger.files.pop()
        if file.named:
            rows = "the file has no rows: it is empty" if found.gives == "rows" else "the file is empty"
            raise DataError(rows, "put text into it, or remove the source", file.path)
        reading.skip(file.path, "empty file")
    elif found.opens:
        reading.ledger.files.pop()  # it is read as a stream, and enters its own line
        yield from read(file, reading)
    else:
        yield from read(opened, reading)


def _read(source: PlannedSource, problems: list[Problem], started: Callable[[str], None]) -> Iterator[Document]:
    """All documents of a source, and the problem that there are none."""
    known, documents = len(problems), 0
    for document in source.read(0, len(source.jobs), problems, started):
        documents += 1
        yield document
    if len(problems) == known and not documents:
        problems.append(source.nothing())


def _nothing(reading: SourceReading, files: int) -> Problem:
    """The problem of a source that gave no document, with what was left out and why."""
    reasons = Counter(reading.ledger.skipped.values())
    left_out = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
    what = f"no text in {reading.source.path!r}: " + (f"{files} files, none with text" if files else "no readable file")
    return Problem(
        f"{what} (left out: {left_out})" if left_out else what,
        "check `path`; `kind: text` reads files of any ending as plain text",
        f"sources.{reading.position}.path",
    )


def _raise(problems: Sequence[Problem]) -> None:
    if len(problems) > _SHOWN:
        rest = Problem(f"and {len(problems) - _SHOWN} more problems", "fix these first", "")
        problems = [*problems[:_SHOWN], rest]
    if problems:
        raise DataError(problems=problems)
