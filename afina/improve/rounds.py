"""What is decided between rounds, of their folders alone: how each stands, which is the best, what comes next or why
nothing does. The same folders give the same decision, so that a loop that was stopped goes on by deciding again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from afina.errors import AfinaError
from afina.evaluate.scores import KEEPS, read_scores
from afina.improve.facts import (
    TELLING,
    BothAnswers,
    FactState,
    HalfVerdict,
    PartedAnswers,
    asked_texts,
    fact_states,
    gains_agree,
    more_right,
    other_misses,
    part,
    read_answers,
    scores_by,
    verdict_of,
)
from afina.improve.moves import BROKE, REPLAY_SHARE, SELF_DISTILLED, Move, RoundReading, moves_of, with_moves
from afina.improve.own_words import ROWS_FILE, read_own_words
from afina.improve.rows import trained_examples
from afina.manifest import read_manifest
from afina.recipe import Recipe
from afina.record import read_record
from afina.remedies.answer import diagnose
from afina.walk.walk import TEMPERED

FRUITLESS = 2
"""So many rounds one after the other that bring nothing beyond chance end it."""
Why = Literal["passed", "rounds", "hours", "money", "nothing", "no move", "cannot write", "cannot steer"]


@dataclass(frozen=True)
class Round:
    """One round that is over."""

    number: int
    recipe: Recipe
    folder: Path
    moves: tuple[Move, ...] = ()
    origin: int = 0
    """The round whose recipe was changed; 0 for the first."""
    error: AfinaError | None = None
    """Why it was not measured."""
    planned: str = ""
    """Time and money, as they were planned before it."""

    @cached_property
    def answers(self) -> list[BothAnswers]:
        """Every answer; empty where it was not measured."""
        return [] if self.error else read_answers(self.folder)

    @cached_property
    def parted(self) -> PartedAnswers:
        """Those that steer and those that judge."""
        return part(self.answers)

    @cached_property
    def _further(self) -> list[str]:
        scores = read_scores(self.folder)
        assert scores is not None, "a round that was measured"
        return other_misses(scores, self.answers, self.recipe.evaluate.limits)

    @cached_property
    def steering(self) -> HalfVerdict | None:
        """By the facts that steer; None where it was not measured, or nothing steers."""
        if self.error or not self.parted.can_steer:
            return None
        return verdict_of(self.parted.steer, self.recipe.evaluate.limits, self._further)

    @cached_property
    def judging(self) -> HalfVerdict | None:
        """By the facts that judge: the verdict that ends it."""
        return None if self.error else verdict_of(self.parted.judge, self.recipe.evaluate.limits, self._further)

    @cached_property
    def facts(self) -> list[FactState]:
        """What became of each fact that steers."""
        return fact_states(self.parted.steer)

    @property
    def passed(self) -> bool:
        """Whether the judging half's verdict is good."""
        return self.judging is not None and self.judging.verdict.passed

    @cached_property
    def hours(self) -> float:
        """What it took, the base's answers that it learns included; of a round that ended by an error, what its
        training took."""
        return self._walked_hours + self._asking_seconds / 3600

    @property
    def _asking_seconds(self) -> float:
        move = next((move for move in self.moves if move.kind == SELF_DISTILLED), None)
        found = read_own_words(Path(str(move.settings["dataset.answers"])).parent) if move else None
        return found.seconds if found else 0.0

    @property
    def _walked_hours(self) -> float:
        manifest = read_manifest(self.folder) if self.error is None else None
        if manifest is not None:
            tempered = read_record(self.folder / TEMPERED)
            seconds = tempered.number("seconds") if tempered else None
            return (manifest.cost.number("hours") or 0.0) + (seconds or 0.0) / 3600
        view = diagnose(self.folder).view
        steps = [step for training in view.trainings for step in zip(*_steps(training), strict=True)]
        return sum(count / speed for count, speed in steps if speed > 0) / 3600

    @property
    def money(self) -> float:
        """What that cost, in the recipe's currency."""
        return self.hours * self.recipe.budget.price_per_hour

    @property
    def shortfall(self) -> float:
        """How far the steering half is from the recipe's limits, in shares of answers: 0 where it passes, and infinite
        where it was not measured."""
        if self.steering is None:
            return float("inf")
        if self.steering.verdict.passed:
            return 0.0
        limits = self.recipe.evaluate.limits
        least = limits.learned_min if limits.learned_min is not None else 0.0 if self.steering.gained else 1.0
        lost = (self.steering.broken or 0.0) - limits.broke_max
        return max(0.0, least - self.steering.learned) + max(0.0, lost) + 1e-9

    @cached_property
    def trained(self) -> tuple[int, int]:
        """Optimizer steps that it took, and tokens that it read in them."""
        trainings = diagnose(self.folder).view.trainings
        return sum(len(each.steps) for each in trainings), int(sum(sum(each.steps["tokens"]) for each in trainings))

    def reading(self, asked: frozenset[str]) -> RoundReading:
        """What the rules may look at."""
        if self.steering is None:
            return RoundReading(self.recipe, diagnose(self.folder), None, asked=asked)
        seen = scores_by(self.steering, self.folder)
        examples = list(trained_examples(self.folder))
        return RoundReading(self.recipe, diagnose(self.folder, seen), self.steering, self.facts, examples, asked)


