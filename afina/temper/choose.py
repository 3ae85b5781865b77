"""Of the settings that were tried, the one that the recipe's limits allow with the most learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afina.evaluate.intervals import FEWEST_TURNED, more_than_chance
from afina.evaluate.scores import KEEPS, MADE_UP, ProbeResult, Scores, by_way
from afina.recipe import Limits
from afina.temper.setting import Setting
from afina.units import show_share


@dataclass(frozen=True)
class ProbeShare:
    """What a probe says at a setting: a share with its 95 % interval."""

    probe: str
    share: float
    low: float
    high: float

    def describe(self) -> str:
        """
        >>> ProbeShare("x", 0.5, 0.25, 0.75).describe()
        '50 % (25 to 75)'
        """
        return f"{show_share(self.share)} ({100 * self.low:.0f} to {100 * self.high:.0f})"


@dataclass(frozen=True)
class OldAnswer:
    """An answer that the base had right: what it is about, and whether it is wrong at a setting."""

    probe: str
    about: str
    lost: bool


@dataclass(frozen=True)
class Point:
    """A setting, and what the model was at it."""

    setting: Setting
    scores: Scores
    old: tuple[OldAnswer, ...] = ()
    """Every answer that the base had right, in the same order at each setting."""

    @property
    def passed(self) -> bool:
        """Whether the recipe's limits are met."""
        return self.scores.verdict is not None and self.scores.verdict.passed

    @property
    def learned(self) -> list[ProbeShare]:
        """Of each probe that tells what was learned, and about facts enough, the share that is right."""
        found = []
        for probe in (probe for probes in by_way(self.scores.probes).values() for probe in probes):
            shown = probe.figures()[0]
            if shown.after is not None and (probe.clusters or probe.n) >= FEWEST_TURNED:
                found.append(ProbeShare(probe.name, shown.after, *(shown.intervals[1] or (0.0, 1.0))))
        return found

    @property
    def broken(self) -> list[ProbeShare]:
        """Of each probe of what the base knew or could, the share that is lost."""
        return [share_lost(probe) for probe in self.scores.probes if probe.role in KEEPS and _knew(probe)]

    def ends_of(self, probe: str, *, learned: bool) -> list[tuple[float, float, float]]:
        """The share of a probe with its interval, where it was measured."""
        shares = self.learned if learned else self.broken
        return [(each.share, each.low, each.high) for each in shares if each.probe == probe]

    @property
    def much_learned(self) -> float:
        """The mean over the probes: what the choice is made by."""
        shares = [each.share for each in self.learned]
        return sum(shares) / len(shares) if shares else 0.0

    @property
    def most_broken(self) -> float:
        """The largest loss among the probes."""
        return max((each.share for each in self.broken), default=0.0)

    def loses_less(self, other: Point) -> bool:
        """Whether it keeps more of what the base had right than another setting, beyond chance: by the same questions,
        each fact once (sign test)."""
        if [(each.probe, each.about) for each in self.old] != [(each.probe, each.about) for each in other.old]:
            return False
        kept = [[not each.lost for each in point.old] for point in (other, self)]
        return more_than_chance(kept[0], kept[1], [f"{each.probe}\n{each.about}" for each in self.old])

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``temper.json``."""
        verdict = self.scores.verdict
        return {
            "strengths": list(self.setting.strengths),
            "learned": self.much_learned,
            "broken": self.most_broken,
            "passed": self.passed,
            "misses": list(verdict.misses) if verdict else [],
            "probes": [probe.as_json() for probe in self.scores.probes],
        }


def _knew(probe: ProbeResult) -> bool:
    return probe.broken is not None and probe.broken.knew > 0


def share_lost(probe: ProbeResult) -> ProbeShare:
    """Of what the base knew the share that is lost; of skills less what is gained, as the verdict weighs it: the change
    that its interval is about.

    Args:
        probe: one of what the base knew or could (:data:`~afina.evaluate.scores.KEEPS`), something of it at least.
    """
    broken = probe.broken
    assert broken is not None
    if probe.role == "retention" or probe.change is None:
        return ProbeShare(probe.name, broken.share, broken.low, broken.high)
    of = broken.knew / probe.n
    change = probe.change
    net, low, high = (min(1.0, max(0.0, -each / of)) for each in (change.points, change.high, change.low))
    return ProbeShare(probe.name, net, low, high)


def choose(points: Sequence[Point], limits: Limits) -> tuple[Point, str]:
    """The setting to take, and why.

    Of those that pass, the one with the most learned. Of those that learned just as much the strongest, which is the
    nearest to what was trained: a weaker one takes its place only where it loses less beyond chance. Where none passes,
    the nearest to the limits: the one that is least below `learned_min` and above `broke_max` and `hallucination_max`
    together.

    Args:
        points: one at least.
    """
    passing = sorted((point for point in points if point.passed), key=lambda point: -point.setting.mean)
    if not passing:
        nearest = min(points, key=lambda point: (distance(point, limits), -point.much_learned, -point.setting.mean))
        return nearest, f"none of {len(points)} settings passes the recipe's limits; this one is the nearest to them"
    why = f"{len(passing)} of {len(points)} settings pass the recipe's limits; of them it learned the most"
    most = max(point.much_learned for point in passing)
    best, *others = [point for point in passing if point.much_learned == most]
    beaten, chance = list[str](), list[str]()
    for point in others:
        if point.loses_less(best):
            beaten.append(best.setting.name)
            best, chance = point, []
        elif point.most_broken < best.most_broken:
            chance.append(point.setting.name)
    if beaten:
        why += f"; equal learned at {', '.join(beaten)}, and less lost than there beyond chance"
    if chance:
        why += f"; equal learned at {', '.join(chance)}, and that less is lost there may be chance: the stronger stays"
    return best, why


def distance(point: Point, limits: Limits) -> float:
    """How far a setting is from the limits: the shares that are missing and those that are too many, summed. A whole
    one where nothing was learned beyond chance: then there is nothing to keep."""
    verdict = point.scores.verdict
    lacks = max(0.0, (limits.learned_min or 0.0) - min((each.share for each in point.learned), default=0.0))
    beyond = max(0.0, point.most_broken - limits.broke_max)
    if limits.hallucination_max is not None:
        made_up = (probe.after.shares.get(MADE_UP.key, 0.0) for probe in point.scores.probes if probe.role == "unknown")
        beyond += max(0.0, max(made_up, default=0.0) - limits.hallucination_max)
    return lacks + beyond + (0.0 if verdict is not None and verdict.learned in ("yes", "too little") else 1.0)
