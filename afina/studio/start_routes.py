"""The page "start": a recipe by a form, what is wrong with it, and the run of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field
from ruamel.yaml.error import YAMLError

from afina.errors import RecipeError
from afina.plan.bases import known_bases
from afina.recipe import KeyProblem, parse_recipe, recipe_schema
from afina.recipe.edit import change_text
from afina.recipe.form import form_fields, given_values
from afina.recipe.starter import basic_keys, starter, starter_kinds
from afina.recipe.yaml_text import parse_yaml
from afina.studio import jobs
from afina.studio.bodies import PageBody
from afina.studio.pages import render
from afina.studio.recipe_texts import (
    UNSAVED,
    anchored,
    as_key_problem,
    home,
    known_recipes,
    problems_of,
    read_file,
    read_text,
)
from afina.studio.security import inside, is_name
from afina.studio.settings import StudioSettings


class KeyChange(PageBody):
    """A key that the form changes: set to a text, or to what a text means in YAML; taken out where neither is given."""

    key: str
    text: str | None = None
    yaml: str | None = None


class RecipeEdit(PageBody):
    """A recipe's text, where it lies or would lie, and what the form changes in it."""

    text: str
    folder: str | None = None
    changes: Annotated[list[KeyChange], Field(default_factory=list)]


class StartOrder(PageBody):
    """The recipe of a run that is to be started."""

    text: str
    folder: str | None = None


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/start")
    def page() -> Response:
        """The page."""
        return render("start.html", settings, here="/start")

    @made.get("/api/recipe/schema")
    def schema() -> dict[str, Any]:
        """Every key as a field of the form, the JSON schema, the kinds of starters and which keys are basic."""
        return {**_form(), **known_recipes(settings), "bases": list(known_bases())}

    @made.get("/api/recipe/starter")
    def begin(kind: str) -> dict[str, Any]:
        """A starter's text."""
        return {"text": starter(kind), "folder": str(home(settings))}

    @made.get("/api/recipe/load")
    def load(path: str) -> dict[str, Any]:
        """A recipe's text; one of a run has its paths whole."""
        file, text = read_file(settings, path)
        return {"text": text, "folder": str(file.parent)}

    @made.post("/api/recipe/check")
    def check(edit: RecipeEdit) -> dict[str, Any]:
        """The text with the changes, what it gives, and what is wrong with it."""
        return check_text(settings, edit)

    @made.post("/api/start")
    def begin_run(order: StartOrder) -> dict[str, Any]:
        """Write the recipe and start it."""
        return start_run(settings, order)

    return made


@cache
def _form() -> dict[str, Any]:
    """What is the same for everyone; to read every key's help takes most of a second."""
    kinds = {kind: {"title": title, "basic": sorted(basic_keys(kind))} for kind, title in starter_kinds().items()}
    return {"fields": form_fields(), "kinds": kinds, "schema": recipe_schema()}


def check_text(settings: StudioSettings, edit: RecipeEdit) -> dict[str, Any]:
    """``text`` with the changes, ``given``: what it gives by key (None where it is no mapping), and ``problems``, each
    with ``key``, ``line``, ``what`` and ``fix``."""
    folder = inside(settings, edit.folder or home(settings))
    text, refused = _changed(edit)
    try:
        given = given_values(parse_recipe(text, UNSAVED, round_trip=False))
    except RecipeError:
        given = None
    problems = [*refused, *problems_of(settings, text, folder), *_taken(settings, given or {})]
    return {"text": text, "given": given, "problems": [problem_values(each) for each in problems]}


def problem_values(problem: KeyProblem) -> dict[str, Any]:
    """A problem as the browser reads it."""
    return {"key": problem.key, "line": problem.line, "what": problem.what, "fix": problem.fix}


def _changed(edit: RecipeEdit) -> tuple[str, list[KeyProblem]]:
    """The text with the changes that could be made, and why others could not. Places of lists count as they are in the
    text that came: what goes, goes last."""
    try:
        parse_recipe(edit.text, UNSAVED)
    except RecipeError:  # which is told with the other problems
        what, fix = "the form cannot write into a text that is no YAML", "correct the text first"
        return edit.text, [KeyProblem(what, fix, change.key, change.key) for change in edit.changes]
    settings, gone, refused = dict[str, Any](), list[str](), list[KeyProblem]()
    for change in edit.changes:
        if change.text is None and change.yaml is None:
            gone.append(change.key)
            continue
        try:
            settings[change.key] = change.text if change.yaml is None else parse_yaml(change.yaml)
        except YAMLError:
            what, fix = f"{change.yaml!r} is not a YAML value", "put text in quotes; lists look like [a, b]"
            refused.append(KeyProblem(what, fix, change.key, change.key))
    while True:
        try:
            return change_text(edit.text, settings, removed=gone), refused
        except RecipeError as error:  # a key that leads through no mapping; the others are written
            (problem,) = map(as_key_problem, error.problems)
            refused.append(problem)
            del settings[problem.key]


def _taken(settings: StudioSettings, given: dict[str, str]) -> Iterator[KeyProblem]:
    """What a recipe's name says that is there already."""
    name = given.get("name", "")
    if is_name(name) and (found := next(filter(os.path.lexists, _places(settings, name)), None)):
        what = f"there is a run {name} already" if found.is_dir() else f"there is a recipe {found.name} already"
        yield KeyProblem(what, f"call it {_free_name(settings, name)}, or go on with the other on its page", "", "name")


def _places(settings: StudioSettings, name: str) -> tuple[Path, Path]:
    """Where a run's folder and its recipe would be."""
    return settings.runs / name, settings.runs / f"{name}.yaml"


def _free_name(settings: StudioSettings, name: str) -> str:
    number = 2
    while any(map(os.path.lexists, _places(settings, f"{name}-{number}"))):
        number += 1
    return f"{name}-{number}"


def start_run(settings: StudioSettings, order: StartOrder) -> dict[str, Any]:
    """Write the recipe into the runs' folder, never over another, and start ``afina run`` on it.

    Raises:
        RecipeError: with every problem of the recipe, or that its name is taken.
    """
    folder = inside(settings, order.folder or home(settings))
    recipe = read_text(settings, order.text, folder)
    run, file = _places(settings, recipe.name)
    if taken := list(_taken(settings, {"name": recipe.name})):
        raise RecipeError(problems=taken)
    settings.runs.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as out:  # "x": never over another, not even one written a moment ago
            out.write(anchored(order.text, folder, recipe))
    except FileExistsError:
        raise RecipeError(problems=list(_taken(settings, {"name": recipe.name}))) from None
    try:
        started = jobs.start(settings, file, recipe.name)
    except BaseException:  # so that the name is free for another try
        file.unlink(missing_ok=True)
        raise
    return {"name": started.name, "pid": started.pid, "recipe": str(file), "folder": str(run)}
