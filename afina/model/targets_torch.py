"""What an adapter adapts of a model, and what it leaves alone and why: read off its modules, never off its name.

`all-linear` means every matrix that a text passes and that has a gradient of its own: not the output layer, not what
lies beside the text model, and none of those that PEFT would take for a plain matrix though they are something else.
Works on a model that is built on the ``meta`` device too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from afina.model.decoder_torch import text_decoder
from afina.recipe import Adapter

OUTPUT, BESIDE = "the output layer", "beside the text model"
ROUTER, INDEXER = "routers, which choose experts", "indexers, which choose what attention sees and have no gradient"
OTHER_FORM = "matrices (routers or grouped ones) of a form that PEFT does not know"
STATE_SPACE = "matrices of state spaces, whose kernels read the weights past the layer"
COEFFICIENTS = "coefficients that the model bounds itself while it learns"
OF_LAYERS = "small matrices of the model's own, by which layers that share a block differ"
CONVOLUTION = "convolutions"
EXPERTS_FORM = "experts, which PEFT cannot adapt with dropout, in 4 bits or as dora, pissa or loftq"
EXPERTS_NAMED = "experts, which are not named"
NOT_NAMED = "matrices that are not named"


@dataclass(frozen=True)
class Targets:
    """Full names, of the model inside."""

    modules: tuple[str, ...]
    """Matrices with an adapter each."""
    parameters: tuple[str, ...]
    """Stacks of experts, E x in x out or E x out x in, with an adapter for each of the E."""
    left_out: dict[str, tuple[str, ...]]
    """What stays as it is, by the reason."""

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, for the run's folder."""
        left_out = {why: len(names) for why, names in self.left_out.items()}
        return {"matrices": len(self.modules), "expert_stacks": len(self.parameters), "left_out": left_out}

    def __str__(self) -> str:
        adapted = [f"{len(self.modules):,} matrices"]
        if self.parameters:
            adapted.append(f"{len(self.parameters):,} stacks of experts")
        text = f"adapts {' and '.join(adapted)}"
        kept = [f"{len(names):,} {why} ({summary(names)})" for why, names in self.left_out.items() if why != OUTPUT]
        return text + (f"; leaves out {'; '.join(kept)}" if kept else "")


def all_linear(model: Any, adapter: Adapter) -> Targets:
    """What `all-linear` adapts of a model without an adapter."""
    stacks = tuple(name for name, _, _ in expert_stacks(model))
    others = _others(model)
    if not adapter.adapts_experts:
        stacks, others = (), others | {EXPERTS_FORM: stacks}
    return _sorted_out(list(matrices(model)), stacks, others)


def adapted(model: Any) -> Targets:
    """What a PEFT model with one adapter adapts, by PEFT's own account; reasons of the rest as far as they are known.

    Args:
        model: PEFT's around a transformers model.
    """
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    inner = model.get_base_model()
    wrapped = {name: part for name, part in inner.named_modules() if isinstance(part, LoraLayer) and part.lora_A}
    parameters = [
        f"{_bare(name)}.{part.parameter_name}" for name, part in wrapped.items() if isinstance(part, ParamWrapper)
    ]
    taken = {name for name, part in wrapped.items() if not isinstance(part, ParamWrapper)}
    modules = [(name, "" if name in taken else why or NOT_NAMED) for name, why in matrices(inner)]
    config = next(iter(model.peft_config.values()))
    plain = not config.lora_dropout and not config.use_dora and config.init_lora_weights is True
    held = any(_is_packed(part) for part in inner.modules())
    rest = tuple(name for name, _, _ in expert_stacks(inner) if name not in parameters)
    why = EXPERTS_NAMED if plain and not held else EXPERTS_FORM
    return _sorted_out(modules, tuple(parameters), _others(inner) | {why: rest})


def _bare(name: str) -> str:
    """The name that a module had before PEFT wrapped it."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def _sorted_out(
    modules: list[tuple[str, str]], parameters: tuple[str, ...], others: dict[str, tuple[str, ...]]
) -> Targets:
    reasons = dict.fromkeys([*(why for _, why in modules), *others])
    found = {why: (*(name for name, each in modules if each == why), *others.get(why, ())) for why in reasons}
    taken = found.pop("", ())
    return Targets(taken, tuple(sorted(parameters)), {why: names for why, names in found.items() if names})


def _others(inner: Any) -> dict[str, tuple[str, ...]]:
    """What is no matrix to PEFT: convolutions, and routers that keep theirs as a parameter."""
    found: dict[str, list[str]] = {CONVOLUTION: [], ROUTER: []}
    text = {id(part) for part in text_decoder(inner).modules()}
    for name, part in inner.named_modules():
        if id(part) in text and isinstance(part, torch.nn.modules.conv._ConvNd):
            found[CONVOLUTION].append(name)
        elif id(part) in text and "Router" in type(part).__name__ and not is_matrix(part):
            found[ROUTER] += [name for own, weight in part.named_parameters(recurse=False) if weight.dim() == 2]
    return {why: tuple(names) for why, names in found.items()}


def matrices(inner: Any) -> Iterator[tuple[str, str]]:
    """Name of each matrix, and why it is left out; empty where it is not."""
    head, text = inner.get_output_embeddings(), {id(part) for part in text_decoder(inner).modules()}
    experts = [(name, count) for name, count in _experts(inner)]
    for name, part in inner.named_modules():
        if name.endswith("base_layer") or ".lora_" in name:
            continue  # PEFT's layer around it stands for it
        if not is_matrix(layer := _unwrapped(part)):
            continue
        if part is head or layer is head:
            yield name, OUTPUT
        elif id(part) not in text:
            yield name, BESIDE
        elif _routes(inner, name, layer, experts):
            yield name, ROUTER if _is_plain(layer) else OTHER_FORM
        elif re.search(r"(^|\.)indexer(\.|$)", name):
            yield name, INDEXER
        elif name.endswith(("prediction_coefs", "correction_coefs")):  # of AltUp, in Gemma 3n
            yield name, COEFFICIENTS
        elif "_adapter_list." in name:  # Zamba2's, of which a block that few layers share has some that none reads
            yield name, OF_LAYERS
        elif not _is_plain(layer):
            yield name, OTHER_FORM
        elif name.endswith(("out_proj", "dt_proj")) and _is_state_space(inner.get_submodule(name.rpartition(".")[0])):
            yield name, STATE_SPACE
        else:
            yield name, ""


def expert_stacks(inner: Any) -> Iterator[tuple[str, Any, str]]:
    """The matrices of many experts in one parameter of three dimensions: full name, module, name within."""
    for name, part in text_decoder(inner).named_modules():
        if isinstance(part, torch.nn.modules.conv._ConvNd) or hasattr(part, "lora_A"):
            continue
        for own, shape in _shapes(part):
            of_experts = (
                getattr(part, "num_experts", None) == shape[0] or "expert" in f"{name}.{type(part).__name__}".lower()
            )
            if len(shape) == 3 and min(shape) > 1 and of_experts:
                yield f"{_full_name(inner, part)}.{own}", part, own


def _shapes(part: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of a module's own parameters; of those in 4 bits what they stand for."""
    for own, weight in part.named_parameters(recurse=False):
        yield own, tuple(weight.shape)
    for own, held in getattr(part, "parametrizations", {}).items():
        yield own, tuple(held[0].quant_state.shape)