def _steps(training: Any) -> tuple[Any, Any]:
    return training.steps["tokens"], training.steps["tokens_per_second"]


@dataclass(frozen=True)
class Next:
    """What the next round trains."""

    number: int
    recipe: Recipe
    moves: tuple[Move, ...] = ()
    origin: int = 0


@dataclass(frozen=True)
class Stop:
    """Why there is no further round."""

    why: Why
    text: str


@dataclass(frozen=True)
class RoundsBudget:
    """What all rounds together may take; None: as much as they need. Money is in the recipe's currency."""

    rounds: int
    hours: float | None = None
    money: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """What is bounded besides the rounds, and by how much."""
        given = {"hours": self.hours, "money": self.money}
        return {name: most for name, most in given.items() if most is not None}


def spent(rounds: Sequence[Round]) -> dict[str, float]:
    """What some rounds took."""
    return {"hours": sum(each.hours for each in rounds), "money": sum(each.money for each in rounds)}


def brings(later: Round, best: Round) -> bool:
    """Whether a round has more right than the best one before it, or keeps more of what the base knew, beyond chance,
    by the facts that steer."""
    if later.steering is None:
        return False
    if best.steering is None:
        return True
    return any(more_right(best.parted.steer, later.parted.steer, roles) for roles in (TELLING, KEEPS))


def best_of(rounds: Sequence[Round]) -> Round:
    """The round that is nearest to the limits by the facts that steer; of several the first."""
    return min(rounds, key=lambda each: each.shortfall)


def fruitless(rounds: Sequence[Round]) -> int:
    """How many of the last rounds brought nothing beyond what the best one before each had. The first is the recipe as
    it was given, and is no such round."""
    count = 0
    for place in range(len(rounds) - 1, 0, -1):
        if brings(rounds[place], best_of(rounds[:place])):
            break
        count += 1
    return count


@dataclass(frozen=True)
class Pair:
    """The two rounds that meet what broke: one with more replay, and one with answers in the base's own words in its
    place, the same otherwise and at its cost."""

    replayed: Round
    distilled: Round | None = None

    @property
    def kept(self) -> Round:
        """The one that is nearer to the limits by the facts that steer; where none is, the one with replay."""
        return best_of([self.replayed, *([self.distilled] if self.distilled else [])])

    @property
    def more_replay(self) -> bool:
        """Whether there was any replay to have more of; else that round takes smaller steps alone."""
        return any(REPLAY_SHARE in move.settings for move in self.replayed.moves)


def pair_of(rounds: Sequence[Round]) -> Pair | None:
    """The pair among some rounds, or its first half; None where what broke was never met, or that was not measured."""
    first = next((each for each in rounds if each.error is None and BROKE in _kinds(each)), None)
    if first is None:
        return None
    return Pair(first, next((each for each in rounds if SELF_DISTILLED in _kinds(each)), None))


def _kinds(each: Round) -> set[str]:
    return {move.kind for move in each.moves}


def wants_own_words(rounds: Sequence[Round]) -> bool:
    """Whether the next round is to learn answers in the base's own words: the last one met what broke, and the recipe
    names no other answers."""
    pair = pair_of(rounds)
    return pair is not None and pair.replayed is rounds[-1] and pair.replayed.recipe.dataset.answers is None


def asked_of(rounds: Sequence[Round]) -> frozenset[str]:
    """The words of every question of the first round that was measured: none of its rows was added."""
    return next((asked_texts(each.answers) for each in rounds if each.answers), frozenset())


def decide(rounds: Sequence[Round], budget: RoundsBudget, rows: Path) -> Next | Stop:
    """What comes after some rounds.

    Args:
        rounds: those that are over, the first at least.
        rows: the folder of the rows that rounds add; this one's are written there before it begins.
    """
    return over(rounds, budget) or _next(rounds, rows)


