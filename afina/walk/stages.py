"""What a stage of the walk is, and how one is done: once, skipped when nothing that it depends on has changed, done
again with a word on what changed otherwise, and what it replaces set aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.recipe import Recipe
from afina.walk.context import Context


def _always(_: Recipe) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One stage. What is a function here is given the context or the recipe, and is called when the stage's turn comes:
    its inputs may be hashes of what the stages before it wrote."""

    name: str
    do: Callable[[Context], dict[str, Any]]
    """The work; its plain return value is kept in ``stages.json``."""
    writes: Sequence[str] | Callable[[Recipe], Sequence[str]]
    """Files and folders that it leaves in the run's folder, whose hash says that they are still its own."""
    inputs: Callable[[Context], dict[str, Any]] | None = None
    """All that the outcome depends on, as plain values. None: it is cheap, and done each time."""
    wanted: Callable[[Recipe], bool] = _always
    """Whether a recipe has such a stage at all."""
    others: Sequence[str] = ()
    """What it may leave by another recipe. It is set aside where it is not what this recipe writes."""
    also: Sequence[str] = ()
    """Further files and folders of this stage: states to go on from, figures that another verb adds."""
    costs_hours: bool = False
    """Whether what other inputs gave is set aside, with all that later stages made of it, instead of written over."""
    then: Callable[[Context], None] | None = None
    """What has to follow whether it was done or skipped."""

    def written(self, recipe: Recipe) -> list[str]:
        """What it leaves by this recipe."""
        return list(self.writes(recipe) if callable(self.writes) else self.writes)

    def owned(self, recipe: Recipe) -> list[str]:
        """All in the run's folder that is this stage's, of this recipe or another."""
        return list(dict.fromkeys([*self.written(recipe), *self.also, *self.others]))


def do_stage(context: Context, stage: Stage, later: Sequence[Stage] = ()) -> dict[str, Any]:
    """Do a stage where it has to be done.

    Args:
        later: the stages that work on what this one leaves, in whatever way.

    Returns:
        Its result; empty for a stage that this recipe has not.
    """
    run, recipe = context.run, context.recipe
    if not stage.wanted(recipe):
        run.retire(stage.name, stage.owned(recipe))
        return {}
    if stage.inputs is None:
        return stage.do(context)
    inputs, writes = stage.inputs(context), stage.written(recipe)
    if stage.costs_hours:
        made_of_it = [path for each in later for path in each.owned(recipe)]
        earlier = run.begun(stage.name) or {}
        kept = run.begin(stage.name, inputs, [*stage.owned(recipe), *made_of_it])
        if kept and all(earlier.get(key) == inputs.get(key) for key in ("adapter", "base", "chat")):
            _say_how_to_go_on(context, stage, kept)
    run.set_aside(stage.name, [path for path in stage.others if path not in writes])
    replaces = writes if stage.costs_hours else []  # never the states that it goes on from: `begin` has looked at them
    result = run.stage(stage.name, inputs, writes, lambda: stage.do(context), replaces=replaces)
    if stage.then:
        stage.then(context)
    return result


def _say_how_to_go_on(context: Context, stage: Stage, kept: Path) -> None:
    """Other epochs, rows or rates are another training, from the base on: what to write where the earlier one's weights
    were meant to be trained further."""
    for path in stage.written(context.recipe):
        if (kept / path / "adapter_config.json").is_file():
            context.run.say(
                f"{stage.name}: this training begins at the base; to train the earlier weights further (more epochs, "
                f"new rows), stop it and give start_from={kept / path}"
            )
