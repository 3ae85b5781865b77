"""What may be wrong with how an answer is written: one answer beside its question, no model and no dataset.

A model's outputs (:mod:`afina.evaluate.guardrails`) and the answers that one is trained on
(:mod:`afina.dataset.audit.answer_checks`) are looked at by the same rules: what is learned comes out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from afina.text.identity import normal

TAIL = 2000
"""Characters at an answer's end in which a loop is looked for."""
LOOP_CHARS = 24
"""Fewer repeated characters are no loop: "ha ha ha", "100000"."""
NGRAM, FEWEST_NGRAMS, DIFFERENT = 4, 24, 1 / 3
"""A text of at least so many n-grams of words, fewer than a third of them different, goes in circles."""
ECHO_WORDS = 8
"""So many words of the question at an answer's beginning are an echo; all of them where it has fewer."""

TURN = re.compile(r"</?s>|<｜[^｜\n]{2,40}｜>|^(?:Human|User|Assistant|Utilizador|Usuário|Assistente):", re.MULTILINE)
"""Marks that are no special tokens of every tokenizer, and that no dataset's check looks for."""
_WORD = re.compile(r"[^\W\d_]+")
_FIRST, _LAST = re.compile(r"[^\W\d_]+"), re.compile(r"(?<![^\W\d_])[^\W\d_]+\Z")
_NEIGHBOURS = re.compile(r"(?<![^\W\d_])([^\W\d_]+) (?=([^\W\d_]+))")


def after_thinking(text: str) -> str:
    """What a model answers after it has thought.

    >>> after_thinking("<think>Ana? Faro.</think> Faro"), after_thinking("Faro")
    ('Faro', 'Faro')
    """
    return text.rpartition("</think>")[2].strip()


def loops(text: str) -> bool:
    """Whether a text ends in one piece said four times or more, or says the same few things over and over.

    >>> loops("ela foi e ela foi e ela foi e ela foi e ela"), loops("O clube foi fundado em 1910, em Faro.")
    (True, False)
    """
    tail = text.rstrip()[-TAIL:][::-1]
    for period in _periods(tail):
        total = max(4 * period, LOOP_CHARS)
        if total <= len(tail) and tail[: total - period] == tail[period:total]:
            return True
    words = text.split()
    if len(words) < FEWEST_NGRAMS + NGRAM - 1:
        return False
    fewest = DIFFERENT * (len(words) - NGRAM + 1)
    if len(set(words)) - NGRAM + 1 >= fewest:  # each word that is new, but the first three, ends an n-gram that is new
        return False
    grams = list(zip(*(words[start:] for start in range(NGRAM)), strict=False))
    return len(set(grams)) < fewest


def _periods(tail: str) -> Iterable[int]:
    """How far apart the first characters stand again: a loop has one of these periods."""
    head, limit = tail[:8], len(tail) // 4 + 1
    if len(tail) < LOOP_CHARS:
        return
    at = tail.find(head, 1)
    while 0 < at < limit:
        yield at
        at = tail.find(head, at + 1)


def echoes(text: str, prompt: str) -> bool:
    """Whether a text begins with words of the question, in its order.

    >>> echoes("Onde nasceu Ana? Faro", "Onde nasceu Ana?"), echoes("Ana nasceu em Faro", "Onde nasceu Ana?")
    (True, False)
    """
    asked, said = ([word.lower() for word in _WORD.findall(each)] for each in (prompt, text))
    wanted = min(ECHO_WORDS, len(asked))
    if wanted < 2 or len(said) < wanted:
        return False
    beginning = said[:wanted]
    return any(asked[start : start + wanted] == beginning for start in range(len(asked) - wanted + 1))


def copies(text: str, prompt: str) -> bool:
    """Whether a text is its question again, or says the whole question with its mark before it answers.

    Stricter than :func:`echoes`: what people write often begins with words of the question.

    >>> copies("onde nasceu ana", "Onde nasceu Ana?"), copies("Onde nasceu Ana? Em Faro.", "Onde nasceu Ana?")
    (True, True)
    >>> copies("Ana nasceu em Faro.", "Onde nasceu Ana?"), copies("7", "7")
    (False, False)
    """
    said, asked = normal(text).casefold(), normal(prompt).casefold()
    if 4 * len(said) < 3 * len(asked):
        return False
    if asked.endswith("?") and said.startswith(asked) and len(asked.split()) > 2:
        return True
    one, other = _WORD.search(said), _WORD.search(asked)
    if one is None or other is None or one[0] != other[0]:
        return False
    words = _WORD.findall(said)
    return len(words) > 1 and words == _WORD.findall(asked)


def split_word(text: str, words: frozenset[str] | set[str]) -> re.Match[str] | None:
    """The first two neighbours that are no `words`, and are one when put together ("Ta vira")."""
    lower = text.lower()
    if words.isdisjoint(_joined_neighbours(lower)):
        return None
    for found in _NEIGHBOURS.finditer(lower):
        one, two = found.groups()
        if one + two in words and one not in words and two not in words:
            return found
    return None


def _joined_neighbours(text: str) -> Iterator[str]:
    """What `_NEIGHBOURS` finds, each put together; quicker, as most words stand between two spaces.

    >>> [word for word in _joined_neighbours("a ilha (de Faro), é") if " " not in word]
    ['ailha', 'deFaro']
    """
    first = text.split(" ")
    last = first.copy()
    for place, part in enumerate(first):
        if not part.isalpha():  # a space where there is none: in no word
            first[place], last[place] = (
                found[0] if found else " " for found in (_FIRST.match(part), _LAST.search(part))
            )
    return map(str.__add__, last, first[1:])


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words of texts in lower case.

    >>> sorted(words_of(["O clube", "de Faro!"]))
    ['clube', 'de', 'faro', 'o']
    """
    return frozenset(word.lower() for text in texts for word in _WORD.findall(text))
