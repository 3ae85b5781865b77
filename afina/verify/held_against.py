"""Figures that are computed again, each held against the stored one: equal, equal within rounding, or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from afina.record import Record

if TYPE_CHECKING:
    from afina.verify.asked_again import AskedAgain

EQUAL, ROUNDED, OTHER, NOT_COMPUTED = "equal", "equal within rounding", "not equal", "not computed again"
"""What can come of it."""


def same(mine: Any, theirs: Any, but: frozenset[str] = frozenset()) -> bool:
    """Whether figures are the same, up to how a machine rounds them.

    Args:
        but: keys of mappings that are not looked at.

    >>> same({"a": [0.1 + 0.2]}, {"a": [0.3]}), same(0.5, float("nan")), same(None, 0.0)
    (True, False, False)
    """
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        keys = {*mine, *theirs} - but
        return all(same(mine.get(key), theirs.get(key), but) for key in keys)
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(same(one, two, but) for one, two in zip(mine, theirs, strict=True))
    numbers = isinstance(mine, int | float) and isinstance(theirs, int | float)
    return math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-12) if numbers else bool(mine == theirs)


def mean_within(kl: float, tokens: int) -> float:
    """By how many nats a mean loss over so many tokens may part because numbers were added up in another order.

    A token's log-probability moves by a standard deviation of about sqrt(2 KL), and on average by KL (both to second
    order), so that a mean over n tokens moves by KL + 3 sqrt(2 KL / n) at most, as good as always.

    Args:
        kl: mean KL divergence between the two ways to compute the same model, in nats.

    >>> f"{mean_within(1e-6, 1000):.1e}", f"{mean_within(5e-3, 1000):.3f}"
    ('1.4e-04', '0.014')
    """
    return kl + 3 * math.sqrt(2 * kl / max(1, tokens))


def draw_within(kl: float) -> float:
    """By how much a cumulative probability may part, by which a token is drawn.

    Two distributions of a KL divergence K differ by sqrt(K / 2) in the probability of anything (Pinsker), and a single
    place may part more than the mean does: three times as much.

    Args:
        kl: mean KL divergence between the two ways to compute the same model, in nats.

    >>> f"{draw_within(1e-6):.4f}", f"{draw_within(5e-3):.2f}"
    ('0.0021', '0.15')
    """
    return 3 * math.sqrt(kl / 2)


@dataclass
class HeldAgainst:
    """Stored figures of one kind (:mod:`afina.verify.beside_again`), and what came of computing them again."""

    computed: bool = False
    """Whether a model was asked for them here."""
    rounded: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What was not computed again, and why."""

    @property
    def outcome(self) -> str:
        """In words."""
        if self.wrong:
            return OTHER
        if not self.computed:
            return NOT_COMPUTED
        return ROUNDED if self.rounded else EQUAL

    def answers(self, again: AskedAgain) -> None:
        """Count what came of asking again."""
        self.rounded += again.rounded
        self.wrong += [*again.wrong, *again.picked()]

    def number(self, name: str, mine: float, theirs: float | None, within: float = 0.0) -> None:
        """Hold a number against the stored one.

        Args:
            within: by how much they may part.
        """
        if same(mine, theirs):
            return
        said = f"{name} is {theirs}, computed again {mine}"
        if theirs is not None and abs(mine - theirs) <= within:
            self.rounded.append(said)
        else:
            self.wrong.append(f"scores.json: {said}")

    def exactly(self, name: str, mine: Any, theirs: Any) -> None:
        """Hold what no rounding turns against what is stored."""
        if not same(mine, theirs):
            self.wrong.append(f"scores.json: {name} is {theirs!r:.80}, computed again {mine!r:.80}")

    def values(self, name: str, mine: Mapping[str, Any], theirs: Record, within: Mapping[str, float]) -> None:
        """Hold all numbers of a mapping against the stored ones; those that `within` does not name exactly."""
        for key, value in mine.items():
            if value is None or not isinstance(value, int | float):
                self.exactly(f"{name}.{key}", value, theirs.values.get(key))
            else:
                self.number(f"{name}.{key}", value, theirs.number(key), within.get(key, 0.0))
