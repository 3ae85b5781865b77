"""The sections of all documents with their sentences and terms: what questions about prose are made of.

:class:`ProseCorpus` also finds distractors: other terms of the same kind from the same documents, with which a sentence
is no longer true.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import PurePath
from typing import Literal, get_args

from afina.dataset.questions.labels import fold
from afina.recipe import METHODS, FileKind, Recipe
from afina.text.document import Document
from afina.text.example import Example
from afina.text.formats import format_as, format_of, has_own_lines
from afina.text.identity import normal, short_hash
from afina.text.key_terms import Term, TermTable
from afina.text.passages import Passage, passages, sentences
from afina.text.personal_data import MASK
from afina.text.prose_question import CHOICES
from afina.text.sections import split_sections

NEAR_SECTIONS, NEAR_SHARE = 30, 0.25
"""Sections about the same thing: the widest part of a document (the file, a chapter, ...) of no more than these."""
LENGTHS = 2.0
"""A distractor is at most so many times longer or shorter."""
FEWEST_WORDS, MOST_WORDS = 6, 40
"""Of a sentence that is asked about."""
TELLING_SHARE = 0.2
"""Of the places of a name: from there on an article or "in" tells what it is."""
NO_GAP = ("code:other", "code:number", "code:small", "number:", "title")
"""Kinds whose terms are no gap: few others fit in the place of an expression or a title, and a bare number or a keyword
is often true elsewhere."""
NUMBERS = ("year", "number:")
"""What the kinds begin with that have a size: as a distractor the nearest are the hardest to tell."""
_SECTION_CHARS = 8000
"""Of a section, where the documents are trained whole."""
FEWEST_SMALL = 3
"""Words with a small letter, of a sentence: names alone say nothing."""
_SMALL = re.compile(r"(?<![\w`@.])[a-zà-öø-ÿ]+(?!\w)")
_GLUED = re.compile(r"\||[a-zà-öø-ÿ][.!?][A-ZÀ-ÖØ-Þ][a-zà-öø-ÿ]|[a-z][A-Z][a-z]+ \d")
"""Pieces of a page that stood apart, in one line."""
SEE_ALSO = frozenset(("see also", "related", "ver também", "veja também", "ver tambem", "further reading"))
"""What stands above a list of links, which says nothing itself."""
_ENDS = re.compile(r"[.!…][\"'”’»)\]]*$")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a section."""

    text: str
    line: int
    """In the file."""
    terms: tuple[Term, ...]
    apart: bool = False
    """Whether it belongs to the document and no longer to the heading above (:attr:`Passage.apart`)."""


@dataclass(slots=True)
class ProseSection:
    """One section of a document."""

    path: str
    heading: str
    """Path of headings, the document's title first."""
    line: int
    text: str
    held_out: bool
    markdown: bool
    passages: list[Passage] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)
    keys: frozenset[str] = frozenset()
    """Of all its terms."""

    @property
    def place(self) -> tuple[str, list[str]]:
        """File and headings, to sort by: what belongs to one chapter lies side by side."""
        return self.path, self.heading.split(" > ") if self.heading else []

    @property
    def name(self) -> str:
        """File and headings: what its questions are counted under."""
        return f"{self.path} > {self.heading}" if self.heading else self.path

    @property
    def subject(self) -> str:
        """What the document is about: its title up to a colon, else the name of its file."""
        title = self.heading.split(" > ")[0].partition(": ")[0].strip(" *#:.")
        return title or PurePath(self.path).stem.replace("_", " ").replace("-", " ").strip()

    @property
    def label(self) -> str:
        """The section's own heading; empty where that is the document's."""
        last = self.heading.split(" > ")[1:]
        return last[-1].strip(" *#:.!") if last else ""


def gives(path: str, kind: str) -> str:
    """What the documents of a file are: ``markdown``, ``text``, ``code`` or ``rows``.

    Args:
        kind: of the source, as the recipe says it.
    """
    known = next((each for each in get_args(FileKind) if each == kind), None)
    found = format_as(path, known) if known else format_of(path)
    return found.gives if found else "markdown"


def is_prose(path: str, kind: str) -> bool:
    """Whether a file's texts are prose.

    >>> is_prose("a.md", "auto"), is_prose("a.zig", "auto"), is_prose("a.jsonl", "auto"), is_prose("a.new", "text")
    (True, False, False, True)
    """
    return gives(path, kind) in ("markdown", "text")


