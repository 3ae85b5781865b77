"""What ``scores.json`` holds, and the one place that says which figures a probe shows, under which words.

Needs neither torch nor numpy: reports, comparisons, model cards and terminals read scores on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

from afina.evaluate.intervals import sign_test
from afina.evaluate.text_scores import ContinuationScores, WindowScores
from afina.record import Record, read_record
from afina.units import show_share
from afina.whole import write_json

FILE = "scores.json"
RETRIEVAL_FILE = "retrieval.jsonl"
"""What the base answered with passages in its prompt, never the passages; a question a line."""
SIDES = ("before", "after")
EDGE = 0.25
"""So much of what a base does as asked may turn wrong by any training, where as much turns right (LOG.md)."""
FACTS = ("generalization", "versions")
"""Roles that show what was learned by short answers; ``recall`` where there is none of them."""
PROSE = ("choice", "coverage", "control")
"""Roles of questions about prose: no recipe names them."""
WAYS = {"recall": "short answers", "choice": "choice of the true sentence", "coverage": "free answers"}
"""Ways to tell whether something was learned, by the role that stands for each; of short answers :data:`FACTS` too."""

KEEPS = ("retention", "skills")
"""Roles that ask for what the base could before."""


class HasRole(Protocol):
    """A probe, or what was measured of one."""

    @property
    def role(self) -> str: ...


P = TypeVar("P", bound=HasRole)


def by_way(probes: Sequence[P]) -> dict[str, list[P]]:
    """The probes of each of :data:`WAYS`: by short answers those of :data:`FACTS`, or what was trained where there is
    none of them."""
    found = {way: [probe for probe in probes if probe.role == way] for way in WAYS}
    facts = [probe for probe in probes if probe.role in FACTS]
    return found | ({"recall": facts} if facts else {})


Better = Literal["higher", "lower", ""]
Ahead = Literal["retrieval", "training", "neither"]
AHEAD: tuple[Ahead, ...] = get_args(Ahead)


@dataclass(frozen=True)
class Counted:
    """Something that is counted of the answers to a probe."""

    key: str
    """Its name in ``scores.json``; the value there is a share of the answers."""
    word: str
    """After a share or a probe's name: "90 % right", "strangers: made up"."""
    words: str
    """Of the answers, in a table of its own: what they do."""
    better: Better = ""
    """Which is better after training, where one is."""
    sides: Sequence[str] = SIDES


RIGHT = Counted("verbatim", "right", "match the reference word for word", "higher")
HOLDS = Counted("contains", "contain the reference", "contain the reference, in any form", "higher")
CLAIMS_WRONGLY = Counted(
    "claims", "claim to know, wrongly", "say that they know, but do not contain the reference", "lower"
)
BY_LUCK = Counted(
    "by_luck",
    "right by luck",
    "would be right if the answers were dealt anew among questions of the same kind",
    sides=("after",),
)
MADE_UP = Counted("made_up", "made up", "make something up", "lower")
DECLINED = Counted("declined", "declined", "say that they do not know", "higher")
RIGHT_BY_LUCK = Counted("right_by_luck", "right nevertheless", "are right nevertheless")
CLAIMS = Counted("claims", "claim to know", "say that they know")
CHOSEN = Counted("chosen", "chosen", "pick the true sentence out of eight", "higher")
BY_CHANCE = Counted("by_chance", "by chance", "would pick it by chance")
HELD = Counted("terms_held", "held", "appear in the answer", "higher")
HELD_BY_LUCK = Counted(
    "by_luck", "held by luck", "would appear if the answers were dealt anew among the sections", sides=("after",)
)
TERMS_MADE_UP = Counted(
    "terms_made_up", "made up", "of the key terms in the answers appear nowhere in the documents", "lower"
)
AS_ASKED = Counted("as_asked", "as asked", "done as asked, checked by rule", "higher")
NEW = Counted("new", "as the new version asks", "the new version's way", "higher")
OLD = Counted("old", "as the old version asked", "the old version's way")
NEITHER = Counted("neither", "as neither asks", "neither's")


