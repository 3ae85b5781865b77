"""What can be wrong between examples, computed from the columns of a :class:`~afina.dataset.audit.row_table.RowTable`.

Nothing here reads a text: equal hashes are equal words. What grows with the rows lies on the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from afina.dataset.audit.one_example import whole
from afina.dataset.audit.row_table import ASKS, MADE, RowTable
from afina.dataset.build.split import beginnings
from afina.text.code_blocks import without_fences
from afina.text.example import Example
from afina.text.language import language_of_text
from afina.text.near_duplicates import clusters, similar_pairs
from afina.units import show_share

if TYPE_CHECKING:
    import numpy as np

BOILERPLATE_PROMPTS = 5
SERIES_ROWS, SERIES_SHARE = 10, 0.02
"""Rows that differ in their numbers alone are a finding from so many of one kind on, and this share of the split."""
FORMULA_ROWS, FORMULA_SHARE = 20, 0.2
"""Answers that begin with the same three words."""
CLASS_ROWS, CLASS_SHARE = 20, 0.8
"""Answers of a word or two that are all the same one."""
FEWEST_PAIRS = 20
TOLD_BY_LENGTH = 0.8
LENGTH_RATIO = 1.5
"""From these on the lengths of better and worse answers are a warning."""
PLACES = 5


@dataclass(frozen=True, slots=True)
class Across:
    """How many rows have a flaw, and the first of them."""

    name: str
    count: int
    of: int
    shown: list[dict[str, str]]
    what: str = ""
    """In words, where the rule's own do not do."""


