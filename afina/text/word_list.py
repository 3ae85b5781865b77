"""The words that a corpus has, to tell words that stand nowhere in it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

_WORD = re.compile(r"[^\W\d_]+")
_CUT_OFF = re.compile(r"[^\W\d_]+\Z")


class LookedUp(NamedTuple):
    """What a list says of a text."""

    words: int
    characters: int
    """In its words."""
    broken: tuple[str, ...]
    """The words that the corpus has nowhere, in order, each as often as it stands there."""

    @property
    def broken_characters(self) -> int:
        """In those."""
        return sum(map(len, self.broken))


class WordList:
    """Words in lower case, and how often each was seen. A word is a run of letters: numbers and marks are none.

    Whoever invents names and whoever shreds words both write words that no corpus has; so does every real text, since
    no list is whole. What a figure means is told by a text that people wrote and the list has not seen.

    >>> corpus = WordList()
    >>> corpus.learn("A instituição financeira oferece serviços.")
    >>> corpus.look_at("Serviços da instituiçã fi nanceira.").broken
    ('da', 'instituiçã', 'fi', 'nanceira')
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def learn(self, text: str) -> None:
        """Add the words of a text."""
        self.counts.update(words_in(text))

    def look_at(self, text: str, *, ended: bool = True) -> LookedUp:
        """Look up the words of a text.

        Args:
            ended: False where it was cut somewhere: a word at its very end is left out, as it may be half a word.
        """
        words = words_in(text if ended else without_cut_word(text))
        return LookedUp(len(words), sum(map(len, words)), tuple(word for word in words if word not in self.counts))


def words_in(text: str) -> list[str]:
    """The words of a text in lower case, letters composed.

    >>> words_in("Vi-o em 1910, à porta; cafe\\u0301!")
    ['vi', 'o', 'em', 'à', 'porta', 'café']
    """
    return [word.lower() for word in _WORD.findall(unicodedata.normalize("NFC", text))]


def without_cut_word(text: str) -> str:
    """A text without the word that it breaks off in; whole where a mark or a space ends it.

    >>> without_cut_word("a classe princi"), without_cut_word("a classe.")
    ('a classe ', 'a classe.')
    """
    return _CUT_OFF.sub("", text)
