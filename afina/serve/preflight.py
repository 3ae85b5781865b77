"""What can be known to go wrong before any weights are loaded, all of it at once and in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, Problem, RecipeError
from afina.llamacpp.gguf_write import check_architecture, unsaid_window
from afina.llamacpp.lora_write import refused_by_llama_cpp, unusual_adapter
from afina.llamacpp.program import INSTALL, find_llama_cpp
from afina.model.base import find_base, read_adapter_config, read_identity
from afina.model.base_damage import read_config
from afina.model.base_kind import Program
from afina.model.shape_read import shape_of_folder
from afina.plan.device import Device, local_device
from afina.plan.interval import Interval
from afina.plan.serving import (
    SHOWN_KINDS,
    Engine,
    EngineSpeed,
    Serving,
    cache_places,
    largest_context,
    speeds_on_cpu,
)
from afina.serve.listening import not_listening
from afina.serve.opened import Target

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` takes (vLLM 0.11 to 0.32)."""


@dataclass(slots=True)
class Preflight:
    """What is known before the start."""

    base: Path
    context: int
    """The context that is served."""
    why: str
    """Where that number comes from."""
    rank: int = 0
    """Largest of the adapters."""
    places: int = 1
    """Answers that a llama.cpp server writes at a time."""
    speeds: list[EngineSpeed] = field(default_factory=list)
    """What the engines write on this CPU, the fastest first."""
    problems: list[Problem] = field(default_factory=list)


def _opener(engine: Engine) -> Program:
    """What has to open the base: llama.cpp is given what transformers opens."""
    return "transformers" if engine == "llamacpp" else engine


