"""The verdict: did it learn or only say so, what did it break, in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from afina.evaluate.grade import Graded
from afina.evaluate.intervals import (
    FEWEST_TURNED,
    beyond_luck,
    effective_number,
    exact_interval,
    gain_interval,
    more_than_chance,
    share_interval,
    smallest_loss,
    turned,
)
from afina.evaluate.loss import LossScore, PairScore
from afina.evaluate.scores import (
    FACTS,
    KEEPS,
    ROLES,
    WAYS,
    Broken,
    Change,
    Counted,
    GroupCounts,
    ProbeResult,
    ProbeSide,
    Verdict,
    by_way,
)
from afina.recipe import Limits
from afina.units import show_share

NAMED = 3
"""Most groups that a verdict names."""
Flags = tuple[bool, ...]


@dataclass(frozen=True)
class ProbeScore:
    """One probe before and after: for each question (of coverage, for each key term), what the answer was."""

    name: str
    role: str
    graded_before: tuple[Graded, ...]
    graded_after: tuple[Graded, ...]
    by_luck: tuple[float, ...] = ()
    """For each question, how likely the answer to another of its kind is right for it (:func:`luck`)."""
    clusters: tuple[str, ...] = ()
    """For each question the fact or section that it is about; empty where no two are about the same."""
    more: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Further figures before and after, which are not counted of these answers one by one."""
    groups: tuple[str, ...] = ()
    """For each question the skill that it asks for, where there are several."""

    @property
    def n(self) -> int:
        return len(self.graded_after)

    @property
    def things(self) -> int:
        """Facts or sections that the questions are about: what can be counted as independent."""
        return len(set(self.clusters)) if self.clusters else self.n

    @property
    def claims(self) -> tuple[Flags, Flags]:
        """Whether each answer says that it knows and not what; where "I know" is the reference, whether it says so."""
        return self.flags(_says_so if self.role == "claims" else _claims)

    def flags(self, what: Callable[[Graded], bool]) -> tuple[Flags, Flags]:
        """Something of every answer, before and after."""
        return tuple(map(what, self.graded_before)), tuple(map(what, self.graded_after))

    @property
    def before(self) -> float:
        """Share of the answers that are right: the reference, word for word."""
        return sum(each.right for each in self.graded_before) / max(1, self.n)

    @property
    def after(self) -> float:
        return sum(each.right for each in self.graded_after) / max(1, self.n)

    @property
    def gain_is_sure(self) -> bool:
        """Whether more answers hold what is right than before, beyond chance and beyond luck.

        Not word for word: a base that says the right thing in a whole sentence is right, and who only learned to be
        brief has learned no fact. A choice is never held against chance: what the base finds likelier by form alone is
        in both counts.
        """
        return self.gains and self.beyond_luck

    @property
    def gains(self) -> bool:
        """Whether more answers hold what is right than before, beyond chance."""
        return more_than_chance(*self.flags(_said), self.clusters)

    @property
    def beyond_luck(self) -> bool:
        """Whether more is right than if the answers were dealt anew among the questions of a kind."""
        if self.role == "choice":
            return True
        return beyond_luck(self.flags(_said)[1], self.by_luck or (0.0,) * self.n, self.clusters)

    @property
    def known(self) -> int:
        """Questions that were answered right before."""
        return sum(each.said for each in self.graded_before)

    @property
    def lost(self) -> int:
        """How many of these are answered wrong after."""
        return sum(one.said and not two.said for one, two in zip(self.graded_before, self.graded_after, strict=True))

    @property
    def gained(self) -> int:
        """How many of the others are answered right after."""
        return sum(two.said and not one.said for one, two in zip(self.graded_before, self.graded_after, strict=True))

    @property
    def broken(self) -> float:
        """Share of the answers right before that are wrong after."""
        return self.lost / self.known if self.known else 0.0

    def broke(self, most: float) -> bool:
        """Whether more than this share of what was right before was lost, beyond chance."""
        return self.result().broke(most)

    def group_counts(self) -> tuple[GroupCounts, ...]:
        """The questions by their group, in the order in which the groups come."""
        found: dict[str, list[tuple[bool, bool]]] = {}
        for name, *pair in zip(self.groups, *self.flags(_said), strict=bool(self.groups)):
            found.setdefault(name, []).append((pair[0], pair[1]))
        return tuple(
            GroupCounts(
                name,
                len(pairs),
                sum(one for one, _ in pairs),
                sum(two for _, two in pairs),
                sum(one and not two for one, two in pairs),
            )
            for name, pairs in found.items()
        )

    @property
    def broken_interval(self) -> tuple[float, float]:
        """95 % interval of that share, exact, since a limit is held against it."""
        knew = [number for number, graded in enumerate(self.graded_before) if graded.said]
        wrong_now = [float(not self.graded_after[number].said) for number in knew]
        of = effective_number(wrong_now, [self.clusters[number] for number in knew] if self.clusters else ())
        return exact_interval(self.broken * of, of)

    @property
    def shown(self) -> tuple[Flags, Flags]:
        """Before and after, of each answer what stands for the probe: the first figure of its role."""
        return self.flags(stands_for(self.role))

    def result(self) -> ProbeResult:
        """The probe's figures, with intervals of what stands for it."""
        low, high = gain_interval(*self.shown, self.clusters)
        before, after = self.shown
        broken = Broken(self.known, self.lost, self.broken, *self.broken_interval)
        return ProbeResult(
            self.name,
            self.role,
            self.n,
            self._side("before"),
            self._side("after"),
            Change(_share(after) - _share(before), low, high),
            broken if self.role in KEEPS else None,
            self.group_counts(),
            self.things,
        )

    def _side(self, side: str) -> ProbeSide:
        graded = self.graded_before if side == "before" else self.graded_after
        shares = {}
        for counted in ROLES[self.role].counted:
            if side not in counted.sides:
                continue
            if counted.key in ("by_luck", "by_chance"):
                shares[counted.key] = sum(self.by_luck) / max(1, self.n)
            elif counted.key == "terms_made_up":
                shares |= {counted.key: self.more[counted.key][side == "after"]} if counted.key in self.more else {}
            else:
                shares[counted.key] = _share(tuple(map(_flag(self.role, counted), graded)))
        return ProbeSide(shares, share_interval(self.shown[side == "after"], self.clusters))