def cut_sections(example: Example, recipe: Recipe, *, held_out: bool) -> Iterator[ProseSection]:
    """The sections of a dataset's text that a document gave; none of a row's text, of code, and of replay.

    A document that is trained whole is cut here at its headings.
    """
    kind = recipe.sources[example.source].kind
    if example.messages or example.replay or not is_prose(example.path, kind):
        return
    body = example.text.removeprefix(f"{example.heading}\n\n") if example.heading else example.text
    markdown = gives(example.path, kind) == "markdown"
    if not METHODS[recipe.method_of(example.source, "text")].every_token:
        yield ProseSection(example.path, example.heading, example.line, body, held_out, markdown)
        return
    form: Literal["markdown", "text"] = "markdown" if markdown else "text"
    document = Document(example.path, example.sha256, example.line, form, example.heading, body)
    for section in split_sections(document, _SECTION_CHARS):
        line = section.line if has_own_lines(example.path) else example.line
        yield ProseSection(example.path, section.heading, line, section.text, held_out, markdown)


@dataclass
class ProseCorpus:
    """All sections, and where each term stands."""

    sections: list[ProseSection]
    table: TermTable = field(default_factory=TermTable)
    where: dict[str, list[int]] = field(default_factory=dict)
    """Term -> the sections that hold it, by their position."""
    repeated: set[str] = field(default_factory=set)
    """Sentences that stand in several sections."""
    _pools: dict[tuple[str, str], list[Term]] = field(default_factory=dict)
    """Kind and frame -> its terms, each once: numbers by their size, others in the order of their hashes."""
    _frames: dict[str, Counter[str]] = field(default_factory=dict)
    """Name -> the frames that it stands in."""
    _near: list[range] = field(default_factory=list)
    _last_near: tuple[range, str] = (range(0), "")

    def __post_init__(self) -> None:
        self.sections.sort(key=lambda section: (*section.place, section.line, section.text))
        for section in self.sections:
            self.table.learn_words(section.text)
        said: Counter[str] = Counter()
        found: dict[tuple[str, str], Term] = {}
        for number, section in enumerate(self.sections):
            self._read(section)
            keys = {term.key for sentence in section.sentences for term in sentence.terms}
            section.keys = frozenset(keys)
            self.table.add(keys)
            for key in keys:
                self.where.setdefault(key, []).append(number)
            said.update({normal(sentence.text).casefold() for sentence in section.sentences})
            for sentence in section.sentences:
                for term in sentence.terms:
                    found.setdefault((term.key, term.kind), term)
                    if term.kind.startswith("name:"):
                        self._frames.setdefault(term.key, Counter())[term.frame] += 1
        self.repeated = {text for text, count in said.items() if count > 1}
        for (key, kind), term in sorted(found.items(), key=lambda item: short_hash("\0".join(item[0]))):
            if may_be_gap(term) and self.table.rare(term):
                self._pools.setdefault((kind, self.usual_frame(key)), []).append(term)
        for (kind, _), pool in self._pools.items():
            if kind.startswith(NUMBERS):
                pool.sort(key=lambda term: (number_in(term.text), term.key))
        self._near = [self._neighbourhood(number) for number in range(len(self.sections))]

    def _read(self, section: ProseSection) -> None:
        section.passages = passages(section.text, markdown=section.markdown)
        own_lines = has_own_lines(section.path)
        section.sentences = []
        links = False
        for passage in section.passages:
            links = passage.text.rstrip(": ").casefold() in SEE_ALSO or (links and passage.list_number != 0)
            if links or "|" in passage.text:  # a table that the page's Markdown could not hold
                continue
            line = section.line + passage.line - 1 if own_lines else section.line
            for text in sentences(passage.text):
                section.sentences.append(Sentence(text, line, tuple(self.table.find(text)), passage.apart))

    def usual_frame(self, key: str) -> str:
        """In which frame a name mostly stands ("no Benfica", "em Faro", "com Celso"); empty where only lists hold it,
        and for any other term."""
        counts = self._frames.get(key, Counter())
        known = sum(count for frame, count in counts.items() if frame)
        told = [(count, frame) for frame, count in counts.items() if frame and frame != "bare"]
        if told and max(told)[0] >= TELLING_SHARE * known:
            return max(told)[1]
        return "bare" if known else ""

    def askable(self, sentence: Sentence) -> bool:
        """Whether a sentence can be asked about: a whole one of a fair length that is said in one section alone."""
        text = sentence.text
        words = len(text.split())
        if not FEWEST_WORDS <= words <= MOST_WORDS or not _ENDS.search(text) or text.count("`") % 2:
            return False
        if len(_SMALL.findall(text)) < max(FEWEST_SMALL, words // 3) or MASK.search(text) or _GLUED.search(text):
            return False
        return normal(text).casefold() not in self.repeated

    def _neighbourhood(self, number: int) -> range:
        """The sections about the same thing as one: they lie side by side."""
        most = max(1, min(NEAR_SECTIONS, int(NEAR_SHARE * len(self.sections))))
        path, headings = self.sections[number].place
        for depth in range(len(headings) + 1):
            chapter = path, headings[:depth]
            first = bisect_left(self.sections, chapter, key=lambda section: section.place)
            within = takewhile(
                lambda section: (section.path, section.place[1][:depth]) == chapter,  # noqa: B023
                islice(self.sections, first, first + most + 1),
            )
            if (count := sum(1 for _ in within)) <= most and first <= number < first + count:
                return range(first, first + count)
        return range(number, number + 1)

    def near(self, number: int) -> range:
        """The sections that are about the same thing as one, itself among them."""
        return self._near[number]

    def _text_near(self, near: range) -> str:
        if self._last_near[0] != near:
            self._last_near = near, normal(" ".join(self.sections[each].text for each in near)).casefold()
        return self._last_near[1]

    def distractors(self, number: int, sentence: Sentence, gap: Term) -> list[str]:
        """Seven terms that make a sentence false where they stand in the place of `gap`; none where there are fewer.

        They are of its kind and its form, rare as it is, stand nowhere near the section, and in no section together
        with another rare term of the sentence: there it could be true.

        Args:
            number: the sentence's section, by its position.
            sentence: which holds the gap once.
            gap: one of its terms.
        """
        frame = self.usual_frame(gap.key)
        pool = self._pools.get((gap.kind, frame), [])
        if len(pool) < CHOICES or frame != gap.frame or (gap.kind.startswith("name:") and not frame):
            return []
        near = self.near(number)
        near_text = self._text_near(near)
        others = [term for term in sentence.terms if term.key != gap.key and self.table.rare(term)]
        elsewhere = {section for term in others for section in self.where[term.key]}
        before = sentence.text[: gap.start].rsplit(None, 1)
        article = before[-1].casefold() if before else ""
        begin = int(short_hash(f"{self.sections[number].name}\0{sentence.text}"), 16)
        kept: list[str] = []
        said = _words(gap.key)
        for term in around(pool, gap, begin) if gap.kind.startswith(NUMBERS) else rotated(pool, begin):
            words = _words(term.key)
            # Two names with one word in common may be one person, club or place.
            same = bool(words & said) if gap.kind.startswith("name:") else words <= said
            if same or term.key in near_text or not alike(gap, term, article):
                continue
            if any(each in near or each in elsewhere for each in self.where[term.key]):
                continue
            kept.append(term.text)
            if len(kept) == CHOICES - 1:
                return kept
            if gap.kind.startswith("name:"):
                said |= words
        return []


def may_be_gap(term: Term) -> bool:
    """Whether other terms of its kind can stand in its place."""
    return not any(term.kind == kind or (kind == "title" and term.kind.startswith(kind)) for kind in NO_GAP)


def number_in(text: str) -> float:
    """The first number of a term, by which terms of one kind are ordered.

    >>> number_in("3.000 sócios"), number_in("1987/88"), number_in("5 de março de 1964")
    (3000.0, 1987.0, 1964.0)
    """
    found = re.findall(r"\d+", re.sub(r"(?<=\d)[. ](?=\d{3}(?!\d))", "", text))
    year = next((digits for digits in found if len(digits) == 4), found[0])
    return float(year)


def rotated(pool: Sequence[Term], begin: int) -> Iterator[Term]:
    """All terms of a pool, from one of them on."""
    return (pool[(begin + step) % len(pool)] for step in range(len(pool)))


def around(pool: Sequence[Term], gap: Term, side: int) -> Iterator[Term]:
    """The terms of an ordered pool, those nearest in size first.

    Args:
        side: of the first seven, this modulo eight are smaller than the gap, so that the true number is no more often
            the middle one than the least or the greatest.
    """
    place = bisect_left(pool, number_in(gap.text), key=lambda term: number_in(term.text))
    smaller, larger = list(reversed(pool[:place])), list(pool[place:])
    wanted = side % CHOICES
    while smaller or larger:
        below = bool(smaller) and (wanted > 0 or not larger)
        wanted -= below
        yield (smaller if below else larger).pop(0)


def _words(key: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", key))


def alike(gap: Term, other: Term, article: str = "") -> bool:
    """Whether nothing of the form tells two terms apart: length, capitals, marks, what follows "a" or "an".

    >>> alike(Term("`@as`", "code:builtin", 0), Term("`@bitCast`", "code:builtin", 0))
    False
    """
    short, long = sorted((len(gap.text.strip("`")), len(other.text.strip("`"))))
    if long > LENGTHS * short and not gap.kind.startswith(("number", "year", "date")):
        return False
    first, second = (fold(term.text.strip("`@-. "))[:1] for term in (gap, other))
    if article in ("a", "an") and (first in "aeiou") != (second in "aeiou"):
        return False
    return gap.text[:1].isupper() == other.text[:1].isupper() and gap.text.isupper() == other.text.isupper()
