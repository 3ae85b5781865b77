"""The rival of every training: the untrained base, with passages of the documents in its prompt.

"Why not put the manual into the prompt?" A plain search (BM25) stands for what anybody has working in an afternoon. It
is asked the same questions as the trained model, and marked in the same way; beside it stands the base with the very
section that is asked about, where a question says which that is: as good as any search could get.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.evaluate.choice import Choice
from afina.evaluate.coverage import held_terms
from afina.evaluate.grade import Graded, contains
from afina.evaluate.intervals import gain_interval, more_than_chance, share_interval
from afina.evaluate.probes import ProbeSet, Question
from afina.evaluate.scores import Ahead, Change, RetrievalProbe
from afina.evaluate.verdict import ProbeScore
from afina.recipe.probe import TELL_OF_LEARNING
from afina.text.example import Example, read_examples

ASKED_OF_PASSAGES = (*TELL_OF_LEARNING, "choice", "coverage")
"""Roles of the probes that tell whether something was learned."""
INSTRUCTION = {
    "pt": ("Responde com base nestes excertos.", "Pergunta:"),
    "en": ("Answer from these passages.", "Question:"),
}
"""By language, what stands before the passages, and before the question behind them."""
_WORD = re.compile(r"\w+")

Item = Question | Choice
Flags = tuple[bool, ...]


@dataclass(frozen=True)
class DocumentPassage:
    """A piece of the documents as the dataset has cut them."""

    section: str
    """File and headings."""
    text: str


def read_passages(dataset: Path) -> list[DocumentPassage]:
    """What a search would look through: sections of documents and the sources' own conversations, held out or not.

    Nothing that afina or a teacher made of them, which says the same again, and no replay.

    Args:
        dataset: the dataset folder.
    """
    found: dict[str, DocumentPassage] = {}
    for split in ("train", "validation"):
        for example in read_examples(dataset / f"{split}.jsonl"):
            if not example.made and not example.replay and _WORD.search(text := _text_of(example)):
                section = f"{example.path} > {example.heading}" if example.heading else example.path
                found.setdefault(text, DocumentPassage(section, text))
    return list(found.values())


def _text_of(example: Example) -> str:
    return example.text or "\n".join(message["content"] for message in example.messages)


class Search:
    """BM25 over words in any case; parameters are the library's, as anybody would leave them.

    >>> texts = {"a": "Ana nasceu em Faro.", "b": "Rui nasceu em Lagos, Rui."}
    >>> search = Search([DocumentPassage(*each) for each in texts.items()])
    >>> [passage.section for passage in search.best("Onde nasceu RUI?", 5)], search.best("Quem?", 5)
    (['b', 'a'], [])
    """

    def __init__(self, passages: Sequence[DocumentPassage]) -> None:
        from bm25s import BM25

        self.passages = passages
        self._index = BM25()
        self._index.index([_words(passage.text) for passage in passages], show_progress=False)

    def best(self, query: str, most: int) -> list[DocumentPassage]:
        """The passages that fit a query best, those that share a word with it; of two that fit alike the earlier."""
        known = [word for word in _words(query) if word in self._index.vocab_dict]
        if not known:
            return []
        scores = self._index.get_scores(known).tolist()
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        return [self.passages[number] for number in order[:most] if scores[number] > 0]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


@dataclass(frozen=True)
class AskedWith:
    """One question of a probe with passages in its prompt."""

    number: int
    """Which question of the probe it is."""
    item: Item
    """As it is asked."""
    holding: Flags
    """Of what is counted of it, whether the passages hold it: of coverage each key term, else the answer."""


@dataclass(frozen=True)
class ProbeWith:
    """A probe's questions with what the search found, and those whose section is known with that section."""

    probe: ProbeSet
    found: tuple[AskedWith, ...]
    section: tuple[AskedWith, ...]
    left_out: int
    """Questions in whose prompt not even one passage has room."""
    fewer: int
    """Prompts in which not all passages that the search found have room."""


Fits = Callable[[Item], bool]


