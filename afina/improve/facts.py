"""What a round says of each fact, read from its folder: which steer and which judge, which stuck, and the verdict of
either half.

Nothing is asked again. The answers of ``predictions.jsonl``, ``choices.jsonl`` and ``skills.jsonl`` are graded as the
evaluation grades them, and each half is judged as a run is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from afina.evaluate.choice import BY_CHANCE, CHOICES_FILE
from afina.evaluate.coverage import held_by_luck, held_terms
from afina.evaluate.grade import Graded, grade, luck
from afina.evaluate.halves import split_probes
from afina.evaluate.intervals import difference_interval, gain_interval, more_than_chance, share_interval
from afina.evaluate.probes import ProbeSet, Question, stored_turns
from afina.evaluate.scores import FACTS, KEEPS, ROLES, Scores, Verdict, by_way, read_scores
from afina.evaluate.skills import skill_items
from afina.evaluate.verdict import Flags, ProbeScore, judge
from afina.recipe import Limits
from afina.record import Record, read_rows
from afina.temper.choose import share_lost
from afina.text.answer_flaws import after_thinking
from afina.text.claims import claims_to_know, declines
from afina.text.document import Message
from afina.text.identity import normal
from afina.walk.skills import ROWS_FILE as SKILLS_FILE

TELLING = ("recall", *FACTS, "choice", "coverage")
"""Roles that tell whether something was learned."""
State = Literal["stuck", "parroted", "missed"]
"""stuck: answered right in words never trained. parroted: only in those trained, or it says that it knows and not what.
missed: neither. Where no other words were asked, what is right in those trained has stuck."""


@dataclass(frozen=True)
class BothAnswers:
    """One question with what the base and the trained model answered."""

    probe: str
    role: str
    fact: str
    """Name of what it is about; empty where nothing says so."""
    prompt: str
    reference: str
    answer: str
    """The trained model's, without its thoughts."""
    before: tuple[Graded, ...]
    """The base's; of coverage one for each key term, else one."""
    after: tuple[Graded, ...]
    terms: tuple[str, ...] = ()
    group: str = ""
    """The skill, where it asks for one."""
    turns: tuple[Message, ...] = ()
    """All that was asked, where that is more than the prompt."""

    @property
    def about(self) -> str:
        """What intervals count once."""
        return self.fact or self.prompt

    @property
    def key(self) -> tuple[str, str, str, tuple[str, ...]]:
        """The same for this question in every round. The key terms of a section are other ones where other rows lie
        beside it; what is held against those is another question."""
        asked = "\n".join(turn["content"] for turn in self.question.messages)
        return self.probe, asked, self.reference, self.terms

    @property
    def question(self) -> Question:
        """What was asked, as :mod:`afina.evaluate.halves` parts it."""
        asked = self.turns or (Message(role="user", content=self.prompt),)
        return Question(asked, self.reference, "", cluster=self.fact)


def read_answers(folder: Path) -> list[BothAnswers]:
    """Every question of a run that has answers, graded; empty where the run was not measured.

    Raises:
        AfinaError: a file is damaged.
    """
    any_case = "case" in (read_scores(folder) or Scores()).folds
    rows = [_answer(row, any_case) for row in read_rows(folder / "predictions.jsonl") or ()]
    rows += [_choice(row) for row in read_rows(folder / CHOICES_FILE) or ()]
    return rows + [_skill(row) for row in read_rows(folder / SKILLS_FILE) or ()]


def _answer(row: Record, any_case: bool) -> BothAnswers:
    role, reference, terms = _role(row), row.required_text("reference"), tuple(row.texts("terms"))
    texts = [after_thinking(row.required_text(side)) for side in ("base", "adapter")]
    if role == "coverage":
        graded = [tuple(Graded(said=held) for held in held_terms(text, terms)) for text in texts]
    elif role == "versions":
        graded = [(_version(text, row, side),) for text, side in zip(texts, ("base", "adapter"), strict=True)]
    else:
        graded = [(grade(text, reference, any_case=any_case),) for text in texts]
    return BothAnswers(
        row.required_text("probe"),
        role,
        row.text("fact") or "",
        row.required_text("prompt"),
        reference,
        texts[1],
        graded[0],
        graded[1],
        terms,
        turns=stored_turns(row),
    )


def _role(row: Record) -> str:
    """What the row's question was asked for."""
    role = row.required_text("role")
    if role not in ROLES:
        raise row.wrong("role", f"one of {', '.join(ROLES)}", role)
    return role


def _version(text: str, row: Record, side: str) -> Graded:
    """Of versions the row says which one's way the answer goes: the texts that tell them apart stand in the probe."""
    called = row.required_text(f"{side}_is")
    version: Literal["new", "old", "neither"] = "new" if called == "new" else "old" if called == "old" else "neither"
    return Graded(said=called == "new", claims=claims_to_know(text), declines=declines(text), version=version)