class Between:
    """The findings between rows of a table whose first `train` rows are learned, the others held out."""

    def __init__(self, table: RowTable, train: int, threshold: float) -> None:
        self.table, self.train, self.threshold = table, train, threshold
        self.columns = table.columns()

    def within(self, split: str) -> Iterator[Across]:
        """What is wrong among the rows of one split."""
        rows = self.columns[: self.train] if split == "train" else self.columns[self.train :]
        if not len(rows):
            return
        yield self._across("exact_duplicate", rows, _again(rows["content"]))
        yield self._contradictions(rows)
        yield self._boilerplate(rows)
        yield self._series(rows)
        yield self._formula(rows)
        yield self._one_class(rows)

    def leaks(self) -> Iterator[Across]:
        """What stands on both sides, a row in one kind only: itself, its question, its beginning, almost itself."""
        import numpy as np

        learned, held_out = self.columns[: self.train], self.columns[self.train :]
        if not len(learned) or not len(held_out):
            return
        same = np.isin(held_out["said"], learned["said"])
        yield self._across("leakage", held_out, same)
        asks = (self.columns["flags"] & ASKS) != 0
        question = np.isin(held_out["group"], learned["group"]) & asks[self.train :] & ~same
        yield self._across("question_leakage", held_out, question)
        begins = beginnings(*(np.asarray(self.columns[name]) for name in ("group", "opening", "longer_opening")))
        opening = np.isin(begins[self.train :], begins[: self.train][asks[: self.train]]) & asks[self.train :]
        yield self._across("shared_opening", held_out, opening & ~same & ~question)
        yield self._near_leakage(same | question)

    def _across(self, name: str, rows: Any, hit: Any, first: Any = None, what: str = "") -> Across:
        """The finding of the rows where `hit`; shown are those of `first`, where they are others."""
        import numpy as np

        (places,) = np.nonzero(hit if first is None else first)
        shown = [self._place(rows[place]) for place in places[:PLACES].tolist()]
        return Across(name, int(np.count_nonzero(hit)), len(rows), shown, what)

    def _place(self, row: Any) -> dict[str, str]:
        return {"where": self.table.where(row), "text": self.table.excerpt(row)}

    def _contradictions(self, rows: Any) -> Across:
        """Rows whose question has two or more different answers. Case and white space do not matter; a row
        without a prompt contradicts nothing. Preferences contradict each other where the same two answers
        to the same prompt are ordered both ways, rated rows where one answer is said to be good and bad.
        Shown is the first row that says another thing than the first one did."""
        import numpy as np

        asked, answered = np.asarray(rows["asked"]), np.asarray(rows["answered"])
        _, first, inverse = np.unique(asked, return_index=True, return_inverse=True)
        differs = (answered != answered[first][inverse]) & (asked != 0)
        hit = np.isin(asked, asked[differs])
        (places,) = np.nonzero(differs)
        _, once = np.unique(asked[places], return_index=True)
        other: Any = np.zeros(len(rows), bool)
        other[places[once]] = True
        return self._across("contradictory_answers", rows, hit, other)

    def _boilerplate(self, rows: Any) -> Across:
        """Rows whose answer (20 characters or more) is given to five or more different prompts.

        Questions made by templates do not count: all phrasings of one fact have one answer."""
        import numpy as np

        answer = np.asarray(rows["long_answer"])
        pairs = np.unique(np.stack([answer, np.asarray(rows["group"])], axis=1)[answer != 0], axis=0)
        answers, prompts = np.unique(pairs[:, 0], return_counts=True)
        hit = np.isin(answer, answers[prompts >= BOILERPLATE_PROMPTS])
        return self._across("boilerplate_answer", rows, hit, _first_of_each(answer, hit))

    def _series(self, rows: Any) -> Across:
        """Rows that differ from others in their numbers alone."""
        import numpy as np

        key = np.asarray(rows["without_numbers"])
        pairs = np.unique(np.stack([key, np.asarray(rows["said"])], axis=1)[key != 0], axis=0)
        keys, times = np.unique(pairs[:, 0], return_counts=True)
        hit = np.isin(key, keys[times >= max(SERIES_ROWS, SERIES_SHARE * len(rows))])
        return self._across("differ_in_numbers", rows, hit, _first_of_each(key, hit))

    def _formula(self, rows: Any) -> Across:
        """Answers that begin with the same three words."""
        return self._most_frequent("formulaic_opening", rows, "start", FORMULA_ROWS, FORMULA_SHARE)

    def _one_class(self, rows: Any) -> Across:
        """Answers of a word or two that are mostly one and the same."""
        return self._most_frequent("one_class", rows, "short_answer", CLASS_ROWS, CLASS_SHARE)

    def _most_frequent(self, name: str, rows: Any, column: str, fewest: int, share: float) -> Across:
        import numpy as np

        key = np.asarray(rows[column])
        keys, times = np.unique(key[key != 0], return_counts=True)
        often = keys[times >= max(fewest, share * times.sum())] if len(keys) > 1 else keys[:0]
        hit = np.isin(key, often)
        return self._across(name, rows, hit, _first_of_each(key, hit))

    def near_duplicates(self) -> Across:
        """Rows of train almost the same as another: those of each cluster but its first; what is exactly the same is
        counted elsewhere.

        Questions made by templates do not count: all phrasings of one fact have one answer."""
        import numpy as np

        rows = self.columns[: self.train]
        keys = np.asarray(rows["said"])
        first: Any = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        first &= (rows["flags"] & MADE) == 0
        label = clusters(self.table.signatures()[: self.train], keys, self.threshold, first)
        (later,) = np.nonzero(label != np.arange(len(label)))
        members: dict[int, list[int]] = {}
        for row in later.tolist():
            members.setdefault(int(label[row]), []).append(row)
        shown = []
        for head, others in list(members.items())[:PLACES]:
            places = ", ".join(self.table.where(rows[row]) for row in others[:PLACES])
            more = f" and {len(others) - PLACES} more" if len(others) > PLACES else ""
            shown.append({"where": self.table.where(rows[head]), "text": f"almost the same: {places}{more}"})
        return Across("near_duplicate", len(later), self.train, shown)

    def _near_leakage(self, told: Any) -> Across:
        """Held-out rows that are almost the same as one of train, without those that were `told` of already."""
        import numpy as np

        keys, train = np.asarray(self.columns["said"]), self.train

        def across(one: np.ndarray, other: np.ndarray) -> Any:
            return ((one < train) != (other < train)) & (keys[one] != keys[other])

        best: dict[int, tuple[float, int]] = {}
        for one, other, similarity in similar_pairs(self.table.signatures(), keys, self.threshold, across):
            for left, right, alike in zip(one.tolist(), other.tolist(), similarity.tolist(), strict=True):
                learned, held_out = sorted((left, right))
                if not told[held_out - train]:
                    best[held_out] = max(best.get(held_out, (0.0, 0)), (alike, -learned))
        shown = [
            {
                "where": self.table.where(self.columns[row]),
                "text": f"{alike:.0%} the same as {self.table.where(self.columns[-learned])} in train",
            }
            for row, (alike, learned) in sorted(best.items())[:PLACES]
        ]
        return Across("near_leakage", len(best), len(self.columns) - train, shown)


