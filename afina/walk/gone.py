"""What an evaluation reads besides the run's folder, and how much of it is still there: a run may have been moved,
or outlive its documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from afina.recipe import Recipe, expand_path
from afina.run import hash_file
from afina.walk.context import Context


@dataclass(frozen=True)
class StillThere:
    """A recipe's measures as far as their files exist."""

    recipe: Recipe
    """Without probes, tasks, prompts and known strings whose files are gone."""
    not_measured: list[str]
    """What is left out, each in a sentence. The recipe asks for it, so that no verdict passes without it."""


def still_there(context: Context) -> StillThere:
    """Look which files that the evaluation would read exist."""
    recipe, missing = context.recipe, _missing(context.recipe)
    if not missing:
        return StillThere(recipe, [])
    evaluate = recipe.evaluate.model_copy(
        update={
            "probes": [each for each in recipe.evaluate.probes if each.path not in missing],
            "tasks": [each for each in recipe.evaluate.tasks if each.path not in missing],
            "prompts": None if recipe.evaluate.prompts in missing else recipe.evaluate.prompts,
        }
    )
    kept_strings = None if recipe.safety.strings in missing else recipe.safety.strings
    safety = recipe.safety.model_copy(update={"strings": kept_strings})
    said = [
        f"{what} could not be asked: {path} is not below {recipe.root} any more (root=FOLDER says where it is now)"
        for path, what in missing.items()
    ]
    return StillThere(recipe.model_copy(update={"evaluate": evaluate, "safety": safety}), said)


def files_read(context: Context) -> dict[str, dict[str, str]]:
    """Hashes of the files of probes, tasks, prompts and known strings, by their paths below `root`.

    A file that is gone keeps the hash that the last evaluation noted: what was measured by it stands, and is not
    measured again by less.
    """
    from afina.evaluate.probes import probe_files
    from afina.evaluate.prompts import prompts_file
    from afina.evaluate.safety.known import strings_file
    from afina.evaluate.tasks import task_files

    recipe = context.recipe
    strings, prompts = strings_file(recipe), prompts_file(recipe)
    files = {
        "probes": list(probe_files(recipe)),
        "tasks": task_files(recipe),
        "strings": [strings] if strings else [],
        "prompts": [prompts] if prompts else [],
    }
    found = {
        part: {_named(recipe, file): hash_file(file) for file in each if file.is_file()} for part, each in files.items()
    }
    known = context.run.stages.get("evaluate", {}).get("inputs", {}).get("read", {})
    for path in _missing(recipe):
        for part, noted in known.items():
            found[part] |= dict(_of_path(noted, path))
    return found


def _of_path(noted: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in noted.items():
        if fnmatch(name, path) or Path(name).is_relative_to(path):
            yield name, str(value)


def _named(recipe: Recipe, file: Path) -> str:
    root = Path(recipe.root)
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _missing(recipe: Recipe) -> dict[str, str]:
    """Paths of the recipe that match nothing now, and what is asked by them."""
    asked = {each.path: f"the probe {each.name or each.role}" for each in recipe.evaluate.probes}
    asked |= {each.path: f"the task {each.name or each.path}" for each in recipe.evaluate.tasks}
    if recipe.evaluate.prompts:
        asked[recipe.evaluate.prompts] = "the prompts"
    if recipe.safety.strings:
        asked[recipe.safety.strings] = "the known strings"
    return {path: what for path, what in asked.items() if not any(expand_path(Path(recipe.root), path))}
