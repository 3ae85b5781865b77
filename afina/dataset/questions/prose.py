"""Questions about prose that can be marked, made of a dataset's texts without a model; docs/prose.md says how well.

:func:`prose_questions` takes the texts of a dataset, trained and held out, and gives what ``prose.jsonl`` holds and
the counts of it. The same texts give the same questions, whatever order they come in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afina.dataset.questions.changes import change_questions
from afina.dataset.questions.cloze import cloze_questions
from afina.dataset.questions.definitions import definition_questions
from afina.dataset.questions.labels import fold
from afina.dataset.questions.lists import list_questions
from afina.dataset.questions.phrasings import TEMPLATES, phrase
from afina.dataset.questions.prose_corpus import ProseCorpus, ProseSection, Sentence
from afina.recipe import Recipe
from afina.text.document import Message
from afina.text.example import Example
from afina.text.identity import group_key, normal, short_hash
from afina.text.prose_question import PROSE_KINDS, ProseQuestion

FEWEST_SECTION_WORDS = 6
FEWEST_TERMS, MOST_TERMS = 3, 12
"""Key terms of a section that is asked for them."""
MOST_CHARS = 16_000_000
"""Of all texts that are looked at."""
MOST_OF_KIND = 5000
"""Questions of one kind that are kept, those of the smallest hash."""

TOO_SHORT = f"fewer than {FEWEST_SECTION_WORDS} words"
SAID_AGAIN = "the same text as another section"
TRAINED_IN_PART = "one heading, of which a part is trained"
FEW_TERMS = f"fewer than {FEWEST_TERMS} rare terms"


@dataclass(frozen=True)
class AskedBefore:
    """What is trained or set aside already, so that nothing of it is asked again as if it were new."""

    prompts: frozenset[int] = frozenset()
    """Prompts of the dataset, as :func:`prompt_key` gives them."""
    held_out: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    """(path, line) of a section -> the phrasings of its question that are held out."""


@dataclass
class ProseSet:
    """The questions, and what ``dataset.json`` says of them."""

    questions: list[ProseQuestion]
    summary: dict[str, Any]
    """``questions`` by kind, those of them ``held_out``; ``sections``, those ``asked`` about, ``none`` (reason ->
    sections without a question); ``ambiguous`` (questions of one wording with two answers, left out), ``above_limit``
    (more than are kept), questions by kind for each of the ``documents``. The build adds ``passed_over`` (texts not
    looked at, of very many) and what is ``missing``, in words."""


def prompt_key(prompt: str) -> int:
    """What the dataset's columns hold of a question of these words: the same in any case and spacing."""
    turns = Message(role="user", content=prompt), Message(role="assistant", content="")
    return int(group_key(Example(messages=turns)), 16)


class _Asker:
    """Words questions: each in one of the eight phrasings of its kind that are not trained, by a hash."""

    def __init__(self, recipe: Recipe, asked: AskedBefore) -> None:
        self.language, self.asked = recipe.dataset.language, asked
        made = recipe.dataset.questions
        self.trained = {"section": made.phrasings} if "sections" in made.make else {}

    def ask(self, kind: str, about: str, subject: str, label: str = "") -> str | None:
        """A prompt; None where all of its phrasings are trained."""
        count = len(TEMPLATES[self.language][kind])
        numbers = range(self.trained.get(kind, 0), count)
        begin = int(short_hash(f"{kind}\0{subject}\0{label}\0{about}"), 16)
        for step in range(len(numbers)):
            number = numbers[(begin + step) % len(numbers)]
            prompt = phrase(self.language, kind, number, subject, label)
            if prompt_key(prompt) not in self.asked.prompts:
                return prompt
        return None

    def quoted(self, text: str) -> str:
        """A title or a name in quotation marks; code has its own marks."""
        if text.startswith("`"):
            return text
        left, right = {"pt-PT": ("«", "»"), "pt-BR": ("“", "”")}.get(self.language, ('"', '"'))
        return f"{left}{text}{right}"

    def place(self, section: ProseSection) -> str:
        """A section in words: ``"Comments" ("Manual")``."""
        subject = self.quoted(section.subject)
        return f"{self.quoted(section.label)} ({section.subject})" if section.label else subject


