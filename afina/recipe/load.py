"""Read a recipe: the file, the command line's overrides, every problem at once with its line."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from afina.errors import Problem, RecipeError
from afina.recipe.home import from_home
from afina.recipe.parts import HUB, WEB, Recipe
from afina.recipe.probe import Limits
from afina.recipe.profiles import resolve_profile
from afina.recipe.start_from import resolve_start
from afina.recipe.yaml_text import parse_yaml


@dataclass(frozen=True)
class KeyProblem(Problem):
    """What is wrong with one key of a recipe."""

    key: str = ""
    """As the command line writes it, ``sources.0.path``: the one that has to change, as far as it can be told; empty
    where it is none, as in a file that is no YAML."""
    line: int | None = None
    """From 1, in the file."""


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, memory_bytes: int | None = None) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides, check everything, report all problems at once.

    `root` in the result is absolute: the file's `root` counts from the recipe's folder, one given
    as an override from the current folder; so does a `base` that is a folder.

    Args:
        memory_bytes: of the device that ``train.profile: auto`` is to suit; this machine's where not given.

    Raises:
        RecipeError: with one :class:`KeyProblem` per unknown key, wrong value and missing path.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}", "`afina recipe init docs` writes a commented starter") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 (byte {error.start})", "save the recipe as UTF-8", str(path)) from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", "name a YAML file", str(path)) from None
    return read_recipe(text, path, overrides, memory_bytes=memory_bytes)


def read_recipe(text: str, path: Path, overrides: Sequence[str] = (), *, memory_bytes: int | None = None) -> Recipe:
    """The same of a file's text; the file need not be there.

    Args:
        path: where the file is, or would be: what is relative counts from its folder.
        memory_bytes: as :func:`load_recipe`.

    Raises:
        RecipeError: as :func:`load_recipe`.
    """
    raw = parse_recipe(text, str(path))
    overridden = _apply_overrides(raw, overrides)
    _resolve_root(raw, Path.cwd() if "root" in overridden else path.parent)
    _resolve_base(raw, Path.cwd() if "base" in overridden else path.parent)
    _resolve_asked(raw, path.parent)
    unlike = resolve_start(raw, Path.cwd() if "start_from" in overridden else path.parent, str(path))
    if unlike:
        raise RecipeError(problems=unlike)
    return check_recipe(raw, str(path), memory_bytes=memory_bytes)


def parse_recipe(text: str, where: str, *, round_trip: bool = True) -> dict[str, Any]:
    """A recipe's text as the mapping that it is, its values not looked at.

    Args:
        round_trip: with the lines that keys stand in, as a :class:`~ruamel.yaml.comments.CommentedMap`; else as plain
            values, which a tag of somebody's own (``!x``) cannot be.

    Raises:
        RecipeError: it is no YAML, or no mapping.
    """
    try:
        raw = parse_yaml(text, round_trip=round_trip)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _no_yaml(str(error.problem), "correct the line", where, line) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _no_yaml(error.reason, "remove the character", where, line) from None
    except YAMLError as error:
        raise RecipeError(f"not YAML: {error}", "correct the value", where) from None
    if not isinstance(raw, dict):
        raise RecipeError("a recipe is a mapping of keys to values", "`afina recipe init docs` shows one", where)
    return raw


def _no_yaml(why: str, fix: str, where: str, line: int) -> RecipeError:
    return RecipeError(problems=[KeyProblem(f"not YAML: {why}", fix, f"{where}:{line}", line=line)])


PLACES = ("base", "root", "device")
"""What may be another on a machine that a run was moved to; all else says what was trained."""


def read_saved_recipe(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe in a run's folder. Its sources need not be there any more: what was trained is.

    Args:
        overrides: where things are now, of :data:`PLACES`. A `base` or `root` given here counts from the current
            folder, one in the file from the run's.

    Raises:
        RecipeError: there is none, or it was changed by hand into something wrong; an override of something else.
    """
    file = run / "recipe.yaml"
    if not file.is_file():
        raise RecipeError(f"{run} is not a run: it has no recipe.yaml", "name a folder such as runs/demo")
    again = "copy the recipe again, or write it anew: afina run with the recipe that you gave"
    try:
        raw = parse_yaml(file.read_text(encoding="utf-8"), round_trip=True)
    except (YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"damaged: {str(error).splitlines()[0]}", again, str(file)) from error
    if not isinstance(raw, CommentedMap):
        raise RecipeError("damaged: it is not a mapping of keys to values", again, str(file))
    if other := [each for each in overrides if each.partition("=")[0] not in PLACES]:
        raise RecipeError(
            f"{other[0]}: only {', '.join(PLACES[:-1])} and {PLACES[-1]} may be another for a run that is there",
            f"change the recipe and run it again: afina run {file} {other[0]}",
            "command line",
        )
    set_here = _apply_overrides(raw, overrides)
    _resolve_root(raw, Path.cwd() if "root" in set_here else run)
    _resolve_base(raw, Path.cwd() if "base" in set_here else run)
    if "base" in set_here:
        raw["base_revision"] = None  # it was the named one's; this one is known by its hashes
    try:
        return Recipe.model_validate(_plain(raw))
    except ValidationError as error:
        raise RecipeError(problems=[_as_problem(raw, str(file), item) for item in error.errors()]) from None


