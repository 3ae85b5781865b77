"""What has taken the place of what: sentences of release notes, changelogs and histories that say so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from afina.dataset.questions.cloze import replaced
from afina.dataset.questions.prose_corpus import ProseCorpus, Sentence
from afina.text.key_terms import NAME, term_key
from afina.text.prose_question import CHOICES, ProseQuestion

_CODE = r"`[^`\n]+`"
_THING = rf"(?:{_CODE}|(?<![\w`]){NAME})"
_OLD, _NEW = rf"(?P<old>{_THING})", rf"(?P<new>{_THING})"
_OLD_CODE, _NEW_CODE = rf"(?P<old>{_CODE})", rf"(?P<new>{_CODE})"
_NEW_CODES = rf"(?P<new>{_CODE}(?:(?:, | and | or |, and |, or ){_CODE})*)"
_KIND = r"(?:the |a |an |old |new |its |[a-z]+ )?(?:[a-z]+ )?"
"""An article, and a word for what it is: "the new builtin"."""
_WAS = r"(?: [a-z]+)?(?: has been| have been| was| were| is| are| got| being)?(?: now)?"

CHANGES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_OLD}{_WAS} (?:renamed|moved) (?:to|as|into) {_KIND}{_NEW}",
        rf"{_OLD_CODE} \((?:renamed|moved|renamed/moved|split|replaced|now)(?: to| into| by| with)? {_NEW_CODES}\)",
        rf"\b(?:[Dd]eprecat|[Rr]emov)(?:e|ed|es|ing) {_KIND}{_OLD_CODE} in (?:favor|favour) of {_KIND}{_NEW_CODE}",
        rf"\b[Rr]enam(?:e|ed|ing) {_KIND}{_OLD} (?:to|as|into) {_KIND}{_NEW}",
        rf"{_OLD}{_WAS} (?:replaced|superseded|substituted)(?: [a-z]+)? (?:by|with) {_KIND}{_NEW}",
        rf"{_OLD}{_WAS} (?:removed|deprecated|dropped) in (?:favor|favour) of {_KIND}{_NEW}",
        rf"{_OLD}{_WAS} (?:removed|deprecated|dropped)[,;:.] (?:[Pp]lease )?[Uu]se {_KIND}{_NEW}",
        rf"\b[Rr]eplac(?:e|ed|es|ing) {_KIND}{_OLD_CODE} (?:with|by) {_KIND}{_NEW_CODE}",
        rf"{_NEW}(?: [a-z]+)? (?:replaces|supersedes|has replaced|replaced) {_KIND}{_OLD}",
        rf"\b(?:[Uu]se|[Pp]refer) {_KIND}{_NEW_CODE}(?: [a-z]+)? (?:instead of|in place of) "
        rf"{_KIND}{_OLD_CODE}",
        rf"{_OLD_CODE} (?:is|are) now (?:called |named |known as |spelled |written )?{_NEW_CODE}(?=[.,;:]|$)",
        rf"{_OLD_CODE}\s*(?:→|->|=>|➡️?)\s*{_NEW_CODE}",
        rf"{_OLD}(?: foi| foram| é| está| ficou)?(?: agora)? (?:renomead[oa]s?|rebati[sz]ad[oa]s?)"
        rf"(?: para| como| de)? {_NEW}",
        rf"{_OLD} passou a (?:chamar-se|designar-se|denominar-se|ser chamad[oa]|se chamar) {_NEW}",
        rf"{_OLD} (?:foi|foram|é|seria|acabou por ser)(?: [a-zà-ü]+)? substituíd[oa]s? (?:por|pel[oa]s?) {_NEW}",
        rf"{_NEW} (?:substituiu|substitui|veio substituir|sucedeu a|rendeu)(?: [oa])? {_OLD}",
        rf"{_NEW_CODE} em (?:vez|lugar) d[eoa]s? {_OLD_CODE}",
        rf"{_OLD} deu lugar (?:a|ao|à) {_NEW}",
    )
)
_ARTICLE = re.compile(r"^(?:A|O|As|Os|An|The) ")
_MAY_CHANGE = re.compile(
    r"renam|replac|supersed|substitu|remov|deprecat|dropp|instead|in place|rather|(?:is|are) now|→|->|=>|➡|renome|"
    r"rebati|passou a|sucedeu|rendeu|em vez|em lugar|deu lugar"
)
"""One of these stands in any of them."""
_NOT = re.compile(r"\b(?:not|never|cannot|can't|don't|doesn't|não|nunca|if|(?<!-)se)\b(?:\W+\w+){0,4}\W*$", re.I)


@dataclass(frozen=True, slots=True)
class Replaced:
    """A sentence that says what has taken the place of what."""

    section: int
    sentence: Sentence
    old: str
    new: str
    """As they stand there, backticks included."""


def find_changes(corpus: ProseCorpus) -> list[Replaced]:
    """All changes of the documents, in order; a thing that several others have replaced is told by each."""
    found = []
    for number, section in enumerate(corpus.sections):
        for sentence in section.sentences:
            patterns = CHANGES if _MAY_CHANGE.search(sentence.text) else ()
            for pattern in patterns:
                for match in pattern.finditer(sentence.text):
                    if _NOT.search(sentence.text, 0, match.start()):
                        continue
                    old, every_new = _ARTICLE.sub("", match["old"]), re.findall(_CODE, match["new"])
                    for new in every_new or [_ARTICLE.sub("", match["new"])]:
                        if term_key(old) != term_key(new) and min(len(old), len(new)) > 1:
                            found.append(Replaced(number, sentence, old, new))
    return found


def change_questions(corpus: ProseCorpus, prompt: Callable[[int, str], str]) -> Iterator[tuple[int, ProseQuestion]]:
    """A question for each thing that was replaced, with its section; any of what replaced it is a right answer.

    Args:
        prompt: asks what replaced something, by the position of the section and its name.
    """
    changes: dict[str, list[Replaced]] = {}
    for each in find_changes(corpus):
        changes.setdefault(term_key(each.old), []).append(each)
    for every in changes.values():
        first = every[0]
        section, sentence = corpus.sections[first.section], first.sentence
        new = {term_key(each.new): each.new.strip("`") for each in every}
        gap = next((term for term in sentence.terms if term.text == first.new), None)
        alone = gap is not None and len(new) == 1 and sentence.text.casefold().count(gap.key) == 1
        wrong = corpus.distractors(first.section, sentence, gap) if gap and alone else []
        yield (
            first.section,
            ProseQuestion(
                "change",
                section.name,
                section.path,
                sentence.line,
                prompt(first.section, first.old),
                sentence.text,
                tuple(replaced(sentence.text, gap, other) for other in wrong) if gap else (),
                first.new if len(wrong) == CHOICES - 1 else "",
                tuple(new.values()),
                (first.old.strip("`"),),
                section.held_out,
            ),
        )
