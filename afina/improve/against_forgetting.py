"""More replay, and answers in the base's own words: what each measured on the facts that steer, at equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.improve.own_words import OwnWords
from afina.improve.rounds import Pair, Round, brings, pair_of
from afina.units import show_share

UNEQUAL = 0.1
"""A larger difference of the tokens that were read is said: the two did not cost the same."""
OF_FACTS = "of what it knew"
"""Stands in a verdict's `broke` where facts are lost; skills are no reason for either way."""
REPLAY, SMALLER_STEPS, OWN_WORDS = "more replay", "smaller steps", "self-distilled answers"


@dataclass(frozen=True)
class Tried:
    """One way, as its round measured it by the facts that steer."""

    way: str
    number: int
    right: float | None
    """Share of the answers that hold what is right, in whatever words; None where it was not measured."""
    broken: float | None
    """Share of what the base knew that is lost."""
    steps: int
    tokens: int


@dataclass(frozen=True)
class AgainstForgetting:
    """Which ways were tried, which was kept, and what was not tried and why."""

    tried: tuple[Tried, ...]
    kept: str = ""
    not_tried: str = ""


def against_forgetting(rounds: Sequence[Round], why_over: str, own_words: OwnWords | None) -> AgainstForgetting | None:
    """How what broke was met; None where nothing broke, by the facts that steer.

    Args:
        why_over: why there are no more rounds.
        own_words: what became of the rows when the base answered them again.
    """
    pair = pair_of(rounds)
    if pair is None:
        broke = [each for each in rounds if each.steering and OF_FACTS in each.steering.verdict.broke]
        neither = f"neither {REPLAY} nor {OWN_WORDS} were tried: {why_over}"
        return AgainstForgetting((), not_tried=neither) if broke else None
    first = REPLAY if pair.more_replay else SMALLER_STEPS
    missing = [] if pair.more_replay else [f"{REPLAY} was not tried: the recipe has no source to take more of"]
    if pair.distilled is None:
        told = pair.replayed.recipe.dataset.answers is not None
        why = "the recipe names `dataset.answers` of its own" if told else why_over
        if own_words is not None and not own_words.rewritten:
            why = own_words.describe()
        missing.append(f"{OWN_WORDS} were not tried: {why}")
        return AgainstForgetting((_tried(first, pair.replayed),), not_tried="; ".join(missing))
    both = _tried(first, pair.replayed), _tried(OWN_WORDS, pair.distilled)
    return AgainstForgetting(both, _kept(pair, both), "; ".join(missing))


def _tried(way: str, done: Round) -> Tried:
    right, half = None, done.steering
    if half is not None and half.telling:
        flags = [flag for probe in half.telling for flag in probe.flags(lambda graded: graded.said)[1]]
        right = sum(flags) / max(1, len(flags))
    return Tried(way, done.number, right, half.broken if half else None, *done.trained)


def _kept(pair: Pair, both: Sequence[Tried]) -> str:
    assert pair.distilled is not None
    kept, other = (pair.replayed, pair.distilled) if pair.kept is pair.replayed else (pair.distilled, pair.replayed)
    way = both[kept is pair.distilled].way
    if other.steering is None:
        return f"{way} (round {kept.number}): the other was not measured"
    how = "as near" if kept.shortfall == other.shortfall else "nearer"
    sure = "beyond chance" if brings(kept, other) else "by what may be chance"
    why = f"{how} to the limits by the facts that steer" + (f", {sure}" if how == "nearer" else "")
    return f"{way} (round {kept.number}), {why}"


def cost_differs(both: Sequence[Tried]) -> str:
    """That two ways did not cost the same; empty where they did."""
    if len(both) < 2 or not both[0].tokens:
        return ""
    more = both[1].tokens / both[0].tokens - 1
    told = f"not at equal cost: the second read {show_share(abs(more))} {'more' if more > 0 else 'fewer'} tokens"
    return told if abs(more) > UNEQUAL else ""


def describe(found: AgainstForgetting) -> list[str]:
    """The ways side by side, and which was kept."""
    lines = []
    if found.tried:
        rows = [("against forgetting", "round", "right", "broke", "steps", "tokens")]
        rows += [
            (each.way, str(each.number), _share(each.right), _share(each.broken), str(each.steps), str(each.tokens))
            for each in found.tried
        ]
        lines += in_columns(rows)
    lines += [told] if (told := cost_differs(found.tried)) else []
    lines += [f"kept: {found.kept}"] if found.kept else []
    return lines + ([found.not_tried] if found.not_tried else [])


def _share(value: float | None) -> str:
    return "-" if value is None else show_share(value)


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell.

    >>> in_columns([("a", "bc"), ("def", "g")])
    ['a    bc', 'def  g']
    """
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)).rstrip() for row in rows]


def as_json_of(found: AgainstForgetting | None) -> Mapping[str, Any] | None:
    """Plain values; None where nothing broke."""
    if found is None:
        return None
    tried = [
        {
            "way": each.way,
            "round": each.number,
            "right_share": each.right,
            "broken_share": each.broken,
            "steps": each.steps,
            "tokens": each.tokens,
        }
        for each in found.tried
    ]
    return {"tried": tried, "kept": found.kept, "not_tried": found.not_tried, "cost": cost_differs(found.tried)}
