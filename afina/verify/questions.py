"""The questions of a commitment, read back as what they were asked as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from afina.evaluate.choice import Choice
from afina.evaluate.probes import SAMPLES, ProbeSet, Question, question_id, stored_turns
from afina.evaluate.scores import ROLES
from afina.record import Record, read_rows
from afina.run import hash_value
from afina.text.document import Tool
from afina.tokenizer.chat import Renderer
from afina.verify.commitment import CHOICE, PROBES, QUESTION


@dataclass(frozen=True)
class CommittedQuestion:
    """A question, of which probe, and the hashes by which it is known."""

    probe: ProbeSet
    question: Question
    id: str
    asked: str
    """Of the tokens that it is asked in."""


@dataclass(frozen=True)
class CommittedProbes:
    """All that was committed to be asked."""

    probes: tuple[ProbeSet, ...]
    """In their order, with their questions or choices."""
    questions: tuple[CommittedQuestion, ...]
    """Of all probes, in their order, and then the samples."""

    @property
    def choices(self) -> list[tuple[ProbeSet, Choice]]:
        """Every choice, of which probe."""
        return [(probe, each) for probe in self.probes for each in probe.choices]


def asked_hash(renderer: Renderer, question: Question) -> str:
    """A hash of the tokens that a question is asked in: another template or tokenizer gives another."""
    return hash_value(renderer.prompt(question.messages, question.tools))[:16]


def read_committed(folder: Path) -> CommittedProbes:
    """The questions in a folder.

    Raises:
        AfinaError: the file is damaged, or a question is not the one that its id stands for.
    """
    rows = read_rows(folder / PROBES, whole_characters=True) or []
    sets: dict[int, list[Record]] = {}
    for row in rows:
        if row.required_text("kind") not in (CHOICE, QUESTION):
            raise row.wrong("kind", f"{QUESTION} or {CHOICE}", row["kind"])
        sets.setdefault(row.required_whole("set"), []).append(row)
    probes: list[ProbeSet] = []
    asked: list[CommittedQuestion] = []
    for number in sorted(sets):
        probe, found = _probe(sets[number])
        asked += found
        probes += [] if probe is SAMPLES else [probe]
    return CommittedProbes(tuple(probes), tuple(asked))


def _probe(rows: Sequence[Record]) -> tuple[ProbeSet, list[CommittedQuestion]]:
    """One probe, and its questions."""
    name, role = rows[0].required_text("probe"), rows[0].required_text("role")
    probe = SAMPLES if (name, role) == (SAMPLES.name, SAMPLES.role) else ProbeSet(name, role)
    if probe is not SAMPLES and role not in ROLES:
        raise rows[0].wrong("role", f"one of {', '.join(ROLES)}", role)
    choices = tuple(_choice(row) for row in rows if row["kind"] == CHOICE)
    questions = [(row, _question(row)) for row in rows if row["kind"] == QUESTION]
    if probe is not SAMPLES:
        probe = replace(probe, questions=tuple(each for _, each in questions), choices=choices)
    found = []
    for row, question in questions:
        if row.required_text("id") != question_id(probe, question):
            raise row.wrong("id", f"{question_id(probe, question)}, as the question is", row["id"])
        found.append(CommittedQuestion(probe, question, row["id"], row.required_text("asked")))
    return probe, found


def _question(row: Record) -> Question:
    if not row.records("messages"):
        raise row.wrong("messages", "one at least", row.values.get("messages"))
    return Question(
        stored_turns(row),
        row.required_text("reference"),
        f"{PROBES}:{row.where.rpartition(':')[2]}",
        new=tuple(row.texts("new")),
        old=tuple(row.texts("old")),
        tools=tuple(map(_tool, row.records("tools"))),
        cluster=row.text("cluster") or "",
        terms=tuple(row.texts("terms")),
        of_any_length=row.required_flag("of_any_length"),
    )


def _tool(tool: Record) -> Tool:
    tool.required_record("function").required_text("name")
    return dict(tool.values)


def _choice(row: Record) -> Choice:
    sentences, terms = tuple(row.texts("sentences")), tuple(row.texts("terms"))
    if len(sentences) != len(terms) or len(sentences) < 2:
        raise row.wrong("sentences", "as many as there are terms, two at least", len(sentences))
    return Choice(row.required_text("prompt"), sentences, terms, row.where, row.text("cluster") or "")
