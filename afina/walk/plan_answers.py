"""What `afina plan` answers: a job on one device or many, what would fit, serving, a model from nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, cast

from afina.errors import AfinaError, DataError, Problem, RecipeError
from afina.model.shape import Shape
from afina.plan.advise import (
    Suggestion,
    cheapest_device,
    describe_advice,
    largest_context,
    largest_model,
    what_would_fit,
)
from afina.plan.bases import find_shape, local_base, recipe_shape, rounding_of
from afina.plan.check import check_plan, describe, describe_several
from afina.plan.device import Device, find_device, known_devices, local_device
from afina.plan.memory import Parallel
from afina.plan.plan import Plan, learned, plan_run
from afina.plan.scratch import CHINCHILLA_TOKENS, ScratchBudget, read_count
from afina.plan.serving import SHOWN_KINDS, Engine, Serving, plan_serving, serving_sureness, speeds_on_cpu
from afina.plan.tokens import Learning, assume_learning, estimate_learning
from afina.recipe import Recipe, load_recipe
from afina.recipe.changed import smaller_model, with_settings
from afina.recipe.edit import change_recipe
from afina.tokenizer.own_system import own_system_of
from afina.units import show_bytes
from afina.walk.lengths import estimate_lengths
from afina.whole import write_whole

ENGINES = ("vllm", "transformers", "mlx", "llamacpp")
USUAL_CONTEXT = 4096
"""Tokens of a user where nobody says how many; fewer where the model sees fewer."""


@dataclass
class PlanAsked:
    """The command line of `afina plan`."""

    recipe: str
    overrides: Sequence[str]
    devices: Sequence[str]
    runs: Path
    all_devices: bool = False
    gpus: int = 1
    parallel: str = "ddp"
    apply: bool = False
    parameters: str | None = None
    """Of a model that is not there yet, as in 7B."""
    tokens: str | None = None
    """Of an epoch, where they shall not be counted or estimated; of `scratch` and `scaling` in all."""
    serving: Serving | None = None
    any_context: bool = False
    """Whether nobody has said how many tokens one user has."""

    def set_serving(self, engine: str | None, *, context: int | None = None, **settings: Any) -> None:
        """Ask for serving with an engine.

        Args:
            context: tokens of one user; :data:`USUAL_CONTEXT` or what the model sees where not given.

        Raises:
            RecipeError: an engine that is not known.
        """
        if engine is None:
            return
        if engine not in ENGINES:
            raise RecipeError(f"no engine {engine!r} is known", "known are " + ", ".join(ENGINES), "--serve")
        self.any_context = context is None
        given = USUAL_CONTEXT if context is None else context
        self.serving = Serving(engine=cast(Engine, engine), context=given, devices=self.gpus, **settings)


@dataclass
class PlanAnswer:
    """For machines, for people, what was done beside it, and why not."""

    values: Any
    text: str
    remarks: list[str] = field(default_factory=list)
    refused: AfinaError | None = None


def answer(asked: PlanAsked) -> PlanAnswer:
    """Everything that `afina plan` can be asked, without torch.

    Raises:
        RecipeError: the recipe, a device, a base or a setting is wrong, with the nearest known name.
    """
    if asked.recipe == "scratch":
        budget = _budget(asked, "7B", find_device((*asked.devices, "H100 SXM")[0]))
        return PlanAnswer(budget.as_json(), budget.describe())
    if asked.recipe == "scaling":
        return _scaling(asked)
    recipe = load_recipe(asked.recipe, asked.overrides)
    on = suited(recipe, lambda memory: load_recipe(asked.recipe, asked.overrides, memory_bytes=memory))
    return answer_recipe(asked, recipe, on=on)


def suited(recipe: Recipe, read: Callable[[int], Recipe]) -> Callable[[Device], Recipe] | None:
    """The recipe as it is read for a device, whose memory ``train.profile: auto`` suits; None where it has no profile
    and is the same on all.

    Args:
        recipe: as it is read on this machine.
        read: it again, given the bytes of a device's memory.
    """
    return None if recipe.train.profile is None else lambda device: read(device.memory_bytes)


def answer_recipe(asked: PlanAsked, recipe: Recipe, *, on: Callable[[Device], Recipe] | None = None) -> PlanAnswer:
    """The same of a recipe that is read already; of `asked` its file and its overrides are not looked at, but where
    settings are written into it.

    Args:
        on: the recipe on a device, of :func:`suited`; the same on all where not given.

    Raises:
        RecipeError: as :func:`answer`.
    """
    if asked.parallel not in ("ddp", "fsdp"):
        raise RecipeError(f"{asked.parallel!r} is no way to share the work", "use ddp or fsdp", "--parallel")
    devices = _devices(asked, recipe)
    if asked.serving:
        return _serving(recipe, devices, asked.serving, any_context=asked.any_context)
    shape = recipe_shape(recipe)
    parallel = cast(Parallel, asked.parallel)
    read = [on(device) if on else recipe for device in devices]
    of_profile = {each.train.profile: each for each in read}  # devices share few profiles, and files are read for each
    learned_by = {profile: _learning(asked, each) for profile, each in of_profile.items()}
    plans = [
        _plan(each, shape, learned_by[each.train.profile], device, asked.gpus, parallel)
        for each, device in zip(read, devices, strict=True)
    ]
    if len(plans) > 1:
        return _several(plans, recipe)
    return _one(asked, read[0], shape, learned_by[read[0].train.profile], plans[0])


def _learning(asked: PlanAsked, recipe: Recipe) -> Learning:
    """What there is to learn: as it is said, counted in a dataset that is built, or by the sizes of the files."""
    if asked.tokens is not None:
        found = assume_learning(recipe, max(1, round(read_count(asked.tokens, "--tokens"))))
    else:
        counted = estimate_lengths(asked.runs / recipe.name / "dataset", recipe)
        found = Learning(counted) if counted else estimate_learning(recipe)
    return replace(found, notes=(*found.notes, *_of_base(recipe)))


def _of_base(recipe: Recipe) -> list[str]:
    """What is told of the base's files, beside their numbers."""
    notes = [rounded] if (rounded := rounding_of(recipe)) else []
    folder = local_base(recipe.base, recipe.base_revision) if recipe.base else None
    if folder and (own := own_system_of(folder, recipe.chat, Path(recipe.root))):
        notes.append(
            "the base's chat template gives a conversation that has no system text its own, "
            f"{shorten(own, 100)!r}; chat.system says another"
        )
    return notes


