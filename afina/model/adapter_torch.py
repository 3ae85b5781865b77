"""The variants of LoRA that PEFT carries, and saving them so that plain PEFT opens them on the untouched base.

lora     W + alpha/r * B A                  arXiv 2106.09685
rslora   W + alpha/sqrt(r) * B A            arXiv 2312.03732
dora     m * (W + alpha/r * B A) / |.|      arXiv 2402.09353
pissa    A, B from W's largest singular values, W less by them      arXiv 2404.02948
loftq    A, B from what NF4 lost of W       arXiv 2310.08659
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.base_damage import weight_files
from afina.model.decoder_torch import not_text, text_config
from afina.model.kept_torch import keep_rest
from afina.model.targets_torch import OTHER_FORM, OUTPUT, all_linear, expert_stacks, matrices
from afina.recipe import Adapter


def adapter_config(model: Any, adapter: Adapter) -> Any:
    """PEFT's configuration of a fresh adapter for a model without one.

    Raises:
        RecipeError: ``adapter.targets`` names a layer that is no plain matrix.
    """
    from peft.tuners.lora import LoraConfig

    modules, parameters = _targets(model, adapter)
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=modules,
        target_parameters=parameters or None,
        exclude_modules=not_text(model) if adapter.targets != "all-linear" else None,
        modules_to_save=adapter.modules_to_save or None,
        use_rslora=adapter.variant == "rslora",
        use_dora=adapter.variant == "dora",
        init_lora_weights="pissa" if adapter.variant == "pissa" else True,
        task_type="CAUSAL_LM",
    )


def _targets(model: Any, adapter: Adapter) -> tuple[str | list[str], list[str]]:
    """PEFT's target modules and target parameters."""
    if adapter.num_layers is not None:
        return _targets_of_last(model, adapter, adapter.num_layers)
    if adapter.targets == "all-linear":
        found = all_linear(model, adapter)
        # What PEFT finds by itself is left to it: adapters then name their targets as everybody's do. Of mixtures it
        # would take routers too.
        as_peft = set(found.left_out) <= {OUTPUT} and not found.parameters
        return "all-linear" if as_peft else list(found.modules), list(found.parameters)
    names = list(adapter.targets)
    for full, why in matrices(model):
        if why == OTHER_FORM and any(_named(full, name) for name in names):
            raise RecipeError(
                f"{full} is a {type(model.get_submodule(full)).__name__}, which PEFT cannot adapt",
                f"remove {full.rpartition('.')[2]} from adapter.targets",
                "adapter.targets",
            )
    stacks = [full for full, _, _ in expert_stacks(model)]
    of_experts = [name for name in names if any(_named(full, name) or _held_in(full, name) for full in stacks)]
    parameters = [full for full in stacks if any(_named(full, name) or _held_in(full, name) for name in of_experts)]
    modules = [
        name for name in names if name not in of_experts or any(_named(full, name) for full, _ in matrices(model))
    ]
    return modules, parameters


def _targets_of_last(model: Any, adapter: Adapter, layers: int) -> tuple[list[str], list[str]]:
    """Of the same targets those in the last layers, by their full names.

    Raises:
        RecipeError: the model has fewer layers.
    """
    depth = int(text_config(model).num_hidden_layers)
    if layers > depth:
        raise RecipeError(
            f"adapter.num_layers is {layers}, and the base has {depth} layers",
            "leave it out for all",
            "adapter.num_layers",
        )
    modules, parameters = _targets(model, adapter.model_copy(update={"num_layers": None}))
    if isinstance(modules, str):
        modules = list(all_linear(model, adapter).modules)
    named = [full for full, _ in matrices(model) if any(_named(full, name) for name in modules)]

    def among_last(full: str) -> bool:
        number = re.search(r"\.(\d+)\.", full)
        return number is not None and int(number[1]) >= depth - layers

    return [*filter(among_last, named)], [*filter(among_last, parameters)]


def _named(full: str, name: str) -> bool:
    return f".{full}".endswith(f".{name}")


def _held_in(full: str, name: str) -> bool:
    """Whether a name is that of the module that holds a parameter."""
    return _named(full.rpartition(".")[0], name)


def start_variant(model: Any, adapter: Adapter) -> None:
    """Give a fresh PEFT model what its variant starts from, beyond what PEFT has done.

    Raises:
        RecipeError: the rank is larger than a matrix, which has no more singular values; a layer of
            ``adapter.modules_to_save`` does not exist.
    """
    _check_modules_to_save(model, adapter)
    if adapter.variant in ("pissa", "loftq"):
        _check_rank(model, adapter.rank)
    if adapter.variant == "loftq":
        _start_loftq(model)
    if adapter.variant == "pissa":
        model.taken_from_base = {name: value.to("cpu", copy=True) for name, value in _adapter_tensors(model).items()}