@dataclass(frozen=True)
class RoleFigures:
    """What a probe of a role asks, and what is counted of its answers, the figure that stands for it first."""

    about: str
    counted: tuple[Counted, ...]
    answers_are_right_or_wrong: bool = True
    """Whether a single answer can be called so."""
    asked: str = "questions"
    """What is counted, in the plural."""
    clusters: str = "facts"
    """What these are about, where several are about the same."""


ROLES: Mapping[str, RoleFigures] = {
    "recall": RoleFigures("questions that were trained", (RIGHT, HOLDS, CLAIMS_WRONGLY, BY_LUCK)),
    "generalization": RoleFigures(
        "the same facts, asked in words never trained", (RIGHT, HOLDS, CLAIMS_WRONGLY, BY_LUCK)
    ),
    "retention": RoleFigures("what the base knew before", (HOLDS, RIGHT)),
    "skills": RoleFigures("what the base can do", (AS_ASKED,)),
    "unknown": RoleFigures("what it was never told", (MADE_UP, DECLINED, RIGHT_BY_LUCK), False),
    "claims": RoleFigures("whether it says that it knows", (CLAIMS,), False),
    "versions": RoleFigures("what the old and the new version answer differently", (NEW, OLD, NEITHER)),
    "choice": RoleFigures(
        "the true sentence against seven of the same form, by likelihood", (CHOSEN, BY_CHANCE), clusters="sections"
    ),
    "control": RoleFigures(
        "the same for held-out sections, which training on the others cannot teach",
        (CHOSEN, BY_CHANCE),
        clusters="sections",
    ),
    "coverage": RoleFigures(
        "key terms of a section in a free answer", (HELD, HELD_BY_LUCK, TERMS_MADE_UP), False, "terms", "sections"
    ),
}
"""For every role of a recipe's probes, for those of the dataset's questions about prose, and for afina's own questions
about skills. The verdict counts what is first."""


@dataclass(frozen=True)
class ProbeSide:
    """A probe before or after training: shares of its answers by :attr:`Counted.key`, and the first one's interval."""

    shares: Mapping[str, float]
    interval: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        ends = dict(zip(("low", "high"), self.interval, strict=True)) if self.interval else {}
        return {**self.shares, **ends}


@dataclass(frozen=True)
class Change:
    """Share after minus share before of the same questions, with its 95 % interval."""

    points: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupCounts:
    """Of a group of a probe's questions: how many were right before, are right after, and were right and are wrong."""

    name: str
    n: int
    before: int
    after: int
    lost: int


@dataclass(frozen=True)
class Broken:
    """Of a probe of retention or skills: of the answers right before, those that are wrong now."""

    knew: int
    lost: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One row of a probe's table. A side is None where it is not measured."""

    counted: Counted
    before: float | None
    after: float | None
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)


def _counted_over(n: int, clusters: int | None, about: RoleFigures) -> str:
    few = clusters is not None and clusters < n
    return f"{n:,}" + (f" ({clusters:,} {about.clusters})" if few else "")


