"""What a training starts from where its recipe names an earlier run or adapter: ``start_from``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.manifest import Kind
from afina.model.base import check_adapter_fits, check_same_base
from afina.outcome import Outcome, find_outcome, outcome_kind
from afina.recipe import read_saved_recipe
from afina.run import hash_folder, hash_value, read_stages
from afina.walk.base import base_files, identity
from afina.walk.context import Context, once


@dataclass(frozen=True)
class Start:
    """Weights that a training goes on from."""

    kind: Kind
    folder: Path
    sha256: str
    """Of the weights, and of an adapter's configuration."""

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": str(self.folder), "sha256": self.sha256}


@once
def start_of(context: Context) -> Start | None:
    """What the first training of a recipe starts from, checked; None where it is the base alone.

    Raises:
        RecipeError: it holds nothing trained, or something else than this recipe trains, or it is this run itself.
        BaseError: it was trained on another base.
    """
    recipe = context.recipe
    if recipe.start_from is None:
        return None
    given = Path(recipe.start_from)
    is_run = (given / "recipe.yaml").is_file()
    found = find_outcome(given, read_saved_recipe(given)) if is_run else Outcome("adapter", given)
    if found.kind != outcome_kind(recipe):
        raise RecipeError(
            f"{found.folder} is a{'n adapter' if found.kind == 'adapter' else ' model trained whole'}, and this recipe "
            f"trains a{'n adapter' if found.kind == 'model' else ' model whole'}",
            f"go on from it with `base: {found.folder}`" if found.kind == "model" else "leave adapter.kind out",
            "start_from",
        )
    if found.folder.resolve() == (context.folder / found.kind).resolve():
        raise RecipeError(
            f"this run would start from itself: {found.folder} is what it replaces",
            f"give the new one a name: name={recipe.name}-2",
            "start_from",
        )
    if found.kind == "adapter":
        if warning := check_adapter_fits(found.folder, identity(context)):
            context.run.say(f"start_from: {warning}")
    else:
        stages = given / "stages.json"
        inputs = read_stages(stages).get("train", {}).get("inputs", {}) if stages.is_file() else {}
        if "base" not in inputs:
            what = f"{given} does not say which base it was trained from: it holds no stages.json of its training"
            raise RecipeError(what, f"go on from it with `base: {found.folder}`", "start_from")
        check_same_base(base_files(context), inputs["base"], recipe.base)
    hashes = [hash_folder(found.folder, "*.safetensors"), hash_folder(found.folder, "adapter_config.json")]
    return Start(found.kind, found.folder, hash_value(hashes))
