"""No dead ends: what afina advises exists, and done to what caused it, it makes the message go away or another one."""

from __future__ import annotations

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from advice_sites import HOLE, Advice, every_text
from ruamel.yaml import YAML

from afina.cli.verbs import app
from afina.recipe.keys import every_key
from afina.recipe.parts import Recipe

ROOT = Path(__file__).parent.parent
NO_VALUE = ("NAME", "...", HOLE)


@cache
def known_keys() -> dict[str, Any]:
    """Dotted path of each key of a recipe, without the marks of lists -> the key."""
    return {key.path.replace("[]", ""): key for key in every_key()}


@cache
def verbs() -> dict[str, Any]:
    """`data build` -> its command."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": inner[each] for each in inner} if inner else {name: command}
    return found


def commands_in(text: str) -> list[list[str]]:
    """The command lines of afina that a text names, without `afina`."""
    found = re.findall(r"`afina ([^`]*)`", text)
    known = "|".join(sorted(verbs(), key=len, reverse=True))
    found += re.findall(rf"(?<![`\w])afina ((?:{known})\b(?: (?:{HOLE}|-|[A-Z/])[^,;()`]*)?)", text)
    return [shlex.split(each) for each in found]


def wrong_command(words: list[str]) -> str:
    """What is wrong with a command line; empty where nothing is."""
    name = next((each for each in (" ".join(words[:2]), " ".join(words[:1])) if each in verbs()), None)
    if name is None:
        return "no such verb"
    command = verbs()[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    places = sum(1 if each.nargs > 0 else 99 for each in command.params if each.param_type_name == "argument")
    given = len([word for word in words[name.count(" ") + 1 :] if not word.startswith("-")])
    return f"no option {unknown[0]}" if unknown else "too many arguments" if given > places + len(words) / 2 else ""


def keys_in(text: str) -> list[tuple[str, str]]:
    """Dotted keys of a recipe that a text names, with the value behind a colon (empty where it names none)."""
    parts = "|".join(sorted({path.partition(".")[0] for path in known_keys() if "." in path}))
    pattern = rf"(?<![\w./\[])((?:{parts})(?:\.[a-z][a-z0-9_]*)+)(?![\w./(])(?:(?:: |=)([^\s`,;)]+|\[[^\]]*\]))?"
    return re.findall(pattern, text)


def wrong_key(path: str, value: str) -> str:
    """What is wrong with a key and its value; empty where nothing is."""
    key = known_keys().get(path)
    if key is None:
        inside = known_keys().get(path.rpartition(".")[0])
        return "" if inside is not None and "object" in str(inside.schema) else "no such key"
    if not value or any(each in value for each in NO_VALUE) or key.part is not None:
        return ""
    from pydantic import TypeAdapter, ValidationError

    try:
        field = key.field
        TypeAdapter(field.rebuild_annotation()).validate_python(YAML(typ="safe", pure=True).load(value.rstrip(".:")))
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return ""


def complaints(check: Any) -> list[str]:
    return [f"{advice}: {said}" for advice in every_text() for said in check(advice) if said]


def test_every_command_that_a_message_names_is_one():
    """`afina data show --tokens`: the verb, and each option of it."""

    def check(advice: Advice) -> list[str]:
        return [wrong_command(words) for words in commands_in(advice.text)]

    assert complaints(check) == []
    assert wrong_command(["data", "shows"]) and wrong_command(["plan", "--al"]) and not wrong_command(["plan", "--all"])


def test_every_key_and_value_that_a_message_names_is_one():
    """`dataset.on_wrong_code: drop`: the key is in the schema, and takes the value."""

    def check(advice: Advice) -> list[str]:
        return [wrong_key(*each) for each in keys_in(advice.text)]

    assert complaints(check) == []
    assert wrong_key("train.epoch", "") and wrong_key("chat.marks_in_text", "text") and wrong_key("train.epochs", "x")


def test_every_option_that_a_message_names_is_one_of_some_verb():
    options = {each for command in verbs().values() for param in command.params for each in param.opts}
    options |= {each for command in verbs().values() for param in command.params for each in param.secondary_opts}

    def check(advice: Advice) -> list[str]:
        spoken = [each for each in re.findall(r"(?<![\w-])--[a-z][a-z-]+", advice.text) if " " in advice.text]
        return [f"no option {each}" for each in spoken if each not in options | OTHER_PROGRAMS]

    assert complaints(check) == []


OTHER_PROGRAMS = frozenset({})
"""Options of other programs' commands that messages hold."""


def test_every_document_and_extra_that_a_message_names_is_there():
    """`docs/scaling.md`, `pip install 'afina[gguf]'`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def check(advice: Advice) -> list[str]:
        files = [each for each in re.findall(r"docs/[\w-]+\.md", advice.text) if not (ROOT / each).is_file()]
        missing = [each for each in re.findall(r"afina\[([\w-]+)\]", advice.text) if each not in extras]
        return [f"there is no {each}" for each in (*files, *missing)]

    assert complaints(check) == []


_ = pytest, Recipe
