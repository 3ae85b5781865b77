"""The templates of the page: every value is escaped, and what cannot be printed is shown by its code.

Sections compute plain values and hand them to a template of this folder. What stands in a table's cell is text, or one
of the kinds below, which ``parts.html`` knows how to write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from afina.report.labels import number, with_unit, words
from afina.report.language import language, tr, trn
from afina.report.sentences import StoredSentence, retold

# Everything below space but tab and line feed, DEL, C1, and halves of surrogate pairs: not allowed in a page,
# but models write them, so they are shown by their code. Marks that turn the direction of the
# text around could make an answer read as something else: shown too.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_PARTED = re.compile(r"(?<=\d) (?=%)|(?<=[<>]) (?=[\d.,]+ %)")


@dataclass(frozen=True)
class Strong:
    """A figure, and smaller lines below it."""

    strong: str
    small: Sequence[str] = ()


@dataclass(frozen=True)
class Quiet:
    """A remark in a quieter colour, e.g. that something was not measured."""

    quiet: str


@dataclass(frozen=True)
class Monospaced:
    """A hash or a path in type of one width; a remark where there is none."""

    code: str | None


@dataclass(frozen=True)
class Marked:
    """Text with a class of the style sheet."""

    marked: str
    kind: str


@dataclass(frozen=True)
class Value:
    """Any plain value, with the unit that its key tells."""

    key: str
    plain: object


@dataclass(frozen=True)
class Total:
    """The head of a last row."""

    total: str


@dataclass(frozen=True)
class Stacked:
    """Text, and smaller text below it; a beginning of the hash `whole` where that is given."""

    above: str | None
    below: str
    whole: str | None = None


@dataclass(frozen=True)
class Heading:
    """What is said of a run: `state` is good, partly, bad or open; `word` says the same without colours."""

    state: str
    word: str
    sentence: str
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not measured: no failure, but a reader has to know."""

    @property
    def icon(self) -> str:
        """The path of its picture, 16 x 16."""
        return _ICON[self.state]


_ICON = {
    "good": "M3 8.5l3.2 3.2L13 5",
    "partly": "M8 2.5v7M8 12.2v.6",
    "bad": "M4 4l8 8M12 4l-8 8",
    "open": "M3.5 8h9",
}

Cell: TypeAlias = str | Strong | Quiet | Monospaced | Marked | Value | Total | Stacked | Heading | Markup | None


def not_measured() -> Quiet:
    """The remark where a figure was not measured."""
    return Quiet(tr("not measured"))


def not_recorded() -> Quiet:
    """The remark where a run did not note something."""
    return Quiet(tr("not recorded"))


def render(template: str, /, **values: object) -> Markup:
    """What a template of this folder makes of the values."""
    return Markup(environment().get_template(template).render(**values))


def macro(template: str, name: str, /, *values: object) -> Markup:
    """What one macro of a template makes of the values."""
    return Markup(getattr(environment().get_template(template).module, name)(*values))


def table(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], numbers: Sequence[int] = (), kind: str = "") -> Markup:
    """A table in a frame that scrolls sideways; the columns in `numbers` (from 0) are aligned as numbers."""
    return macro("parts.html", "table", head, rows, numbers, kind)


@cache
def environment() -> Environment:
    """Jinja with everything escaped; a name that is not there is an error."""
    made = Environment(
        loader=FunctionLoader(lambda name: files("afina.report").joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"words": words, "number": number, "with_unit": with_unit, "told": _told}
    made.filters |= {"backticks": _backticks, "columns": _columns, "unparted": _unparted}
    made.globals |= {"tr": tr, "trn": trn, "language": language}
    return made


def _printable(value: object) -> object:
    """What is written for a value: nothing for None, unprintable characters by their code."""
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _UNSHOWABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", value.replace("\r\n", "\n"))


def _told(text: str) -> str | None:
    """A sentence in the language of the page; None for one of a file that stays English."""
    return retold(text) if isinstance(text, StoredSentence) else text


def _unparted(text: str) -> str:
    """A sentence or figure of ours in which no line ends between a number and its percent sign.

    >>> _unparted("broke 61,5 % of it, < 0,01 %")
    'broke 61,5\\xa0% of it, <\\xa00,01\\xa0%'
    """
    return text if isinstance(text, Markup) else _PARTED.sub("\xa0", text)


def _backticks(text: str) -> list[tuple[str, bool]]:
    """A sentence of ours in parts, and whether each is code: it stands between backticks.

    >>> _backticks("set `a: <b>`")
    [('set ', False), ('a: <b>', True), ('', False)]
    """
    parts = text.split("`")
    return [(text, False)] if len(parts) % 2 == 0 else [(part, n % 2 == 1) for n, part in enumerate(parts)]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """The keys of rows, and whether all that stands under one is a number."""
    keys = dict.fromkeys(str(name) for row in rows for name in row)
    return {key: all(isinstance(row.get(key, 0), int | float | None) for row in rows) for key in keys}
