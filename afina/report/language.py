"""The language of a page: its words from a catalogue, its numbers and dates as that language writes them.

English stands in the code and the templates themselves, as gettext has it; ``words/`` holds a file for each other
language, in gettext's own format. The language is that of the page being written (:func:`in_language`) and English
everywhere else, so that a terminal and a program see the figures as they always were.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from gettext import GNUTranslations, NullTranslations
from importlib.resources import files

from babel.dates import format_datetime
from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import get_decimal_symbol, get_group_symbol

ENGLISH = "en"
LANGUAGES = (ENGLISH, "pt-BR", "pt-PT")
"""Those that a page can be in: the values of a recipe's ``dataset.language``."""
_MOMENT = {ENGLISH: "yyyy-MM-dd HH:mm:ss"}
"""Patterns of dates where Babel's own may be read in two ways."""

_current: ContextVar[str] = ContextVar("language of the page", default=ENGLISH)


def language() -> str:
    """The language of the page that is being written."""
    return _current.get()


@contextmanager
def in_language(tag: str) -> Iterator[None]:
    """Write a page in one of :data:`LANGUAGES`."""
    if tag not in LANGUAGES:
        raise ValueError(f"{tag!r} is none of {', '.join(LANGUAGES)}")
    before = _current.set(tag)
    try:
        yield
    finally:
        _current.reset(before)


def tr(text: str, /, **values: object) -> str:
    """A text of ours in the language of the page, with values at its ``{names}``.

    >>> with in_language("pt-PT"):
    ...     tr("The first {n} of {total}", n=12, total=15)
    'As primeiras 12 de 15'
    """
    return label(text).format(**values)


def trn(one: str, many: str, n: int, /, **values: object) -> str:
    """The same of a text that has a plural; ``{n}`` is the number.

    >>> trn("{n} file was not read", "{n} files were not read", 1200)
    '1,200 files were not read'
    """
    return catalogue(language()).ngettext(one, many, n).format(n=figure(f"{n:,}"), **values)


def label(text: str, context: str | None = None) -> str:
    """A text in the language of the page; as it is, where the catalogue has none.

    Args:
        context: what the text is said of, where one English word needs several of another language.
    """
    if not text:
        return ""
    return catalogue(language()).gettext(text) if context is None else catalogue(language()).pgettext(context, text)


def mark(text: str) -> str:
    """The text itself: tells those who collect texts that it will be looked up by :func:`label`."""
    return text


def mark_of(context: str, text: str) -> str:
    """The same of a text with a context."""
    del context
    return text


ANSWER, PROBE = "answer", "probe"
"""Contexts: what a single answer is; names that afina gave to probes, which a user's may be like."""


def figure(text: str) -> str:
    """A number as Python writes it, or text that holds one and no other point or comma, as the language writes it.

    >>> with in_language("pt-BR"):
    ...     figure("1,234.5"), figure("US$ 0.71")
    ('1.234,5', 'US$ 0,71')
    """
    return text.translate(_separators(language()))


def moment(seconds: float) -> str:
    """Unix seconds as date and time in UTC.

    >>> moment(0)
    '1970-01-01 00:00:00 UTC'
    >>> with in_language("pt-PT"):
    ...     moment(0)
    '01/01/1970, 00:00:00 UTC'
    """
    tag = language()
    at = datetime.fromtimestamp(seconds, tz=UTC)
    return format_datetime(at, _MOMENT.get(tag, "medium"), locale=tag.replace("-", "_")) + " UTC"


@cache
def _separators(tag: str) -> dict[int, str]:
    locale = tag.replace("-", "_")
    return str.maketrans({".": get_decimal_symbol(locale), ",": get_group_symbol(locale)})


@cache
def catalogue(tag: str, package: str = "afina.report") -> NullTranslations:
    """The words of a language, from the folder ``words`` of a package; English has none, and needs none."""
    if tag == ENGLISH:
        return NullTranslations()
    compiled = io.BytesIO()
    write_mo(compiled, read_catalogue(tag, package))
    compiled.seek(0)
    return GNUTranslations(compiled)


def read_catalogue(tag: str, package: str = "afina.report") -> Catalog:
    """The same as Babel reads it: each text with its translation."""
    text = files(package).joinpath("words", f"{tag}.po").read_text(encoding="utf-8")
    return read_po(io.StringIO(text), locale=tag.replace("-", "_"))