def _budget(asked: PlanAsked, usual: str, device: Device) -> ScratchBudget:
    """What so many parameters (`usual` where none are given) and tokens take; 20 tokens for each parameter where none
    are given."""
    count = read_count(asked.parameters or usual, "--parameters")
    much = read_count(asked.tokens, "--tokens") if asked.tokens else CHINCHILLA_TOKENS * count
    return ScratchBudget(count, much, device, asked.gpus)


def _scaling(asked: PlanAsked) -> PlanAnswer:
    """What the runs named behind the word say of a model of another size."""
    from afina.plan.scaling import fit_scaling
    from afina.plan.scaling_answer import ScalingAnswer
    from afina.walk.scaling_runs import scaling_runs

    budget = _budget(asked, "1B", find_device(asked.devices[0]) if asked.devices else local_device())
    runs = scaling_runs([Path(each) for each in asked.overrides])
    found = ScalingAnswer(fit_scaling(runs.points), runs.unit, runs.kind, budget, runs.notes)
    return PlanAnswer(found.as_json(), found.describe())


def _devices(asked: PlanAsked, recipe: Recipe) -> list[Device]:
    if asked.all_devices:
        return [find_device(name) for name in known_devices()]
    names = [name.strip() for given in asked.devices for name in given.split(",") if name.strip()]
    if asked.devices and not names:  # as of a variable that is not set
        raise RecipeError("no device is named", "name one, or leave --device out for this machine", "--device")
    return [find_device(name) for name in names] or [local_device(recipe.device)]


def _plan(recipe: Recipe, shape: Shape, learning: Learning, device: Device, gpus: int, parallel: Parallel) -> Plan:
    planned = partial(plan_run, recipe, shape, learning.tokens, device, first=learning.first, notes=learning.notes)
    job = planned(devices=gpus, parallel=parallel)
    measured = learned(job) if gpus == 1 else None
    return planned(correction=measured) if measured else job


def _one(asked: PlanAsked, recipe: Recipe, shape: Shape, learning: Learning, plan: Plan) -> PlanAnswer:
    tokens, first = learning.tokens, learning.first
    several: dict[str, Any] = {"first": first, "devices": asked.gpus, "parallel": plan.parallel}
    suggestions = [] if plan.fits == "yes" else what_would_fit(recipe, shape, tokens, plan.device, **several)
    cheapest = cheapest_device(recipe, shape, tokens, **several)
    fitting = with_settings(recipe, suggestions[0].settings) if suggestions else recipe
    context = largest_context(fitting, shape, plan.device)
    model = largest_model(fitting, tokens, plan.device, first=first)
    values = plan.as_json() | {
        "would_fit": [suggestion.as_json() for suggestion in suggestions],
        "cheapest_device": {"name": cheapest.device.name, **cheapest.as_json()["money"]} if cheapest else None,
        "largest_context": context,
        "largest_model": {"name": model[0], "parameters": model[1]} if model else None,
    }
    found = PlanAnswer(values, describe(plan) + "\n" + describe_advice(suggestions, cheapest, context, model, plan))
    if asked.apply:
        _apply(asked, recipe, plan, suggestions, found)
    else:
        found.refused = _refusal(plan, recipe, " or ".join(suggestion.in_words() for suggestion in suggestions[:2]))
        _refuse_rows(asked.runs / recipe.name, recipe, found)
    if found.refused:  # in the one value that a machine reads
        found.values["refused"] = found.refused.as_json()
    return found


