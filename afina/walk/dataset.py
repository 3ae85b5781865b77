"""The stages ``recipe`` and ``dataset``: the resolved recipe, and the dataset built from the sources."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from afina.dataset.build.build import TEACHER_FOLDER, build_dataset, dataset_inputs
from afina.recipe import is_remote
from afina.run import Progress
from afina.walk.base_teacher import BaseTeacher, taught_recipe
from afina.walk.context import Context, once
from afina.whole import write_whole


def write_recipe(context: Context) -> dict[str, Any]:
    """Write ``recipe.yaml``, every default written out."""
    write_whole(context.folder / "recipe.yaml", context.recipe.to_yaml())
    return {}


@once
def build_inputs(context: Context) -> dict[str, Any]:
    """What the dataset depends on: hashes of the sources, and the recipe's part."""
    if any(is_remote(source.path) for source in context.recipe.sources):  # a website may take long to fetch
        with context.open_progress("sources") as progress:
            return dataset_inputs(taught_recipe(context), progress)
    return dataset_inputs(taught_recipe(context))


def build(context: Context) -> dict[str, Any]:
    """Write ``dataset/``."""
    from afina.dataset.questions.teacher import Teaching

    with contextlib.ExitStack() as shown:
        progress = shown.enter_context(context.open_progress("dataset"))

        def teacher_progress() -> Progress:
            shown.close()  # one display at a time
            return shown.enter_context(context.open_progress("teacher"))

        teaching = Teaching(teacher_folder(context), context.run.say, teacher_progress, partial(BaseTeacher, context))
        summary = build_dataset(taught_recipe(context), context.folder / "dataset", progress, teaching)
    if not context.verb_shows:
        from afina.dataset.audit.describe import describe_summary

        context.tell(describe_summary(summary))
    return summary


def teacher_folder(context: Context) -> Path:
    """Where the teacher's answers are kept: beside the runs, so that a redone or a new run pays for none twice."""
    return context.folder.parent / TEACHER_FOLDER


def ask_teacher_again(context: Context) -> None:
    """Let the dataset be built once more where the teacher left sections unanswered.

    A run that goes on does not: a dataset that has grown would start a training anew.
    """
    known = context.run.stages.get("dataset", {})
    failed = sum(known.get("result", {}).get("asking", {}).get("failed", {}).values())
    if failed and known["inputs"] == build_inputs(context):
        context.run.say(f"dataset: the teacher left {failed} sections unanswered; asked again")
        del context.run.stages["dataset"]