@dataclass(frozen=True)
class ProbeResult:
    """A probe's figures, before and after."""

    name: str
    role: str
    n: int
    """Questions; of coverage, key terms."""
    before: ProbeSide
    after: ProbeSide
    change: Change | None = None
    """Of the figure that stands for the probe; None in scores from before it was noted."""
    broken: Broken | None = None
    groups: tuple[GroupCounts, ...] = ()
    """By skill, where the questions belong to some."""
    clusters: int | None = None
    """Facts or sections that they are about: what intervals count; None in scores from before it was noted."""

    @property
    def about(self) -> RoleFigures:
        return ROLES[self.role]

    @property
    def title(self) -> str:
        """The name, and what is counted where that is not what is right."""
        counted = self.about.counted[0]
        return self.name if counted is RIGHT else f"{self.name}: {counted.word}"

    @property
    def counted_over(self) -> str:
        """How many are asked, and about how many facts where that is fewer.

        >>> side = ProbeSide({})
        >>> ProbeResult("x", "recall", 9, side, side, clusters=9).counted_over
        '9'
        >>> ProbeResult("x", "recall", 1260, side, side, clusters=140).counted_over
        '1,260 (140 facts)'
        """
        return _counted_over(self.n, self.clusters, self.about)

    def figures(self) -> list[Figure]:
        """What is shown of the probe, under which words; what stands for it first, with intervals.

        >>> sides = ProbeSide({"made_up": 0.6, "declined": 0.4}), ProbeSide({"made_up": 0.1}, (0.0, 0.3))
        >>> [(each.counted.word, each.before, each.after) for each in ProbeResult("x", "unknown", 20, *sides).figures()]
        [('made up', 0.6, 0.1), ('declined', 0.4, None)]
        """
        first, *more = self.about.counted
        before, after = self.before.shares, self.after.shares
        shown = Figure(first, before.get(first.key), after.get(first.key), (self.before.interval, self.after.interval))
        others = [Figure(counted, before.get(counted.key), after.get(counted.key)) for counted in more]
        return [shown, *(each for each in others if (each.before, each.after) != (None, None))]

    def broke(self, most: float) -> bool:
        """Whether more than this share of what was right before was lost, beyond chance.

        Of skills, answers that turned right count against those that turned wrong: at the edge of a rule any training
        turns some of them, both ways. So they are judged over all, by skill (each at the level that so many tests ask),
        and by whether more is lost than the edge explains, whatever was gained: who says one word to everything does
        well where one word was asked for.
        """
        if self.broken is None:
            return False
        if self.role != "skills":
            return self.broken.low > most
        knew, lost = self.broken.knew, self.broken.lost
        gained = lost + (round(self.change.points * self.n) if self.change else 0)
        over_all = lost - gained > most * knew and sign_test(gained, lost + gained) < 0.05
        beyond_the_edge = self.broken.low > max(most, EDGE)
        return over_all or beyond_the_edge or (self.broken.share > most and bool(self.lost_groups()))

    def lost_groups(self) -> list[str]:
        """The groups that by themselves lost more than they gained, beyond chance (sign test, Bonferroni)."""
        return [
            group.name
            for group in self.groups
            if group.lost > (gained := group.after - group.before + group.lost)
            and sign_test(gained, group.lost + gained) < 0.05 / len(self.groups)
        ]

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "role": self.role, "n": self.n}
        row |= {} if self.clusters is None else {"clusters": self.clusters}
        row |= {"before": self.before.as_json(), "after": self.after.as_json()}
        row["shown"] = self.about.counted[0].key
        row |= {"change": asdict(self.change)} if self.change else {}
        row |= {"broken": asdict(self.broken)} if self.broken else {}
        return row | ({"groups": [asdict(group) for group in self.groups]} if self.groups else {})


@dataclass(frozen=True)
class Verdict:
    """What is said at the end of a run."""

    learned: str
    """yes, no, too little, parrots, or "not measured (why)"."""
    broke: str
    """nothing, "12 % of what it knew (capitals)", or "not measured (why)"."""
    passed: bool
    text: str
    misses: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    """The figures behind it, with intervals."""
    notes: tuple[str, ...] = ()
    """What was not measured, and how to."""

    def as_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class RoomToEnd:
    """What became of one model's answers that reached `limit` tokens when they were given `ceiling` tokens."""

    limit: int
    ceiling: int
    reached: int
    circling: int
    """Going in circles at the limit: not asked again, they never end."""
    ended: int

    def describe(self) -> str:
        """In words; empty where no answer reached the limit.

        >>> RoomToEnd(160, 512, 31, 4, 20).describe()
        'of 31 answers that reached 160 tokens, 20 ended within 512 and 4 went in circles'
        """
        if not self.reached:
            return ""
        circling = f"{self.circling} went in circles"
        if self.ceiling == self.limit:
            return f"{self.reached} answers reached {self.limit} tokens, {circling}"
        return (
            f"of {self.reached} answers that reached {self.limit} tokens, {self.ended} ended within {self.ceiling} "
            f"and {circling}"
        )


@dataclass(frozen=True)
class GuardrailCounts:
    """Of so many answers, those that break each guardrail, and the largest share of them that the recipe allows."""

    answers: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    limits: Mapping[str, float]
    room: tuple[RoomToEnd, RoomToEnd] | None = None
    """Before and after; None in scores from before it was looked at."""

    def as_json(self) -> dict[str, Any]:
        sides = zip(SIDES, self.room or (), strict=False)
        return {**asdict(self), "room": {side: asdict(room) for side, room in sides} or None}