def with_passages(item: Item, passages: Sequence[DocumentPassage], language: str) -> Item:
    """A question with passages in its last turn; as it is where there are none.

    >>> asked = Question(({"role": "user", "content": "Who?"},), "Ana", "a:1")
    >>> with_passages(asked, [DocumentPassage("a", "Ana.")], "en").prompt
    'Answer from these passages.\\n\\nAna.\\n\\nQuestion: Who?'
    """
    if not passages:
        return item
    head, mark = INSTRUCTION.get(language[:2], INSTRUCTION["en"])
    prompt = "\n\n".join([head, *(passage.text for passage in passages), f"{mark} {item.prompt}"])
    if isinstance(item, Choice):
        return replace(item, prompt=prompt)
    last: Any = {**item.messages[-1], "content": prompt}
    return replace(item, messages=(*item.messages[:-1], last))


def put_passages(probe: ProbeSet, search: Search, *, passages: int, most: int, language: str, fits: Fits) -> ProbeWith:
    """The questions of a probe as they are asked of the base with passages.

    Args:
        passages: most of them in a prompt.
        most: questions; of more as many are taken, evenly from first to last.
        fits: whether a question has room in what the base sees, its answer included.
    """
    items: Sequence[Item] = probe.choices or probe.questions
    by_section: dict[str, list[DocumentPassage]] = {}
    for passage in search.passages:
        by_section.setdefault(passage.section, []).append(passage)
    numbers = range(len(items)) if len(items) <= most else [at * len(items) // most for at in range(most)]
    found, section, left_out, fewer = [], [], 0, 0
    for number in numbers:
        item, best = items[number], search.best(items[number].prompt, passages)
        taken = _room_for(item, best, language, fits)
        if best and not taken:
            left_out += 1
            continue
        fewer += len(taken) < len(best)
        found.append(AskedWith(number, with_passages(item, taken, language), _holding(item, taken)))
        if known := _room_for(item, by_section.get(item.cluster, []), language, fits):
            section.append(AskedWith(number, with_passages(item, known, language), _holding(item, known)))
    return ProbeWith(probe, tuple(found), tuple(section), left_out, fewer)


def _room_for(item: Item, passages: Sequence[DocumentPassage], language: str, fits: Fits) -> Sequence[DocumentPassage]:
    """As many of them, from the first on, as have room."""
    count = len(passages)
    while count and not fits(with_passages(item, passages[:count], language)):
        count -= 1
    return passages[:count]


def _holding(item: Item, passages: Sequence[DocumentPassage]) -> Flags:
    if isinstance(item, Choice):
        return (any(passage.section == item.cluster for passage in passages),)
    text = "\n".join(passage.text for passage in passages)
    if item.terms:
        return tuple(held_terms(text, item.terms))
    return (any(contains(text, name) for name in item.new or (item.reference,)),)


def compare(asked: ProbeWith, flags: Sequence[Flags], section: Sequence[Flags], score: ProbeScore) -> RetrievalProbe:
    """What the passages did, beside what the training did on the same questions.

    Args:
        flags: of each question of `asked.found`, what the base has right; of coverage of each key term.
        section: of each of `asked.section`, likewise.
        score: the probe's own, before and after training.
    """
    before, after = score.flags(_said)
    questions = asked.probe.questions
    sizes = [len(each.terms) or 1 for each in questions] if not asked.probe.choices else [1] * score.n
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    places = [starts[each.number] + at for each in asked.found for at in range(sizes[each.number])]
    base, trained = [before[place] for place in places], [after[place] for place in places]
    retrieved = [flag for of_one in flags for flag in of_one]
    clusters = [score.clusters[place] for place in places] if score.clusters else []
    low, high = share_interval(retrieved, clusters)
    better: Ahead = "neither"
    if more_than_chance(trained, retrieved, clusters):
        better = "retrieval"
    elif more_than_chance(retrieved, trained, clusters):
        better = "training"
    by_section = [flag for of_one in section for flag in of_one]
    return RetrievalProbe(
        score.name,
        score.role,
        len(places),
        len(set(clusters)) if clusters else len(places),
        base=_share(base),
        retrieved=_share(retrieved),
        low=low,
        high=high,
        trained=_share(trained),
        section=_share(by_section) if by_section else None,
        holding=_share([flag for each in asked.found for flag in each.holding]),
        ahead=Change(_share(retrieved) - _share(trained), *gain_interval(trained, retrieved, clusters)),
        better=better,
        helps=more_than_chance(base, retrieved, clusters),
    )


def _said(graded: Graded) -> bool:
    return graded.said


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))