def prose_questions(recipe: Recipe, sections: Iterable[ProseSection], asked: AskedBefore) -> ProseSet:
    """All questions of some sections, in the order of their hashes.

    Args:
        recipe: for the language, and which phrasings are trained.
        sections: as :func:`~afina.dataset.questions.prose_corpus.cut_sections` gives them; of one that stands among
            both, the trained one counts.
        asked: what is asked elsewhere in the dataset.
    """
    none: Counter[str] = Counter()
    corpus = ProseCorpus(_chosen(sections, none))
    found = list(_every_question(corpus, _Asker(recipe, asked), asked, none))
    prompts = Counter((question.kind, question.prompt) for _, question in found)
    kept: dict[str, list[ProseQuestion]] = {kind: [] for kind in PROSE_KINDS}
    ambiguous = 0
    for _, question in found:
        shared = question.kind != "cloze" and prompts[question.kind, question.prompt] > 1
        ambiguous += shared
        if not shared:
            kept[question.kind].append(question)
    limited = {kind: sorted(every, key=lambda each: each.id)[:MOST_OF_KIND] for kind, every in kept.items()}
    questions = sorted((each for every in limited.values() for each in every), key=lambda each: each.id)
    documents: dict[str, Counter[str]] = {section.path: Counter() for section in corpus.sections}
    for question in questions:
        documents[question.path][question.kind] += 1
    summary = {
        "questions": {kind: len(every) for kind, every in limited.items()},
        "held_out": dict(Counter(question.kind for question in questions if question.held_out)),
        "sections": len(corpus.sections) + none[TOO_SHORT] + none[SAID_AGAIN],
        "asked": len({question.section for question in questions}),
        "none": dict(none.most_common()),
        "ambiguous": ambiguous,
        "above_limit": sum(map(len, kept.values())) - len(questions),
        "documents": {path: dict(counts) for path, counts in documents.items()},
    }
    return ProseSet(questions, summary)


def _chosen(sections: Iterable[ProseSection], none: Counter[str]) -> list[ProseSection]:
    """The sections that are looked at, each text once."""
    chosen: dict[str, ProseSection] = {}
    for section in sections:
        key = short_hash(normal(section.text))
        if len(section.text.split()) < FEWEST_SECTION_WORDS:
            none[TOO_SHORT] += 1
        elif key in chosen:
            none[SAID_AGAIN] += 1
            first = chosen[key]
            if (first.held_out, first.place, first.line) > (section.held_out, section.place, section.line):
                chosen[key] = section
        else:
            chosen[key] = section
    return list(chosen.values())


def _every_question(
    corpus: ProseCorpus, asker: _Asker, asked: AskedBefore, none: Counter[str]
) -> Iterator[tuple[int, ProseQuestion]]:
    def about(kind: str) -> Callable[[int, str], str]:
        def prompt(number: int, what: str) -> str:
            subject = asker.quoted(corpus.sections[number].subject)
            return asker.ask(kind, what, subject, asker.quoted(what)) or ""

        return prompt

    everywhere = [*definition_questions(corpus, about("definition")), *change_questions(corpus, about("replaced"))]
    yield from ((number, question) for number, question in everywhere if question.prompt)
    told = {number for number, question in everywhere if question.prompt}
    for number, section in enumerate(corpus.sections):
        reasons: list[str] = []
        count = number in told
        document = asker.quoted(section.subject)
        place = asker.place(section)

        def of_section(sentence: Sentence, document: str = document, place: str = place) -> str:
            return asker.ask("prose", sentence.text, document if sentence.apart else place) or ""

        def of_list(label: str, apart: bool, document: str = document, place: str = place) -> str:
            named = asker.quoted(label)
            return asker.ask("list", label, document if apart or named in place else place, named) or ""

        several = [
            *cloze_questions(corpus, number, of_section),
            *terms_questions(corpus, number, asker, asked),
            *list_questions(corpus, number, of_list),
        ]
        for each in several:
            if isinstance(each, str):
                reasons.append(each)
            elif each.prompt:
                count = True
                yield number, each
        if not count:
            none["; ".join(reasons)] += 1


def terms_questions(
    corpus: ProseCorpus, number: int, asker: _Asker, asked: AskedBefore
) -> Iterator[ProseQuestion | str]:
    """What a section says, to be marked by its key terms: asked in each phrasing of its question that is held out,
    or in one that is trained for no section.

    Several parts of one heading are one section: nobody can tell which of them a question means.
    """
    section = corpus.sections[number]
    parts = [each for each in (corpus.sections[place] for place in corpus.near(number)) if each.name == section.name]
    if parts[0] is not section:
        return
    if len({part.held_out for part in parts}) > 1:
        yield TRAINED_IN_PART
        return
    prompts = list(asked.held_out.get((section.path, section.line), ()))
    if not prompts:
        label = section.label or section.subject
        one = asker.ask("section", section.heading, section.subject, label)
        prompts = [one] if one else []
    every = [term for part in parts for sentence in part.sentences if not sentence.apart for term in sentence.terms]
    for prompt in prompts:
        terms = corpus.table.rare_of(every, besides=prompt)
        texts = {fold(term.text): term.text.strip("`") for term in terms[:MOST_TERMS]}
        if len(texts) < FEWEST_TERMS:
            yield FEW_TERMS
            return
        yield ProseQuestion(
            "terms",
            section.name,
            section.path,
            section.line,
            prompt,
            terms=tuple(texts.values()),
            held_out=section.held_out,
        )