def _choice(row: Record) -> BothAnswers:
    right = [row.required_flag(f"{side}_correct") for side in ("base", "adapter")]
    graded = [(Graded(verbatim=each, said=each),) for each in right]
    sentences = row.texts("sentences")
    return BothAnswers(
        row.required_text("probe"),
        _role(row),
        row.required_text("section"),
        row.required_text("prompt"),
        sentences[0] if sentences else "",
        "",
        graded[0],
        graded[1],
    )


def _skill(row: Record) -> BothAnswers:
    right = [row.required_flag(f"{side}_correct") for side in ("base", "adapter")]
    graded = [(Graded(verbatim=each, said=each),) for each in right]
    name = row.required_text("id")
    if name not in skill_items():
        raise row.wrong("id", "a question of afina's own", name)
    return BothAnswers(
        row.required_text("probe"),
        _role(row),
        name,
        row.required_text("prompt"),
        row.required_text("reference"),
        row.required_text("adapter"),
        graded[0],
        graded[1],
        group=skill_items()[name].skill,
    )


def scores_of(answers: Iterable[BothAnswers]) -> list[ProbeScore]:
    """The probes of some answers, as the verdict counts them."""
    by_probe: dict[tuple[str, str], list[BothAnswers]] = {}
    for each in answers:
        by_probe.setdefault((each.probe, each.role), []).append(each)
    return [_score(name, role, rows) for (name, role), rows in by_probe.items()]


def _score(name: str, role: str, rows: Sequence[BothAnswers]) -> ProbeScore:
    clusters = tuple(each.about for each in rows for _ in each.after)
    chances: list[float] = []
    if role in ("recall", "generalization"):
        chances = luck([each.answer for each in rows], [each.reference for each in rows], clusters)
    elif role == "coverage":
        texts, sections = [each.answer for each in rows], [each.about for each in rows]
        found = held_by_luck(texts, [each.terms for each in rows], sections)
        chances = [chance for of_one in found for chance in of_one]
    elif role in ("choice", "control"):
        chances = [BY_CHANCE] * len(rows)
    skills = role == "skills"
    return ProbeScore(
        name,
        role,
        tuple(graded for each in rows for graded in each.before),
        tuple(graded for each in rows for graded in each.after),
        tuple(chances),
        () if skills else clusters,
        groups=tuple(each.group for each in rows) if skills else (),
    )


@dataclass(frozen=True)
class PartedAnswers:
    """The answers of a round, parted into those that steer and those that judge."""

    steer: tuple[BothAnswers, ...]
    judge: tuple[BothAnswers, ...]
    notes: tuple[str, ...] = ()
    """Probes that were not parted, and why."""

    @property
    def can_steer(self) -> bool:
        """Whether anything that tells of learning steers."""
        return any(each.role in TELLING for each in self.steer)


def part(answers: Sequence[BothAnswers]) -> PartedAnswers:
    """Part answers by what they are about, as a tempering of the same run parts its questions."""
    kept: list[Question] = []  # `id` is theirs alone while they are held
    probes: dict[tuple[str, str], list[Question]] = {}
    questions: dict[int, BothAnswers] = {}
    for each in answers:
        question = each.question
        kept.append(question)
        questions[id(question)] = each
        probes.setdefault((each.probe, each.role), []).append(question)
    parted = split_probes([ProbeSet(name, role, tuple(found)) for (name, role), found in probes.items()])
    steer, judges = (
        [questions[id(question)] for probe in half for question in probe.questions]
        for half in (parted.steer, parted.judge)
    )
    return PartedAnswers(tuple(steer), tuple(judges), parted.notes)


@dataclass(frozen=True)
class HalfVerdict:
    """What one half of a round's questions says."""

    verdict: Verdict
    probes: tuple[ProbeScore, ...]

    @property
    def telling(self) -> list[ProbeScore]:
        """The probes of the first way to tell that there is: short answers, or else questions about prose."""
        return next((found for found in by_way(self.probes).values() if found), [])

    @property
    def learned(self) -> float:
        """Share of their answers that are right after training."""
        after = [flag for probe in self.telling for flag in probe.shown[1]]
        return sum(after) / max(1, len(after))

    @property
    def broken(self) -> float | None:
        """Share of what the base knew that is lost (of skills less what is gained), of the probe that lost most; None
        where nothing asks for it."""
        kept = [probe.result() for probe in self.probes if probe.role in KEEPS and probe.known]
        return max((share_lost(probe).share for probe in kept), default=None)

    def gain(self) -> tuple[float, float, float]:
        """Share right after less share right before, with its 95 % interval."""
        before, after, clusters = _joined(self.telling)
        return (sum(after) - sum(before)) / max(1, len(after)), *gain_interval(before, after, clusters)

    @property
    def learned_interval(self) -> tuple[float, float]:
        """95 % interval of :attr:`learned`."""
        _, after, clusters = _joined(self.telling)
        return share_interval(after, clusters)

    @property
    def gained(self) -> bool:
        """Whether more is right than before training, beyond chance."""
        return bool(self.telling) and all(probe.gain_is_sure for probe in self.telling)


def _joined(probes: Sequence[ProbeScore]) -> tuple[Flags, Flags, tuple[str, ...]]:
    before = tuple(flag for probe in probes for flag in probe.shown[0])
    after = tuple(flag for probe in probes for flag in probe.shown[1])
    return before, after, tuple(name for probe in probes for name in probe.clusters)


