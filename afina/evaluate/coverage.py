"""What a free answer holds: key terms of its section, and terms of its own that stand nowhere in the documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afina.evaluate.grade import contains
from afina.text.example import read_examples
from afina.text.key_terms import TermTable, term_key

SPLITS = ("train", "validation", "test")


def held_terms(answer: str, terms: Sequence[str]) -> list[bool]:
    """Of each term whether the answer holds it, as whole words in any case, with or without the marks of code.

    >>> held_terms("Usa std.ArrayList desde 0.14.", ["std.arraylist", "0.1", "Faro"])
    [True, False, False]
    """
    return [contains(answer, term_key(term)) for term in terms]


def held_by_luck(answers: Sequence[str], terms: Sequence[Sequence[str]], sections: Sequence[str]) -> list[list[float]]:
    """For each term of each question, the share of the answers about other sections that hold it.

    So often it would be held with the answers dealt anew among the sections: a word that any answer has tells nothing.

    >>> held_by_luck(["Faro e Lagos", "Lagos", "Lagos"], [["Faro", "Lagos"], ["Lagos"], ["Faro"]], ["a", "b", "b"])
    [[0.0, 1.0], [1.0], [1.0]]
    """
    asked = list(dict.fromkeys(term for of_one in terms for term in of_one))
    holding = dict(zip(asked, zip(*(held_terms(answer, asked) for answer in answers), strict=True), strict=True))
    out = []
    for of_one, section in zip(terms, sections, strict=True):
        others = [number for number, other in enumerate(sections) if other != section]
        out.append([sum(holding[term][number] for number in others) / max(1, len(others)) for term in of_one])
    return out


def documents_words(dataset: Path) -> TermTable:
    """What stands in the texts, questions and answers of a dataset folder, to tell what stands nowhere in them."""
    table = TermTable()
    for split in SPLITS:
        file = dataset / f"{split}.jsonl"
        for example in read_examples(file) if file.is_file() else ():
            table.learn_words("\n".join([example.text, *(message["content"] for message in example.messages)]))
    return table


def share_made_up(answers: Sequence[str], prompts: Sequence[str], known: TermTable) -> float:
    """Of the terms that the answers have and their questions have not, the share that stands nowhere in the documents.

    >>> known = TermTable()
    >>> known.learn_words("Hassan Nader chegou ao Farense, e foi em 1990.")
    >>> share_made_up(["Foi em 1990, e Celso Dias em 1991."], ["Quando chegou Hassan?"], known)
    0.6666666666666666
    """
    nowhere, terms = 0, 0
    for answer, prompt in zip(answers, prompts, strict=True):
        own = {term.key: term for term in known.find(answer) if not contains(prompt, term.key)}
        terms += len(own)
        nowhere += sum(known.nowhere(term) for term in own.values())
    return nowhere / max(1, terms)