@dataclass(frozen=True)
class BeforeAndAfter:
    """Figures of the held-out rows: ``loss``, ``bits_per_byte``, ...; of pairs ``accuracy``, ``margin``, ``pairs``."""

    before: Record
    after: Record

    def as_json(self) -> dict[str, Any]:
        return {"before": dict(self.before.values), "after": dict(self.after.values)}


@dataclass(frozen=True)
class RetrievalProbe:
    """Questions of a probe as the untrained base answers them with passages of the documents in its prompt."""

    name: str
    role: str
    n: int
    """Of them asked so; of coverage, key terms."""
    clusters: int
    base: float
    """Share that the base has right without passages."""
    retrieved: float
    """With those that the search found."""
    low: float
    """95 % interval of that."""
    high: float
    trained: float
    """Share that the trained model has right, without passages."""
    section: float | None
    """Share that the base has right with the section that is asked about; None where no question says which it is."""
    holding: float
    """Share of what is asked for that stands in the passages found."""
    ahead: Change
    """Retrieved less trained."""
    better: Ahead
    """Which has more right beyond chance."""
    helps: bool
    """Whether passages give the base more right than none, beyond chance."""

    @property
    def counted(self) -> Counted:
        """What is counted as right: short answers in whatever form, since a base that reads answers in sentences."""
        first = ROLES[self.role].counted[0]
        return HOLDS if first is RIGHT else first

    @property
    def counted_over(self) -> str:
        """How many are asked, and about how many facts or sections where that is fewer."""
        return _counted_over(self.n, self.clusters, ROLES[self.role])

    def conclusion(self) -> str:
        """What follows for somebody who might train, or not."""
        shares = f"{show_share(self.retrieved)} with passages in the prompt, {show_share(self.trained)} by training"
        if self.better == "retrieval":
            return f"{self.name}: {shares}: do not train for this, the passages do it and nothing is forgotten"
        if self.better == "training":
            held = f"the search found {show_share(self.holding)} of what is asked for"
            return f"{self.name}: {shares}: the trained model is ahead; {held}"
        if self.helps:
            return f"{self.name}: {shares}, no difference beyond chance: passages do it too, and nothing is forgotten"
        return f"{self.name}: {shares}, no difference beyond chance"


@dataclass(frozen=True)
class RetrievalScores:
    """The rival of the training: the untrained base with passages that a search found."""

    passages: int
    """Most put into a prompt."""
    searched: int
    """Passages of the documents in all."""
    probes: tuple[RetrievalProbe, ...]
    tokens: tuple[float, float]
    """Of a prompt, on average: without passages and with them."""
    seconds: tuple[float, float] | None
    """For an answer, on average of a few asked at a time: of the trained model, and of the base with passages."""
    fewer: int = 0
    """Prompts in which not all passages had room."""
    left_out: int = 0
    """Questions that were not asked: not even one passage has room."""

    def describe(self) -> str:
        """What it is and what it costs, in one sentence.

        >>> RetrievalScores(3, 412, (), (38.4, 912.0), (0.42, 3.1)).describe()
        '3 of 412 passages in each prompt, found by BM25: 38 -> 912 tokens to read, 0.42 -> 3.10 s an answer'
        """
        cost = f"{self.tokens[0]:.0f} -> {self.tokens[1]:.0f} tokens to read"
        if self.seconds:
            cost += f", {self.seconds[0]:.2f} -> {self.seconds[1]:.2f} s an answer"
        line = f"{self.passages} of {self.searched:,} passages in each prompt, found by BM25: {cost}"
        if self.fewer:
            line += f"; in {self.fewer} prompts there was room for fewer"
        return line + (f"; {self.left_out} questions had room for none and are left out" if self.left_out else "")

    def as_json(self) -> dict[str, Any]:
        costs = {"tokens": self.tokens, "seconds": self.seconds}
        return asdict(self) | {
            key: dict(zip(COSTS, cost, strict=True)) if cost else None for key, cost in costs.items()
        }