def check_recipe(raw: Mapping[str, Any], where: str = "recipe", *, memory_bytes: int | None = None) -> Recipe:
    """Turn plain values into a :class:`Recipe`, with every problem in one error. A profile's settings are written into
    them: of ``auto`` those for `memory_bytes`, or for this machine."""
    resolve_profile(raw, memory_bytes)
    problems: list[Problem] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(_plain(raw))
    except ValidationError as error:
        problems += [_as_problem(raw, where, item) for item in error.errors(include_url=False)]
    problems += list(_missing_paths(raw, where))
    if problems or recipe is None:
        raise RecipeError(problems=problems)
    return recipe


def read_limits(place: Path) -> Limits:
    """The limits in a file: those of a recipe (``evaluate.limits``), or a file of nothing else; or of the recipe in a
    run's folder. The files that a recipe names need not be there.

    Raises:
        RecipeError: it cannot be read, or a key or a value is wrong.
    """
    file = place / "recipe.yaml" if place.is_dir() else place
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        what = f"no limits can be read there: {error.strerror}"
        raise RecipeError(what, "name a recipe, a run, or a file of limits (YAML)", str(file)) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 (byte {error.start})", "save it as UTF-8", str(file)) from None
    raw = parse_recipe(text, str(file))
    return limits_of(raw if {"evaluate", "sources", "base"} & {*raw} else {"evaluate": {"limits": raw}}, str(file))


def limits_of(raw: Mapping[str, Any], where: str) -> Limits:
    """``evaluate.limits`` of a recipe's plain values, checked; the defaults where it has none."""
    evaluate = raw.get("evaluate")
    given = evaluate.get("limits") if isinstance(evaluate, Mapping) else None
    try:
        return Limits.model_validate({} if given is None else _plain(given))
    except ValidationError as error:
        items = [item | {"loc": ("evaluate", "limits", *item["loc"])} for item in error.errors(include_url=False)]
        raise RecipeError(problems=[_as_problem(raw, where, item) for item in items]) from None


def recipe_of(overrides: Sequence[str]) -> Recipe:
    """The defaults with some values set, for a verb that works without a recipe file.

    >>> recipe_of(["train.max_length=512"]).train.max_length
    512
    """
    raw = CommentedMap(name="audit", base="none", sources=[CommentedMap(path=".")])
    _apply_overrides(raw, overrides)
    return check_recipe(raw, "settings")


def recipe_schema() -> dict[str, Any]:
    """JSON schema of the recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` was probably meant to be.

    >>> nearest("learning_rte", ["epochs", "learning_rate"])
    'learning_rate'
    """
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return found[0] if found else None


