"""What can be wrong between examples. Only hashes are kept, so a million rows fit.

Each class is fed with :meth:`add`, which returns True where the example just seen is a hit worth
showing; `count` is the final number.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from afina.dataset.audit.one_example import whole
from afina.text.code_blocks import without_fences
from afina.text.example import Example
from afina.text.identity import content_key, group_key, normal, short_hash
from afina.text.language import language_of_text
from afina.text.near_duplicates import Signatures, clusters, similar_pairs
from afina.units import show_share

if TYPE_CHECKING:
    import numpy as np

BOILERPLATE_CHARS = 20
BOILERPLATE_PROMPTS = 5
FEWEST_PAIRS = 20
TOLD_BY_LENGTH = 0.8
LENGTH_RATIO = 1.5
"""From these on the lengths of better and worse answers are a warning."""


@dataclass
class Duplicates:
    """Rows whose words, in the same roles, stood there before (white space does not matter)."""

    count: int = 0
    _seen: set[str] = field(default_factory=set)

    def add(self, example: Example) -> bool:
        key = content_key(example)
        again = key in self._seen
        self._seen.add(key)
        self.count += again
        return again


@dataclass
class Leakage:
    """Held-out rows that stand in train as well, as the same row or the same prompt with the same answer."""

    count: int = 0
    _train: set[str] = field(default_factory=set)

    def learn(self, example: Example) -> None:
        """Note a row of train; all of them come before the first :meth:`add`."""
        self._train.add(_said(example))

    def add(self, example: Example) -> bool:
        found = _said(example) in self._train
        self.count += found
        return found


@dataclass
class Contradictions:
    """Rows whose prompt has two or more different answers. Case and white space do not matter; a row
    without a prompt contradicts nothing. Preferences contradict each other where the same two answers
    to the same prompt are ordered both ways, rated rows where one answer is said to be good and bad."""

    _rows: dict[str, int] = field(default_factory=dict)
    _first: dict[str, str] = field(default_factory=dict)
    _split: set[str] = field(default_factory=set)

    def add(self, example: Example) -> bool:
        if not example.messages or not example.prompt.strip():
            return False
        prompt, answer = group_key(example), short_hash(normal(example.answer).casefold())
        if example.rejected is not None:
            worse = short_hash(normal(example.rejected).casefold())
            if worse == answer:
                return False
            prompt = short_hash(f"{prompt} {min(answer, worse)} {max(answer, worse)}")
        if example.label is not None:
            prompt, answer = short_hash(f"{prompt} {answer}"), str(example.label)
        self._rows[prompt] = self._rows.get(prompt, 0) + 1
        if self._first.setdefault(prompt, answer) == answer or prompt in self._split:
            return False
        self._split.add(prompt)
        return True

    @property
    def count(self) -> int:
        return sum(self._rows[prompt] for prompt in self._split)


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
class Boilerplate:
    """Rows whose answer (20 characters or more) is given to five or more different prompts.

    Questions made by templates do not count: all phrasings of one fact have one answer."""

    _rows: dict[str, int] = field(default_factory=dict)
    _prompts: dict[str, set[str]] = field(default_factory=dict)

    def add(self, example: Example) -> bool:
        answer = normal(example.answer).casefold()
        if example.made or len(answer) < BOILERPLATE_CHARS or not example.prompt.strip():
            return False
        key = short_hash(answer)
        self._rows[key] = self._rows.get(key, 0) + 1
        prompts = self._prompts.setdefault(key, set())
        before = len(prompts)
        if before < BOILERPLATE_PROMPTS:
            prompts.add(group_key(example))
        return before < BOILERPLATE_PROMPTS == len(prompts)

    @property
    def count(self) -> int:
        return sum(self._rows[key] for key, prompts in self._prompts.items() if len(prompts) >= BOILERPLATE_PROMPTS)


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


@dataclass(frozen=True, slots=True)
class Alike:
    """How many rows are almost the same as another, and places of the first of them."""

    count: int
    shown: list[dict[str, str]]


@dataclass
class Near:
    """Rows that are almost the same as another one of train; what is exactly the same is counted elsewhere.

    The rows of train come first. Their signatures lie in a temporary file.
    """

    threshold: float
    shown: int
    _signatures: Signatures = field(default_factory=Signatures)
    _keys: array[int] = field(default_factory=partial(array, "Q"))
    _lines: array[int] = field(default_factory=partial(array, "I"))
    _files: array[int] = field(default_factory=partial(array, "I"))
    _made: array[int] = field(default_factory=partial(array, "B"))
    _paths: list[str] = field(default_factory=list)

    def add(self, example: Example) -> None:
        """Note a row."""
        self._signatures.append(example)
        self._keys.append(int(_said(example), 16))
        if not self._paths or self._paths[-1] != example.path:
            self._paths.append(example.path)
        self._files.append(len(self._paths) - 1)
        self._lines.append(example.line)
        self._made.append(bool(example.made))

    def duplicates(self, train: int) -> Alike:
        """Within the first `train` rows: those of each cluster but its first.

        Questions made by templates do not count: all phrasings of one fact have one answer."""
        import numpy as np

        keys = np.frombuffer(self._keys, np.uint64)[:train]
        table = self._signatures.table()[:train]
        first: Any = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        first &= np.frombuffer(self._made, np.uint8)[:train] == 0
        label = clusters(table, keys, self.threshold, first)
        (later,) = np.nonzero(label != np.arange(len(label)))
        members: dict[int, list[int]] = {}
        for row in later.tolist():
            members.setdefault(int(label[row]), []).append(row)
        shown = []
        for head, rows in list(members.items())[: self.shown]:
            places = ", ".join(map(self._where, rows[: self.shown]))
            more = f" and {len(rows) - self.shown} more" if len(rows) > self.shown else ""
            shown.append({"where": self._where(head), "text": f"almost the same: {places}{more}"})
        return Alike(len(later), shown)

    def leakage(self, train: int) -> Alike:
        """Rows after the first `train` that are almost the same as one of those."""
        import numpy as np

        keys = np.frombuffer(self._keys, np.uint64)
        table = self._signatures.table()

        def across(one: np.ndarray, other: np.ndarray) -> Any:
            return ((one < train) != (other < train)) & (keys[one] != keys[other])

        best: dict[int, tuple[float, int]] = {}
        for one, other, similarity in similar_pairs(table, keys, self.threshold, across):
            for left, right, alike in zip(one.tolist(), other.tolist(), similarity.tolist(), strict=True):
                learned, held_out = sorted((left, right))
                best[held_out] = max(best.get(held_out, (0.0, 0)), (alike, -learned))
        shown = [
            {"where": self._where(row), "text": f"{alike:.0%} the same as {self._where(-learned)} in train"}
            for row, (alike, learned) in sorted(best.items())[: self.shown]
        ]
        return Alike(len(best), shown)

    def _where(self, row: int) -> str:
        return f"{self._paths[self._files[row]]}:{self._lines[row]}"


def _said(example: Example) -> str:
    """One key for a text and for a row that says the same without a prompt."""
    return short_hash(f"{normal(example.prompt)}\0{normal(example.answer or example.text)}")