def _full_name(inner: Any, part: Any) -> str:
    return _bare(next(name for name, each in inner.named_modules() if each is part))


def _experts(inner: Any) -> Iterator[tuple[str, int]]:
    """Where experts are kept, by the name of what holds them, and how many there are."""
    for name, part, own in expert_stacks(inner):
        yield name.rpartition(".")[0].rpartition(".")[0], dict(_shapes(part))[own][0]
    for name, part in inner.named_modules():
        if isinstance(part, torch.nn.ModuleList) and name.endswith("experts") and len(part) > 1:
            yield name.rpartition(".")[0], len(part)


def _routes(inner: Any, name: str, layer: Any, experts: list[tuple[str, int]]) -> bool:
    """Whether a matrix chooses among experts, or weighs a shared one."""
    parent = type(inner.get_submodule(name.rpartition(".")[0])).__name__
    if re.search(r"Router|TopkGate|TopKGate", f"{type(layer).__name__} {parent}"):
        return True
    results = layer.weight.shape[1] if type(layer).__name__ == "Conv1D" else layer.out_features
    for holder, count in experts:
        inside = name.removeprefix(f"{holder}.")
        if inside != name and results in (1, count) and re.search(r"(^|\.)[a-z_]*(gate|rout)[a-z_]*(\.|$)", inside):
            return True
    return False


def _unwrapped(part: Any) -> Any:
    return part.get_base_layer() if hasattr(part, "get_base_layer") and hasattr(part, "lora_A") else part


def is_matrix(part: Any) -> bool:
    """Whether PEFT's `all-linear` takes this for a matrix."""
    return isinstance(part, torch.nn.Linear) or type(part).__name__ == "Conv1D"


@torch.no_grad()
def _is_plain(layer: Any) -> bool:
    """Whether a layer multiplies its input with its weight and does nothing else; tried if it has its own forward."""
    if type(layer).forward is torch.nn.Linear.forward or type(layer).__name__ in (
        "Conv1D",
        "Linear4bit",
        "Linear8bitLt",
    ):
        return True
    x = torch.ones(2, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype)
    try:
        found = layer(x)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    if not isinstance(found, torch.Tensor) or found.shape != (2, layer.out_features):
        return False
    return bool(found.is_meta or torch.allclose(found, F.linear(x, layer.weight, layer.bias), rtol=1e-2, atol=1e-4))


def _is_state_space(mixer: Any) -> bool:
    """Mamba and its kin: a decay for each state, and what passes by it."""
    return hasattr(mixer, "A_log") and hasattr(mixer, "D")


def share_in_4_bits(model: Any) -> float:
    """Of all numbers of the base, adapters not counted."""
    packed = {id(part.weight): part.weight.quant_state.shape.numel() for part in model.modules() if _is_packed(part)}
    for part in model.modules():
        for held in getattr(part, "parametrizations", {}).values():
            if hasattr(held[0], "quant_state"):
                packed[id(held.original)] = held[0].quant_state.shape.numel()
    rest = sum(
        weight.numel() for name, weight in model.named_parameters() if id(weight) not in packed and "lora_" not in name
    )
    return sum(packed.values()) / max(1, sum(packed.values()) + rest)


def _is_packed(part: Any) -> bool:
    return getattr(getattr(part, "weight", None), "quant_state", None) is not None


def without_gradient(model: Any, loss: torch.Tensor) -> list[str]:
    """Names of trained parameters that a loss does not depend on."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, [weight for _, weight in trained], allow_unused=True)
    return [name for (name, _), gradient in zip(trained, gradients, strict=True) if gradient is None]


def summary(names: tuple[str, ...]) -> str:
    """Last parts of names and how many there are of each.

    >>> summary(("a.q_proj", "b.q_proj", "b.gate"))
    '2 q_proj, 1 gate'
    """
    return ", ".join(f"{count} {name}" for name, count in Counter(name.rpartition(".")[2] for name in names).items())
