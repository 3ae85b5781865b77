"""What an answer must never do, whatever it was asked: counted over all answers, before and after training.

Its reference is the control: what the reference does too (a loop of a poem, the question repeated) is no flaw.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from afina.dataset.audit.one_example import chat_markers, control_characters, encoding_noise
from afina.evaluate.intervals import wilson
from afina.recipe import Guardrails
from afina.text.example import Example
from afina.text.language import language_of_text
from afina.units import show_share

NAMES = {
    "never_stops": "never stop",
    "loops": "say the same again and again",
    "open_think": "begin to think and never end",
    "prompt_echo": "begin with the question",
    "wrong_language": "are in the wrong language",
    "broken_words": "have broken words",
    "chat_markers": "have chat markers in the text",
    "empty": "are empty",
}
"""The guardrails as the recipe's limits call them, and what answers that break them do."""

TAIL = 2000
"""Characters at an answer's end in which a loop is looked for."""
LOOP_CHARS = 24
"""Fewer repeated characters are no loop: "ha ha ha", "100000"."""
NGRAM, FEWEST_NGRAMS, DIFFERENT = 4, 24, 1 / 3
"""A text of at least so many n-grams of words, fewer than a third of them different, goes in circles."""
ECHO_WORDS = 8
"""So many words of the question at an answer's beginning are an echo; all of them where it has fewer."""

_TURN = re.compile(r"</?s>|<｜[^｜\n]{2,40}｜>|^(?:Human|User|Assistant|Utilizador|Usuário|Assistente):", re.MULTILINE)
"""Marks that are no special tokens of every tokenizer, and that no dataset's check looks for."""
_WORD = re.compile(r"[^\W\d_]+")
_NEIGHBOURS = re.compile(r"(?<![^\W\d_])([^\W\d_]+) (?=([^\W\d_]+))")


@dataclass(frozen=True, slots=True)
class GuardedAnswer:
    """An answer with all that is needed to judge how it is written."""

    text: str
    prompt: str
    reference: str
    endless: bool = False
    """It reached the limit, and had ample room for the reference."""
    thinking: bool = False
    """The chat template has opened `<think>` already."""


def flaws(said: GuardedAnswer, special: Collection[str], words: Collection[str]) -> list[str]:
    """The guardrails that an answer breaks, by their names in :data:`NAMES`.

    Args:
        special: texts of the tokenizer's special tokens.
        words: words, in lower case, that the questions and references hold: what a split word is one of.

    >>> flaws(GuardedAnswer("Faro Faro Faro Faro Faro Faro", "Onde?", "Faro", endless=True), [], [])
    ['never_stops', 'loops']
    >>> flaws(GuardedAnswer("Nasceu em Ta vira", "Onde?", "Tavira"), [], {"nasceu", "em", "tavira"})
    ['broken_words']
    """
    text, reference = after_thinking(said.text), said.reference
    if not text:
        return ["never_stops", "empty"] if said.endless else ["empty"]
    found = {
        "never_stops": said.endless,
        "loops": loops(text) and not loops(reference),
        "open_think": said.text.count("<think>") + said.thinking > said.text.count("</think>"),
        "prompt_echo": echoes(text, said.prompt) and not echoes(reference, said.prompt),
        "wrong_language": _in_another_language(text, said),
        "broken_words": _broken(text, words) and not _broken(reference, words),
        "chat_markers": _marked(text, special) and not _marked(reference, special),
    }
    return [name for name, is_so in found.items() if is_so]


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
    for period in range(1, len(tail) // 4 + 1):
        total = max(4 * period, LOOP_CHARS)
        if total <= len(tail) and tail[: total - period] == tail[period:total]:
            return True
    words = text.split()
    grams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
    return len(grams) >= FEWEST_NGRAMS and len(set(grams)) < DIFFERENT * len(grams)


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


def _in_another_language(text: str, said: GuardedAnswer) -> bool:
    spoken = language_of_text(text)
    wanted = language_of_text(said.reference) or language_of_text(said.prompt)
    return spoken is not None and wanted is not None and spoken != wanted


def _broken(text: str, words: Collection[str]) -> bool:
    """Misread bytes, or two neighbours that are no words of the data and are one when put together."""
    if encoding_noise(_answer(text)) or control_characters(_answer(text)):
        return True
    return any(
        one + two in words and one not in words and two not in words for one, two in _NEIGHBOURS.findall(text.lower())
    )


def _marked(text: str, special: Collection[str]) -> bool:
    return bool(chat_markers(_answer(text)) or _TURN.search(text)) or any(mark in text for mark in special)


def _answer(text: str) -> Example:
    """The text as the dataset's own checks take it."""
    return Example(messages=({"role": "assistant", "content": text},))


def count(flaws_of: Sequence[Sequence[str]]) -> dict[str, int]:
    """How many answers break each guardrail.

    >>> count([["empty"], [], ["empty", "never_stops"]])["empty"]
    2
    """
    return {name: sum(name in found for found in flaws_of) for name in NAMES}


def misses(counts: dict[str, int], answers: int, limits: Guardrails) -> list[str]:
    """The guardrails broken more often than the recipe allows, beyond chance, in words.

    >>> misses({"empty": 30}, 100, Guardrails()), misses({"empty": 1}, 8, Guardrails())
    (['guardrail empty: 30 % of 100 answers are empty, the recipe allows 5 %'], [])
    """
    missed = []
    for name, found in counts.items():
        limit = getattr(limits, name)
        if found and wilson(found, answers)[0] > limit:
            share, allowed = show_share(found / answers), show_share(limit)
            hint = " (where long answers are meant, raise evaluate.max_new_tokens)" if name == "never_stops" else ""
            what = f"{share} of {answers} answers {NAMES[name]}, the recipe allows {allowed}"
            missed.append(f"guardrail {name}: {what}{hint}")
    return missed


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words of texts in lower case, for :func:`flaws`."""
    return frozenset(word.lower() for text in texts for word in _WORD.findall(text))
