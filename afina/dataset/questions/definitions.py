"""What something is: sentences that say "X is a ...", told from those with what the documents say of others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from afina.dataset.questions.labels import fold
from afina.dataset.questions.prose_corpus import LENGTHS, ProseCorpus, Sentence
from afina.text.identity import short_hash
from afina.text.key_terms import term_key
from afina.text.prose_question import CHOICES, ProseQuestion

FEWEST_WORDS = 4
"""Of what is said of it: "a keyword" is true of many."""

_IS = re.compile(
    r"""
      (?P<article>(?:A|An|The|O|Os|As|Um|Uma)\ )?
      (?P<what>`[^`]+`|[^\W\d_][\w’'.-]*(?:\ [\w’'.-]+){0,4}?)
      \ (?P<is>(?:is|are)\ (?:an?|the|one\ of)|(?:é|era|foi|são|eram|foram)\ (?:uma?|um[ao]?s|[oa]s?))
      \ (?P<said>.+?)[.!]$
    """,
    re.VERBOSE,
)
_NO_SUBJECT_WORDS = """
this it that there these those what which here they he she we you when if where not all one each isto isso este
esta esse essa ele ela eles elas aquele aquela tudo hoje foi era quem que onde quando assim também depois ali aqui
"""
_NO_SUBJECT = frozenset(_NO_SUBJECT_WORDS.split())
_NO_DEFINITION = re.compile(
    r"^(?:following|same|only|first|last|next|reason|result|mesm[oa]|seguinte|primeir[oa]|últim[oa]|únic[oa]|que|"
    r"reason|problem|case|bit|lot|few|way|good|great|bad)\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Definition:
    """A sentence that says what something is."""

    section: int
    sentence: Sentence
    what: str
    verb: str
    said: str
    """What stands behind "is a", without the mark that ends it."""


def find_definitions(corpus: ProseCorpus) -> list[Definition]:
    """All definitions of the documents, one of each thing: first sentences of paragraphs about something that has a
    name, stands between backticks or is the section's own subject."""
    found: dict[str, Definition] = {}
    for number, section in enumerate(corpus.sections):
        titles = {_singular(fold(title)) for title in (section.label, section.subject)}
        for sentence in section.sentences:
            if not sentence.opens or not corpus.askable(sentence) or not (match := _IS.match(sentence.text)):
                continue
            what, said = match["what"], match["said"]
            named = any(term.start == match.start("what") and term.text == what for term in sentence.terms)
            if (
                fold(what).split()[0] in _NO_SUBJECT
                or not (named or _singular(fold(what.strip("`"))) in titles)
                or len(said.split()) < FEWEST_WORDS
                or _NO_DEFINITION.match(said)
            ):
                continue
            found.setdefault(term_key(what), Definition(number, sentence, what, fold(match["is"]), said))
    return list(found.values())


def definition_questions(corpus: ProseCorpus, prompt: Callable[[int, str], str]) -> Iterator[tuple[int, ProseQuestion]]:
    """A question for each definition that can be marked, with its section: seven others are said in the same words ("is
    a"), or it holds key terms.

    Args:
        prompt: asks what something is, by the position of the section and its name.
    """
    definitions = find_definitions(corpus)
    alike: dict[str, list[Definition]] = {}
    for each in sorted(definitions, key=lambda each: short_hash(each.sentence.text)):
        alike.setdefault(each.verb, []).append(each)
    for each in definitions:
        section, text = corpus.sections[each.section], each.sentence.text
        asked = prompt(each.section, each.what)
        wrong = _wrong(each, alike[each.verb], corpus)
        terms = [term.text.strip("`") for term in corpus.table.key_terms(each.said, besides=asked)]
        if wrong or terms:
            head = text[: text.index(each.said, len(each.what))]
            yield (
                each.section,
                ProseQuestion(
                    "definition",
                    section.name,
                    section.path,
                    each.sentence.line,
                    asked,
                    text,
                    tuple(head + other + text[len(head) + len(each.said) :] for other in wrong),
                    each.said if wrong else "",
                    tuple(terms),
                    held_out=section.held_out,
                ),
            )


def _wrong(own: Definition, others: list[Definition], corpus: ProseCorpus) -> list[str]:
    """What is said of seven other things, in about as many words, that does not name them or this one."""
    kept: list[str] = []
    near = corpus.near(own.section)
    own_words = set(fold(own.what.strip("`")).split())
    begin = int(short_hash(own.sentence.text), 16) % len(others)
    for step in range(len(others)):
        each = others[(begin + step) % len(others)]
        short, long = sorted((len(own.said), len(each.said)))
        words = set(re.findall(r"\w+", fold(each.said)))
        if each.section in near or long > LENGTHS * short or own_words & words or each.said in kept:
            continue
        if set(fold(each.what.strip("`")).split()) & words:
            continue
        kept.append(each.said)
        if len(kept) == CHOICES - 1:
            return kept
    return []


def _singular(word: str) -> str:
    return word.removesuffix("s")