COSTS = ("alone", "with_passages")
NOTHING = Record({}, FILE)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a run measured. None, or an empty record, is what was not measured."""

    verdict: Verdict | None = None
    guardrails: GuardrailCounts | None = None
    probes: tuple[ProbeResult, ...] = ()
    loss: BeforeAndAfter | None = None
    replay_loss: BeforeAndAfter | None = None
    """On the held-out part of the replay alone: what the base knew before."""
    pairs: BeforeAndAfter | None = None
    retrieval: RetrievalScores | None = None
    windows: WindowScores | None = None
    continuations: ContinuationScores | None = None
    safety: Record = NOTHING
    intrinsic: Record = NOTHING
    """Losses of the held-out rows, on ``learned`` and on ``all`` tokens."""
    tasks: list[Record] = field(default_factory=list)
    judge: Record = NOTHING
    folds: tuple[str, ...] = ()
    """What the tokenizer folds (:data:`~afina.tokenizer.folding.FOLDS`): nobody predicts it, and bits per byte compare
    only where the same is folded."""

    @classmethod
    def of(cls, record: Record) -> Scores:
        """From the file's values.

        Raises:
            AfinaError: a value is missing or of the wrong kind.
        """
        return cls(
            verdict=_verdict(record.record("verdict")),
            guardrails=_guardrails(record.record("guardrails")),
            probes=tuple(_probe(each) for each in record.records("probes")),
            **{key: _before_and_after(record.record(key)) for key in ("loss", "replay_loss", "pairs")},
            retrieval=_retrieval(record.record("retrieval")),
            windows=WindowScores.of(windows) if (windows := record.record("windows")) else None,
            continuations=ContinuationScores.of(written) if (written := record.record("continuations")) else None,
            safety=record.record("safety"),
            intrinsic=record.record("intrinsic"),
            tasks=record.records("tasks"),
            judge=record.record("judge"),
            folds=tuple(record.texts("folds")),
        )

    def as_json(self) -> dict[str, Any]:
        """The file's values."""

        def plain(
            part: Verdict
            | GuardrailCounts
            | BeforeAndAfter
            | RetrievalScores
            | WindowScores
            | ContinuationScores
            | None,
        ) -> dict[str, Any] | None:
            return part.as_json() if part else None

        return {
            "verdict": plain(self.verdict),
            "guardrails": plain(self.guardrails),
            "probes": [probe.as_json() for probe in self.probes],
            "loss": plain(self.loss),
            "replay_loss": plain(self.replay_loss),
            "pairs": plain(self.pairs),
            "retrieval": plain(self.retrieval),
            "windows": plain(self.windows),
            "continuations": plain(self.continuations),
            "safety": dict(self.safety.values) or None,
            "intrinsic": dict(self.intrinsic.values) or None,
            "tasks": [dict(task.values) for task in self.tasks],
            "judge": dict(self.judge.values) or None,
        } | ({"folds": list(self.folds)} if self.folds else {})

    def write(self, folder: Path) -> None:
        """Write ``scores.json`` into a run's folder."""
        write_json(folder / FILE, self.as_json())


def read_scores(folder: Path) -> Scores | None:
    """The scores of a run; None where it has none.

    Raises:
        AfinaError: the file is damaged.
    """
    record = read_record(folder / FILE)
    return None if record is None else Scores.of(record)


def record_of(values: Mapping[str, Any] | None) -> Record:
    """Plain values as a part of scores that are to be written."""
    return Record(values or {}, FILE)


def _verdict(record: Record) -> Verdict | None:
    if not record:
        return None
    learned, broke = record.required_text("learned"), record.required_text("broke")
    return Verdict(
        learned,
        broke,
        record.required_flag("passed"),
        record.text("text") or f"learned: {learned}, broke: {broke}",
        tuple(record.texts("misses")),
        tuple(record.texts("findings")),
        tuple(record.texts("notes")),
    )


