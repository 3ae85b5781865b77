"""``afina tokenizer``: a tokenizer trained on files, one looked at, several compared on the same texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import Problem, RecipeError
from afina.model.named_tokenizer import open_pieces
from afina.recipe import Recipe, Source, Train
from afina.recipe.methods import in_words
from afina.run import Progress, no_progress
from afina.sources import read_sources
from afina.text.document import Ledger, message_texts
from afina.tokenizer.load import open_tokenizer
from afina.tokenizer.measures import VocabularyMeasure
from afina.tokenizer.pieces import PieceTable, read_tokenizer
from afina.tokenizer.saving import Say, silent
from afina.tokenizer.train import train_for
from afina.units import show_share
from afina.whole import whole_folder

COLUMNS = ("tokenizer", "entries", "used", "chars/token", "tokens/word", "bytes", "short", "parts")
ABOUT_COLUMNS = (
    "bytes: tokens that spell out a character which the vocabulary lacks; short: one or two letters inside a word; "
    "parts: half characters of a byte-level vocabulary. All follow the vocabulary's size: of two models compare bits "
    "per byte"
)


def train_on(texts: Iterable[str], recipe: Recipe, folder: Path, say: Say) -> dict[str, Any]:
    """Train the tokenizer of a recipe's `scratch` into a folder that is not there yet; what was made, as plain values.

    Raises:
        RecipeError: the folder is there.
        DataError: the text gives no tokenizer.
    """
    if folder.exists():
        raise RecipeError("is there already", "name another folder, or remove it", str(folder))
    with whole_folder(folder, of_a_person=True) as beside:
        reached = train_for(recipe, texts, beside, say)
        table = read_tokenizer(open_tokenizer(beside), str(folder))
    made = {"folder": str(folder), "kind": recipe.scratch.tokenizer, "vocab": reached, "sha256": table.sha256}
    return made | {"folds": list(table.folds)}


def describe_trained(made: dict[str, Any]) -> str:
    """For people."""
    return f"{made['folder']}: {made['kind']}, {made['vocab']} entries{_folds(made['folds'])}"


def texts_of_files(files: Sequence[Path], say: Say, progress: Progress = no_progress) -> Iterator[str]:
    """The texts of any files and folders that a recipe's source may name, and what is said in their conversations.

    Args:
        say: told which files were not read.

    Raises:
        RecipeError: a path is not there.
        DataError: a file cannot be read.
    """
    if absent := [path for path in files if not path.exists()]:
        raise RecipeError(
            problems=[Problem("there is no such file or folder", "check the path", str(p)) for p in absent]
        )
    for path in map(Path.resolve, files):
        ledger, source = Ledger(), Source(path=path.name)
        recipe = Recipe(name="files", root=str(path.parent), sources=[source], train=Train(method="scratch"))
        for document in read_sources(recipe, ledger, progress):
            if document.text:
                yield document.text
            for turn in document.messages:
                yield from message_texts(turn)
        for skipped, why in ledger.skipped.items():
            say(f"{skipped} was not read: {why}")


@dataclass(frozen=True)
class TokenizerPage:
    """Tokenizers and how they cut the same texts; of one without texts only what it is."""

    measures: Sequence[VocabularyMeasure]
    measured: bool

    def as_json(self) -> list[dict[str, Any]]:
        """All of it, a mapping for each tokenizer."""
        if self.measured:
            return [each.as_json() for each in self.measures]
        return [{**_identity(each.table), "special": _special(each.table)} for each in self.measures]

    def describe(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for each in self.measures:
            table = each.table
            entries = f"{len(table)} entries, {_special(table)} of them special"
            yield f"{table.name}: {table.kind}, {entries}{_folds(table.folds)}"
            yield f"    sha256 {table.sha256}"
        if not self.measured:
            return
        first = self.measures[0].whole
        yield f"on {first.characters} characters, {first.words} words"
        languages = [*self.measures[0].by_language] if len(self.measures[0].by_language) > 1 else []
        for language in (None, *sorted(languages)):
            rows = [COLUMNS, *(_row(each, language) for each in self.measures)]
            yield "" if language is None else f"\n{language}"
            yield from _table(rows)
        yield f"\n{ABOUT_COLUMNS}"
        for each in self.measures:
            if lost := each.whole.lost:
                share = show_share(lost / each.whole.characters)
                yield (
                    f"\n{each.table.name}: {lost} characters ({share}) do not come back: folded to others, or unknown. "
                    "Nobody predicts them"
                )
        for each in self.measures:
            yield f"\n{each.table.name}: frequent words in the most pieces"
            for found in each.shredded():
                yield f"    {found.word} ({found.count} times): {' '.join(found.pieces)}"


def measure_tokenizers(names: Sequence[str], texts: Iterable[str] | None, say: Say = silent) -> TokenizerPage:
    """Open tokenizers and cut the same texts with each.

    Args:
        texts: read once; None where nothing is to be cut.

    Raises:
        BaseError: as :func:`~afina.model.named_tokenizer.open_pieces`.
    """
    measures = [VocabularyMeasure(open_pieces(name, say)) for name in names]
    for text in texts or ():
        for each in measures:
            each.add([text])
    return TokenizerPage(measures, texts is not None)


def _identity(table: PieceTable) -> dict[str, Any]:
    made = {"tokenizer": table.name, "kind": table.kind, "sha256": table.sha256, "vocabulary": len(table)}
    return made | {"folds": list(table.folds)}


def _folds(folds: Sequence[str]) -> str:
    return f"; folds {in_words(folds, 'and')}" if folds else ""


def _special(table: PieceTable) -> int:
    return sum(piece.kind == "special" for piece in table.pieces)


def _row(measure: VocabularyMeasure, language: str | None) -> tuple[str, ...]:
    """A line of the table, in a language or over all texts."""
    cut = (measure.whole if language is None else measure.by_language[language]).as_json()
    used = show_share(len(measure.used) / max(1, measure.entries)) if language is None else ""
    return (
        measure.table.name,
        str(len(measure.table)),
        used,
        _figure(cut["characters_per_token"]),
        _figure(cut["tokens_per_word"]),
        show_share(cut["fallback_ratio"]),
        show_share(cut["short_ratio"]),
        show_share(cut["parts_ratio"]),
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows in columns, the first to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
