"""The stage ``audit``: what is wrong with the dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afina.dataset.audit.audit import audit_dataset
from afina.dataset.audit.rules import STOPS_THE_TOKENS
from afina.dataset.audit.token_audit import REFUSED_MARKS
from afina.errors import DataError, Problem
from afina.recipe import Recipe
from afina.record import Record
from afina.run import read_mapping, read_stages
from afina.train.measure import audited_settings, token_view
from afina.walk.base import base_folder
from afina.walk.context import Context
from afina.whole import write_json


def audit_inputs(context: Context) -> dict[str, Any]:
    """What the findings depend on."""
    recipe = context.recipe
    return {"dataset": context.dataset_hash, "accept": recipe.dataset.accept, **audited_settings(recipe)}


def audit(context: Context) -> dict[str, Any]:
    """Write ``audit.json``."""
    base = base_folder(context)
    with context.open_progress("audit"):
        tokens = token_view(base, context.recipe) if base else None
        found = audit_dataset(context.folder / "dataset", context.recipe, tokens).as_json()
    write_json(context.folder / "audit.json", found)
    context.tell(
        "\n".join(f"{each['severity']} {each['name']}: {each['count']}" for each in found["findings"])
        or "nothing found"
    )
    return {"findings": [(each["name"], each["severity"], each["count"]) for each in found["findings"]]}


def refuse_fatal_findings(context: Context) -> None:
    """
    Raises:
        DataError: a finding is fatal and the recipe does not accept it by name.
    """
    if problems := fatal_problems(context.folder, context.recipe):
        raise DataError(problems=problems)


def fatal_problems(folder: Path, recipe: Recipe) -> list[Problem]:
    """What the audit of a run's folder found that stops a training by this recipe."""
    found = Record(read_mapping(folder / "audit.json", "findings"), str(folder / "audit.json"))
    return [
        Problem(
            f"{each['name']}: {each['what']}",
            each["fix"] + _accepted(each),
            next((shown.required_text("where") for shown in each.records("examples")), ""),
        )
        for each in found.records("findings")
        if each.required_text("severity") == "fatal" and each["name"] not in recipe.dataset.accept
    ]


def known_problems(folder: Path, recipe: Recipe) -> list[Problem]:
    """The same where the audit was made with this recipe's settings, and nothing where it was not made yet."""
    stages = read_stages(folder / "stages.json") if (folder / "stages.json").is_file() else {}
    if "audit" not in stages or not (folder / "audit.json").is_file():
        return []
    made_with = stages["audit"]["inputs"]
    settings = {"accept": recipe.dataset.accept, **audited_settings(recipe)}
    return fatal_problems(folder, recipe) if settings.items() <= made_with.items() else []


def _accepted(finding: Record) -> str:
    """How it is accepted; nothing where the next stage would stop at the same rows."""
    if finding["name"] in STOPS_THE_TOKENS or finding["what"] == REFUSED_MARKS.what:
        return ""
    return f" (or accept it: dataset.accept: [{finding['name']}])"
