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

FEWEST_TERMS = 2
"""Key terms of a definition that is marked by them alone."""

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


_ENTRY = re.compile(r"@\w+|[\w.]+\(.*\)|-{1,2}[a-z][\w-]*|\w+(?:[._]\w+)+")
"""A heading that is an identifier: what stands below it says what that does."""
_DOES = re.compile(r"[A-ZÀ-Þ][a-zà-ÿ]+(?:s|a|e)\b")
_WORD = re.compile(r"\w+")
_PART = re.compile(r"[A-Za-z][a-z]{2,}")
ROOT_CHARS = 4
"""Words that begin with the same letters are forms of one."""


@dataclass(frozen=True, slots=True)
class Described:
    """A sentence that says what something is or does."""

    section: int
    sentence: Sentence
    what: str
    said: str
    """What the sentence says of it, without the mark that ends it."""
    entry: bool
    """Whether `what` is the section's heading in a reference, and the sentence begins with what it does."""


def find_definitions(corpus: ProseCorpus) -> list[Described]:
    """All definitions of the documents, one of each thing: "X is a ..." about something that has a name, stands between
    backticks or is the section's own subject; and what the first sentence below an identifier says that it does."""
    found: dict[str, Described] = {}
    for number, section in enumerate(corpus.sections):
        titles = {_singular(fold(title)) for title in (section.label, section.subject)}
        for place, sentence in enumerate(section.sentences):
            if not corpus.askable(sentence):
                continue
            if not place and _ENTRY.fullmatch(section.label) and _DOES.match(sentence.text):
                each = Described(number, sentence, f"`{section.label}`", sentence.text[:-1], entry=True)
                found.setdefault(term_key(each.what), each)
            elif match := _IS.match(sentence.text):
                what, said = match["what"], match["said"]
                named = any(term.start == match.start("what") and term.text == what for term in sentence.terms)
                known = named or _singular(fold(what.strip("`"))) in titles
                enough = len(said.split()) >= FEWEST_WORDS and not _NO_DEFINITION.match(said)
                if known and enough and fold(what).split()[0] not in _NO_SUBJECT:
                    found.setdefault(term_key(what), Described(number, sentence, what, said, entry=False))
    return list(found.values())


def definition_questions(corpus: ProseCorpus, prompt: Callable[[int, str], str]) -> Iterator[tuple[int, ProseQuestion]]:
    """A question for each definition that can be marked, with its section: by what seven other entries of a reference
    do, or by the key terms in it.

    Args:
        prompt: asks what something is, by the position of the section and its name.
    """
    definitions = find_definitions(corpus)
    entries = sorted((each for each in definitions if each.entry), key=lambda each: short_hash(each.sentence.text))
    for each in definitions:
        section, text = corpus.sections[each.section], each.sentence.text
        asked = prompt(each.section, each.what)
        wrong = _wrong(each, entries) if each.entry and not _tells_itself(each) else []
        terms = [term.text.strip("`") for term in corpus.table.key_terms(each.said, besides=asked)]
        if wrong or len(terms) >= FEWEST_TERMS:
            question = ProseQuestion(
                "definition",
                section.name,
                section.path,
                each.sentence.line,
                asked,
                text,
                tuple(other + text[len(each.said) :] for other in wrong),
                each.said if wrong else "",
                tuple(terms),
                held_out=section.held_out,
            )
            yield each.section, question


def _tells_itself(entry: Described) -> bool:
    """Whether the name alone tells which description is its own: a part of it stands there."""
    parts = {part.casefold() for part in _PART.findall(entry.what)}
    return any(word.startswith(part[:ROOT_CHARS]) for word in _WORD.findall(fold(entry.said)) for part in parts)


def _wrong(own: Described, entries: list[Described]) -> list[str]:
    """What seven other entries do, in about as many words, that name neither themselves nor this one."""
    kept: list[str] = []
    own_words = set(_WORD.findall(fold(own.what)))
    begin = int(short_hash(own.sentence.text), 16)
    for step in range(len(entries)):
        each = entries[(begin + step) % len(entries)]
        short, long = sorted((len(own.said), len(each.said)))
        words = set(_WORD.findall(fold(each.said)))
        named = words & (own_words | set(_WORD.findall(fold(each.what))))
        if each is own or named or long > LENGTHS * short or each.said in kept:
            continue
        kept.append(each.said)
        if len(kept) == CHOICES - 1:
            return kept
    return []


def _singular(word: str) -> str:
    return word.removesuffix("s")
