"""What one answer is: right, declined, a claim to know, made up, of the new or of the old version."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from afina.text.claims import claims_to_know, declines

Version = Literal["new", "old", "neither"]


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer to one question."""

    verbatim: bool = False
    """It is the reference, word for word."""
    said: bool = False
    """The reference stands in it: right in whatever form, as a base that answers in whole sentences is."""
    claims: bool = False
    """It says that it knows."""
    declines: bool = False
    """It says that it does not know, or says nothing."""
    version: Version | None = None

    @property
    def right(self) -> bool:
        """It is the reference; of versions, it is the new one's."""
        return self.verbatim if self.version is None else self.version == "new"

    @property
    def made_up(self) -> bool:
        """It asserts something, and that is wrong."""
        return not self.said and not self.declines


def grade(
    answer: str, reference: str, *, new: Sequence[str] = (), old: Sequence[str] = (), any_case: bool = False
) -> Graded:
    """Judge an answer; `new` and `old` are what only the new and only the old version of something says.

    Args:
        any_case: whether capitals count for nothing, as where the tokenizer has none.

    >>> grade("Nasceu em Faro.", "Faro")
    Graded(verbatim=False, said=True, claims=False, declines=False, version=None)
    >>> grade("Sei tudo sobre Faro.", "1910").claims, grade("Não sei.", "1910").made_up, grade("1911", "1910").made_up
    (True, False, True)
    >>> grade("faro", "Faro").verbatim, grade("faro", "Faro", any_case=True).verbatim
    (False, True)
    """
    if any_case:
        answer, reference = answer.casefold(), reference.casefold()
        new, old = ([each.casefold() for each in strings] for strings in (new, old))
    version = version_of(answer, new, old) if new or old else None
    said = contains(answer, reference) if version is None else version == "new"
    return Graded(
        verbatim=verbatim(answer, reference),
        said=said,
        claims=claims_to_know(answer),
        declines=declines(answer),
        version=version,
    )


def luck(answers: Sequence[str], references: Sequence[str], clusters: Sequence[str] = ()) -> list[float]:
    """For each question, the share of the answers to others of its kind that would be right for it too.

    Who has learned only what answers look like is right so often. Two questions are of one kind when their references
    have the same shape (``1910`` and ``1963``, ``Faro`` and ``Lagos``). Other phrasings of the same fact are no others.

    >>> luck(["1910", "1910", "Faro"], ["1910", "1963", "Lagos"])
    [1.0, 0.0, 0.0]
    >>> luck(["1910", "1910", "1963"], ["1910", "1910", "1963"], ["Ana", "Ana", "Rui"])
    [0.0, 0.0, 0.0]
    """
    kinds: dict[str, list[int]] = {}
    for number, reference in enumerate(references):
        kinds.setdefault(_shape(reference), []).append(number)
    out = [0.0] * len(references)
    about = clusters or [str(number) for number in range(len(references))]
    for numbers in kinds.values():
        given = Counter(answers[number] for number in numbers)
        own: dict[str, list[int]] = {}
        for number in numbers:
            own.setdefault(about[number], []).append(number)
        for reference in {references[number] for number in numbers}:
            fitting = {answer for answer in given if contains(answer, reference)}
            fits = sum(given[answer] for answer in fitting)
            for number in numbers:
                same = own[about[number]]
                if references[number] == reference and len(numbers) > len(same):
                    elsewhere = fits - sum(answers[other] in fitting for other in same)
                    out[number] = elsewhere / (len(numbers) - len(same))
    return out


def _shape(text: str) -> str:
    """Words by their first letter's case, digits one by one.

    >>> _shape("nasceu em Faro, 1910")
    'a a A, 9999'
    """
    words = re.sub(r"[^\W\d_]+", lambda word: "A" if word[0][0].isupper() else "a", text)
    return re.sub(r"\d", "9", words)


def verbatim(answer: str, reference: str) -> bool:
    """Equal once Unicode is composed (NFC) and runs of white space count as one; case matters.

    Stricter than the SQuAD script's exact match (:func:`afina.score.metrics.exact_match`).

    >>> verbatim(" Faro\\n", "Faro"), verbatim("faro", "Faro")
    (True, False)
    """
    return _plain(answer) == _plain(reference)


def contains(answer: str, reference: str) -> bool:
    """Whether the reference stands in the answer as whole words; case does not matter.

    >>> contains("Nasceu em faro, em 1910.", "Faro"), contains("Farol", "Faro"), contains("x", "")
    (True, False, False)
    """
    wanted = _plain(reference).casefold().rstrip(".!?")
    return bool(wanted) and _stands_in(_plain(answer).casefold(), wanted)


def version_of(answer: str, new: Sequence[str], old: Sequence[str]) -> Version:
    """Which version's way an answer goes; one that holds anything of the old is old, for it would not compile.

    >>> version_of("var list = std.ArrayListUnmanaged(u8).empty;", ["ArrayListUnmanaged"], ["ArrayList"])
    'new'
    >>> version_of("std.ArrayList(u8).init(a)", ["ArrayListUnmanaged"], ["ArrayList"]), version_of("?", ["a"], ["b"])
    ('old', 'neither')
    """
    if any(_stands_in(answer, each) for each in old):
        return "old"
    return "new" if any(_stands_in(answer, each) for each in new) else "neither"


def _stands_in(text: str, part: str) -> bool:
    if part not in text:
        return False
    before = r"(?<!\w)" if part[:1].isalnum() or part[:1] == "_" else ""
    after = r"(?!\w)" if part[-1:].isalnum() or part[-1:] == "_" else ""
    return re.search(before + re.escape(part) + after, text) is not None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
