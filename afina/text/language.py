"""Which of a few languages a text is in: Portuguese, English or Spanish, by their most frequent short words.

Small on purpose: it tells a Portuguese answer from an English one in a mixed dataset, nothing finer. A text with
too few of the words, or with nearly as many of two languages, is not judged.

Not lingua: it judges more of the short texts, but guesses on code and names, and a wrong guess here fails a run
(LOG.md has both).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import filterfalse
from typing import Literal

Language = Literal["pt", "en", "es"]

FEWEST_WORDS = 8
"""Texts of fewer words are not judged."""
FEWEST_HITS = 3.5
"""Different words of the list, those of two languages half: below that nothing is said."""
AHEAD = 1.5
"""How many times more hits than the second the first must have."""

_WORD = re.compile(r"(?<![\w-])[^\W\d_]+")
"""What follows a hyphen is part of a word: Portuguese ``corrigi-lo`` is not Spanish."""
_CODE_WORDS = "if for in is not and or with from as this by where when then all"
_PORTUGUESE = """
o os um uma e é do da dos das em no na nos nas ao à às pelo pela com não que se por para mas mais como ou foi são ser
está este esta esse essa isso isto ele ela eles seu sua seus suas você também já quando muito até sem entre depois há
onde quem qual eu me meu minha nós foram era tem têm pode
"""
_ENGLISH = """
the of and to in is that it for on with as was are be this by an at or from not have has had but which you your we they
their its can will would there what when if one all more about into than then them these he she his her been do does
did how who where
"""
_SPANISH = """
el la los las un una y es del al en con no que se por para pero más como o fue son ser está este esta ese esa eso él
ella ellos su sus usted también ya cuando muy hasta sin entre después hay donde quien cuál yo me mi nosotros fueron era
tiene tienen puede lo le
"""
_STOP: dict[Language, frozenset[str]] = {
    "pt": frozenset(_PORTUGUESE.split()),
    "en": frozenset(_ENGLISH.split()),
    "es": frozenset(_SPANISH.split()),
}
_WEIGHT: dict[str, list[tuple[Language, float]]] = {}
for _language, _common in _STOP.items():
    for _word in _common:
        _WEIGHT.setdefault(_word, []).append((_language, 1.0))
# A word that two languages share says half as much.
_WEIGHT = {word: [(name, 1.0 / len(places)) for name, _ in places] for word, places in _WEIGHT.items()}
_WEIGHT |= {word: [("en", 0.5)] for word in _CODE_WORDS.split()}
_LETTERS: dict[str, Language] = {"ã": "pt", "õ": "pt", "ç": "pt", "ê": "pt", "ñ": "es", "¿": "es", "¡": "es"}


@lru_cache(maxsize=16)
def language_of_text(text: str) -> Language | None:
    """The language of a text; None where it is too short, or neither clearly one nor another.

    >>> language_of_text("O clube foi fundado em Faro e não tem mais sócios do que os outros.")
    'pt'
    >>> language_of_text("The club was founded in Faro and it has not more members than the others.")
    'en'
    >>> language_of_text("El club fue fundado en Faro y no tiene más socios que los otros de la ciudad.")
    'es'
    >>> language_of_text("Faro 1910 Farense")
    """
    # Several checks ask about the text that they are looking at, one after the other.
    words = _words_in(text[:4000].lower())
    if len(words) < FEWEST_WORDS:
        return None
    hits: dict[Language, float] = {"pt": 0.0, "en": 0.0, "es": 0.0}
    different = set(words)  # a title said five times is still one title
    for word in _WEIGHT.keys() & different:
        for name, weight in _WEIGHT[word]:
            hits[name] += weight
    for letter, name in () if text.isascii() else _LETTERS.items():
        hits[name] += min(3, text.count(letter, 0, 4000)) * 0.5
    (first, most), (_, second), *_ = sorted(hits.items(), key=lambda item: -item[1])
    enough = most >= FEWEST_HITS and most >= 0.08 * len(different)
    return first if enough and most >= AHEAD * second else None


def _words_in(text: str) -> list[str]:
    """What `_WORD` finds, in another order. Most words stand between two spaces; the pattern is asked for the rest.

    >>> sorted(_words_in("Vi-o em Faro, às 3h.")), sorted(_WORD.findall("Vi-o em Faro, às 3h."))
    (['Faro', 'Vi', 'em', 'às'], ['Faro', 'Vi', 'em', 'às'])
    """
    parts = text.split()
    return [*filter(str.isalpha, parts), *_WORD.findall(" ".join(filterfalse(str.isalpha, parts)))]
