"""The texts of a build that questions about prose are made of, and the file that holds those questions.

In ``dataset.json`` ``prose`` says what became of them (:class:`~afina.dataset.questions.prose.ProseSet`); ``probes``
beside it, with `dataset.hold_out_phrasings`, how many rows each file of probes holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.dataset.build.choose import TEST, TRAIN, VALIDATION
from afina.dataset.build.corpus import Corpus
from afina.dataset.questions.prose import MOST_CHARS, AskedBefore, prose_questions
from afina.dataset.questions.prose_corpus import cut_sections, is_prose
from afina.run import parse_json
from afina.text.example import Example
from afina.text.prose_question import PROSE_FILE, write_prose


class ProseRows:
    """Takes the lines of a build's examples that are texts of documents, as they are written: at most
    :data:`~afina.dataset.questions.prose.MOST_CHARS` characters, of more those of the smallest hash."""

    def __init__(self, corpus: Corpus) -> None:
        import numpy as np

        columns, sources = corpus.columns, corpus.recipe.sources
        source, path = np.frombuffer(columns.source, np.uint16), np.frombuffer(columns.path, np.uint32)
        _, first = np.unique(path, return_index=True)
        of_path = [is_prose(columns.paths[path[row]], sources[source[row]].kind) for row in first.tolist()]
        kept = np.array(of_path or [False])[path] & np.isin(corpus.fate, (TRAIN, VALIDATION, TEST))
        kept &= (np.arange(len(columns)) < corpus.read) & (np.frombuffer(columns.conversation, np.uint8) == 0)
        kept &= ~np.array([each.replay for each in sources])[source]
        (rows,) = np.nonzero(kept)
        rows = rows[np.argsort(np.frombuffer(columns.content, np.uint64)[rows], kind="stable")]
        fits = np.cumsum(np.frombuffer(columns.chars, np.uint64)[rows]) <= MOST_CHARS
        self.corpus, self.passed_over = corpus, int((~fits).sum())
        self._wanted = frozenset(rows[fits].tolist())
        self._held_out = (
            frozenset(row for row in self._wanted if corpus.fate[row] != TRAIN) - self._trained_by_questions()
        )
        self._lines: list[tuple[bytes, bool]] = []

    def _trained_by_questions(self) -> set[int]:
        """Texts that are held out and of which made questions are trained all the same."""
        columns, fate = self.corpus.columns, self.corpus.fate
        lines: dict[str, list[tuple[int, int]]] = {}
        for row in sorted(self._wanted):
            lines.setdefault(columns.paths[columns.path[row]], []).append((columns.line[row], row))
        for texts in lines.values():
            texts.sort()
        found = set()
        for row in columns.made:
            texts = lines.get(columns.paths[columns.path[row]], [])
            if fate[row] == TRAIN and (place := bisect_right(texts, (columns.line[row], len(columns)))):
                found.add(texts[place - 1][1])
        return found

    def take(self, row: int, line: bytes) -> None:
        """Keep a line that is wanted."""
        if row in self._wanted:
            self._lines.append((line, row in self._held_out))

    def write(self, folder: Path, held_out_phrasings: Mapping[tuple[str, int], Sequence[str]]) -> dict[str, Any]:
        """Write ``prose.jsonl``, where there is a question, and say what became of the sections.

        Args:
            folder: of the dataset.
            held_out_phrasings: see :class:`~afina.dataset.questions.prose.AskedBefore`.

        Returns:
            What ``dataset.json`` says of it; nothing where no text of a document was learned.
        """
        if not self._lines and not self.passed_over:
            return {}
        recipe, columns = self.corpus.recipe, self.corpus.columns
        sections = (
            section
            for line, held_out in self._lines
            for section in cut_sections(Example.from_json(parse_json(line)), recipe, held_out=held_out)
        )
        made = prose_questions(recipe, sections, AskedBefore(frozenset(columns.group), held_out_phrasings))
        if made.questions:
            write_prose(folder / PROSE_FILE, made.questions)
        summary = made.summary | {"passed_over": self.passed_over}
        return summary | {"missing": self._missing(summary, bool(held_out_phrasings))}

    def _missing(self, summary: Mapping[str, Any], phrasings: bool) -> list[str]:
        """What the recipe sets aside to measure by and what leaves no question, in words."""
        settings, said = self.corpus.recipe.dataset, []
        why = ", ".join(f"{count} with {reason}" for reason, count in list(summary["none"].items())[:3])
        if not summary["asked"]:
            said.append(f"no question about the texts can be marked: of {summary['sections']} sections {why}")
        elif not summary["held_out"] and settings.validation:
            held_out = sum(held for _, held in self._lines)
            because = f"none of the {held_out} texts held out gave one" if held_out else "no text is held out"
            said.append(f"no question about a text that is not trained: {because}")
        if settings.hold_out_phrasings and not phrasings:
            said.append(
                "no phrasing of a section is held out: `dataset.questions.make` asks for no sections or changes"
            )
        return said