def over(rounds: Sequence[Round], budget: RoundsBudget) -> Stop | None:
    """Why there is no further round, whatever could still be changed; None where there may be one."""
    last = rounds[-1]
    measured = [each for each in rounds if each.error is None]
    if measured and all(each.steering is None for each in measured):
        notes = "; ".join(measured[-1].parted.notes) or "no probe tells whether something was learned"
        return Stop("cannot steer", f"there is nothing to steer by: {notes}")
    if last.passed:
        return Stop("passed", f"round {last.number} passes: by the facts that judge, {_said(last)}")
    if fruitless(rounds) >= FRUITLESS:
        return Stop("nothing", f"{FRUITLESS} rounds one after the other brought nothing beyond chance")
    if len(rounds) >= budget.rounds:
        return Stop("rounds", f"as many rounds as were allowed are done: {len(rounds)}")
    used = spent(rounds)
    for name, most in budget.limits.items():
        if used[name] >= most:
            why: Why = "hours" if name == "hours" else "money"
            return Stop(why, f"the {'hours are' if why == 'hours' else 'money is'} spent: {used[name]:.3g} of {most:g}")
    return None


def _said(last: Round) -> str:
    return last.judging.verdict.text if last.judging else "not measured"


def _next(rounds: Sequence[Round], rows: Path) -> Next | Stop:
    number, asked = len(rounds) + 1, asked_of(rounds)
    name = rounds[0].recipe.name.removesuffix("-round-1") + f"-round-{number}"
    best, last = best_of(rounds), rounds[-1]
    if wants_own_words(rounds) and (beside := _in_own_words(rounds, rows, name)):
        return beside
    pair = pair_of(rounds)
    if pair is not None and pair.distilled is last:
        last = pair.kept
    # A round that brought nothing may still show what is wrong; one that lost something beyond chance is left.
    worse = last is not best and (last.steering is None or brings(best, last)) and best.steering is not None
    for origin in [best] if worse or last is best else [last, best]:
        reading = origin.reading(asked)
        found = moves_of(reading)
        for moves in [found, *([move] for move in found)] if len(found) > 1 else [found] if found else []:
            recipe = with_moves(origin.recipe, moves, str(rows / f"round-{number}.jsonl"), name)
            if not any(_same(recipe, moves, each) for each in rounds):
                return Next(number, recipe, tuple(moves), origin.number)
    return Stop("no move", "no rule has a change left that was not tried: what is missing is told above")


def _in_own_words(rounds: Sequence[Round], rows: Path, name: str) -> Next | None:
    """The round beside one that met what broke by replay: the same but for that; None where the base has no words."""
    replayed, number, found = rounds[-1], len(rounds) + 1, read_own_words(rows)
    if found is None or not found.rewritten:
        return None
    why = f"to be held against round {replayed.number}, at its cost and without its replay: {found.describe()}"
    settings = {"dataset.answers": str(rows / ROWS_FILE), "train.epochs": found.epochs}
    moves = (*_without_replay(replayed.moves), Move(SELF_DISTILLED, why, settings))
    recipe = with_moves(rounds[replayed.origin - 1].recipe, moves, str(rows / f"round-{number}.jsonl"), name)
    return Next(number, recipe, moves, replayed.origin)


def _without_replay(moves: Sequence[Move]) -> Iterator[Move]:
    for move in moves:
        settings = {key: value for key, value in move.settings.items() if key != REPLAY_SHARE}
        if settings or move.rows:
            yield replace(move, settings=settings)


def _same(recipe: Recipe, moves: Sequence[Move], earlier: Round) -> bool:
    """Whether an earlier round trained the same: by its recipe, and the rows that were added to it last."""
    plain = {"name", "budget", "launch", "sources"}
    if recipe.model_dump(exclude=plain) != earlier.recipe.model_dump(exclude=plain):
        return False
    rows, before = ([move.rows for move in each if move.rows] for each in (moves, earlier.moves))
    if not rows:
        return recipe.sources == earlier.recipe.sources
    return rows == before and recipe.sources[:-1] == earlier.recipe.sources[:-1]


def agreement(last: Round) -> tuple[float, float] | None:
    """95 % interval of the judging half's gain less the steering half's; None where one was not measured."""
    if last.steering is None or last.judging is None or not last.judging.telling:
        return None
    return gains_agree(last.steering, last.judging)
