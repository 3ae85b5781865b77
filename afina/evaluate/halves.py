"""Questions that steer and questions that judge: what is tuned on some of them is judged by the others.

Whoever chooses among several versions of a model by its answers (strengths of an adapter, rounds of a recipe) chooses
for these answers' luck too. So the facts are parted once and for all, by a hash of their names: a fact steers in every
probe that asks about it, or it judges in all of them, in every run and on every machine, and nobody can choose which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from afina.evaluate.choice import Choice
from afina.evaluate.intervals import FEWEST_TURNED
from afina.evaluate.probes import ProbeSet, Question
from afina.evaluate.scores import ROLES

Half = Literal["steer", "judge"]
FEWEST = FEWEST_TURNED
"""So many facts a half has to ask about, or no change of its answers could be told from chance."""


@dataclass(frozen=True)
class Halves:
    """The questions of a run's probes, parted."""

    steer: tuple[ProbeSet, ...] = ()
    judge: tuple[ProbeSet, ...] = ()
    notes: tuple[str, ...] = ()
    """The probes that were too small to be parted: they judge with all their questions, and never steer."""


def half_of(cluster: str) -> Half:
    """Whether a fact steers or judges: the last bit of the SHA-256 of its name, without any seed.

    >>> [half_of(name) for name in ("Ana", "Eva", "Rui", "Gil", "Faro")]
    ['steer', 'judge', 'steer', 'judge', 'judge']
    """
    return "judge" if hashlib.sha256(cluster.encode()).digest()[-1] & 1 else "steer"


def cluster_of(asked: Question | Choice) -> str:
    """The name of what a question is about; of one that names nothing, its own words, so that it stands for itself."""
    if asked.cluster:
        return asked.cluster
    if isinstance(asked, Choice):
        return asked.prompt
    return "\n".join(message["content"] for message in asked.messages)


def split_probes(probes: Sequence[ProbeSet]) -> Halves:
    """Part the questions of probes; each probe keeps its name, its role and its clusters on both sides.

    A probe that asks about fewer than :data:`FEWEST` facts on either side is not parted, and said to be so.
    """
    steer, judge, notes = list[ProbeSet](), list[ProbeSet](), list[str]()
    for probe in probes:
        first, second = (_part(probe, half) for half in ("steer", "judge"))
        counts = [_facts(part) for part in (first, second)]
        if min(counts) < FEWEST:
            judge.append(probe)
            notes.append(_too_few(probe, counts))
        else:
            steer.append(first)
            judge.append(second)
    return Halves(tuple(steer), tuple(judge), tuple(notes))


def _part(probe: ProbeSet, half: str) -> ProbeSet:
    return replace(
        probe,
        questions=tuple(each for each in probe.questions if half_of(cluster_of(each)) == half),
        choices=tuple(each for each in probe.choices if half_of(cluster_of(each)) == half),
    )


def _facts(probe: ProbeSet) -> int:
    return len({*map(cluster_of, probe.questions), *map(cluster_of, probe.choices)})


def _too_few(probe: ProbeSet, counts: Sequence[int]) -> str:
    things = ROLES[probe.role].clusters
    return (
        f"{probe.name}: its {sum(counts)} {things} would be {counts[0]} that steer and {counts[1]} that judge, and "
        f"{FEWEST} of each are needed: all of them judge, none steers"
    )
