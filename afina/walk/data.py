"""The first two stages: the dataset, and what is wrong with it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from afina.errors import DataError, Problem
from afina.recipe import is_remote
from afina.run import Progress, read_json, write_json, write_whole

if TYPE_CHECKING:
    from afina.walk.walk import Walk


def build(walk: Walk, *, ask_again: bool = False) -> dict[str, Any]:
    """Build ``dataset/`` from the sources; writes ``recipe.yaml`` first.

    Args:
        ask_again: build once more where the teacher left sections unanswered. A run that goes on does not: a
            dataset that has grown would start a training anew.
    """
    from afina.dataset.audit.describe import describe_summary
    from afina.dataset.build.build import build_dataset, dataset_inputs
    from afina.dataset.questions.teacher import Teaching

    write_whole(walk.folder / "recipe.yaml", walk.recipe.to_yaml())

    def build() -> dict[str, Any]:
        with contextlib.ExitStack() as shown:
            progress = shown.enter_context(walk.stage_progress("dataset"))

            def teacher_progress() -> Progress:
                shown.close()  # one display at a time
                return shown.enter_context(walk.stage_progress("teacher"))

            teaching = Teaching(walk.teacher_folder, walk.run.say, teacher_progress)
            summary = build_dataset(walk.recipe, walk.folder / "dataset", progress, teaching)
        walk.tell(describe_summary(summary))
        return summary

    if any(is_remote(source.path) for source in walk.recipe.sources):  # a website may take long to fetch
        with walk.stage_progress("sources") as progress:
            inputs = dataset_inputs(walk.recipe, progress)
    else:
        inputs = dataset_inputs(walk.recipe)
    known = walk.run.stages.get("dataset", {})
    failed = sum(known.get("result", {}).get("asking", {}).get("failed", {}).values())
    if ask_again and failed and known["inputs"] == inputs:
        walk.run.say(f"dataset: the teacher left {failed} sections unanswered; asked again")
        del walk.run.stages["dataset"]
    return walk.run.stage("dataset", inputs, ["dataset"], build)


def audit(walk: Walk) -> dict[str, Any]:
    """Look for what is wrong with the dataset; writes ``audit.json``.

    Raises:
        DataError: a finding is fatal and the recipe does not accept it by name.
    """
    from afina.dataset.audit.audit import audit_dataset
    from afina.train.measure import audited_settings, token_view

    def look() -> dict[str, Any]:
        with walk.stage_progress("audit"):
            tokens = token_view(walk.base_folder, walk.recipe) if walk.base_folder else None
            found = audit_dataset(walk.folder / "dataset", walk.recipe, tokens).as_json()
        write_json(walk.folder / "audit.json", found)
        walk.tell(
            "\n".join(f"{each['severity']} {each['name']}: {each['count']}" for each in found["findings"])
            or "nothing found"
        )
        return {"findings": [(each["name"], each["severity"], each["count"]) for each in found["findings"]]}

    inputs = {"dataset": walk.dataset_hash, "accept": walk.recipe.dataset.accept, **audited_settings(walk.recipe)}
    result = walk.run.stage("audit", inputs, ["audit.json"], look)
    fatal = [
        each
        for each in read_json(walk.folder / "audit.json")["findings"]
        if each["severity"] == "fatal" and each["name"] not in walk.recipe.dataset.accept
    ]
    if fatal:
        raise DataError(
            problems=[
                Problem(
                    f"{each['name']}: {each['what']}",
                    f"{each['fix']} (or accept it: dataset.accept: [{each['name']}])",
                    each["examples"][0]["where"] if each["examples"] else "",
                )
                for each in fatal
            ]
        )
    return result
