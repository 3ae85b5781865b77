"""Sentences that are told from seven with another term of the same kind in one place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from afina.dataset.questions.labels import fold
from afina.dataset.questions.prose_corpus import ProseCorpus, Sentence, may_be_gap
from afina.text.identity import short_hash
from afina.text.key_terms import Term
from afina.text.prose_question import ProseQuestion

MOST_OF_SECTION = 3


def cloze_questions(
    corpus: ProseCorpus, number: int, prompt: Callable[[Sentence], str]
) -> Iterator[ProseQuestion | str]:
    """At most three sentences of one section, those of the smallest hash; where there is none, why.

    Args:
        number: the section's position.
        prompt: asks about the section, in a phrasing that follows from the sentence given.
    """
    section = corpus.sections[number]
    whole = [sentence for sentence in section.sentences if corpus.askable(sentence)]
    made = with_terms = 0
    for sentence in sorted(whole, key=lambda sentence: short_hash(sentence.text)):
        asked = prompt(sentence)
        gaps = gaps_of(corpus, sentence, asked)
        with_terms += bool(gaps)
        for gap in gaps:
            if wrong := corpus.distractors(number, sentence, gap):
                yield ProseQuestion(
                    "cloze",
                    section.name,
                    section.path,
                    sentence.line,
                    asked,
                    sentence.text,
                    tuple(replaced(sentence.text, gap, other) for other in wrong),
                    gap.text,
                    held_out=section.held_out,
                )
                made += 1
                break
        if made == MOST_OF_SECTION:
            return
    if not made:
        yield NO_DISTRACTORS if with_terms else NO_TERM if whole else NO_SENTENCE


_NEGATED = re.compile(r"\b(?:not|without|never|neither|nor|unlike|cannot|não|sem|nunca|nem)\b|n't\b", re.I)
"""What is said not to be is not either with another term in its place."""
NO_SENTENCE = "no whole sentence that is said there alone"
NO_TERM = "no rare term in a sentence"
NO_DISTRACTORS = "fewer than seven other terms of the same kind"


def gaps_of(corpus: ProseCorpus, sentence: Sentence, asked: str) -> list[Term]:
    """The terms of a sentence that may be left out, the rarest first: once in it, and not in the question."""
    key_terms = corpus.table.key_terms(sentence.text, besides=asked)
    small = sentence.text.casefold()
    if _NEGATED.search(sentence.text):
        return []
    around = _bare_words(asked)
    return [
        term
        for term in key_terms
        if may_be_gap(term)
        and small.count(term.key) == 1
        and not _follows(term, sentence.terms)
        and not (term.kind.startswith("name:") and _bare_words(term.text) & (around | _rest(sentence, term)))
    ]


def _bare_words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", fold(text)))


def _rest(sentence: Sentence, gap: Term) -> set[str]:
    """The words of a sentence around a gap: a surname that stands there too would tell the name."""
    return _bare_words(sentence.text[: gap.start] + " " + sentence.text[gap.end :])


def _follows(gap: Term, terms: Sequence[Term]) -> bool:
    """Whether a number can be reckoned from the others of its sentence: "from 1934 to 1952, 18 years"."""
    years = sum(1 + (term.kind.startswith("years")) for term in terms if term.kind.startswith(("year", "date")))
    spans = sum(term.kind.startswith("number:") for term in terms)
    if gap.kind.startswith("number:"):
        return years > 1
    return gap.kind.startswith(("year", "date")) and years > 1 and spans > 0


def replaced(text: str, gap: Term, other: str) -> str:
    """The sentence with another term in the place of the gap."""
    return text[: gap.start] + other + text[gap.end :]