def verdict_of(half: Sequence[BothAnswers], limits: Limits, further: Sequence[str]) -> HalfVerdict:
    """Judge one half by the recipe's limits.

    Args:
        further: what the run missed by other measures than its probes.
    """
    probes = scores_of(half)
    return HalfVerdict(judge(probes, None, None, limits, further_misses=further), tuple(probes))


def other_misses(scores: Scores, answers: Sequence[BothAnswers], limits: Limits) -> list[str]:
    """What a run missed that its answers do not tell: guardrails, safety, losses, texts, measures that failed.

    They are the misses of its own verdict less those of all its answers judged again. What is not understood stays
    among them, so that no half passes where the whole run failed for another reason.
    """
    again = judge(scores_of(answers), None, None, limits)
    missed = scores.verdict.misses if scores.verdict else ("it was not judged",)
    return [each for each in missed if each not in again.misses]


@dataclass(frozen=True)
class FactState:
    """What became of one fact that steers."""

    fact: str
    state: State
    answers: tuple[BothAnswers, ...]

    @property
    def right(self) -> float:
        """Share of its answers that are right."""
        return sum(each.after[0].right for each in self.answers) / len(self.answers)


def fact_states(steer: Sequence[BothAnswers]) -> list[FactState]:
    """The facts that steer and are asked for by short answers, in the order of their first question."""
    by_fact: dict[str, list[BothAnswers]] = {}
    for each in steer:
        if each.role in ("recall", *FACTS):
            by_fact.setdefault(each.about, []).append(each)
    return [FactState(fact, _state(rows), tuple(rows)) for fact, rows in by_fact.items()]


def _state(rows: Sequence[BothAnswers]) -> State:
    trained = [each.after[0].right for each in rows if each.role == "recall"]
    other = [each.after[0].right for each in rows if each.role in FACTS]
    knows, says = _most(other or trained), any(each.after[0].claims and not each.after[0].said for each in rows)
    if knows:
        return "stuck"
    return "parroted" if says or (other and _most(trained)) else "missed"


def _most(flags: Sequence[bool]) -> bool:
    return bool(flags) and sum(flags) > len(flags) / 2


def asked_texts(answers: Iterable[BothAnswers]) -> frozenset[str]:
    """The words of every question of the probes, as :func:`plain_text` has them."""
    return frozenset(plain_text(each.prompt) for each in answers)


def plain_text(text: str) -> str:
    """A text as two that ask the same in the same words have it: letters and digits alone, no case.

    >>> plain_text("  Quando nasceu  BENTO?") == plain_text("quando nasceu Bento")
    True
    """
    letters = "".join(letter if letter.isalnum() else " " for letter in text)
    return normal(letters).casefold()


def more_right(before: Sequence[BothAnswers], after: Sequence[BothAnswers], roles: Sequence[str]) -> bool:
    """Whether a round has more right than an earlier one, of the same questions of some roles, beyond chance.

    Of roles of old knowledge only what the base knew is looked at.
    """
    earlier = {each.key: each for each in before}
    pairs = [(earlier[each.key], each) for each in after if each.role in roles and each.key in earlier]
    flags: list[tuple[bool, bool, str]] = []
    for one, two in pairs:
        for number, (first, second) in enumerate(zip(one.after, two.after, strict=True)):
            if two.role not in KEEPS or two.before[number].said:
                flags.append((first.said, second.said, two.about))
    if not flags:
        return False
    olds, news, clusters = zip(*flags, strict=True)
    return more_than_chance(olds, news, clusters)


def gains_agree(first: HalfVerdict, second: HalfVerdict) -> tuple[float, float]:
    """95 % interval of the second half's gain less the first's: they were not asked the same (Newcombe's method 10,
    which puts any two intervals together)."""
    return difference_interval(first.gain(), second.gain())


def scores_by(half: HalfVerdict, folder: Path) -> Scores:
    """A run's scores with one half's verdict in the place of its own: what may steer sees nothing else.

    The probes' figures and guardrails are left out too: they count every answer.
    """
    scores = read_scores(folder) or Scores()
    return replace(scores, verdict=half.verdict, guardrails=None, probes=tuple(each.result() for each in half.probes))


def lost_facts(steer: Sequence[BothAnswers]) -> tuple[list[str], int]:
    """Old facts and skills that steer, of which most answers that were right are wrong now; and how many the base
    knew."""
    by_fact: dict[str, list[bool]] = {}
    for each in steer:
        if each.role in KEEPS and each.before[0].said:
            by_fact.setdefault(each.about, []).append(not each.after[0].said)
    return [fact for fact, lost in by_fact.items() if _most(lost)], len(by_fact)


def by_name(states: Iterable[FactState]) -> Iterator[tuple[State, list[str]]]:
    """The facts of each state that is no good one, by name."""
    found: Mapping[State, list[str]] = {"missed": [], "parroted": []}
    for each in states:
        if each.state != "stuck":
            found[each.state].append(each.fact)
    yield from found.items()
