"""What a round may change, one small rule each: from what the last round showed to a sentence and keys of the recipe.

What a run's curves and its verdict ask for is :mod:`afina.remedies`', given the verdict of the steering half alone; the
rules here are about facts. To add one: a function here and its line in :data:`RULES`, the gravest first, and a case in
tests/test_improve.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from afina.improve.facts import FactState, HalfVerdict
from afina.improve.rows import AddedRows, of_facts, other_phrasings, takes_rows
from afina.recipe import Recipe, Source
from afina.recipe.changed import takes, with_settings
from afina.remedies.answer import Diagnosis
from afina.text.example import Example
from afina.units import show_share

MOST_REPEATS = 16
WIDEST = 128
"""Rank beyond which no adapter is made wider."""
FEW_STEPS_MORE = 1.5
"""Times the epochs, where the half that steers is content and the other is not."""
LOSS_LEFT = 0.2
"""Nats per token: a training loss above it, after epochs enough, is what the adapter has no room to learn."""
ENOUGH_EPOCHS = 5.0
BROKE, REPLAY_SHARE = "broke", "dataset.replay_share"
"""The remedy that meets what broke, and the key by which it gives more replay."""
SELF_DISTILLED = "self_distilled"
"""The move that is tried in the place of more replay, in a round beside it (:mod:`afina.improve.own_words`)."""


@dataclass(frozen=True)
class Move:
    """One change, and why.

    Args:
        kind: name of its rule, or of the remedy.
        why: a sentence with its figures.
        settings: dotted keys of the recipe and their new values.
        rows: to be trained too; empty for none.
    """

    kind: str
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class RoundReading:
    """What the rules may look at: nothing of it is of the half that judges."""

    recipe: Recipe
    diagnosis: Diagnosis
    """What the run shows, by the verdict of the half that steers."""
    half: HalfVerdict | None
    """That verdict; None where the round was not measured."""
    facts: Sequence[FactState] = ()
    examples: Sequence[Example] = ()
    """What was trained."""
    asked: frozenset[str] = frozenset()
    """Questions of the probes, see :func:`~afina.improve.facts.asked_texts`."""

    @property
    def passed(self) -> bool:
        """Whether the half that steers has nothing to ask for."""
        return self.half is not None and self.half.verdict.passed

    @property
    def not_learned(self) -> bool:
        """Whether that half misses anything about learning."""
        return self.half is not None and self.half.verdict.learned != "yes"

    def of(self, *states: str) -> list[FactState]:
        """The facts in one of these states."""
        return [each for each in self.facts if each.state in states]

    @cached_property
    def fact_of(self) -> Callable[[Example], str]:
        """Which fact that steers a row is about."""
        return of_facts(self.facts)

    def rows_of(self, facts: Sequence[FactState]) -> Callable[[Example], bool]:
        """Which rows are about these facts, or about one that does not steer and is of a kind with them: what cannot be
        seen is given what those that are seen need."""
        names = {each.fact for each in facts}
        kinds = {
            (example.source, example.made) for example in self.examples if names and self.fact_of(example) in names
        }

        def wanted(example: Example) -> bool:
            fact = self.fact_of(example)
            return fact in names if fact else (example.source, example.made) in kinds and not example.replay

        return wanted


def phrasings(reading: RoundReading) -> Move | None:
    """Facts that did not stick: asked in further words, where a template has some."""
    weak = reading.of("missed", "parroted")
    if not weak or not reading.not_learned or not takes_rows(reading.recipe):
        return None
    added = _rephrased(reading, weak)
    if not added.rows:
        return None
    parroted = len(reading.of("parroted"))
    why = f"{len(weak)} of {len(reading.facts)} steering facts did not stick"
    why += f", {parroted} of them are given back only in the words trained" if parroted else ""
    why += f": {added.facts} facts are asked in {len(added.rows)} further phrasings, these and those of their kind "
    why += "that steering cannot see"
    for reason, count in added.left_out.items():
        why += f"; for {count} rows {reason}"
    return Move("phrasings", why, rows=tuple(added.rows))


def _rephrased(reading: RoundReading, weak: Sequence[FactState]) -> AddedRows:
    return other_phrasings(reading.recipe, reading.examples, reading.rows_of(weak), reading.asked)


def repeats(reading: RoundReading) -> Move | None:
    """Facts missed in the trained words too: the sources that tell them are seen more often, where others are not."""
    missed = reading.of("missed")
    if not reading.not_learned or len(missed) < len(reading.facts) / 10:
        return None
    names = {each.fact for each in missed}
    own = [number for number, source in enumerate(reading.recipe.sources) if not source.replay]
    telling = {example.source for example in reading.examples if reading.fact_of(example) in names} & {*own}
    if not telling or (telling == {*own} and len(own) == len(reading.recipe.sources)):
        return None  # nothing else is mixed in: more of everything is more epochs
    settings = {
        f"sources.{number}.repeat": min(MOST_REPEATS, 2 * reading.recipe.sources[number].repeat)
        for number in sorted(telling)
        if reading.recipe.sources[number].repeat < MOST_REPEATS
    }
    if not settings:
        return None
    why = f"{len(missed)} of {len(reading.facts)} steering facts are missed in the words trained too: what tells them "
    return Move("repeats", why + "is seen twice as often in an epoch", settings)


def wider(reading: RoundReading) -> Move | None:
    """A loss that stays where it is after passes enough, with facts missed: an adapter of twice the rank."""
    recipe, missed = reading.recipe, reading.of("missed")
    training = reading.diagnosis.view.trainings[-1] if reading.diagnosis.view.trainings else None
    falls = any(each.kind in ("still_falling", "rising") for each in reading.diagnosis.view.warnings)
    if recipe.trains_all or training is None or training.loss is None or falls:
        return None
    if recipe.train.epochs < ENOUGH_EPOCHS or training.loss < LOSS_LEFT or 2 * recipe.adapter.rank > WIDEST:
        return None
    if not reading.not_learned or not missed or len(missed) < len(reading.facts) / 10:
        return None
    why = f"after {recipe.train.epochs:g} epochs the training loss stands at {training.loss:.2f}, and {len(missed)} "
    why += "facts are missed: twice the rank has room for them"
    return Move("wider", why, {"adapter.rank": 2 * recipe.adapter.rank, "adapter.alpha": 2 * recipe.adapter.alpha})


def margin(reading: RoundReading) -> Move | None:
    """The half that steers passes and the other did not: the same once more, further."""
    if not reading.passed or reading.half is None:
        return None
    epochs = reading.recipe.train.epochs * FEW_STEPS_MORE
    share = show_share(reading.half.learned)
    why = f"the steering half passes with {share} and the judging half does not: half as many passes more, for a margin"
    return Move("margin", why, {"train.epochs": float(round(epochs, 1))})


Rule = Callable[[RoundReading], Move | None]
RULES: dict[str, Rule] = {each.__name__: each for each in (phrasings, repeats, wider, margin)}
"""Every rule about facts by its name; the remedies of the run stand before them."""


def moves_of(reading: RoundReading) -> list[Move]:
    """What the round asks for, the gravest first; of two that set a key otherwise the first one alone, and none that
    the recipe does not take."""
    found, taken = list[Move](), dict[str, Any]()
    for move in _every(reading):
        others = any(key in taken and taken[key] != value for key, value in move.settings.items())
        changes = {key: value for key, value in move.settings.items() if _value(reading.recipe, key) != value}
        if others or not (changes or move.rows) or not takes(reading.recipe, taken | changes):
            continue
        taken |= changes
        found.append(Move(move.kind, move.why, changes, move.rows))
    return found


def _every(reading: RoundReading) -> Iterator[Move]:
    # Held-out rows may be of a replay alone: where facts are missed, passes are not too many because these rose. How
    # fast a round was changes no verdict.
    passed_over = {"too_slow", *(("overfitting",) if reading.not_learned else ())}
    for remedy in reading.diagnosis.remedies if not reading.passed else ():
        if remedy.settings and remedy.kind not in passed_over and remedy.after in ("", *passed_over):
            yield Move(remedy.kind, f"{remedy.seen}: {remedy.why}", remedy.settings)
    for rule in RULES.values():
        if (move := rule(reading)) is not None:
            yield move


def _value(recipe: Recipe, key: str) -> Any:
    """The recipe's value of a dotted key."""
    place: Any = recipe
    for step in key.split("."):
        place = place[int(step)] if isinstance(place, list | tuple) else getattr(place, step)
    return place


