"""``afina improve``: rounds of a recipe, each an ordinary run, until the judging half's verdict passes.

Nothing is kept but the run folders and the rows that were added (``_improve/NAME/`` beside the runs): a second start
reads them, decides again what was decided, and goes on at the round, and within it at the stage, where it stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.dataset.build.answers import answers_file
from afina.errors import AfinaError, DoesNotFit, RecipeError, ResultError, TrainingDiverged, read_problem
from afina.improve.against_forgetting import against_forgetting, as_json_of, describe, in_columns
from afina.improve.facts import HalfVerdict, by_name, lost_facts
from afina.improve.moves import Move, changed_keys
from afina.improve.own_words import OwnWords, read_own_words
from afina.improve.rounds import (
    Next,
    Round,
    RoundsBudget,
    Stop,
    agreement,
    asked_of,
    best_of,
    decide,
    over,
    pair_of,
    spent,
    wants_own_words,
)
from afina.improve.rows import AddedRows, added_files, check_rows, trained_examples
from afina.improve.tempering import strength_of, temper_round, wanted
from afina.manifest import read_manifest
from afina.recipe import Recipe, read_saved_recipe
from afina.recipe.changed import with_settings
from afina.recipe.starter import yaml_value
from afina.record import read_record
from afina.run import hash_file, hash_value, read_stages
from afina.units import show_money, show_seconds, show_share
from afina.whole import write_json

if TYPE_CHECKING:
    from afina.walk.context import Context

Opened = Callable[[Recipe, Path], contextlib.AbstractContextManager["Context"]]
FOLDER = "_improve"
"""Beside the runs: a folder for each recipe with the rows that its rounds added and ``improve.json``."""
FILE = "improve.json"
NAMED = 6
"""Most facts that are named of a round."""
OF_A_BUDGET = ("budget", "budget.hours", "budget.money")
"""Where an error says that it is about what a run may take."""
NOT_BUILT = (
    "OSFT, which trains every weight in directions that the base uses little, is no move: it is not built",
    "on-policy self-distillation, in which the model that is trained writes the answers anew at every step, is none "
    "either: the base's own words are written once, before a round trains",
)


@dataclass(frozen=True)
class Improvement:
    """All rounds, and why there are no more."""

    name: str
    rounds: tuple[Round, ...]
    stop: Stop
    currency: str
    own_words: OwnWords | None = None
    """What became of the rows when the base answered them again; None where it was not asked."""

    @property
    def passed(self) -> bool:
        return self.stop.why == "passed"

    @property
    def best(self) -> Round | None:
        """The round that passes, or else the nearest to the limits by the facts that steer."""
        if not self.rounds:
            return None
        return self.rounds[-1] if self.passed else best_of(self.rounds)

    def as_json(self) -> dict[str, Any]:
        """Plain values, as :data:`FILE` has them."""
        best = self.best
        between = agreement(best) if best else None
        return {
            "name": self.name,
            "passed": self.passed,
            "stopped": {"why": self.stop.why, "text": self.stop.text},
            "best": str(best.folder) if best else None,
            "rounds": [_round_as_json(each, self.rounds) for each in self.rounds],
            "gains": {
                "steering": _gain(best.steering) if best else None,
                "judging": _gain(best.judging) if best else None,
                "difference": {"low": between[0], "high": between[1]} if between else None,
                "agree": between[0] <= 0 <= between[1] if between else None,
            },
            "against_forgetting": as_json_of(against_forgetting(self.rounds, self.stop.text, self.own_words)),
            **spent(self.rounds),
            "currency": self.currency,
            "not_built": list(NOT_BUILT),
        }

    def describe(self) -> str:
        """The table of rounds, what steered and what judged, and why it ended."""
        lines = table(self.rounds, self.currency)
        best = self.best
        if best is not None and best.steering is not None:
            lines += ["", *_gain_lines(best)]
        if compared := against_forgetting(self.rounds, self.stop.text, self.own_words):
            lines += ["", *describe(compared)]
        lines += ["", f"improve: {self.stop.text}"]
        if best is not None and not self.passed:
            lines.append(f"the nearest to the limits is round {best.number}: {best.folder}")
            lines += [f"  missed: {miss}" for miss in (best.judging.verdict.misses if best.judging else ())]
        elif best is not None:
            lines.append(f"the result: {best.folder}")
        return "\n".join(lines)


def improve(
    recipe: Recipe, runs: Path, budget: RoundsBudget, *, opened: Opened, say: Callable[[str], None]
) -> Improvement:
    """Do rounds until one passes, the budget ends, two bring nothing, or nothing is left to change.

    Args:
        recipe: what the first round trains, as it is.
        runs: the rounds are ``runs/NAME-round-N``.
        opened: opens a run.
        say: is told what each round is, what it showed, and what is changed.

    Raises:
        AfinaError: the recipe, its data or its base are wrong, or memory is too small for the first round.
    """
    folder, rounds = (runs / FOLDER / recipe.name).resolve(), list[Round]()
    ended = _ended_before(folder)
    following: Next | Stop = Next(1, with_settings(recipe, {"name": f"{recipe.name}-round-1"}))
    while isinstance(following, Next):
        _announce(following, rounds, say)
        done = _do(following, runs, folder, rounds, budget, opened, say, ended)
        if isinstance(done, Stop):
            following = done
            break
        rounds.append(done)
        for line in _seen(done):
            say(line)
        _write(folder, _found(recipe, rounds, Stop("rounds", "not over"), folder))
        if over(rounds, budget) is None and wants_own_words(rounds):
            _have_said_again(rounds, budget, folder, opened, say)
        following = decide(rounds, budget, folder)
    found = _found(recipe, rounds, following, folder)
    _write(folder, found)
    return found


def _found(recipe: Recipe, rounds: Sequence[Round], stop: Stop, folder: Path) -> Improvement:
    return Improvement(recipe.name, tuple(rounds), stop, recipe.budget.currency, _own_words_of(rounds, folder))


def _have_said_again(
    rounds: Sequence[Round], budget: RoundsBudget, folder: Path, opened: Opened, say: Callable[[str], None]
) -> None:
    """Have the base answer the last round's rows in its own words, for the round beside it; once."""
    from afina.improve.own_words import epochs_of_equal_cost, rewrite

    if _own_words_of(rounds, folder) is not None:
        return
    replayed, begun = rounds[-1], time.monotonic()
    examples = list(trained_examples(replayed.folder))
    with opened(within(replayed.recipe, rounds, budget), replayed.folder) as context:
        found = rewrite(context, examples, asked_of(rounds))
    took = round(time.monotonic() - begun, 3)
    before = list(trained_examples(rounds[replayed.origin - 1].folder))
    epochs = epochs_of_equal_cost(replayed.recipe.train.epochs, examples, before, found.rows)
    replace(found, epochs=epochs, seconds=took, made_from=_made_from(rounds)).write(folder)
    say(f"what broke may be met by self-distilled answers too: {found.describe()}")


def _own_words_of(rounds: Sequence[Round], folder: Path) -> OwnWords | None:
    """What became of the rows when the base answered them again; None where it was not, or these were other rows,
    another base or other questions: a recipe that was changed keeps its name, and so its folder."""
    found = read_own_words(folder) if pair_of(rounds) else None
    return found if found and found.made_from == _made_from(rounds) else None


def _made_from(rounds: Sequence[Round]) -> str:
    """A hash of all that the base's own words for a round's rows follow from."""
    pair = pair_of(rounds)
    assert pair is not None
    done = pair.replayed
    stages, rows = done.folder / "stages.json", done.folder / "dataset/train.jsonl"
    return hash_value(
        {
            "trained": read_stages(stages).get("train", {}).get("inputs") if stages.is_file() else None,
            "base": done.recipe.base,
            "rows": hash_file(rows) if rows.is_file() else None,
            "language": done.recipe.dataset.language,
            "word_for_word": done.recipe.evaluate.limits.learned_min is not None,
            "asked": sorted(asked_of(rounds)),
        }
    )


def _write(folder: Path, found: Improvement) -> None:
    write_json(folder / FILE, found.as_json())


def _ended_before(folder: Path) -> dict[Path, AfinaError]:
    """The runs of rounds that an earlier start saw diverge, and how: they are not trained to the same end again. What
    did not fit is tried again, for the machine may be another one."""
    known = read_record(folder / FILE)
    kinds = {kind.__name__: kind for kind in (ResultError, TrainingDiverged)}
    found: dict[Path, AfinaError] = {}
    for each in known.records("rounds") if known else ():
        error = each.record("error")
        if kind := kinds.get(error.text("error") or ""):
            problems = [read_problem(problem.values) for problem in error.records("problems")]
            found[Path(each.required_text("run"))] = kind(problems=problems)
    return found


def _do(
    following: Next,
    runs: Path,
    folder: Path,
    rounds: Sequence[Round],
    budget: RoundsBudget,
    opened: Opened,
    say: Callable[[str], None],
    ended: Mapping[Path, AfinaError],
) -> Round | Stop:
    """One round; a finished one is only read.

    Args:
        ended: runs that diverged in an earlier start.
    """
    recipe, target = following.recipe, runs / following.recipe.name
    done = Round(following.number, recipe, target, following.moves, following.origin, planned=_planned(target))
    finished, file = is_finished(target, recipe), folder / f"round-{following.number}.jsonl"
    rows = [dict(row) for move in following.moves for row in move.rows]
    if rows and not (finished and file.exists()):
        AddedRows(rows=rows).write(file)
    if finished and not wanted(done):
        say(f"round {following.number}: done before, kept ({target})")
        return done
    if target in ended and _is_of(target, recipe):
        say(f"round {following.number}: ended before, not trained again ({target})")
        return _failed(done, ended[target])
    check_rows(added_files(recipe, folder), asked_of(rounds), answers_file(recipe))
    try:
        with opened(within(recipe, rounds, budget), target) as context:
            if stop := _walk(context, following.number, say):
                return stop
            if wanted(done):
                temper_round(context, say)
    except DoesNotFit as error:
        if any(problem.where in OF_A_BUDGET for problem in error.problems):
            text = f"round {following.number} does not fit what is left of the budget: {_first(error)}"
            dear = any(problem.where == "budget.money" for problem in error.problems)
            return Stop("money" if dear else "hours", text)
        if not rounds or not any(problem.where for problem in error.problems):
            raise  # the first round has no better one to go back to; and who was asked may say no
        return _failed(done, error)
    except ResultError as error:
        return _failed(done, error)
    return Round(following.number, recipe, target, following.moves, following.origin, planned=_planned(target))


def _failed(done: Round, error: AfinaError) -> Round:
    return Round(done.number, done.recipe, done.folder, done.moves, done.origin, error, _planned(done.folder))


def _first(error: AfinaError) -> str:
    return error.problems[0].what


def _walk(context: Context, number: int, say: Callable[[str], None]) -> Stop | None:
    """A round's walk; before its training it is said what it will take, and looked whether it can be steered."""
    from afina.improve.before import why_not
    from afina.walk.walk import walk_through

    walk_through(context, until="plan")
    say(f"round {number} takes {_planned(context.folder) or 'an unknown time'}")
    if number == 1 and (stop := why_not(context)):
        return stop
    walk_through(context)
    return None


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether a run's folder holds this recipe's run, finished. What it may cost is no part of what it is."""
    if not (folder / "finished.json").is_file() or not (folder / "scores.json").is_file():
        return False
    return _is_of(folder, recipe) and read_manifest(folder) is not None


def _is_of(folder: Path, recipe: Recipe) -> bool:
    """Whether a run's folder is one of this recipe."""
    return (folder / "recipe.yaml").is_file() and not changed_keys(read_saved_recipe(folder), recipe)


def within(recipe: Recipe, rounds: Sequence[Round], budget: RoundsBudget) -> Recipe:
    """A round's recipe, its own budget no larger than what the rounds before it have left.

    Raises:
        RecipeError: money is bounded, and nothing says what an hour costs.
    """
    used, own = spent(rounds), {"hours": recipe.budget.hours, "money": recipe.budget.money}
    left = {
        f"budget.{name}": min(max(1e-6, most - used[name]), own[name] or most) for name, most in budget.limits.items()
    }
    if budget.money is not None and not recipe.budget.price_per_hour:
        raise RecipeError(
            "--money is given, and the recipe does not say what an hour costs",
            "give `budget.price_per_hour`, or bound the time: --hours",
            "budget.price_per_hour",
        )
    return with_settings(recipe, left)


def _planned(folder: Path) -> str:
    """Time and money of a plan, in words; empty where there is none."""
    plan = read_record(folder / "plan.json")
    if plan is None:
        return ""
    time, money = plan.record("time"), plan.record("money")
    low, point, high = (time.number(key) for key in ("low", "point", "high"))
    if low is None or point is None or high is None:
        return ""
    text = f"{show_seconds(point)} ({show_seconds(low)} to {show_seconds(high)})"
    cost = money.number("point")
    return text + (f", {show_money(cost, plan.text('currency') or '')}" if cost is not None else "")


def _announce(following: Next, rounds: Sequence[Round], say: Callable[[str], None]) -> None:
    """What the next round changes, and why: each move in a sentence, each key with both values."""
    if following.number == 1:
        say("round 1: the recipe as it is")
        return
    say(f"round {following.number}, from round {following.origin}:")
    for move in following.moves:
        say(f"  {move.kind}: {move.why}")
    for line in changes(following, rounds[following.origin - 1]):
        say(f"    {line}")


