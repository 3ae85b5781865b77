"""What an answer must never do, whatever it was asked: counted over all answers, before and after training.

Its reference is the control: what the reference does too (a loop of a poem, the question repeated) is no flaw. The base
is the control of the whole: what it does as often by itself was not caused by the training, and is no miss.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from afina.dataset.audit.one_example import chat_markers, control_characters, encoding_noise
from afina.evaluate.intervals import exact_interval, more_than_chance
from afina.recipe import Guardrails
from afina.text.answer_flaws import TURN, after_thinking, echoes, loops, split_word
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


@dataclass(frozen=True, slots=True)
class GuardedAnswer:
    """An answer with all that is needed to judge how it is written."""

    text: str
    prompt: str
    reference: str
    endless: bool = False
    """It never ends (:func:`afina.evaluate.room.find_endless`)."""
    thinking: bool = False
    """The chat template has opened `<think>` already."""


def flaws(said: GuardedAnswer, special: Collection[str], words: frozenset[str]) -> list[str]:
    """The guardrails that an answer breaks, by their names in :data:`NAMES`.

    Args:
        special: texts of the tokenizer's special tokens.
        words: words, in lower case, that the questions and references hold: what a split word is one of.

    >>> flaws(GuardedAnswer("Faro Faro Faro Faro Faro Faro", "Onde?", "Faro", endless=True), [], frozenset())
    ['never_stops', 'loops']
    >>> flaws(GuardedAnswer("Nasceu em Ta vira", "Onde?", "Tavira"), [], frozenset({"nasceu", "em", "tavira"}))
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


def _in_another_language(text: str, said: GuardedAnswer) -> bool:
    spoken = language_of_text(text)
    wanted = language_of_text(said.reference) or language_of_text(said.prompt)
    return spoken is not None and wanted is not None and spoken != wanted


def _broken(text: str, words: frozenset[str]) -> bool:
    """Misread bytes, or two neighbours that are no words of the data and are one when put together."""
    if encoding_noise(_answer(text)) or control_characters(_answer(text)):
        return True
    return split_word(text, words) is not None


def _marked(text: str, special: Collection[str]) -> bool:
    return bool(chat_markers(_answer(text)) or TURN.search(text)) or any(mark in text for mark in special)


def _answer(text: str) -> Example:
    """The text as the dataset's own checks take it."""
    return Example(messages=({"role": "assistant", "content": text},))


def count(flaws_of: Sequence[Sequence[str]]) -> dict[str, int]:
    """How many answers break each guardrail.

    >>> count([["empty"], [], ["empty", "never_stops"]])["empty"]
    2
    """
    return {name: sum(name in found for found in flaws_of) for name in NAMES}


def weigh(
    before: Sequence[Sequence[str]] | None, after: Sequence[Sequence[str]], limits: Guardrails, room: str = ""
) -> tuple[list[str], list[str]]:
    """The guardrails that training broke, and those that the base breaks by itself, both in words.

    A share after training is above its limit when it is so beyond chance. Training caused it where the base's share of
    the same questions is not above the limit, or where more answers turned wrong than right beyond chance.

    Args:
        before, after: of each question, the guardrails that the answer breaks; `before` None where random weights were
            trained, which are nobody's base.
        room: of answers that reached the limit, how many ended with more room.

    >>> weigh([[]] * 100, [["empty"]] * 30 + [[]] * 70, Guardrails())[0]
    ['guardrail empty: 30 % of 100 answers (base: 0 %) are empty, the recipe allows 5 %']
    >>> weigh([[]] * 8, [["empty"]] + [[]] * 7, Guardrails())
    ([], [])
    """
    answers, misses, notes = len(after), [], []
    for name, words in NAMES.items():
        limit = getattr(limits, name)
        one, two = ([name in found for found in side] for side in (before or [[]] * answers, after))
        was, now = sum(one), sum(two)
        if not now or exact_interval(now, answers)[0] <= limit:
            continue
        share, base, allowed = show_share(now / answers), show_share(was / answers), show_share(limit)
        beside = "" if before is None else f" (base: {base})"
        what = f"guardrail {name}: {share} of {answers} answers{beside} {words}"
        said = f" ({room})" if room and name == "never_stops" else ""
        if was / answers <= limit or more_than_chance(one, two):
            misses.append(f"{what}, the recipe allows {allowed}{said}")
        else:
            notes.append(f"{what}: above the {allowed} that the recipe allows, as the base is, and no miss{said}")
    return misses, notes
