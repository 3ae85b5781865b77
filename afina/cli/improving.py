"""``afina improve``: rounds of a recipe until its verdict passes."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, Overrides, RecipeFile, RunsFolder, Yes
from afina.cli.opened import load, opened
from afina.cli.output import confirm, end_by, say, show


def improve(
    recipe: RecipeFile,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="Most rounds.")] = 6,
    hours: Annotated[float | None, typer.Option(help="Most hours of all rounds together.")] = None,
    money: Annotated[
        float | None, typer.Option(help="Most money of all rounds together, in the recipe's `budget.currency`.")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Train in rounds until the verdict passes: what did not stick, was parroted or broke, and what to change, by rule.

    Half of the facts steer, the other half judges. What broke is met by more replay, and in a round beside it, at equal
    cost, by answers in the base's own words; the better one is kept. Exit code 5 where no round passes."""
    from functools import partial

    from afina.improve.improve import improve as improve_recipe
    from afina.improve.rounds import RoundsBudget

    found = improve_recipe(
        load(recipe, overrides),
        runs,
        RoundsBudget(rounds, hours, money),
        opened=partial(opened, confirm=confirm(yes or as_json)),
        say=say,
    )
    show(found.as_json(), as_json, found.describe())
    end_by(found.as_json())