def _guardrails(record: Record) -> GuardrailCounts | None:
    if not record:
        return None
    answers, limits = record.required_whole("answers"), dict(record.record("limits").numbers())
    before, after = ({key: side.required_whole(key) for key in side.values} for side in map(record.record, SIDES))
    if not all(0 <= count <= answers for count in (*before.values(), *after.values())):
        raise record.wrong("answers", "as large as each count", answers)
    room = record.record("room")
    return GuardrailCounts(answers, before, after, limits, (_room(room, 0), _room(room, 1)) if room else None)


def _room(record: Record, side: int) -> RoomToEnd:
    found = record.required_record(SIDES[side])
    return RoomToEnd(*(found.required_whole(key) for key in ("limit", "ceiling", "reached", "circling", "ended")))


def _before_and_after(record: Record) -> BeforeAndAfter | None:
    return BeforeAndAfter(*map(record.required_record, SIDES)) if record else None


def _retrieval(record: Record) -> RetrievalScores | None:
    if not record:
        return None
    tokens, seconds = record.required_record("tokens"), record.record("seconds")
    return RetrievalScores(
        record.required_whole("passages"),
        record.required_whole("searched"),
        tuple(_retrieval_probe(each) for each in record.records("probes")),
        (tokens.required_number(COSTS[0]), tokens.required_number(COSTS[1])),
        (seconds.required_number(COSTS[0]), seconds.required_number(COSTS[1])) if seconds else None,
        record.required_whole("fewer"),
        record.required_whole("left_out"),
    )


def _retrieval_probe(record: Record) -> RetrievalProbe:
    role, better = record.required_text("role"), record.required_text("better")
    if role not in ROLES:
        raise record.wrong("role", f"one of {', '.join(ROLES)}", role)
    if better not in AHEAD:
        raise record.wrong("better", f"one of {', '.join(AHEAD)}", better)
    ahead = _change(record.required_record("ahead"))
    assert ahead is not None
    share = record.required_number
    return RetrievalProbe(
        record.required_text("name"),
        role,
        record.required_whole("n"),
        record.required_whole("clusters"),
        base=share("base"),
        retrieved=share("retrieved"),
        low=share("low"),
        high=share("high"),
        trained=share("trained"),
        section=record.number("section"),
        holding=share("holding"),
        ahead=ahead,
        better=next(each for each in AHEAD if each == better),
        helps=record.required_flag("helps"),
    )


def _probe(record: Record) -> ProbeResult:
    name, role = record.required_text("name"), record.required_text("role")
    if role not in ROLES:
        raise record.wrong("role", f"one of {', '.join(ROLES)}", role)
    before, after = (_side(record.record(side), role) for side in SIDES)
    change = _change(record.record("change"))
    if role == "retention" and record.text("shown") != ROLES[role].counted[0].key:  # older: those of the strict figure
        before, after, change = ProbeSide(before.shares), ProbeSide(after.shares), None
    return ProbeResult(
        name,
        role,
        record.required_whole("n"),
        before,
        after,
        change,
        _broken(record.record("broken")),
        tuple(_group(each) for each in record.records("groups")),
        record.whole("clusters"),
    )


def _group(record: Record) -> GroupCounts:
    counts = [record.required_whole(key) for key in ("n", "before", "after", "lost")]
    if not all(0 <= count <= counts[0] for count in counts):
        raise record.wrong("n", "as large as each count", counts[0])
    return GroupCounts(record.required_text("name"), *counts)


def _change(record: Record) -> Change | None:
    return Change(*map(record.required_number, ("points", "low", "high"))) if record else None


def _broken(record: Record) -> Broken | None:
    if not record:
        return None
    knew, lost = (record.required_whole(key) for key in ("knew", "lost"))
    return Broken(knew, lost, *map(record.required_number, ("share", "low", "high")))


def _side(record: Record, role: str) -> ProbeSide:
    """Older scores call ``exact_match`` what is ``verbatim`` here, and ``new`` of versions."""
    shares = {key: value for key, value in record.numbers() if key not in ("low", "high")}
    old_name = shares.pop("exact_match", None)
    if old_name is not None:
        shares.setdefault(ROLES[role].counted[0].key, old_name)
    low, high = record.number("low"), record.number("high")
    return ProbeSide(shares, None if low is None or high is None else (low, high))