def look_before(
    target: Target,
    adapters: Mapping[str, Target],
    *,
    engine: Engine,
    host: str,
    port: int | None,
    max_model_len: int | None = None,
    weights: str = "16bit",
    device: Device | None = None,
    anyway: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Preflight:
    """Port, weights, adapters of the same base, rank, template, and memory for the context.

    Args:
        port: None where nothing will be started.
        weights: how they are held, see :class:`afina.plan.serving.Serving`.
        anyway: serve a context that may not fit.
        say: told where the base has to be read from a GGUF first.

    Raises:
        AfinaError: one with every problem in it.
    """
    problems: list[Problem] = []
    if port is not None and (in_the_way := not_listening(host, port)):
        problems.append(in_the_way)
    remote_code = bool(target.recipe and target.recipe.trust_remote_code)
    revision = target.recipe.base_revision if target.recipe and target.adapter else None
    # without it nothing else can be looked at
    opener = _opener(engine)
    base = find_base(target.base, revision=revision, trust_remote_code=remote_code, program=opener, say=say)
    not_by_llama_cpp = _not_as_gguf(base)
    if engine == "llamacpp" and find_llama_cpp() is None:
        problems.append(Problem("llama.cpp is not here", INSTALL, "--engine llamacpp"))
    ranks = [0]
    own = {target.name: target} if target.adapter else {}
    for name, each in (own | dict(adapters)).items():
        folder = each.adapter or Path(each.base)
        config = _adapter_config(folder, name, problems)
        if config:
            ranks.append(max([int(config.get("r") or 0), *(config.get("rank_pattern") or {}).values()]))
            not_by_llama_cpp += refused_by_llama_cpp(config, name)
            if engine == "vllm":
                problems += _refused_by_vllm(config, name)
            trained_on = read_identity(folder)
            first = read_identity(target.adapter) if target.adapter else None
            if trained_on and first and trained_on.differences(first):
                parts = " and ".join(trained_on.differences(first))
                problems.append(
                    Problem(
                        f"{name} was trained on another base than {target.name} ({parts})",
                        "serve it by itself",
                        str(folder),
                    )
                )
    if engine == "llamacpp":
        problems += not_by_llama_cpp
    shape = shape_of_folder(base, trust_remote_code=remote_code)
    device = device or local_device()
    serving = Serving(
        engine=engine,
        weights=weights,
        lora_slots=len(ranks) - 1 if engine == "vllm" else 0,
        lora_rank=max(max(ranks), 1),
    )
    room = largest_context(shape, device, serving)
    context, why = choose_context(shape.max_positions, room, max_model_len, device, problems, anyway=anyway)
    if engine == "llamacpp" and (window := unsaid_window(read_config(base))) and context > window:
        context, why = window, f"a layer of the model sees {window} tokens, and llama.cpp has it see all"
        if max_model_len is not None:
            what = f"a context of {max_model_len} is asked for: {why}"
            problems.append(Problem(what, f"--max-model-len {window}, or --engine local", "--max-model-len"))
    if problems:
        raise AfinaError(problems=problems)
    places = cache_places(shape, device, replace(serving, context=context))
    kinds = [weights.removeprefix("gguf-")] if engine == "llamacpp" else () if not_by_llama_cpp else SHOWN_KINDS
    return Preflight(base, context, why, max(ranks), places, speeds_on_cpu(shape, device, context, kinds))


def choose_context(
    positions: int,
    room: Interval,
    wanted: int | None,
    device: Device,
    problems: list[Problem],
    *,
    anyway: bool,
) -> tuple[int, str]:
    """The context to serve, and why."""
    space = f"{device.name} has room for about {room.point:,.0f} tokens beside the weights"
    if wanted is not None and positions and wanted > positions:
        problems.append(
            Problem(
                f"a context of {wanted} is asked for, the model sees {positions}", "ask for less", "--max-model-len"
            )
        )
    if (wanted or 1) > room.low and not anyway:
        span = f"{room.low:,.0f} to {room.high:,.0f}"
        fits = (
            f"--max-model-len {room.low:.0f}" if room.low >= 16 else "a smaller model, 4-bit weights or a larger device"
        )
        problems.append(
            Problem(
                f"a context of {wanted or 'any length'} does not fit for sure: {space} ({span})",
                f"{fits}; or --anyway to take the risk",
                "--max-model-len",
            )
        )
    if wanted is not None:
        return wanted, f"as asked; {space}"
    context = int(min(positions or room.low, max(room.low, 16)))
    return context, "all that the model sees" if context == positions else space


def _adapter_config(folder: Path, name: str, problems: list[Problem]) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file():
        problems.append(
            Problem(f"{name}: {folder} has no adapter", "give a run, or PEFT's own folder", f"--adapter {name}")
        )
        return {}
    if not (folder / "adapter_model.safetensors").is_file():
        problems.append(
            Problem(f"{name}: {folder} has no adapter_model.safetensors", "copy the whole folder", f"--adapter {name}")
        )
    return read_adapter_config(folder)


def _refused_by_vllm(config: Mapping[str, Any], name: str) -> list[Problem]:
    """What vLLM refuses after minutes of loading, or, before 0.32, served wrongly (its ``lora/peft_helper.py``)."""
    merge = f"merge it: afina export {name} --to merged, and serve that folder"
    found = [Problem(f"{name} {each}, which vLLM does not serve", merge) for each in unusual_adapter(config)]
    rank = max([int(config.get("r") or 0), *(config.get("rank_pattern") or {}).values()])
    if rank > VLLM_RANKS[-1]:
        found.append(Problem(f"{name} has rank {rank}, vLLM takes {VLLM_RANKS[-1]} at most", merge))
    return found


def _not_as_gguf(base: Path) -> list[Problem]:
    """What the base's configuration says and llama.cpp's format could not."""
    try:
        check_architecture(read_config(base))
    except AfinaError as error:
        return [replace(each, fix="serve it with --engine local", where=str(base)) for each in error.problems]
    return []


def check_address(host: str, api_key: str | None) -> None:
    """
    Raises:
        RecipeError: other machines could ask, and nobody asks them for a key; a key that no client could send.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise RecipeError(
            "the key is empty" if not api_key.strip() else "the key holds what no client can send in a header",
            "take printable letters of ASCII, without white space around them; or leave it out, and nobody is asked",
            "--api-key",
        )
    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        raise RecipeError(
            f"{host} lets other machines ask this model, and there is no key",
            "give --api-key (or AFINA_API_KEY), or stay with 127.0.0.1",
            "--host",
        )
