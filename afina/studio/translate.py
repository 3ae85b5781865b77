"""The studio's words: English stands in code, templates and modules as ``_("...")``, other languages in ``words/``.

The same mechanism as the report's (:mod:`afina.report.language`), with catalogues of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from afina.report.language import ENGLISH, catalogue, figure, in_language, read_catalogue
from afina.report.sentences import StoredSentence, retold

PACKAGE = "afina.studio"


def word(tag: str, text: str, /, **values: object) -> str:
    """A text in the language `tag`, with values at its ``{names}``; English where the catalogue has none.

    >>> word("pt-BR", "Runs"), word("en", "{n} of {total}", n=1, total=2)
    ('Execuções', '1 of 2')
    """
    return catalogue(tag, PACKAGE).gettext(text).format(**values)


def words(tag: str, one: str, many: str, n: int, /, **values: object) -> str:
    """The same of a text that has a plural; ``{n}`` is the number."""
    with in_language(tag):
        shown = figure(f"{n:,}")
    return catalogue(tag, PACKAGE).ngettext(one, many, n).format(n=shown, **values)


def sentence_values(text: str) -> dict[str, str | None]:
    """A sentence as a page of the language of now shows it: ``text``, and as ``lang`` the language that it stays in
    where it is not the page's.

    >>> sentence_values(StoredSentence("no probes"))
    {'text': 'no probes', 'lang': None}
    """
    told = retold(text) if isinstance(text, StoredSentence) else text
    return {"text": text, "lang": ENGLISH} if told is None else {"text": told, "lang": None}


@cache
def all_words(tag: str) -> dict[str, Any]:
    """What the browser needs: ``language``, and ``words`` from English to text, or to both forms of a plural."""
    found = {} if tag == ENGLISH else {_key(each.id): each.string for each in read_catalogue(tag, PACKAGE) if each.id}
    return {"language": tag, "words": found}


def _key(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else text[0]