def changes(later: Next | Round, origin: Round) -> list[str]:
    """Every key of the recipe that differs from the round's it was made of: ``train.epochs: 3.0 -> 5.0``."""
    lines = []
    for key, (before, after) in changed_keys(origin.recipe, later.recipe).items():
        if before is None and isinstance(after, dict) and "path" in after:
            rows = sum(len(move.rows) for move in later.moves)
            lines.append(f"{key}: {after['path']} ({rows} rows, repeat {after['repeat']})")
        else:
            lines.append(f"{key}: {yaml_value(before)} -> {yaml_value(after)}")
    return lines


def _seen(done: Round) -> Iterator[str]:
    """What a round showed: by the facts that steer alone, but for whether it passes."""
    if done.error is not None:
        yield f"round {done.number} ended: {_first(done.error)}"
        return
    yield from (f"  {note}" for note in done.parted.notes)
    if done.steering is None:
        return
    yield f"round {done.number}, by the facts that steer: {done.steering.verdict.text}"
    for state, names in by_name(done.facts):
        if names:
            what = "did not stick" if state == "missed" else "only parroted"
            yield f"  {what}: {len(names)} of {len(done.facts)} ({_some(names)})"
    lost, knew = lost_facts(done.parted.steer)
    if lost:
        yield f"  broke: {len(lost)} of the {knew} that the base knew ({_some(lost)})"
    yield from (f"  missed: {miss}" for miss in done.steering.verdict.misses)
    yield f"  by the facts that judge: {'passed' if done.passed else 'not passed'}"


def _some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def table(rounds: Sequence[Round], currency: str) -> list[str]:
    """The rounds, one a line: what changed, what steering facts learned and lost, whether the others pass, costs."""
    rows = [("round", "changed", "learned", "broke", "judging", "time", "money")]
    for each in rounds:
        steering = each.steering
        broken = steering.broken if steering else None
        rows.append(
            (
                str(each.number),
                ", ".join(_changed(each)) or "nothing",
                show_share(steering.learned) if steering else "-",
                "-" if broken is None else show_share(broken),
                "passed" if each.passed else "failed" if each.judging else "-",
                show_seconds(each.hours * 3600),
                show_money(each.money, currency),
            )
        )
    return in_columns(rows)


def _changed(each: Round) -> Iterator[str]:
    """The kinds of a round's moves, and the strength that it was tempered to."""
    yield from (move.kind.replace("_", " ") for move in each.moves)
    if strength := strength_of(each.folder):
        yield f"tempered to {' '.join(f'{one:g}' for one in strength)}"


def _gain_lines(best: Round) -> Iterator[str]:
    """The gain of either half, and whether they agree: a judging half that gains less was tuned on by the other."""
    for name, half in (("steer", best.steering), ("judge", best.judging)):
        if half is not None and half.telling:
            gain, low, high = (100 * value for value in half.gain())
            things = sum(probe.things for probe in half.telling)
            yield f"facts that {name}: {gain:+.1f} points ({low:+.1f} to {high:+.1f}; {things} asked about)"
    between = agreement(best)
    if between:
        low, high = (100 * end for end in between)
        agree = "they agree" if low <= 0 <= high else "they do NOT agree"
        yield f"judging less steering: {low:+.1f} to {high:+.1f} points: {agree}"


def _gain(half: HalfVerdict | None) -> dict[str, float] | None:
    if half is None or not half.telling:
        return None
    return dict(zip(("points", "low", "high"), half.gain(), strict=True))


def _half_as_json(half: HalfVerdict | None) -> dict[str, Any] | None:
    if half is None:
        return None
    return half.verdict.as_json() | {"learned_share": half.learned, "broken_share": half.broken}


def _round_as_json(each: Round, rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "number": each.number,
        "run": str(each.folder),
        "from": each.origin or None,
        "moves": [_move_as_json(move) for move in each.moves],
        "tempered": strength_of(each.folder),
        "changes": changes(each, rounds[each.origin - 1]) if each.origin else [],
        "error": each.error.as_json() if each.error else None,
        "planned": each.planned,
        "steering": _half_as_json(each.steering),
        "judging": _half_as_json(each.judging),
        "facts": {state.fact: state.state for state in each.facts},
        "lost": lost_facts(each.parted.steer)[0],
        "notes": list(each.parted.notes),
        "hours": each.hours,
        "money": each.money,
    }


def _move_as_json(move: Move) -> dict[str, Any]:
    return {"kind": move.kind, "why": move.why, "settings": dict(move.settings), "rows": len(move.rows)}
