"""A round that learned and broke something is tempered before another is trained: seconds a strength, and no step.

It is taken where some strength meets the recipe's limits by the facts that steer; the round's adapter is then the
tempered one, as ``afina temper RUN --write`` leaves it, and is measured anew with all questions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from afina.errors import DiskFull, RecipeError
from afina.improve.rounds import Round
from afina.record import Record, read_record
from afina.run import read_stages
from afina.walk.walk import TEMPERED

if TYPE_CHECKING:
    from afina.walk.context import Context


def wanted(done: Round) -> bool:
    """Whether a round is to be tempered: by its steering half it learned and broke something, it has an adapter, and
    it was not looked at before, or another strength was found and not taken."""
    if done.passed or done.steering is None or done.recipe.trains_all or strength_of(done.folder):
        return False
    broke = done.steering.verdict.broke
    if broke == "nothing" or broke.startswith("not measured") or not done.steering.gained:
        return False
    looked = read_record(done.folder / TEMPERED)
    return looked is None or _found_one(looked)


def _found_one(looked: Record) -> bool:
    """Whether the strength that was chosen is another than the full one, and meets the limits of the steering half."""
    chosen = looked.figures("chosen")
    met = any(each["strengths"] == chosen and each.required_flag("passed") for each in looked.records("settings"))
    return met and any(strength != 1.0 for strength in chosen)


def strength_of(folder: Path) -> list[float]:
    """The strength at which a round's adapter is taken; empty for one as it was trained."""
    file = folder / "stages.json"
    result = read_stages(file).get("train", {}).get("result", {}) if file.is_file() else {}
    noted = result.get("tempered")
    return [float(each) for each in noted["at"]] if isinstance(noted, dict) else []


def temper_round(context: Context, say: Callable[[str], None]) -> None:
    """Look for the strength, and take it where it meets the limits by the facts that steer."""
    from afina.temper.adapters import adopt, trained_adapter
    from afina.temper.temper import Tempering, temper
    from afina.walk.walk import do_stages

    try:
        trained = trained_adapter(context)
        found = temper(context, Tempering())
    except DiskFull:
        raise
    except RecipeError as error:
        say(f"not tempered: {error.problems[0].what}")
        return
    strengths = list(found.chosen.setting.strengths)
    if not found.chosen.passed or found.chosen.setting.full:
        say(f"not tempered: {found.why}")
        return
    adopt(context, found.adapter, trained, {"dial": found.dial, "at": strengths})
    do_stages(context, "evaluate")
    do_stages(context, "manifest", "report")
    say(f"tempered to {found.chosen.setting.name}: {found.why}")
