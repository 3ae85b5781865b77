"""The verdict: did it learn, what did it break, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afina.evaluate.loss import LossScore, PairScore
from afina.evaluate.probes import wilson
from afina.recipe import Limits
from afina.units import show_share


@dataclass(frozen=True)
class ProbeScore:
    """One probe before and after: for each question, whether the answer was right."""

    name: str
    role: str
    right_before: tuple[bool, ...]
    right_after: tuple[bool, ...]

    @property
    def n(self) -> int:
        return len(self.right_after)

    @property
    def before(self) -> float:
        return sum(self.right_before) / max(1, self.n)

    @property
    def after(self) -> float:
        return sum(self.right_after) / max(1, self.n)

    @property
    def broken(self) -> float:
        """Share of the answers right before that are wrong after."""
        kept = [after for before, after in zip(self.right_before, self.right_after, strict=True) if before]
        return 1 - sum(kept) / len(kept) if kept else 0.0

    @property
    def gain_is_sure(self) -> bool:
        """Whether newly right answers outnumber newly wrong ones beyond chance (sign test, p < 0.05)."""
        pairs = list(zip(self.right_before, self.right_after, strict=True))
        gained, lost = pairs.count((False, True)), pairs.count((True, False))
        return gained > lost and _sign_test(lost, gained + lost) < 0.05

    def as_json(self) -> dict[str, Any]:
        shares = {}
        for name, right in (("before", self.right_before), ("after", self.right_after)):
            low, high = wilson(sum(right), len(right))
            shares[name] = {"exact_match": sum(right) / max(1, len(right)), "low": low, "high": high}
        return {"name": self.name, "role": self.role, "n": self.n, **shares}


@dataclass(frozen=True)
class Verdict:
    """What is said at the end of a run."""

    learned: str
    broke: str
    passed: bool
    text: str
    misses: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"misses": list(self.misses)}


def judge(
    probes: Sequence[ProbeScore],
    before: LossScore | None,
    after: LossScore | None,
    limits: Limits,
    *,
    pairs: tuple[PairScore, PairScore] | None = None,
) -> Verdict:
    """Judge a run.

    It has **learned** when unseen phrasings (or, without such a probe, seen questions) are answered
    right more often than before, beyond chance, and at least ``learned_min`` of them. It **broke**
    what it knew when more than ``broke_max`` of the old questions that it answered right are now wrong.
    Held-out `pairs` must be told apart better than before, where there are any; the loss may rise then, since what
    moves away from worse answers moves away from other texts too.
    """
    misses: list[str] = []
    learned = _judge_learning(probes, None if pairs else before, after, limits, misses)
    if pairs and not pairs[1].margin > pairs[0].margin:
        misses.append(
            f"held-out preferences did not rise: the better answers are ahead by {pairs[0].margin:.3f} -> "
            f"{pairs[1].margin:.3f} nats per token"
        )
        learned = "no"
    broke = _judge_retention(probes, limits, misses)
    return Verdict(learned, broke, not misses, f"learned: {learned}, broke: {broke}", tuple(misses))


def _judge_learning(
    probes: Sequence[ProbeScore],
    before: LossScore | None,
    after: LossScore | None,
    limits: Limits,
    misses: list[str],
) -> str:
    by_role = {role: [probe for probe in probes if probe.role == role] for role in ("generalization", "recall")}
    asked = by_role["generalization"] or by_role["recall"]
    if before and after and after.tokens and not after.loss < before.loss and not asked:
        misses.append(f"held-out loss did not fall: {before.loss:.3f} -> {after.loss:.3f}")
        return "no"
    if not asked:
        return "not measured (no probes)"
    sure = all(probe.gain_is_sure for probe in asked)
    for probe in asked:
        if limits.learned_min is not None and probe.after < limits.learned_min:
            misses.append(
                f"{probe.name}: {show_share(probe.after)} right, the recipe asks for {show_share(limits.learned_min)}"
            )
        if not probe.gain_is_sure:
            misses.append(
                f"{probe.name}: {show_share(probe.before)} -> {show_share(probe.after)} right is no gain beyond chance"
            )
    reached = limits.learned_min is None or all(probe.after >= limits.learned_min for probe in asked)
    return "yes" if sure and reached else "too little" if sure else "no"


def _judge_retention(probes: Sequence[ProbeScore], limits: Limits, misses: list[str]) -> str:
    kept = [probe for probe in probes if probe.role == "retention"]
    if not kept:
        return "not measured (no probes)"
    worst = max(kept, key=lambda probe: probe.broken)
    if worst.broken <= limits.broke_max:
        return "nothing"
    misses.append(
        f"{worst.name}: {show_share(worst.broken)} of what was right before is wrong now, the recipe allows "
        + show_share(limits.broke_max)
    )
    return f"{show_share(worst.broken)} of what it knew"


def _sign_test(fewer: int, of: int) -> float:
    """Two-sided p of at most `fewer` of `of` fair coins.

    >>> _sign_test(0, 6)
    0.03125
    """
    return float(min(1.0, 2 * sum(math.comb(of, k) for k in range(fewer + 1)) / 2**of)) if of else 1.0