def save_trained(model: Any, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write an adapter, or a whole model, in its libraries' own format, with the generation config of either: where
    an answer ends may differ from the base's.

    Args:
        weights: what was trained, by the names of its parameters, where `model` holds only a part of it.

    PiSSA took s*B0*A0 out of the base: W' + s*B*A = W + s*(B*A - B0*A0), a plain LoRA of twice the rank
    on the untouched base. PEFT's own conversion would lose ``modules_to_save``.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # transformers draws one of its own for one shard
    model.save_pretrained(folder, **({"state_dict": weights} if weights else {}))
    if hasattr(model, "peft_config"):
        model.generation_config.save_pretrained(folder)
    elif (base := Path(model.name_or_path)).is_dir():
        keep_rest(model, base, folder)
    if not hasattr(model, "taken_from_base"):
        return
    from safetensors.torch import load_file, save_file

    trained, twice = load_file(folder / "adapter_model.safetensors"), {}
    for name, value in trained.items():
        before = model.taken_from_base[name].to(value.dtype)
        if ".lora_A." in name:
            value = torch.cat([value, before], dim=0)
        elif ".lora_B." in name:
            value = torch.cat([value, -before], dim=1)
        twice[name] = value.contiguous()
    save_file(twice, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"], "init_lora_weights": True}
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    return tensors


def _lora_layers(model: Any) -> list[tuple[str, Any]]:
    """The adapted linear layers, by their names in the base."""
    return [(name, part) for name, part in model.get_base_model().named_modules() if len(getattr(part, "lora_A", ()))]


def _check_modules_to_save(model: Any, adapter: Adapter) -> None:
    layers = {name.rpartition(".")[2] for name, _ in model.get_base_model().named_modules()}
    if missing := [name for name in adapter.modules_to_save if name.rpartition(".")[2] not in layers]:
        raise RecipeError(
            f"the base has no layer {', '.join(missing)}",
            "its embedding and its output are " + " and ".join(_ends_of(model.get_base_model())),
            "adapter.modules_to_save",
        )


def _ends_of(base: Any) -> list[str]:
    """Names of the embedding and the output layer, as this architecture calls them."""
    ends = {id(base.get_input_embeddings()), id(base.get_output_embeddings())}
    return [name.rpartition(".")[2] for name, part in base.named_modules() if id(part) in ends and name]


def _check_rank(model: Any, rank: int) -> None:
    smallest, name = min((min(layer.in_features, layer.out_features), name) for name, layer in _lora_layers(model))
    if rank > smallest:
        raise RecipeError(
            f"{name} has {smallest} singular values, fewer than the rank ({rank})",
            f"adapter.rank: {smallest} or less, or leave the layer out of adapter.targets",
            "adapter.rank",
        )


@torch.no_grad()
def _start_loftq(model: Any) -> None:
    """Set s*B*A to the best approximation of rank r to W - NF4(W); the 4-bit base stays as it is.

    PEFT's own ``replace_lora_weights_loftq`` needs a GPU and leaves out the scale s = alpha/r.
    """
    from bitsandbytes.functional import dequantize_4bit

    full = _FullWeights(Path(model.get_base_model().name_or_path))
    for name, layer in _lora_layers(model):
        held = layer.get_base_layer().weight
        if not hasattr(held, "quant_state"):
            continue  # a layer that is not held in 4 bits lost nothing
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        lost = full.read(f"{name}.weight").to(held.device, torch.float32)
        lost -= dequantize_4bit(held.data, held.quant_state).float()
        u, s, vh = torch.linalg.svd(lost, full_matrices=False)
        root = (s[: a.shape[0]] / layer.scaling["default"]).sqrt()
        a.copy_(root[:, None] * vh[: a.shape[0]])
        b.copy_(u[:, : a.shape[0]] * root)


class _FullWeights:
    """Single weights of a base's folder in full precision, by name."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.file_of: dict[str, Path] = {}
        for file in weight_files(folder):
            with safe_open(file, framework="pt") as opened:
                self.file_of |= dict.fromkeys(opened.keys(), file)

    def read(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        if name not in self.file_of:
            raise RecipeError(
                f"the base's files hold no {name}, which loftq starts from", "use variant lora", "adapter.variant"
            )
        with safe_open(self.file_of[name], framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor
