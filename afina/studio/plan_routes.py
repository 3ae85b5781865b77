"""The page "plan": does it fit, how long, for how much; and what would fit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field

from afina.errors import RecipeError
from afina.plan.bases import known_bases
from afina.plan.device import find_device, known_devices, local_device
from afina.plan.memory import WEIGHT_BYTES
from afina.plan.serving import GGUF_BYTES, K_KINDS
from afina.recipe import KeyProblem, Recipe, read_recipe
from afina.recipe.edit import change_text
from afina.recipe.form import options_of
from afina.recipe.keys import every_key
from afina.recipe.starter import yaml_value
from afina.record import Record
from afina.report.language import in_language, label, mark
from afina.report.sentences import StoredSentence
from afina.report.training import how_sure
from afina.studio.bodies import MOST, PageBody
from afina.studio.pages import render
from afina.studio.recipe_texts import (
    UNSAVED,
    as_key_problem,
    home,
    known_recipes,
    outside,
    read_file,
    read_text,
    strings_in,
)
from afina.studio.refusal import error_values
from afina.studio.security import inside
from afina.studio.settings import StudioSettings
from afina.studio.translate import sentence_values, word
from afina.walk.plan_answers import ENGINES, PlanAsked, answer_recipe, suited

KEYS = (
    *("base", "backend", "train.method", "train.max_length", "train.batch_tokens", "train.accumulate", "train.epochs"),
    *("train.optimizer", "train.checkpoint_activations", "adapter.kind", "adapter.rank"),
    *("scratch.hidden", "scratch.layers", "scratch.heads", "scratch.vocab"),
)
"""Keys of a recipe that the page has a control for."""
MLX_FORMATS = tuple(f"mlx-{bits}-{group}" for bits in (4, 8) for group in (32, 64, 128))
SERVING_PARTS = (mark("KV cache"), mark("LoRA slots"), mark("engine"), mark("prefill"))
"""Parts of a served model's memory that the report has no words for."""
ASSUMED = """\
name: plan
base: Qwen/Qwen2.5-0.5B-Instruct
sources:
  - path: .
"""
"""The recipe that is planned where none is named: its files are not looked at, only how many tokens are said."""


class ServingQuestion(PageBody):
    """How a model is served."""

    engine: str = "vllm"
    context: Annotated[int, Field(ge=1, le=MOST)] = 4096
    users: Annotated[int, Field(ge=1, le=MOST)] = 1
    weights: str = "16bit"
    lora_slots: Annotated[int, Field(ge=0, le=MOST)] = 0


