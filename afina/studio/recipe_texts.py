"""Recipes as texts: where they may lie, what they may name, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, Problem, RecipeError
from afina.recipe import KeyProblem, Recipe, is_remote, parse_recipe, read_recipe
from afina.recipe.edit import change_text
from afina.recipe.home import from_home
from afina.recipe.yaml_text import parse_yaml
from afina.studio.refusal import StudioRefusal
from afina.studio.security import inside, is_text, lies_inside
from afina.studio.settings import StudioSettings

ENDINGS = (".yaml", ".yml")
MOST_LISTED = 200
"""Recipes that are listed; any other can be named."""
LARGEST = 1_000_000
"""Bytes of a recipe, at most."""
UNSAVED = "recipe.yaml"
"""What a recipe is called that is no file yet."""


def home(settings: StudioSettings) -> Path:
    """The folder that paths of a new recipe count from: the first root, or the runs' folder."""
    return settings.roots[0] if settings.roots else settings.runs


def known_recipes(settings: StudioSettings) -> dict[str, Any]:
    """``recipes``: those in the roots and one folder below, those that the studio wrote, and those of the newest runs;
    ``recipes_left_out``: how many more there are."""
    folders = [folder for root in settings.roots for folder in (root, *_folders(settings, root))]
    places = [*(folder for folder in folders if folder != settings.runs), settings.runs]
    files = [file for folder in places for file in _files(settings, folder) if _looks_like_one(file)]
    saved = (folder / "recipe.yaml" for folder in _folders(settings, settings.runs))
    runs = [file for file in saved if file.is_file() and lies_inside(settings, file)]
    runs.sort(key=lambda file: -_changed(file))
    found = [{"path": str(file), "name": _short(file, settings), "kind": "recipe"} for file in files[:MOST_LISTED]]
    found += [{"path": str(file), "name": file.parent.name, "kind": "run"} for file in runs[:MOST_LISTED]]
    return {"recipes": found, "recipes_left_out": len(files) + len(runs) - len(found)}


def _folders(settings: StudioSettings, folder: Path) -> list[Path]:
    return [each for each in _entries(settings, folder) if each.is_dir() and each.name[0] != "."]


def _files(settings: StudioSettings, folder: Path) -> list[Path]:
    return [each for each in _entries(settings, folder) if each.suffix in ENDINGS and each.is_file()]


def _entries(settings: StudioSettings, folder: Path) -> list[Path]:
    """What lies in a folder, without links that lead outside and names that no page can hold; nothing of one that is
    not there or may not be read: the other folders are listed as usual."""
    try:
        return sorted(each for each in folder.iterdir() if is_text(each.name) and lies_inside(settings, each))
    except OSError:
        return []


