"""What `afina doctor RUN` answers: how the run stands, what helps, and the command that does it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, RecipeError
from afina.evaluate.scores import Scores, read_scores
from afina.recipe import load_recipe, read_saved_recipe
from afina.recipe.edit import change_recipe
from afina.recipe.starter import yaml_value
from afina.record import Record, read_record
from afina.remedies.reading import Remedy, RunReading
from afina.remedies.rules import RULES
from afina.run import again, read_stages
from afina.watch.reader import RunReader
from afina.watch.view import RunView
from afina.whole import write_whole

COVERED = {
    "out_of_memory": {"smaller_batches", "memory_nearly_full"},
    "unstable": {"went_back", "rising", "not_falling"},
    "overfitting": {"overfitting"},
    "not_falling": {"not_falling"},
    "more_to_learn": {"still_falling"},
}
"""Rule -> the warnings that its remedy answers; what else the run warns of is told beside them."""


@dataclass(frozen=True)
class Diagnosis:
    """A run, and what would help it."""

    view: RunView
    remedies: tuple[Remedy, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What all remedies set that need not wait for another one."""
        return {key: value for each in self.remedies if not each.after for key, value in each.settings.items()}

    @property
    def command(self) -> str:
        """The command that trains anew with them; empty where there are none."""
        changes = [shlex.quote(f"{key}={yaml_value(value)}") for key, value in self.settings.items()]
        return " ".join([again(self.view.folder), *changes]) if changes else ""

    @property
    def remarks(self) -> list[str]:
        """What the run warns of and no remedy answers."""
        covered = {kind for each in self.remedies for kind in COVERED.get(each.kind, ())}
        return [warning.what for warning in self.view.warnings if warning.kind not in covered]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": str(self.view.folder),
            "state": self.view.state,
            "reason": self.view.reason,
            "problems": [asdict(each) for each in self.view.problems],
            "remedies": [asdict(each) for each in self.remedies],
            "settings": self.settings,
            "command": self.command,
            "remarks": self.remarks,
        }

    def describe(self) -> str:
        """For a person."""
        lines = [f"{self.view.name}: {self.view.state} ({self.view.reason})"]
        lines += [f"  {line}" for problem in self.view.problems for line in str(problem).splitlines()]
        for each in self.remedies:
            lines += ["", f"{each.kind.replace('_', ' ')}: {each.seen}"]
            changes = " ".join(f"{key}={yaml_value(value)}" for key, value in each.settings.items())
            first = f" (after {each.after.replace('_', ' ')}, which sets the same otherwise)" if each.after else ""
            lines.append(f"  -> {changes}{first}" if changes else "  -> nothing in the recipe")
            lines.append(f"     {each.why}")
        lines += ["", *(f"also: {remark}" for remark in self.remarks)] if self.remarks else []
        if self.command:
            lines += [
                "",
                "To train anew with it (what is there is kept in the run's `replaced/`):",
                f"  {self.command}",
            ]
            lines.append(f"Into your own recipe: afina doctor {shlex.quote(str(self.view.folder))} --apply RECIPE")
        elif not self.remedies:
            lines += ["", "Nothing that a setting would help against was seen."]
        return "\n".join(lines)


def diagnose(folder: Path, scores: Scores | None = None) -> Diagnosis:
    """Look at a run and at all that it shows.

    Args:
        scores: what is believed of its answers, where that is not all of the run's own scores.

    Raises:
        RecipeError: there is no run in `folder`.
        AfinaError: its files are damaged; all of them are named.
    """
    view = RunReader(folder).look()
    if view.state == "damaged":
        raise AfinaError(problems=view.problems)
    recipe, plan = read_saved_recipe(folder), read_record(folder / "plan.json")
    scores = scores or read_scores(folder)
    dropped = _dropped(folder)
    readings = [
        RunReading(view, training, recipe, scores, plan, dropped.get(training.name, {})) for training in view.trainings
    ]
    found = [replace(each, kind=kind, training=run.training.name) for run in readings for kind, each in _found(run)]
    return Diagnosis(view, tuple(_in_order(found)))


def _found(run: RunReading) -> Iterator[tuple[str, Remedy]]:
    for kind, rule in RULES.items():
        if (remedy := rule(run)) is not None:
            yield kind, remedy


def _in_order(remedies: Iterable[Remedy]) -> Iterator[Remedy]:
    """Each with the earlier one that it has to wait for."""
    taken: dict[str, tuple[Any, str]] = {}
    for remedy in remedies:
        others = [taken[key][1] for key, value in remedy.settings.items() if key in taken and taken[key][0] != value]
        if not others:
            taken |= {key: (value, remedy.kind) for key, value in remedy.settings.items()}
        yield replace(remedy, after=others[0] if others else "")


def _dropped(folder: Path) -> dict[str, Mapping[str, int]]:
    """Training -> why examples have no rows -> their tokens, as the stage `plan` has noted it."""
    file = folder / "stages.json"
    result = read_stages(file).get("plan", {}).get("result", {}) if file.is_file() else {}
    trainings = Record(result, str(file)).record("tokens")
    return {
        name: {reason: int(tokens) for reason, tokens in trainings.record(name).record("dropped").numbers()}
        for name in trainings.values
    }


def apply(diagnosis: Diagnosis, recipe: Path) -> str:
    """Write the settings into a recipe's file, comments and order kept; what was set, in words.

    Raises:
        RecipeError: the recipe is another run's, or would not be one with these settings.
    """
    settings, name = diagnosis.settings, load_recipe(recipe).name
    if name != diagnosis.view.name:
        raise RecipeError(
            f"the recipe is of the run {name}, and this is {diagnosis.view.name}",
            "name the recipe that this run was started with",
            str(recipe),
        )
    if not settings:
        return f"{recipe}: nothing to change"
    overrides = [f"{key}={yaml_value(value)}" for key, value in settings.items()]
    load_recipe(recipe, overrides)  # refused before anything is written
    write_whole(recipe, change_recipe(recipe, settings))
    return f"{recipe}: set {' '.join(overrides)}"
