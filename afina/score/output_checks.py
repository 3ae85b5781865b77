"""What is wrong with outputs and references before anything is scored, counted by model and group.

A finding does not say that a model is bad but that a score may not measure the model. So it is told first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from afina.dataset.audit.one_example import encoding_noise, excerpt
from afina.score.columns import ScoredItem
from afina.score.leaks import Leak
from afina.score.normalize import squad_normal
from afina.text.document import Message
from afina.text.example import Example
from afina.text.identity import group_key, short_hash

RULES: dict[str, tuple[str, str]] = {
    "prompt_in_output": (
        "outputs begin with prompt text or chat markers",
        "score with --strip-leaks, and fix what cuts the prompt off (cut by the padded length, stop tokens)",
    ),
    "next_turn_in_output": (
        "outputs go on after the answer with chat markers or another turn",
        "stop at the template's end tokens; --strip-leaks cuts them off",
    ),
    "empty_output": ("outputs are empty", "look at what the model was asked, and at the stop tokens"),
    "cut_output": ("outputs are cut at the length limit", "ask again with a higher limit: they are scored as they are"),
    "maybe_cut_output": (
        "outputs are among the longest and end in the middle of a sentence: probably cut at the length limit",
        "ask again with a higher limit: they are scored as they are",
    ),
    "loop_in_output": ("outputs end in a loop", "the model does not stop: look at the end tokens in its training"),
    "same_output": (
        "outputs give the same text (five words or more) to at least three different prompts",
        "look whether the model answers at all",
    ),
    "empty_reference": ("references are empty", "remove the rows, or give them a reference: every answer scores 0"),
    "void_reference": (
        "references hold nothing but articles or punctuation, so that exact match and F1 say nothing about them",
        "score choices by accuracy (--choices A,B,C,D), or leave articles in: --language none",
    ),
    "noisy_reference": (
        "references are noisy: lost characters, or a loop",
        "fix or remove the rows: no answer can match them",
    ),
    "repeated_row": ("rows ask what an earlier row asks", "remove them: they count twice"),
    "trained_on": ("rows stand in the training data too", "remove them: they measure memory"),
}
"""Name of a finding -> what it is, and what to do."""
OF_REFERENCES = ("empty_reference", "void_reference", "noisy_reference", "repeated_row", "trained_on")
"""Findings about the rows themselves; the others are about one model's outputs."""
STRIPPED = ("prompt_in_output", "next_turn_in_output")
_SHOWN = 3
_FEWEST_WORDS = 8
_FEWEST_SAME, _FEWEST_PROMPTS = 5, 3
_CLOSED = tuple(".!?…:;\"'”’»)]}>`*|0123456789")
_LONG = 0.8
"""Share of the longest outputs' length from which an output may have been cut."""

Place = tuple[int, str]
"""A row's line and group. Texts are not kept: a file may be larger than the memory."""


@dataclass
class OutputFinding:
    """One kind of flaw in the outputs of one model (or the rows, with an empty `prediction`)."""

    name: str
    prediction: str
    counts: Counter[str] = field(default_factory=Counter)
    """Group -> rows."""
    examples: list[tuple[int, str]] = field(default_factory=list)
    """Line and excerpt of the first ones."""

    def add(self, place: Place, shown: str) -> None:
        """Count a row; the first few are kept to be shown."""
        line, group = place
        self.counts[group] += 1
        if len(self.examples) < _SHOWN:
            self.examples.append((line, excerpt(shown)))

    def as_json(self) -> dict[str, Any]:
        what, fix = RULES[self.name]
        return {
            "name": self.name,
            "what": what,
            "fix": fix,
            "prediction": self.prediction or None,
            "count": self.counts.total(),
            "groups": dict(self.counts),
            "examples": [{"line": line, "text": text} for line, text in self.examples],
        }


class OutputChecks:
    """Looks at one item after another; :meth:`findings` when all have been seen."""

    def __init__(self, predictions: Sequence[str], language: str, trained_on: frozenset[str] = frozenset()) -> None:
        self.predictions, self.language, self.trained_on = predictions, language, trained_on
        self._found: dict[tuple[str, str], OutputFinding] = {}
        self._asked: dict[str, int] = {}
        self._open_ends: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
        self._lengths: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._same: dict[tuple[str, str], list[tuple[str, Place, str]]] = defaultdict(list)

    def add(self, item: ScoredItem, answers: Sequence[str], leaks: Sequence[Leak | None]) -> None:
        """One item: its answers without leaks, and the leaks."""
        key = prompt_key(item.prompt) if item.prompt else ""
        place = (item.line, item.group)
        self._see_row(item, place, key)
        given = zip(self.predictions, item.outputs, answers, leaks, item.ended, strict=True)
        for name, output, answer, leak, ended in given:
            if leak and leak.before:
                self._note("prompt_in_output", name, place, output)
            if leak and leak.after:
                self._note("next_turn_in_output", name, place, leak.after)
            words = answer.split()
            if not words:
                self._note("empty_output", name, place, output)
                continue
            if in_loop(answer):
                self._note("loop_in_output", name, place, answer[-120:])
            if ended is False:
                self._note("cut_output", name, place, answer[-120:])
            elif ended is None:
                self._lengths[name, item.group].append(len(answer))
                if len(words) >= _FEWEST_WORDS and not answer.rstrip().endswith(_CLOSED):
                    self._open_ends[name, item.group].append((len(answer), item.line, excerpt(answer[-120:])))
            if len(words) >= _FEWEST_SAME:
                same = self._same[name, short_hash(" ".join(words))]
                same.append((key or str(item.line), place, excerpt(answer) if len(same) < _SHOWN else ""))

    def _see_row(self, item: ScoredItem, place: Place, key: str) -> None:
        shown = " / ".join((*item.references, *item.prompt[-1:]))
        if not any(reference.strip() for reference in item.references):
            self._note("empty_reference", "", place, shown)
        elif not any(squad_normal(reference, self.language) for reference in item.references):
            self._note("void_reference", "", place, shown)
        elif all(_noisy(reference) for reference in item.references):
            self._note("noisy_reference", "", place, item.references[0])
        if key and key in self.trained_on:
            self._note("trained_on", "", place, shown)
        if key and self._asked.setdefault(f"{item.group} {key}", item.line) != item.line:
            self._note("repeated_row", "", place, shown)

    def _note(self, name: str, prediction: str, place: Place, shown: str) -> None:
        self._found.setdefault((name, prediction), OutputFinding(name, prediction)).add(place, shown)

    def findings(self) -> list[OutputFinding]:
        """All findings, in the order of :data:`RULES`; each model's beside each other. Call it once."""
        for (name, group), ends in self._open_ends.items():
            lengths = sorted(self._lengths[name, group])
            longest = lengths[-max(1, len(lengths) // 20)]  # the 95th percentile: a few may hold longer letters
            for length, line, shown in ends:
                if length >= _LONG * longest:
                    self._note("maybe_cut_output", name, (line, group), shown)
        for (name, _), places in self._same.items():
            if len({key for key, _, _ in places}) >= _FEWEST_PROMPTS:
                for _, place, shown in places:
                    self._note("same_output", name, place, shown)
        order, models = list(RULES), ["", *self.predictions]
        return sorted(self._found.values(), key=lambda each: (order.index(each.name), models.index(each.prediction)))


def prompt_key(prompt: Sequence[str]) -> str:
    """The same for two prompts of the same words, whatever their case and white space."""
    return group_key(Example(messages=(Message(role="user", content="\n\n".join(prompt)), _NO_ANSWER)))


_NO_ANSWER = Message(role="assistant", content="")


def training_keys(prompts: Iterable[Sequence[str]]) -> frozenset[str]:
    """The keys of a training set's prompts, to be held against an item's."""
    return frozenset(prompt_key(prompt) for prompt in prompts if any(part.strip() for part in prompt))


def _noisy(reference: str) -> bool:
    return in_loop(reference) or encoding_noise(Example(text=reference)) is not None


def in_loop(text: str) -> bool:
    """Whether a text ends in the same words four times over, or the same few letters six times.

    >>> in_loop("o que é o que é o que é o que é"), in_loop("E-mail: ssrsrsrsrsrsrsrsr"), in_loop("não, não, não!")
    (True, True, False)
    """
    words = text.split()
    tail = "".join(text.split())[-200:]
    return _period(words[-400:], longest=60, times=4, least=8) or (
        tail[-1:].isalpha() and _period(tail, longest=8, times=6, least=12)
    )


def _period(items: Sequence[str], *, longest: int, times: int, least: int) -> bool:
    """Whether the end of `items` repeats a piece of at most `longest` at least `times`, over `least` items or more.

    >>> _period("xabababab", longest=4, times=4, least=8), _period("abcd", longest=2, times=2, least=2)
    (True, False)
    """
    for period in range(1, min(longest, len(items) // times) + 1):
        same = 0
        while same < len(items) - period and items[-1 - same] == items[-1 - same - period]:
            same += 1
        if same + period >= max(least, times * period):
            return True
    return False
