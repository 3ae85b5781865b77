"""The optimizer and its state as plain tensors, so that a checkpoint needs no pickle."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.choices import no_optimizer
from afina.recipe import Train
from afina.train.muon_torch import MuonAndAdamW, hidden_matrices
from afina.train.shard_torch import own_part

_BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit"}


def make_optimizer(
    model: Any, settings: Train, device: torch.device, *, lora_plus_ratio: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW, or Muon and AdamW, over the parameters that require a gradient; their rates are set by :func:`set_rate`.

    With `lora_plus_ratio` the B matrices of an adapter stand in a group of their own, whose rate is that
    many times the others' (LoRA+, arXiv 2402.12354). With Muon the hidden matrices do.

    Raises:
        RecipeError: an 8-bit optimizer where bitsandbytes is missing or has no kernel.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [weight for _, weight in trained], "ratio": 1.0}]
    if lora_plus_ratio != 1.0:
        of_b = [weight for name, weight in trained if "lora_B" in name or "lora_embedding_B" in name]
        others = [weight for name, weight in trained if all(weight is not b for b in of_b)]
        groups = [{"params": others, "ratio": 1.0}, {"params": of_b, "ratio": lora_plus_ratio}]
    if settings.optimizer == "muon":
        hidden = hidden_matrices(model)
        others = [weight for _, weight in trained if all(weight is not each for each in hidden)]
        groups = [{"params": hidden, "ratio": 1.0, "muon": True}, {"params": others, "ratio": 1.0}]
    if settings.optimizer in ("auto", "adamw", "muon"):
        made = MuonAndAdamW if settings.optimizer == "muon" else torch.optim.AdamW
        return made(groups, lr=0.0, weight_decay=settings.weight_decay, fused=device.type in ("cpu", "cuda"))
    return _bitsandbytes(settings, device)(groups, lr=0.0, weight_decay=settings.weight_decay)


def _bitsandbytes(settings: Train, device: torch.device) -> Any:
    """The class of an 8-bit optimizer, where this device can run it."""
    if problem := no_optimizer(settings.optimizer, device.type, bitsandbytes=find_spec("bitsandbytes") is not None):
        raise RecipeError(problems=[problem])
    import bitsandbytes

    return getattr(bitsandbytes.optim, _BITSANDBYTES[settings.optimizer])


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its ratio."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["ratio"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of every parameter as ``number.name``; plain whole numbers become ``number.name:int``."""
    tensors: dict[str, torch.Tensor] = {}
    for number, weight in enumerate(_weights(optimizer)):
        for name, value in optimizer.state.get(weight, {}).items():
            if isinstance(value, torch.Tensor):
                shared = name.startswith(
                    "qmap"
                )  # bitsandbytes' code book, one tensor for all: safetensors needs copies
                tensors[f"{number}.{name}"] = value.detach().clone() if shared else value.detach().contiguous()
            elif isinstance(value, int):
                tensors[f"{number}.{name}:int"] = torch.tensor(value)
            else:
                raise TypeError(f"optimizer state {name} is a {type(value).__name__}: it would be lost")
    return tensors


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave; parameters without an entry have no state."""
    weights = _weights(optimizer)
    optimizer.state.clear()
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        weight = weights[int(number)]
        state = optimizer.state[weight]
        if name.endswith(":int"):
            state[name.removesuffix(":int")] = int(value)
        elif name in ("state1", "state2") and getattr(optimizer, "is_paged", False):
            buffer = optimizer.get_state_buffer(weight, dtype=value.dtype)
            state[name] = buffer.copy_(value)
        elif name == "step" and not optimizer.param_groups[0].get("fused"):
            state[name] = value.clone()  # torch keeps the step count of an unfused AdamW on the CPU
        else:
            part = own_part(value, weight) if value.shape == weight.shape else value
            state[name] = part.to(weight.device, copy=True)


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]
