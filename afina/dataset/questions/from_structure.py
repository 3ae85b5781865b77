"""Questions and answers made from the structure of documents, by templates, without any model.

Documents go in one after the other (:meth:`QuestionMaker.add`); at the end :meth:`QuestionMaker.examples` gives the
questions. A question never has two answers: what a document says twice is joined, what two values
contradict is left out, and what is left out is counted with its reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from afina.dataset.questions.fact import Fact, is_not_said
from afina.dataset.questions.facts import subject_of
from afina.dataset.questions.labels import SINGLE, fold, label_key
from afina.dataset.questions.phrasings import phrase
from afina.dataset.questions.values import as_answer, plain, quiet_text
from afina.recipe import Recipe
from afina.text.document import Document, Message
from afina.text.example import Example
from afina.text.identity import normal, short_hash
from afina.text.personal_data import MASK
from afina.text.sections import Section

FEWEST_WORDS = 3
"""A section of fewer words makes no question."""
MOST_LABEL_CHARS = 120

_HEADING_LINE = re.compile(r"#{1,6}\s")
_NOTES = re.compile(r"release notes|changelog|change log|what'?s new|notas da versao|notas de lancamento|novidades")
_VERSION = re.compile(r"\bv?(\d+\.\d+(?:\.\d+)*(?:-[\w.]+)?)\b")
_PROJECT = re.compile(r"\bThe (\S+) (?:Programming Language|Project|Library)\b", re.I)
_LANGUAGES = {
    "cpp": "C++",
    "csharp": "C#",
    "javascript": "JavaScript",
    "typescript": "TypeScript",
    "sql": "SQL",
    "php": "PHP",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A fact with the file that tells it."""

    fact: Fact
    path: str
    sha256: str
    source: int
    line: int
    rows: range = range(0)
    """The examples of its document."""

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A fact that makes no question, and why."""

    reason: str
    told: Told

    @property
    def text(self) -> str:
        """The fact in one line."""
        fact = self.told.fact
        return f"{fact.subject} | {fact.label or fact.kind}: {'; '.join(fact.items)}"


@dataclass(frozen=True, slots=True)
class AskedFact:
    """A fact with the one answer that its questions have."""

    told: Told
    answer: str
    made: str
    group: str

    def question(self, language: str, number: int) -> str:
        """The phrasing with this number, from 0."""
        fact = self.told.fact
        return phrase(language, fact.kind, number, fact.subject, fact.label)


@dataclass
class QuestionMaker:
    """All facts of the documents seen, and the questions made of them."""

    recipe: Recipe
    left_out: list[LeftOut] = field(default_factory=list)
    asked: list[AskedFact] = field(default_factory=list)
    _told: dict[tuple[str, str, str], list[Told]] = field(default_factory=dict)

    def add(
        self,
        document: Document,
        sections: Sequence[Section],
        facts: Iterable[Fact],
        in_file: Callable[[int], int],
        rows: range = range(0),
    ) -> None:
        """Note what one document tells.

        Args:
            sections: of the document, as :func:`~afina.text.sections.split_sections` cuts it.
            facts: what :func:`~afina.dataset.questions.facts.find_facts` finds in it.
            in_file: turns a line of the text into one of the file.
            rows: numbers of the examples that the document became.
        """
        make = self.recipe.dataset.questions.make
        if "facts" in make:
            for fact in facts:
                if fact.kind != "name":
                    self._note(fact, document, in_file(fact.line + document.line - 1), rows)
        if "sections" in make and document.kind == "markdown":
            for fact in self._sections(document, sections, "section", subject_of(document)[0]):
                self._note(fact, document, in_file(fact.line), rows)
        if "changes" in make and (subject := release_of(document)):
            for fact in self._sections(document, sections, "change", subject):
                self._note(fact, document, in_file(fact.line), rows)
        if "programs" in make and (program := _program(document)):
            self._note(program, document, document.line, rows)

    def examples(self, rows: Iterable[Example], stays: Callable[[range], bool] = lambda _: True) -> list[Example]:
        """The questions, all trained phrasings of each fact; call it once, after the last document.

        Args:
            rows: examples that are there already: their prompts are not asked again.
            stays: whether any of these examples of a document stays; what only others told is not asked.
        """
        answers = {normal(row.prompt).casefold(): "" for row in rows if row.messages}
        settings = self.recipe.dataset
        count = settings.questions.phrasings + settings.hold_out_phrasings
        ambiguous = self._two_of_a_name()
        made: list[Example] = []
        for (subject, kind, _), every in self._told.items():
            told = list(self._usable(every, stays))
            if not told:
                continue
            if subject in ambiguous and kind not in ("change", "program"):
                self._leave("question: two subjects of one name", told)
                continue
            asked = self._settle(kind, told)
            if asked is None:
                continue
            prompts = [asked.question(settings.language, number) for number in range(count)]
            keys = [normal(prompt).casefold() for prompt in prompts]
            if any(key in answers for key in keys):
                taken = any(answers.get(key) == "" for key in keys)
                self._leave("question: asked in the sources already" if taken else "question: another answer", told)
                continue
            answers |= dict.fromkeys(keys, asked.answer)
            self.asked.append(asked)
            made += [self._example(asked, prompts[number], number) for number in range(settings.questions.phrasings)]
        self._told.clear()
        return made

    def _usable(self, told: Sequence[Told], stays: Callable[[range], bool]) -> Iterator[Told]:
        """What may be asked: told by a document that stays, and no personal data where the recipe drops that."""
        drops = self.recipe.dataset.personal_data == "drop"
        for one in told:
            if not stays(one.rows):
                self._leave("question: its document is left out", [one])
            elif drops and MASK.search(" ".join((one.fact.subject, one.fact.label, *one.fact.items))):
                self._leave("question: personal data", [one])
            else:
                yield one

    def probes(self, trained: Container[str]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        """Rows of ``probes-seen.jsonl`` and ``probes-unseen.jsonl``: facts that are trained, asked in a phrasing
        that is trained and in those that are held out.

        Args:
            trained: the groups of the questions in train.
        """
        settings = self.recipe.dataset
        seen, unseen = [], []
        first = settings.questions.phrasings
        for asked in self.asked:
            if asked.made.startswith("facts:") and asked.group in trained:
                seen.append(_row(asked, asked.question(settings.language, 0)))
                for number in range(first, first + settings.hold_out_phrasings):
                    unseen.append(_row(asked, asked.question(settings.language, number)))
        return seen, unseen

    def held_out_phrasings(self) -> dict[tuple[str, int], list[str]]:
        """(path, line) of each section that is asked about -> its question in the phrasings that are held out.

        What a section says is no answer to be given back word for word; :mod:`afina.dataset.questions.prose` marks it.
        """
        settings = self.recipe.dataset
        found: dict[tuple[str, int], list[str]] = {}
        first = settings.questions.phrasings
        for asked in self.asked:
            if asked.made in ("sections", "changes"):
                numbers = range(first, first + settings.hold_out_phrasings)
                prompts = [asked.question(settings.language, number) for number in numbers]
                found.setdefault((asked.told.path, asked.told.line), []).extend(prompts)
        return found

    def _note(self, fact: Fact, document: Document, line: int, rows: range) -> None:
        label = fold(fact.label) if fact.kind in ("section", "change", "program") else ""
        key = fold(fact.subject), fact.kind, label_key(fact.label) if fact.kind == "other" else label
        told = Told(fact, document.path, document.sha256, document.source, line, rows)
        self._told.setdefault(key, []).append(told)

    def _leave(self, reason: str, told: Sequence[Told]) -> None:
        self.left_out += [LeftOut(reason, one) for one in told]

    def _two_of_a_name(self) -> set[str]:
        """Subjects whose files give different years of birth: two people."""
        years: dict[str, dict[str, set[int]]] = {}
        for (subject, kind, _), told in self._told.items():
            if kind == "birth_date":
                for one in told:
                    if one.fact.date:
                        years.setdefault(subject, {}).setdefault(one.path, set()).add(one.fact.date[0])
        return {
            subject
            for subject, files in years.items()
            if any(not first & second for first in files.values() for second in files.values())
        }

    def _settle(self, kind: str, told: list[Told]) -> AskedFact | None:
        """The one answer of a fact that may be told several times; None where there is none (counted)."""
        said = []
        for one in told:
            items = tuple(item for item in one.fact.items if item and not is_not_said(item))
            if kind == "unread" or not items:
                self._leave("question: value that cannot be asked for", [one])
            else:
                said.append(replace(one, fact=replace(one.fact, items=items)))
        if not said:
            return None
        if kind in SINGLE:
            chosen = _one_value([one.fact for one in said])
            if chosen is None:
                self._leave("question: contradictory values", said)
                return None
            first = next(one for one in said if one.fact is chosen)
            answer = as_answer(chosen.items)
        elif kind in ("section", "change", "program"):
            if len({one.fact.items for one in said}) > 1:
                self._leave("question: one heading, several texts", said)
                return None
            first, answer = said[0], said[0].fact.items[0]
        else:
            first = said[0]
            elsewhere = [one for one in said if one.path != first.path]
            values = _joined([one.fact for one in said if one.path == first.path])
            if len(said) - len(elsewhere) > 1 and len(values) > 1 and all(len(one.fact.items) == 1 for one in said):
                values = ["; ".join(item.rstrip(".") for item in values)]
            answer = as_answer(values)
            self._leave(
                "question: told in another file too", [one for one in elsewhere if one.fact.items != first.fact.items]
            )
        if kind in ("nickname", "full_name") and set(_words(answer)) <= set(_words(first.fact.subject)):
            self._leave("question: the answer stands in the question", [first])
            return None
        if kind != "program" and len(answer.split()) > self.recipe.dataset.questions.max_answer_words:
            self._leave("question: answer too long", [first])
            return None
        fact = first.fact
        stage = {"section": "sections", "change": "changes", "program": "programs"}.get(kind, f"facts:{kind}")
        label = label_key(fact.label) if kind == "other" else fold(fact.label) if ":" not in stage else ""
        return AskedFact(first, answer, stage, short_hash(f"fact\0{fold(fact.subject)}\0{kind}\0{label}"))

    def _example(self, asked: AskedFact, prompt: str, number: int) -> Example:
        told, origin = asked.told, self.recipe.sources[asked.told.source]
        return Example(
            messages=(Message(role="user", content=prompt), Message(role="assistant", content=asked.answer)),
            path=told.path,
            line=told.line,
            sha256=told.sha256,
            heading=told.fact.heading,
            source=told.source,
            repeat=origin.repeat,
            replay=origin.replay,
            made=asked.made,
            phrasing=number + 1,
            group=asked.group,
        )

    def _sections(self, document: Document, sections: Sequence[Section], kind: str, subject: str) -> Iterator[Fact]:
        """One fact per heading whose text is whole in one section: its text without the heading."""
        parts = Counter(section.heading for section in sections)
        told = set()
        for section in sections:
            path = section.heading.split(" > ")
            label = plain(path[-1]).rstrip(":.! ")
            if len(path) < 2 or not subject or not label or len(label) > MOST_LABEL_CHARS:
                continue
            fact = Fact(subject, kind, ("",), section.line, label, section.heading)
            where = Told(fact, document.path, document.sha256, document.source, section.line)
            if parts[section.heading] > 1:
                if section.heading not in told:
                    self._leave("question: section too long", [where])
                told.add(section.heading)
                continue
            lines = section.text.split("\n")
            while lines and (not lines[0].strip() or _HEADING_LINE.match(lines[0])):
                lines.pop(0)
            text = quiet_text("\n".join(lines))
            if len(text.split()) < FEWEST_WORDS:
                self._leave("question: section too short", [where])
            elif text.endswith(":"):
                self._leave("question: section that only introduces others", [where])
            else:
                yield replace(fact, items=(text,))


def release_of(document: Document) -> str:
    """What a document of release notes is about, with its version; empty for any other document.

    >>> release_of(Document("n.md", "0" * 64, kind="markdown", title="0.14.0 Release Notes",
    ...                     meta={"page_title": "0.14.0 Release Notes - The Zig Programming Language"}))
    'Zig 0.14.0'
    """
    page = document.meta.get("page_title", "")
    if document.kind != "markdown" or not _NOTES.search(
        fold(f"{document.title} {page} {document.path.replace('-', ' ')}")
    ):
        return ""
    version = _VERSION.search(document.title) or _VERSION.search(page) or _VERSION.search(document.path)
    if not version:
        return ""
    project = _PROJECT.search(page)
    if project:
        name = project[1]
    else:
        name = _NOTES.sub("", _VERSION.sub("", document.title).casefold()).strip(" :-–—.")
        start = document.title.casefold().find(name)
        name = document.title[start : start + len(name)] if name and start >= 0 else "version"
    return f"{name} {version[1]}"


def _program(document: Document) -> Fact | None:
    """Code with its description (``meta["doc"]``), or the code that answers a titled problem."""
    language = document.meta.get("language", "")
    spoken = _LANGUAGES.get(language, language.capitalize())
    if document.kind == "code" and document.meta.get("doc", "").strip() and language:
        task = normal(document.meta["doc"])
        marks = "```" if "```" not in document.text else "````"
        answer = f"{marks}{language}\n{document.text.strip(chr(10))}\n{marks}"
    elif document.kind == "messages" and document.title and "solution" in document.meta and language:
        task, answer = plain(document.title), document.messages[-1]["content"]
    else:
        return None
    return Fact(spoken, "program", (answer,), document.line, task, document.title)


def _one_value(facts: Sequence[Fact]) -> Fact | None:
    """The fact whose value holds all the others; None where two contradict each other."""
    best = max(facts, key=lambda fact: (fact.date is not None and fact.date[2] > 0, len(fact.items[0])))
    for fact in facts:
        if best.date and fact.date:
            same = all(one == other or not other for one, other in zip(best.date, fact.date, strict=True))
        else:
            same = set(_words(fact.items[0])) <= set(_words(best.items[0]))
        if not same:
            return None
    return best


def _joined(facts: Sequence[Fact]) -> list[str]:
    """The items of facts of one file, without those whose words all stand in another."""
    items: list[str] = []
    for item in (item for fact in facts for item in fact.items):
        words = Counter(_words(item))
        if any(words <= Counter(_words(other)) for other in items) and len(facts) > 1:
            continue
        items = [other for other in items if len(facts) == 1 or not Counter(_words(other)) <= words]
        items.append(item)
    return items


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", fold(text))


def _row(asked: AskedFact, prompt: str) -> dict[str, object]:
    return {"prompt": prompt, "completion": asked.answer, "fact": asked.group}


def write_probes(file: Path, rows: Iterable[dict[str, object]]) -> None:
    """Write probes one a line, as `evaluate.probes` reads them."""
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
