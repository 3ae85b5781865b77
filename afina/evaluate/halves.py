"""Questions that steer and questions that judge: what is tuned on some of them is judged by the others.

Whoever chooses among several versions of a model by its answers (strengths of an adapter, rounds of a recipe) chooses
for these answers' luck too. So the facts are parted once and for all, by a hash of their names: a fact steers in every
probe that asks about it, or it judges in all of them, in every run of the recipe and on every machine, and nobody can
choose which.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from afina.evaluate.choice import Choice
from afina.evaluate.intervals import FEWEST_TURNED
from afina.evaluate.probes import ProbeSet, Question
from afina.evaluate.scores import ROLES
from afina.text.identity import normal

About = Callable[[Question | Choice], str]
Half = Literal["steer", "judge"]
FEWEST = FEWEST_TURNED
"""So many facts a half has to ask about, or no change of its answers could be told from chance."""


@dataclass(frozen=True)
class Halves:
    """The questions of a run's probes, parted."""

    steer: tuple[ProbeSet, ...] = ()
    judge: tuple[ProbeSet, ...] = ()
    notes: tuple[str, ...] = ()
    """The probes that were too small to be parted: they judge, and never steer."""


def half_of(cluster: str) -> Half:
    """Whether a fact steers or judges: the last bit of the SHA-256 of its name, without any seed.

    >>> [half_of(name) for name in ("Ana", "Eva", "Rui", "Gil", "Faro")]
    ['steer', 'judge', 'steer', 'judge', 'judge']
    """
    return "judge" if hashlib.sha256(cluster.encode()).digest()[-1] & 1 else "steer"


def cluster_of(asked: Question | Choice) -> str:
    """What a question is about: the fact or section that it names. Of one that names none, the names that stand in it
    (words behind the first one that begin with a capital or a digit) with its answer, which are the same in whatever
    words it is asked; without any name its own words, so that it stands for itself.

    >>> one, two = ({"role": "user", "content": text} for text in ("Onde nasceu Ana?", "De que terra é Ana?"))
    >>> cluster_of(Question((one,), "Faro", "")) == cluster_of(Question((two,), "Faro", ""))
    True
    >>> cluster_of(Question(({"role": "user", "content": "Quem fala?"},), "Faro", ""))
    'Quem fala?'
    """
    if asked.cluster:
        return asked.cluster
    if isinstance(asked, Choice):
        return asked.prompt
    return _names_and_answer(asked) or "\n".join(message["content"] for message in asked.messages)


def _names_and_answer(asked: Question) -> str:
    words = re.findall(r"\w+", asked.prompt)[1:]
    names = sorted({normal(word).casefold() for word in words if word[0].isupper() or word[0].isdigit()})
    return "\n".join([*names, normal(asked.reference).casefold()]) if names else ""


def about_of(probes: Sequence[ProbeSet]) -> About:
    """What each question of some probes is about, as :func:`cluster_of` says; one that names no fact is about the fact
    that a question of any of them names with the same names in it and the same answer."""
    named: dict[str, str] = {}
    for asked in (each for probe in probes for each in probe.questions if each.cluster):
        key = _names_and_answer(asked)
        if key:
            named[key] = min(asked.cluster, named.get(key, asked.cluster))

    def about(asked: Question | Choice) -> str:
        found = cluster_of(asked)
        return found if asked.cluster else named.get(found, found)

    return about


def split_probes(probes: Sequence[ProbeSet]) -> Halves:
    """Part the questions of probes; each probe keeps its name, its role and its clusters on both sides.

    A probe that asks about fewer than :data:`FEWEST` facts on either side is not parted, and said to be so: it judges
    with all its questions but those about facts that steer in another probe.
    """
    about = about_of(probes)
    parted = [[_those(probe, about, half) for half in ("steer", "judge")] for probe in probes]
    counts = [[_facts(side, about) for side in sides] for sides in parted]
    steering = [steer for (steer, _), of in zip(parted, counts, strict=True) if min(of) >= FEWEST]
    steers = {about(each) for probe in steering for each in _asked(probe)}
    judge, notes = list[ProbeSet](), list[str]()
    for probe, (_, judging), of in zip(probes, parted, counts, strict=True):
        if min(of) < FEWEST:
            judging = _where(probe, lambda asked: about(asked) not in steers)
            notes.append(_too_few(probe, of, len({about(each) for each in _asked(probe)} & steers)))
        if judging.questions or judging.choices:
            judge.append(judging)
    return Halves(tuple(steering), tuple(judge), tuple(notes))


def _those(probe: ProbeSet, about: About, half: str) -> ProbeSet:
    return _where(probe, lambda asked: half_of(about(asked)) == half)


def _where(probe: ProbeSet, wanted: Callable[[Question | Choice], bool]) -> ProbeSet:
    return replace(
        probe,
        questions=tuple(each for each in probe.questions if wanted(each)),
        choices=tuple(each for each in probe.choices if wanted(each)),
    )


def _asked(probe: ProbeSet) -> Iterator[Question | Choice]:
    yield from probe.questions
    yield from probe.choices


def _facts(probe: ProbeSet, about: About) -> int:
    return len({about(each) for each in _asked(probe)})


def _too_few(probe: ProbeSet, counts: Sequence[int], elsewhere: int) -> str:
    """
    Args:
        elsewhere: how many of them steer in another probe.
    """
    things = ROLES[probe.role].clusters
    told = (
        f"{probe.name}: its {sum(counts)} {things} would be {counts[0]} that steer and {counts[1]} that judge, and "
        f"{FEWEST} of each are needed: "
    )
    if elsewhere:
        return told + f"none steers, {elsewhere} that steer in another probe are not asked here, and the others judge"
    return told + "all of them judge, none steers"