def check_rows(run: Path, recipe: Recipe) -> None:
    """
    Raises:
        DataError: an audit here has found rows that a training will refuse, wherever it is.
    """
    if problems := _rows_refused(run, recipe):
        raise DataError(problems=problems)


def _rows_refused(run: Path, recipe: Recipe) -> list[Problem]:
    """Why a training will refuse the rows, where an audit of the dataset by this recipe has found some such."""
    if not (run / "audit.json").is_file():
        return []
    from afina.walk.audit import known_problems  # all that an audit needs, which a plan needs only then

    return known_problems(run, recipe)


def _refuse_rows(run: Path, recipe: Recipe, found: PlanAnswer) -> None:
    """Say no for rows that a training will refuse."""
    if problems := _rows_refused(run, recipe):
        found.values["refused_rows"] = [problem.what for problem in problems]
        found.refused = DataError(problems=[*problems, *(found.refused.problems if found.refused else [])])


def _apply(asked: PlanAsked, recipe: Recipe, plan: Plan, suggestions: list[Suggestion], found: PlanAnswer) -> None:
    """Write the cheapest settings that fit into the recipe's file."""
    if plan.fits == "yes":
        found.remarks.append("it fits as it is; the recipe was not changed")
    elif not suggestions:
        found.refused = _refusal(plan, recipe, "") or AfinaError(
            "no settings make it surely fit", f"take {smaller_model(recipe)}, or a device with more memory", "memory"
        )
    else:
        file = Path(asked.recipe)
        write_whole(file, change_recipe(file, suggestions[0].settings))
        found.values["applied"] = suggestions[0].settings
        found.remarks.append(f"{file}: set {suggestions[0].in_words()}")


def _several(plans: list[Plan], recipe: Recipe) -> PlanAnswer:
    refusals = [_refusal(plan, recipe, "") for plan in plans]
    refused = None if any(each is None for each in refusals) else refusals[0]
    return PlanAnswer([plan.as_json() for plan in plans], describe_several(plans), refused=refused)


def _refusal(plan: Plan, recipe: Recipe, helps: str) -> AfinaError | None:
    try:
        check_plan(plan, recipe, helps=helps)
    except AfinaError as error:
        return error
    return None


def _serving(recipe: Recipe, devices: list[Device], serving: Serving, *, any_context: bool) -> PlanAnswer:
    """One line per device and what remains.

    Args:
        any_context: whether a shorter context than that of `serving` may be planned.

    Raises:
        RecipeError: a recurrent model by another engine than afina's own, which no other opens; a context beyond what
            the model sees.
    """
    from afina.llamacpp.gguf_write import ARCHITECTURES  # a chat template's reader comes with it

    if recipe.base is None:
        shape = recipe_shape(recipe)
    else:
        shape = find_shape(
            recipe.base, recipe.base_revision, quantized=True, trust_remote_code=recipe.trust_remote_code
        )
    if shape.recurrent and serving.engine != "transformers":
        raise RecipeError(
            f"{serving.engine} does not open a recurrent model (LSTM or GRU): nothing but afina does",
            "--serve transformers, which stands for afina's own engine",
            "--serve",
        )
    if shape.max_positions and serving.context > shape.max_positions:
        if not any_context:
            what = f"a context of {serving.context} is asked for, the model sees {shape.max_positions}"
            raise RecipeError(what, f"--context {shape.max_positions}, or less", "--context")
        serving = replace(serving, context=shape.max_positions)
    kinds = SHOWN_KINDS if shape.model_type in ARCHITECTURES else ()
    plans = [plan_serving(shape, device, serving, kinds) for device in devices]
    order: dict[Literal["yes", "no", "maybe"], int] = {"yes": 0, "maybe": 1, "no": 2}
    rows = [f"{'device':<22}{'fits':<7}{'weights':>10}{'KV cache':>10}{'longest max_model_len':>30}"]
    for found in sorted(plans, key=lambda each: order[each["fits"]]):
        parts, longest = found["memory"]["parts"], found["max_model_len"]
        reach = f"{longest['point']:.0f} ({longest['low']:.0f} to {longest['high']:.0f})"
        rows.append(
            f"{found['device']['name']:<22}{found['fits']:<7}{show_bytes(parts['weights']['point']):>10}"
            f"{show_bytes(parts['KV cache']['point']):>10}{reach:>30}"
        )
    asked = f"{serving.engine}, {serving.users} x {serving.context} tokens, {serving.lora_slots} LoRA slots"
    kept = f"KV cache: {show_bytes(shape.kv_bytes_per_token(serving.cache_bytes))} a token"
    sure = f"how sure the memory is: {serving_sureness(serving).in_words}"
    speeds = [
        f"one answer on {device.name}, {each.in_words}"
        for device in devices
        for each in speeds_on_cpu(shape, device, serving.context, kinds)
    ]
    return PlanAnswer(plans[0] if len(plans) == 1 else plans, "\n".join([asked, *rows, kept, sure, *speeds]))
