"""How wide an interval has to be: from errors on sources that were left out, never from the errors of a fit.

A residual is ``log(measured / predicted)``, where nothing of the prediction was fitted to the case's source. Rows of
one publication err together: n of them count as sqrt(n) independent ones, shared among them, W in all. The case that is
asked about counts as one more, worth infinity (conformal prediction for groups, as Lee, Barber and Willett, arXiv
2306.06342, have it with one for each source): the reach is the quantile at ``level * (W + 1) / W`` of ``|residual|``,
the largest residual where that is beyond 1.

Groups are nested: program on a kind of device, the kind of device, everything. A group with few sources leans on the
one above it as :data:`LEAN` sources would: ``(K * own + LEAN * above) / (K + LEAN)``, in logarithms.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.9
"""Share of new cases that an interval is to hold."""
LEAN = 3.0
"""How many sources of its own a group needs to count for as much as the group above it."""


@dataclass(frozen=True)
class Residual:
    """One measured case against a prediction that does not know its source."""

    source: str
    program: str
    device: str
    error: float
    """log(measured / predicted), both without :data:`afina.plan.calibration.CERTAIN` of what is certain."""


def reach(residuals: Sequence[Residual], level: float = LEVEL) -> float:
    """The quantile of |error| with sources weighing by the root of their rows, corrected for how few they are.

    >>> rows = [Residual("a", "p", "cuda", 0.1), Residual("a", "p", "cuda", -0.2), Residual("b", "p", "cuda", 0.3)]
    >>> reach(rows), reach(rows, 0.4)  # 0.4 * (2.41 + 1) / 2.41 = 0.57; the first source weighs 1.41 / 2.41 = 0.59
    (0.3, 0.2)
    """
    rows = by_source(residuals)
    total = sum(math.sqrt(len(group)) for group in rows.values())
    wanted = min(1.0, level * (total + 1) / total)
    weighed = sorted((abs(row.error), 1 / math.sqrt(len(group)) / total) for group in rows.values() for row in group)
    reached = 0.0
    for error, weight in weighed:
        reached += weight
        if reached >= wanted - 1e-9:
            return error
    return weighed[-1][0]


def by_source(residuals: Sequence[Residual]) -> Mapping[str, list[Residual]]:
    """Grouped by publication."""
    groups: dict[str, list[Residual]] = defaultdict(list)
    for each in residuals:
        groups[each.source].append(each)
    return groups


def chain(residuals: Sequence[Residual], program: str, device: str) -> list[list[Residual]]:
    """The groups that a case of a program on a kind of device belongs to, the widest first."""
    here = [each for each in residuals if each.device == device]
    return [list(residuals), here, [each for each in here if each.program == program]]


def pooled_reach(residuals: Sequence[Residual], program: str, device: str) -> float:
    """The reach for a program on a kind of device, each group leaning on the one above it.

    A kind of device that no case comes from may be worse than all that are known: the widest of them stands for it.
    """
    everything, here, own = chain(residuals, program, device)
    found = reach(everything)
    if not here:
        kinds = {each.device for each in everything}
        return max([found, *(pooled_reach(everything, "", kind) for kind in kinds)])
    for group in (here, own):
        if group:
            count = len(by_source(group))
            found = (count * reach(group) + LEAN * found) / (count + LEAN)
    return found


def left_out_reach(residuals: Sequence[Residual], case: Residual) -> float | None:
    """The reach that the other sources give a case; none where there is no other."""
    others = [each for each in residuals if each.source != case.source]
    return pooled_reach(others, case.program, case.device) if others else None


def held(residuals: Sequence[Residual]) -> list[bool]:
    """For each case, whether the interval made without its source holds it; no other source: it does not."""
    reaches: dict[tuple[str, str, str], float | None] = {}
    found = []
    for case in residuals:
        key = (case.source, case.program, case.device)
        if key not in reaches:
            reaches[key] = left_out_reach(residuals, case)
        wide = reaches[key]
        found.append(wide is not None and abs(case.error) <= wide)
    return found


def groups(residuals: Sequence[Residual]) -> list[dict[str, Any]]:
    """The rows of the shipped table: every program on a kind of device, every kind of device, everything."""
    inside = held(residuals)
    pairs = sorted({(each.device, each.program) for each in residuals})
    wanted = [("", ""), *((kind, "") for kind in sorted({kind for kind, _ in pairs})), *pairs]
    rows = []
    for device, program in wanted:
        members = [
            (each, good)
            for each, good in zip(residuals, inside, strict=True)
            if device in ("", each.device) and program in ("", each.program)
        ]
        wide = reach(residuals) if not device else pooled_reach(residuals, program, device)
        if not device:
            wide = pooled_reach(residuals, "", "a kind that is not among them")
        rows.append(
            {
                "device": device,
                "program": program,
                "cases": len(members),
                "sources": len({each.source for each, _ in members}),
                "inside": sum(good for _, good in members),
                "factor": round(math.exp(wide), 4),
            }
        )
    return rows
