"""How a run's training computes: chosen once, noted among its inputs, and kept when it goes on. And what it took."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from afina.errors import RecipeError
from afina.model.choices import Choices, Machine, choose, impossible
from afina.run import hash_value, read_json

if TYPE_CHECKING:
    from afina.train.checkpoint import LoopState
    from afina.walk.walk import Training, Walk


def with_choices(walk: Walk, stage: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of training with ``computed``, how it computes.

    What another start of the same inputs noted is taken again where the recipe does not name another: numbers of
    two kinds in one training would be worse than an error.

    Raises:
        RecipeError: the recipe names what cannot be had here.
    """
    begun = walk.run.begun(stage) or {}
    noted = begun.pop("computed", None)
    if noted and hash_value(begun) == hash_value(inputs) and Choices(**noted).meet(walk.recipe.train):
        return inputs | {"computed": noted}
    return inputs | {"computed": choose_here(walk).as_json()}


def choices_of(walk: Walk, inputs: dict[str, Any]) -> Choices:
    """The noted choices, with the reasons where they would be chosen again here.

    Raises:
        RecipeError: this machine cannot go on with them.
    """
    noted, machine = Choices(**inputs["computed"]), _machine(walk)
    if problems := list(impossible(noted.settings(walk.recipe.train), machine, _model_type(walk))):
        kept = "; the training began with it, and starts anew with anything else"
        raise RecipeError(problems=[replace(problem, fix=problem.fix + kept) for problem in problems])
    now = choose_here(walk)
    if noted.as_json() == now.as_json():
        return now
    return replace(noted, why=(f"as it began; here it would be {replace(now, why=())}",))


def peak_flops_of(device: Any, precision: str) -> tuple[float | None, str]:
    """Floating-point operations per second that MFU is a share of, and where the figure comes from or why there is
    none."""
    from afina.plan.device import local_device
    from afina.train.flops_torch import measured_peak

    if device.type == "cpu":
        if precision != "fp32":
            return None, f"the rate of {precision} on a CPU is not measured"
        return measured_peak(), "float32 matrix products, measured here"
    if device.type == "cuda" and precision == "fp32":
        return None, "the table of devices has no rate of fp32"
    found = local_device(device.type)
    return found.flops_per_second, f"{found.name} in plan/devices.json"


def tracking_of(walk: Walk, training: Training, fingerprint: str) -> AbstractContextManager[Callable[..., None]]:
    """The log of a stage of training, with the trackers that the recipe names behind it."""
    from afina.train.trackers import tracked

    if walk.ranks and not walk.ranks.first:  # only the first process is heard
        return nullcontext(walk.run.log)
    shown = walk.recipe.model_dump(mode="json", include={"base", "adapter", "seed"})
    return tracked(
        walk.run.log if training.name == "train" else partial(walk.run.log, stage=training.name),
        walk.run.say,
        training.settings.trackers,
        name=walk.recipe.name,
        folder=walk.folder,
        stage=training.name,
        training=fingerprint,
        settings=shown | {"train": training.settings.model_dump(mode="json")},
    )


def what_it_took(model: Any, state: LoopState, device: Any, peak_flops: float | None) -> dict[str, Any]:
    """The figures that a finished training leaves among the run's stages."""
    import resource

    import torch

    from afina.train.flops_torch import flops_per_token

    flops_token, flops_target = flops_per_token(model)
    seconds = max(state.seconds, 1e-9)
    mfu = (flops_token * state.tokens + flops_target * state.targets) / seconds / peak_flops if peak_flops else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved()
    return {
        "steps": state.step,
        "stopped": state.stopped,
        "best_step": state.best_step,
        "best_loss": state.best_loss,
        "went_back": state.tries,
        "rate_factor": state.rate_factor,
        "splits": state.splits,
        "tokens": state.tokens,
        "target_tokens": state.targets,
        "train_seconds": round(state.seconds, 3),
        "tokens_per_second": round(state.tokens / seconds, 1),
        "mfu": None if mfu is None else round(mfu, 4),
        "peak_bytes": peak,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }


def _machine(walk: Walk) -> Machine:
    from afina.model.load_torch import pick_device, this_machine

    return this_machine(pick_device(walk.recipe.device))


def choose_here(walk: Walk) -> Choices:
    """What this machine would choose now.

    Raises:
        RecipeError: the recipe names what cannot be had here.
    """
    plan = walk.folder / "plan.json"
    planned: dict[str, Any] = read_json(plan) if plan.exists() else {}
    return choose(
        walk.recipe,
        _machine(walk),
        model_type=_model_type(walk),
        # Several processes make room by sharing the weights out, which 8-bit moments cannot follow.
        fits="yes" if walk.ranks else planned.get("fits", "yes"),
    )


def _model_type(walk: Walk) -> str:
    return "llama" if walk.base_folder is None else str(read_json(walk.base_folder / "config.json")["model_type"])