def _again(keys: Any) -> Any:
    """Which of them stood before.

    >>> import numpy as np
    >>> _again(np.array([7, 8, 7])).tolist()
    [False, False, True]
    """
    import numpy as np

    again: Any = np.ones(len(keys), bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return again


def _first_of_each(keys: Any, hit: Any) -> Any:
    """Of the rows where `hit` the first of each key."""
    return hit & ~_again(keys)


@dataclass
class LengthBias:
    """How much longer the better answers of preferences are than the worse ones: a model learns that first."""

    pairs: int = 0
    longer: int = 0
    """Pairs whose better answer is the longer one."""
    chosen: int = 0
    """Characters of all better answers."""
    rejected: int = 0

    def add(self, example: Example) -> None:
        """Note an example; only preferences count."""
        if example.rejected is not None:
            chosen, rejected = len(example.answer.strip()), len(example.rejected.strip())
            self.pairs += 1
            self.longer += chosen > rejected
            self.chosen += chosen
            self.rejected += rejected

    def merge(self, later: LengthBias) -> None:
        """Add the pairs of the rows that follow."""
        self.pairs += later.pairs
        self.longer += later.longer
        self.chosen += later.chosen
        self.rejected += later.rejected

    @property
    def share(self) -> float:
        """Share of the pairs whose better answer is the longer one."""
        return self.longer / max(1, self.pairs)

    @property
    def ratio(self) -> float:
        """Characters of the better answers / characters of the worse ones."""
        return self.chosen / max(1, self.rejected)

    @property
    def strong(self) -> bool:
        """Whether length alone tells most pairs apart, or the answers of one side are half as long again."""
        told = max(self.share, 1 - self.share) if self.pairs >= FEWEST_PAIRS else 0.0
        return told >= TOLD_BY_LENGTH or not 1 / LENGTH_RATIO < self.ratio < LENGTH_RATIO

    def __str__(self) -> str:
        return f"{self.ratio:.2f} times as long; the better answer is the longer one in {show_share(self.share)}"


@dataclass
class LanguageMix:
    """How many examples are in which language, as far as that can be told."""

    expected: str = ""
    """The recipe's, e.g. ``pt-PT``; else the most frequent one is the main one."""
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, example: Example) -> str:
        """The example's language; empty where it cannot be told. Code in fences does not count."""
        language = language_of_text(without_fences(whole(example))) or ""
        self.counts[language] += bool(language)
        return language

    def merge(self, later: LanguageMix) -> None:
        """Add the examples of the rows that follow."""
        self.counts.update(later.counts)

    @property
    def judged(self) -> int:
        return self.counts.total()

    @property
    def main(self) -> str:
        return self.expected.partition("-")[0] or max(self.counts, key=lambda name: self.counts[name], default="")

    @property
    def count(self) -> int:
        """Examples in another language than the main one."""
        return self.judged - self.counts[self.main]

    def __str__(self) -> str:
        return ", ".join(f"{name} {show_share(n / self.judged)}" for name, n in self.counts.most_common() if n)