def with_moves(recipe: Recipe, moves: Sequence[Move], rows: str, name: str) -> Recipe:
    """A recipe with what moves change.

    Args:
        rows: path of the file of the rows that they add.
        name: of the new run.
    """
    settings: dict[str, Any] = {"name": name}
    for move in moves:
        settings |= move.settings
    if any(move.rows for move in moves):
        repeat = max((each.repeat for each in recipe.sources if not each.replay), default=1)
        added = Source(path=rows, repeat=repeat, validation=0.0)
        # Behind the others, whose places in the list the keys name.
        changed = with_settings(recipe, settings)
        return with_settings(changed, {"sources": [*changed.model_dump()["sources"], added.model_dump()]})
    return with_settings(recipe, settings)


def changed_keys(earlier: Recipe, later: Recipe) -> dict[str, tuple[Any, Any]]:
    """Every dotted key in which two recipes differ, but for name and budget: its values in both.

    >>> one = Recipe(name="a", base="x", sources=[Source(path="a.md")])
    >>> changed_keys(one, with_settings(one, {"train.epochs": 5.0, "sources.0.repeat": 2}))
    {'sources.0.repeat': (1, 2), 'train.epochs': (3.0, 5.0)}
    """
    return {
        key: values
        for key, values in _differences(earlier.model_dump(mode="json"), later.model_dump(mode="json"), "")
        if key.partition(".")[0] not in ("name", "budget", "launch")
    }


def _differences(one: Any, two: Any, key: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(one, dict) and isinstance(two, dict):
        for name in sorted({*one, *two}):
            yield from _differences(one.get(name), two.get(name), f"{key}.{name}" if key else name)
    elif isinstance(one, list) and isinstance(two, list) and one != two:
        for number in range(max(len(one), len(two))):
            before, after = (each[number] if number < len(each) else None for each in (one, two))
            yield from _differences(before, after, f"{key}.{number}")
    elif one != two:
        yield key, (one, two)
