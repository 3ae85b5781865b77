"""One fact, and how a label with its value becomes facts of a kind that can be asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from afina.dataset.questions.labels import NOT_SAID, PERSONAL, fold, label_key
from afina.dataset.questions.values import Date, date_and_place, read_date, show_date, show_list

SPANS = {"player_career": "playing_years", "coach_career": "coaching_years"}
"""Kinds that are asked for otherwise where their value is nothing but a span of years."""
YEARS_FIRST = re.compile(r"\d{4}\s*[-–]\s*(?:\d{4}|\?)(?:\s*\([^)]*\))?$")
_YEARS = re.compile(r"\d{2,4}\s*[-–]\s*\d{2,4}")


@dataclass(frozen=True, slots=True)
class Fact:
    """One label with its value, and where it stands."""

    subject: str
    kind: str
    """One of the kinds of :data:`~afina.dataset.questions.labels.LABELS`, or ``other``."""
    items: tuple[str, ...]
    """The value, cleaned; several where it is a list."""
    line: int
    """In the document's text, counted from 1."""
    label: str = ""
    heading: str = ""
    date: Date | None = None
    """Of a birth or a death, for comparing."""


def typed(
    subject: str, kind: str, label: str, items: Sequence[str], line: int, heading: str, language: str
) -> Iterator[Fact]:
    """A label with its value as one or two facts of a kind that can be asked for."""
    if kind == "name":
        yield Fact(subject, "name", tuple(items), line, label, heading)
        return
    if kind in ("born", "died", "birth_date", "death_date") and len(items) == 1:
        start = "birth" if kind in ("born", "birth_date") else "death"
        date, place, read = date_and_place(items[0], language)
        if date:
            yield Fact(subject, f"{start}_date", (date,), line, label, heading, read)
        if place and kind in ("born", "died"):
            yield Fact(subject, f"{start}_place", (place,), line, label, heading)
        return
    if kind in ("position", "role") and len(items) == 1:
        items = [show_list(items[0], language)]
    if kind == "career" and not (len(items) == 1 and _YEARS.search(items[0])):
        kind, label = ("whole_career", label) if len(items) > 1 else ("other", label)
    if kind in SPANS and len(items) == 1 and YEARS_FIRST.match(items[0]):
        kind = SPANS[kind]
    if len(items) == 1 and (found := read_date(items[0], language)) and not found[1] and found[0][1]:
        items = [show_date(found[0], language)]
    if kind == "height":
        items = [re.sub(r"^(\d)[.,](\d\d) ?m?$", r"\1,\2 m" if language.startswith("pt") else r"\1.\2 m", items[0])]
    if kind == "other" and heading and label_key(heading) not in PERSONAL | {label_key(subject)}:
        label = label if label_key(label) == label_key(heading) else f"{heading}: {label}"
    yield Fact(subject, kind, tuple(items), line, label, heading)


def is_not_said(value: str) -> bool:
    """Whether a value only says that there is none.

    >>> is_not_said("Dados não especificados"), is_not_said("Faro")
    (True, False)
    """
    return NOT_SAID.fullmatch(fold(value).strip(" .")) is not None
