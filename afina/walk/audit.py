"""The stage ``audit``: what is wrong with the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afina.dataset.audit.audit import STOPS_THE_TOKENS, audit_dataset
from afina.dataset.audit.token_audit import REFUSED_MARKS
from afina.errors import DataError, Problem
from afina.run import read_json, write_json
from afina.train.measure import audited_settings, token_view
from afina.walk.base import base_folder
from afina.walk.context import Context


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
    fatal = [
        each
        for each in read_json(context.folder / "audit.json")["findings"]
        if each["severity"] == "fatal" and each["name"] not in context.recipe.dataset.accept
    ]
    if fatal:
        raise DataError(
            problems=[
                Problem(
                    f"{each['name']}: {each['what']}",
                    each["fix"] + _accepted(each),
                    each["examples"][0]["where"] if each["examples"] else "",
                )
                for each in fatal
            ]
        )


def _accepted(finding: Mapping[str, Any]) -> str:
    """How it is accepted; nothing where the next stage would stop at the same rows."""
    if finding["name"] in STOPS_THE_TOKENS or finding["what"] == REFUSED_MARKS.what:
        return ""
    return f" (or accept it: dataset.accept: [{finding['name']}])"