def plain_name(text: str) -> str:
    """What a run may be called after a text; empty where nothing of it can be written so.

    >>> plain_name("Época 2"), plain_name("情報")
    ('Epoca-2', '')
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:200]


def _apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> set[str]:
    """Write ``a.b=value`` into the raw recipe; returns the dotted keys that were set."""
    problems, done = [], set()
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            problems.append(Problem(f"{override!r} is not an override", "write it as train.epochs=2", "command line"))
            continue
        try:
            parsed = parse_yaml(value) if value else None
        except YAMLError:
            quoted = f"'{key}={value}...'" if value[0] in "{[" else f"{key}='\"...\"'"
            problems.append(
                Problem(f"{key}: {value!r} is not a YAML value", f"put it in quotes: {quoted}", "command line")
            )
            continue
        *parents, last = key.split(".")
        place: Any = raw
        for step in parents:
            if isinstance(place, list) and step.isdigit() and int(step) < len(place):
                place = place[int(step)]
            elif isinstance(place, dict):
                if place.get(step) is None:
                    place[step] = CommentedMap()
                place = place[step]
            else:
                place = None
                break
        if isinstance(place, list) and last.isdigit() and int(last) < len(place):
            place[int(last)] = parsed
        elif isinstance(place, dict):
            place[last] = parsed
        else:
            problems.append(Problem(f"there is no {key!r} in the recipe", "see `afina recipe schema`", "command line"))
            continue
        done.add(key)
    if problems:
        raise RecipeError(problems=problems)
    return done


def _resolve_root(raw: dict[str, Any], anchor: Path) -> None:
    """It becomes absolute; one that names nothing stays, to be refused."""
    root = raw.get("root", ".")
    if isinstance(root, str) and root.strip():
        raw["root"] = str((anchor / root).resolve())


def _resolve_base(raw: dict[str, Any], anchor: Path) -> None:
    """A base that looks like a folder becomes absolute; anything else stays a hub id."""
    base = raw.get("base")
    if isinstance(base, str) and base.strip():
        looks_like_path = base.startswith((".", "/", "~")) or base.count("/") > 1 or (anchor / base).exists()
        if looks_like_path:
            raw["base"] = str((anchor / from_home(base)).resolve())


def _resolve_asked(raw: dict[str, Any], folder: Path) -> None:
    """A file of a task or of prompts that is not below `root` but beside the recipe becomes absolute."""
    evaluate = raw.get("evaluate")
    if not isinstance(evaluate, CommentedMap):
        return
    tasks = evaluate.get("tasks")
    named = [(task, "path") for task in (tasks if isinstance(tasks, list) else []) if isinstance(task, CommentedMap)]
    for part, key in [*named, (evaluate, "prompts")]:
        path = part.get(key)
        root = raw.get("root")
        below = isinstance(root, str) and isinstance(path, str) and (Path(root) / path).exists()
        if isinstance(path, str) and not below and (folder / path).is_file():
            part[key] = str((folder / path).resolve())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _line_of(raw: Any, location: Sequence[int | str]) -> int | None:
    """Line (from 1) of the deepest key of `location` that the YAML file holds."""
    line, place = None, raw
    for step in location:
        if isinstance(place, CommentedMap) and step in place:
            mark = place.lc.data.get(step) if place.lc.data else None
            line = mark[0] + 1 if mark else line
        elif isinstance(place, CommentedSeq) and isinstance(step, int) and step < len(place):
            mark = place.lc.data.get(step) if place.lc.data else None
            line = mark[0] + 1 if mark else line
        else:
            break
        place = place[step]
    return line


def _problem(
    what: str, fix: str, raw: Any, where: str, location: Sequence[int | str], key: str | None = None
) -> KeyProblem:
    """A problem with the line of its key and where both are.

    Args:
        key: the one that has to change, where it is not the one at `location`.
    """
    line, named = _line_of(raw, location), ".".join(str(step) for step in location)
    file = f"{where}:{line}" if line else where
    return KeyProblem(what, fix, f"{file}: {named}" if named else file, named if key is None else key, line)


def _meant_key(location: Sequence[int | str], message: str) -> str:
    """The key that a check of a whole part speaks of: the first that its message names, or the part.

    >>> _meant_key(("train",), "decay belongs to schedule wsd: remove it")
    'train.decay'
    >>> _meant_key((), "train.method sft needs `base`, a folder or a hub id to start from")
    'train.method'
    """
    for word in re.findall(r"[a-z_]+(?:\.[a-z0-9_]+)*", message):
        steps = [int(step) if step.isdigit() else step for step in word.split(".")]
        if steps[-1] in _known_keys([*location, *steps]):
            return ".".join(map(str, [*location, *steps]))
    return ".".join(map(str, location))


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """Keys that the part of the recipe above the last step of `location` has."""
    part: Any = Recipe
    for step in location[:-1]:
        if isinstance(step, int):
            continue
        field = part.model_fields.get(step) if isinstance(part, type) and issubclass(part, BaseModel) else None
        if field is None:
            return []
        part = _model_in(field.annotation)
    return list(part.model_fields) if isinstance(part, type) and issubclass(part, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def _as_problem(raw: Any, where: str, item: Any) -> KeyProblem:
    location: tuple[int | str, ...] = item["loc"]
    if item["type"] == "extra_forbidden":
        known = _known_keys(location)
        guess = nearest(str(location[-1]), known)
        fix = f"did you mean `{guess}`?" if guess else "known here: " + ", ".join(known)
        return _problem(f"unknown key `{location[-1]}`", fix, raw, where, location)
    if item["type"] == "missing":
        fix = "add it; `afina recipe init docs` shows where"
        return _problem(f"`{location[-1]}` is missing", fix, raw, where, location)
    given = item.get("input")
    if item["type"] == "string_pattern_mismatch" and not given.strip():
        last = next(step for step in reversed(location) if isinstance(step, str) and step.isidentifier())
        fix = f"write what is meant behind `{last}:`, or take that out"
        return _problem("is empty, and names nothing", fix, raw, where, location)
    message = item["msg"].removeprefix("Value error, ")
    secret = location[-1:] in (("url",), ("api_key_env",))  # someone may have written a password or a key there
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) and not secret else ""
    key = _meant_key(location, message) if isinstance(given, Mapping) else None
    return _problem(message + shown, _fix_of(str(item["type"]), location, given), raw, where, location, key)


def _fix_of(kind: str, location: Sequence[int | str], given: object) -> str:
    """How to write a value that YAML reads as another kind of thing than was meant.

    >>> _fix_of("string_type", ("name",), 7), _fix_of("list_type", ("sources", 0, "exclude"), "*.png")
    ("write it in quotes: `name: '7'`", 'write a list: `exclude: [*.png]`')
    >>> _fix_of("string_pattern_mismatch", ("name",), "Época 2")
    'letters without accents, digits, `.`, `_` and `-`: for example `name: Epoca-2`'
    """
    named = [step for step in location if isinstance(step, str) and step.isidentifier()]  # not `list[str]` of several
    last = named[-1] if named else ""
    if kind == "string_type" and isinstance(given, bool | int | float | date):
        return f"write it in quotes: `{last}: '{given}'`"
    if kind == "list_type" and isinstance(given, str):
        return f"write a list: `{last}: [{given}]`"
    if kind in ("model_type", "dict_type") and given is None:
        return f"take `{last}:` out, or write its keys below it"
    if kind == "model_type" and isinstance(given, str) and location[:1] == ("sources",):
        return f"write `- path: {given}`"
    if kind == "string_pattern_mismatch" and location == ("name",) and (plain := plain_name(str(given))):
        return f"letters without accents, digits, `.`, `_` and `-`: for example `name: {plain}`"
    return "`afina recipe schema` lists what is allowed"


def _missing_paths(raw: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Paths of sources, solutions, answers, probes, tasks, prompts, known strings, a chat template and a local base
    that do not exist."""
    root = Path(str(raw.get("root", ".")))
    if not str(raw.get("root", ".")).strip():  # refused as it is
        return
    if not root.is_dir():
        yield _problem(f"there is no folder {root}", "set `root` to the folder of your files", raw, where, ("root",))
        return
    named: list[tuple[tuple[int | str, ...], Any]] = []
    sources = raw.get("sources")
    for position, source in enumerate(sources if isinstance(sources, list) else []):
        if isinstance(source, Mapping):
            named += [(("sources", position, key), source.get(key)) for key in ("path", "solutions")]
    dataset = raw.get("dataset")
    named.append((("dataset", "answers"), dataset.get("answers") if isinstance(dataset, Mapping) else None))
    evaluate = raw.get("evaluate")
    for part in ("probes", "tasks"):
        asked = evaluate.get(part) if isinstance(evaluate, Mapping) else None
        for position, each in enumerate(asked if isinstance(asked, list) else []):
            if isinstance(each, Mapping):
                named.append((("evaluate", part, position, "path"), each.get("path")))
    prompts = evaluate.get("prompts") if isinstance(evaluate, Mapping) else None
    named.append((("evaluate", "prompts"), prompts))
    safety = raw.get("safety")
    named.append((("safety", "strings"), safety.get("strings") if isinstance(safety, Mapping) else None))
    for location, value in named:
        elsewhere = location[0] == "sources" and location[-1] == "path" and is_remote(str(value))
        if isinstance(value, str) and value.strip() and not elsewhere and not any(expand_path(root, value)):
            yield _problem(
                f"nothing matches {value!r} below {root}", "check the path, or set `root`", raw, where, location
            )
    chat = raw.get("chat")
    template = chat.get("template") if isinstance(chat, Mapping) else None
    if isinstance(template, str) and template.strip() and template != "chatml" and not (root / template).is_file():
        what, fix = f"there is no template {root / template}", "name a Jinja file, or `chatml`"
        yield _problem(what, fix, raw, where, ("chat", "template"))
    base = raw.get("base")
    if isinstance(base, str) and Path(base).is_absolute() and not Path(base).exists():
        yield _problem(
            f"there is no base {base}",
            "name a folder with config.json and *.safetensors, a GGUF file, or a hub id such as Qwen/Qwen3-8B",
            raw,
            where,
            ("base",),
        )


def is_remote(path: str) -> bool:
    """Whether a source's path names something that is no file: a dataset of the hub, or a website."""
    return path.startswith((HUB, *WEB))


def expand_path(root: Path, pattern: str) -> Iterator[Path]:
    """The file or folder `pattern` names below `root`, or all that a glob matches, sorted."""
    direct = root / pattern
    if direct.exists():
        yield direct
    elif any(letter in pattern for letter in "*?["):
        anchor, relative = (Path("/"), pattern.lstrip("/")) if pattern.startswith("/") else (root, pattern)
        try:
            yield from sorted(anchor.glob(relative))
        except ValueError:  # `**` beside other letters: matches nothing
            return