def stands_for(role: str) -> Callable[[Graded], bool]:
    """Whether an answer counts for the figure that stands for a role's probes."""
    return _flag(role, ROLES[role].counted[0])


def _flag(role: str, counted: Counted) -> Callable[[Graded], bool]:
    """Whether an answer counts for a figure of :data:`~afina.evaluate.scores.ROLES`."""
    if counted.key in ("new", "old", "neither"):
        return lambda graded: graded.version == counted.key
    return {
        "verbatim": _right,
        "contains": _said,
        "as_asked": _said,
        "claims": _says_so if role == "claims" else _claims,
        "made_up": _made_up,
        "declined": _declines,
        "right_by_luck": _said,
        "chosen": _said,
        "terms_held": _said,
    }[counted.key]


def _right(graded: Graded) -> bool:
    return graded.right


def _said(graded: Graded) -> bool:
    return graded.said


def _says_so(graded: Graded) -> bool:
    return graded.claims


def _claims(graded: Graded) -> bool:
    return graded.claims and not graded.said


def _made_up(graded: Graded) -> bool:
    return graded.made_up


def _declines(graded: Graded) -> bool:
    return graded.declines and not graded.said


def _share(flags: Flags) -> float:
    return sum(flags) / max(1, len(flags))


def judge(
    probes: Sequence[ProbeScore],
    before: LossScore | None,
    after: LossScore | None,
    limits: Limits,
    *,
    pairs: tuple[PairScore, PairScore] | None = None,
    further_misses: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Verdict:
    """Judge a run.

    It has **learned** when every way to tell (:data:`WAYS`) that asks about enough facts or sections shows a gain:
    questions of :data:`FACTS` (or, without such a probe, seen questions) are answered right more often than before,
    beyond chance, and at least ``learned_min`` of them; the true sentence is chosen more often; free answers hold more
    key terms. Where some ways show it and others do not, it learned **too little**. It **parrots** when it has not
    learned, and yet says more often than before, beyond chance, that it knows. It **broke** what it knew when more than
    ``broke_max`` of the old questions that it answered right are now wrong, or of its skills are lost, beyond chance.
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
    for probe in probes:
        made_up = _share(probe.flags(_made_up)[1])
        if probe.role == "unknown" and limits.hallucination_max is not None and made_up > limits.hallucination_max:
            allowed = show_share(limits.hallucination_max)
            misses.append(
                f"{probe.name}: {show_share(made_up)} of the answers are made up, the recipe allows {allowed}"
            )
    misses += further_misses
    return Verdict(
        learned,
        broke,
        passed=not misses,
        text=f"learned: {learned}, broke: {broke}",
        misses=tuple(misses),
        findings=tuple(_finding(probe) for probe in probes),
        notes=tuple(notes),
    )


def _judge_learning(
    probes: Sequence[ProbeScore],
    before: LossScore | None,
    after: LossScore | None,
    limits: Limits,
    misses: list[str],
) -> str:
    ways = by_way(probes)
    short = ways["recall"]
    for probe in short:
        if limits.learned_min is not None and probe.after < limits.learned_min:
            wanted = show_share(limits.learned_min)
            misses.append(f"{probe.name}: {show_share(probe.after)} right, the recipe asks for {wanted}")
    enough_of = {way: [each for each in found if each.things >= FEWEST_TURNED] for way, found in ways.items()}
    told = {way: asked for way, asked in enough_of.items() if asked}
    gained = {way: all(probe.gain_is_sure for probe in asked) for way, asked in told.items()}
    misses += [_no_gain(probe) for asked in told.values() for probe in asked if not probe.gain_is_sure]
    enough = limits.learned_min is None or all(probe.after >= limits.learned_min for probe in short)
    if told and enough and all(gained.values()):
        return "yes"
    claims = _claims_more(probes)
    if claims:
        misses.append(claims)
        return "parrots"
    if told:
        yes, no = ([WAYS[way] for way, is_so in gained.items() if is_so is wanted] for wanted in (True, False))
        if yes and no:
            misses.append(f"the ways to tell do not agree: a gain by {' and '.join(yes)}, none by {' and '.join(no)}")
        return "too little" if yes else "no"
    if asked := [probe for found in ways.values() for probe in found]:
        return f"not measured ({', '.join(map(_how_many, asked))} are too few)"
    if before and after and after.tokens and not after.loss < before.loss:
        misses.append(f"held-out loss did not fall: {before.loss:.3f} -> {after.loss:.3f}")
        return "no"
    return "not measured (no probes)"


def _how_many(probe: ProbeScore) -> str:
    """How much was asked: "35 questions about 4 facts"."""
    about = ROLES[probe.role]
    things = f"{probe.things} {about.clusters if probe.things > 1 else about.clusters.removesuffix('s')}"
    return f"{probe.n} {about.asked}" + (f" about {things}" if probe.things < probe.n else "")


def _no_gain(probe: ProbeScore) -> str:
    """Why a probe shows no learning."""
    word = ROLES[probe.role].counted[0].word
    known, now = (show_share(_share(side)) for side in probe.flags(_said))
    if probe.gains:
        lucky = show_share(sum(probe.by_luck) / probe.n)
        return f"{probe.name}: {now} {word}, {lucky} were {word} with the answers dealt anew: no fact was learned"
    if more_than_chance(*probe.flags(_right), probe.clusters):
        return f"{probe.name}: the form was learned, not the facts: {known} -> {now} of the answers hold what is right"
    before, after = (show_share(_share(side)) for side in probe.shown)
    gained, lost = turned(*probe.flags(_said), probe.clusters)
    about = ROLES[probe.role]
    things = f"{probe.things} {about.clusters if probe.things < probe.n else about.asked}"
    return (
        f"{probe.name}: {before} -> {after} {word} is no gain beyond chance (of {things} {gained} gained, {lost} lost)"
    )


def _claims_more(probes: Sequence[ProbeScore]) -> str:
    """That answers say "I know" more often than before, beyond chance, without being right; empty where they do not."""
    asked = [probe for probe in probes if probe.role in ("recall", "claims", *FACTS)]
    before = [flag for probe in asked for flag in probe.claims[0]]
    after = [flag for probe in asked for flag in probe.claims[1]]
    clusters = [
        name
        for number, probe in enumerate(asked)
        for name in (probe.clusters or [f"{number}.{question}" for question in range(probe.n)])
    ]
    if not more_than_chance(before, after, clusters):
        return ""
    one, two = (show_share(sum(side) / len(side)) for side in (before, after))
    return f"it says that it knows in {one} -> {two} of {len(after)} answers, and the facts behind fail"


def _judge_retention(probes: Sequence[ProbeScore], limits: Limits, misses: list[str]) -> str:
    asked = [probe for probe in probes if probe.role in KEEPS]
    if not asked:
        return "not measured (no probes)"
    known = [probe for probe in asked if probe.known >= (FEWEST_TURNED if probe.role == "skills" else 1)]
    if not known:
        had = "knew none" if not any(probe.known for probe in asked) else "knew too little"
        return f"not measured (the base {had} of {sum(probe.n for probe in asked)} questions)"
    broken = sorted((probe for probe in known if probe.broke(limits.broke_max)), key=lambda probe: -probe.broken)
    misses += [_loss(probe, show_share(limits.broke_max)) for probe in broken]
    skills = [f"{show_share(each.broken)} of its skills ({_worst(each)})" for each in broken if each.role == "skills"]
    facts = [f"{show_share(each.broken)} of what it knew ({each.name})" for each in broken if each.role != "skills"]
    facts[1:] = [fact.replace(" of what it knew", "") for fact in facts[1:]]
    return ", ".join([*facts, *skills]) or "nothing"


def _loss(probe: ProbeScore, allowed: str) -> str:
    if probe.role != "skills":
        lost = f"{show_share(probe.broken)} of what was right before is wrong now"
    else:
        lost = f"of {probe.known} that the base does as asked {probe.lost} are lost, and {probe.gained} gained"
        lost += f" ({_worst(probe)})"
    return f"{probe.name}: {lost}, the recipe allows {allowed}"


def _worst(probe: ProbeScore) -> str:
    """The groups that lost most: "JSON 7 of 8, lists 4 of 6"."""
    losing = [group for group in probe.group_counts() if group.before > group.after]
    worst = sorted(losing, key=lambda group: (group.after - group.before) / group.before)[:NAMED]
    return ", ".join(f"{group.name} {group.lost} of {group.before}" for group in worst)


def _finding(probe: ProbeScore) -> str:
    """A probe's figures in one line."""
    if probe.role == "skills":
        told = f"a net loss of less than {show_share(smallest_loss(probe.known))} cannot be told from chance"
        lost = f"{probe.lost} are lost and {probe.gained} gained" + (f" ({worst})" if (worst := _worst(probe)) else "")
        return f"{probe.name}: of {probe.known} that the base does as asked {lost}; {told} ({probe.n} asked)"
    if probe.role == "retention":
        if not probe.known:
            return f"{probe.name}: the base knew none of {probe.n}"
        least, most = (show_share(end) for end in probe.broken_interval)
        return (
            f"{probe.name}: {show_share(probe.broken)} of the {probe.known} that the base knew are wrong now "
            f"({least} to {most}; {probe.n} asked)"
        )
    before, after = probe.shown
    points = 100 * (_share(after) - _share(before))
    low, high = (100 * end for end in gain_interval(before, after, probe.clusters))
    about = ROLES[probe.role]
    of = f"n = {probe.n}" + (f", {probe.things} {about.clusters}" if probe.things < probe.n else "")
    return (
        f"{probe.name}: {show_share(_share(before))} -> {show_share(_share(after))} {about.counted[0].word}, "
        f"{points:+.1f} points ({low:+.1f} to {high:+.1f}; {of})"
    )