class PlanQuestion(PageBody):
    """What is to be planned: a recipe by its file or its text, or none; and what of it is another."""

    recipe: str | None = None
    """Its file."""
    text: str | None = None
    folder: str | None = None
    """Of a text: where it lies or would lie."""
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Dotted keys of the recipe, as ``KEY=VALUE`` of `afina plan`."""
    tokens: str | None = None
    """Of an epoch, as ``--tokens``. Without a recipe it has to be given."""
    device: str | None = None
    """None: this machine."""
    gpus: Annotated[int, Field(ge=1, le=MOST)] = 1
    parallel: str = "ddp"
    serve: ServingQuestion | None = None


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/plan")
    def page() -> Response:
        """The page."""
        return render("plan.html", settings, here="/plan")

    @made.get("/api/plan/choices")
    def choices() -> dict[str, Any]:
        """What may be chosen."""
        return plan_choices(settings)

    @made.post("/api/plan")
    def plan(question: PlanQuestion) -> dict[str, Any]:
        """The answer; in a thread, as every route that is no coroutine."""
        return plan_answer(settings, question)

    return made


def plan_choices(settings: StudioSettings) -> dict[str, Any]:
    """Bases, devices with their memories, what the keys of the page may be, and how models are served."""
    keys = {key.path: key for key in every_key() if key.path in KEYS}
    return {
        **known_recipes(settings),
        "bases": list(known_bases()),
        "devices": [name for each, facts in known_devices().items() for name in _sizes(each, facts)],
        "keys": {
            path: {
                "options": [yaml_value(each) for each in options_of(key.schema)],
                "default": key.default,
                "least": key.schema.get("minimum", key.schema.get("exclusiveMinimum")),
                "brief": key.brief,
            }
            for path, key in keys.items()
        },
        "engines": list(ENGINES),
        "weights": [*WEIGHT_BYTES, *MLX_FORMATS, *(f"gguf-{kind}" for kind in (*GGUF_BYTES, *K_KINDS))],
    }


def _sizes(name: str, facts: Mapping[str, Any]) -> list[str]:
    """A device, or one entry for each memory that it comes with."""
    sizes = facts.get("memory_gib", [])
    return [name] if len(sizes) < 2 else [f"{name} {size}GB" for size in sizes]


def plan_answer(settings: StudioSettings, question: PlanQuestion) -> dict[str, Any]:
    """``plan``: the object that ``afina plan --json`` prints; ``refused``: why a run would be refused; ``settings``:
    what the recipe holds by the keys of the page; ``names``: of the parts in the page's language; ``told``: see
    :func:`_told`; ``command``: the same in a terminal, where the recipe is a file.

    Raises:
        RecipeError: the recipe, a device, a base or a setting is wrong.
    """
    read, file = _reader_of(settings, question)
    recipe = read(None)
    device = None if question.device is None else find_device(question.device)  # one, not several with commas
    if on := suited(recipe, read):
        recipe = on(device or local_device(recipe.device))  # whose settings the page shows too
    devices = [] if question.device is None else [question.device]
    asked = PlanAsked(
        str(file or UNSAVED),
        (),
        devices,
        settings.runs,
        gpus=question.gpus,
        parallel=question.parallel,
        tokens=question.tokens,
    )
    if question.serve:
        asked.set_serving(question.serve.engine, **question.serve.model_dump(exclude={"engine"}))
    found = answer_recipe(asked, recipe)
    parts = [name for kind in ("memory", "time") for name in found.values.get(kind, {}).get("parts", {})]
    values = recipe.model_dump(mode="json")
    return {
        "plan": found.values,
        "refused": error_values(*found.refused.problems)["problems"] if found.refused else [],
        "settings": {key: _value_at(values, key) for key in KEYS},
        "names": {name: _said(settings.language, name) for name in parts},
        "told": _told(settings.language, found.values),
        "command": _command(settings, question, file) if file else None,
    }


def _reader_of(settings: StudioSettings, question: PlanQuestion) -> tuple[Callable[[int | None], Recipe], Path | None]:
    """What reads the recipe with the question's settings, for a device of so many bytes of memory or for this machine;
    and the recipe's file."""
    if question.recipe is not None:
        file, text = read_file(settings, question.recipe)
        changed = change_text(text, question.settings, where=str(file))
        return lambda memory: read_text(settings, changed, file.parent, memory_bytes=memory), file
    if question.text is not None:
        folder = inside(settings, question.folder or home(settings))
        new = change_text(question.text, question.settings)
        return lambda memory: read_text(settings, new, folder, memory_bytes=memory), None
    if question.tokens is None:
        raise RecipeError("without a recipe nothing says how much there is to learn", "say how many tokens", "tokens")
    return lambda _: _assumed(settings, question.settings), None  # the page has no key for a profile


def _assumed(settings: StudioSettings, changed: Mapping[str, Any]) -> Recipe:
    """A recipe of the page's keys alone. Its source is a folder that is there, and is not read."""
    if others := sorted(changed.keys() - set(KEYS)):
        what, fix = f"{others[0]} is asked for without a recipe", "name a recipe that holds it"
        raise RecipeError(problems=[KeyProblem(what, fix, others[0], others[0])])
    folder = next((each for each in (home(settings), settings.runs) if each.is_dir()), settings.runs.parent)
    if problems := list(outside(settings, strings_in(dict(changed)), [folder])):
        raise RecipeError(problems=problems)
    try:
        return read_recipe(change_text(ASSUMED, changed), folder / UNSAVED)
    except RecipeError as error:
        raise RecipeError(problems=list(map(as_key_problem, error.problems))) from None


def _value_at(values: Any, key: str) -> Any:
    for step in key.split("."):
        values = values[step]
    return values


def _told(tag: str, plan: Mapping[str, Any]) -> dict[str, list[dict[str, str | None]]]:
    """What a plan says in sentences, in a language: its ``notes``, and how ``sure`` it is."""
    with in_language(tag):
        return {
            "notes": [sentence_values(StoredSentence(each)) for each in plan.get("notes", ())],
            "sure": [sentence_values(each) for each in how_sure(Record(plan, "plan"))],
        }


def _said(tag: str, name: str) -> str:
    """A part's name in a language: the report's words, or the studio's."""
    with in_language(tag):
        said = label(name)
    return word(tag, name) if said == name else said


def _command(settings: StudioSettings, question: PlanQuestion, file: Path) -> str:
    """The command line that gives the same answer."""
    words = ["afina", "plan", str(file), *(f"{key}={yaml_value(value)}" for key, value in question.settings.items())]
    options: dict[str, object] = {"--device": question.device, "--tokens": question.tokens}
    if question.gpus > 1:
        options["--gpus"] = question.gpus
        options["--parallel"] = None if question.serve else question.parallel
    if serve := question.serve:
        options |= {"--serve": serve.engine, "--context": serve.context, "--users": serve.users}
        options |= {"--weights": serve.weights, "--lora-slots": serve.lora_slots, "--tokens": None}
    if settings.runs != Path("runs").resolve():
        options["--runs"] = settings.runs
    words += [each for name, value in options.items() if value is not None for each in (name, str(value))]
    return shlex.join([*words, "--json"])