def _looks_like_one(file: Path) -> bool:
    try:
        if file.stat().st_size > LARGEST:
            return False
        return re.search(r"(?m)^sources:", file.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:  # removed a moment ago, or not readable
        return False


def _changed(file: Path) -> float:
    """When a file was changed, in Unix seconds; 0 of one that was removed a moment ago."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _short(file: Path, settings: StudioSettings) -> str:
    """A file as people would name it: from the folder that holds it."""
    for root in settings.roots:
        if file.is_relative_to(root):
            return str(file.relative_to(root))
    return str(file.relative_to(settings.runs.parent))


def read_file(settings: StudioSettings, path: str) -> tuple[Path, str]:
    """A recipe's file and its text.

    Raises:
        StudioRefusal: 403, it lies outside of the roots and the runs.
        RecipeError: it is no recipe that can be read.
    """
    file = inside(settings, path)
    if file.suffix not in ENDINGS:
        raise RecipeError("is no YAML file by its name", "name a recipe, which ends in .yaml", str(file))
    try:
        with file.open("rb") as opened:
            raw = opened.read(LARGEST + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", "name a recipe that is there", str(file)) from error
    if len(raw) > LARGEST:
        raise RecipeError(f"holds more than {LARGEST:,} bytes", "name a recipe", str(file))
    try:
        return file, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 (byte {error.start})", "save the recipe as UTF-8", str(file)) from None


def read_text(settings: StudioSettings, text: str, folder: Path, *, memory_bytes: int | None = None) -> Recipe:
    """A recipe of a text that lies, or would lie, in a folder. It names nothing outside of the roots and the runs.

    Args:
        memory_bytes: of the device that ``train.profile: auto`` is to suit; this machine's where not given.

    Raises:
        RecipeError: with every problem.
    """
    path = inside(settings, folder) / UNSAVED
    problems = list(_named_outside(settings, parse_recipe(text, str(path), round_trip=False), path.parent))
    try:
        recipe = read_recipe(text, path, memory_bytes=memory_bytes)
    except RecipeError as error:
        keys = {each.key for each in problems}
        problems += [each for each in map(as_key_problem, error.problems) if not each.key or each.key not in keys]
        raise RecipeError(problems=problems) from None
    if problems:
        raise RecipeError(problems=problems)
    return recipe


def problems_of(settings: StudioSettings, text: str, folder: Path) -> list[KeyProblem]:
    """Everything that is wrong with a text, each with the key that has to change."""
    try:
        read_text(settings, text, folder)
    except AfinaError as error:
        return [as_key_problem(each) for each in error.problems]
    return []


def as_key_problem(problem: Problem) -> KeyProblem:
    """A problem with its key: the one that it has, or the last word of where it is (`recipe.yaml: start_from`)."""
    if isinstance(problem, KeyProblem):
        return problem
    named = re.search(r"(?:^|: )([a-z_]+(?:\.[a-z0-9_]+)*)$", problem.where)
    return KeyProblem(problem.what, problem.fix, problem.where, named[1] if named else "")


def strings_in(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in plain values, with its dotted key.

    >>> list(strings_in({"sources": [{"path": "a"}], "seed": 1}))
    [('sources.0.path', 'a')]
    """
    if isinstance(value, str):
        yield key, value
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for step, each in items:
        yield from strings_in(each, f"{key}.{step}" if key else str(step))


def outside(
    settings: StudioSettings, strings: Iterable[tuple[str, str]], anchors: Iterable[Path]
) -> Iterator[KeyProblem]:
    """What names a file or folder that is there and lies outside of the roots and the runs.

    No list of keys is kept for it: whatever a text names, in whatever key, is looked for.

    Args:
        anchors: what relative paths may count from.
    """
    anchors = tuple(anchors)
    for key, text in strings:
        named = _without_glob(text)
        if not named or is_remote(text):
            continue
        for anchor in anchors:
            try:
                found = (anchor / from_home(named)).resolve()
                if not found.exists():
                    continue
                inside(settings, found)
            except StudioRefusal as error:
                (problem,) = error.problems
                yield KeyProblem(f"{text!r:.200} lies {problem.what}", problem.fix, key, key)
                break
            except (OSError, RuntimeError, ValueError):  # no path: too long, a zero in it, a loop of links
                continue


def _without_glob(text: str) -> str:
    """The part of a path before the first step with a wildcard.

    >>> _without_glob("/etc/*.conf"), _without_glob("docs")
    ('/etc', 'docs')
    """
    if "\n" in text or not any(letter in text for letter in "*?["):
        return "" if "\n" in text else text
    steps = text.split("/")
    plain = next(place for place, step in enumerate(steps) if any(letter in step for letter in "*?["))
    return "/".join(steps[:plain]) or ("/" if text.startswith("/") else "")


def _named_outside(settings: StudioSettings, raw: Mapping[str, Any], folder: Path) -> Iterator[KeyProblem]:
    """The same of a recipe in a folder: its root counts from there, all else from there or from its root."""
    root = raw.get("root", ".")
    anchors = [folder, *([folder / root] if isinstance(root, str) else [])]
    yield from outside(settings, strings_in({"root": root}), [folder])
    yield from outside(settings, strings_in({key: raw[key] for key in raw if key != "root"}), anchors)


def anchored(text: str, folder: Path, recipe: Recipe) -> str:
    """A recipe's text that means the same in any folder: relative paths that count from its own are made absolute.

    Args:
        folder: that it was read in.
        recipe: what it was read as.
    """
    raw = parse_yaml(text)
    evaluate = raw.get("evaluate") or {}
    found: dict[str, str | None] = {"root": recipe.root, "base": recipe.base, "start_from": recipe.start_from}
    found["evaluate.prompts"] = recipe.evaluate.prompts
    given = {"root": raw.get("root"), "base": raw.get("base"), "start_from": raw.get("start_from")}
    given["evaluate.prompts"] = evaluate.get("prompts")
    for place, task in enumerate(recipe.evaluate.tasks):
        found[f"evaluate.tasks.{place}.path"] = task.path
        given[f"evaluate.tasks.{place}.path"] = evaluate["tasks"][place]["path"]
    changed = {key: value for key, value in found.items() if value is not None and value != given[key]}
    return change_text(text, changed, where=str(folder / UNSAVED)) if changed else text
