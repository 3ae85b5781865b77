"""FSDP2: each rank holds a part of every weight, for models that one device cannot hold.

The weights of a layer are gathered when it computes and given away again after it. Parameters keep their names,
so that what is trained can be put together (:func:`gathered`) and written as a single process would write it, and
a part be taken of what such a one has written (:func:`own_part`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.loss_torch import causal_lm, plain_loss
from afina.model.shape import Shape
from afina.recipe import Recipe

ROOM = 0.8
"""Share of a GPU's memory that weights, gradients and moments may take before they are sharded; the rest is for
activations."""


def choose_parallel(recipe: Recipe, shape: Shape, device_bytes: int | None) -> str:
    """`ddp` or `fsdp`: what ``train.parallel`` says or, where that is `auto`, `ddp` if one device holds the weights.

    Args:
        device_bytes: memory of one GPU; None for CPUs, whose ranks share one memory, so that nothing is won.
    """
    train, adapter = recipe.train, recipe.adapter
    if train.parallel != "auto":
        return train.parallel
    if device_bytes is None or adapter.kind == "qlora" or train.optimizer not in ("auto", "adamw"):
        return "ddp"
    # Weights in bf16. What is trained has a gradient and AdamW's two moments, of an adapter in fp32.
    trained = (
        shape.parameters * 2
        if recipe.trains_all
        else 4 * shape.lora_parameters(adapter.rank, adapter.targets, experts=adapter.adapts_experts)
    )
    return "fsdp" if 2 * shape.parameters + 3 * trained > ROOM * device_bytes else "ddp"


def shard(model: Any, mesh: Any) -> None:
    """Shard every weight of `model` over the ranks of `mesh`, each decoder layer for itself.

    A layer is moved to the rank's device when it is its turn: the whole model may be larger than that.

    Raises:
        RecipeError: this torch is too old.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise RecipeError(
            f"fsdp needs a newer torch than {torch.__version__}", "pip install -U torch", "train.parallel"
        )
    inner = causal_lm(model)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
    layers = set(inner._no_split_modules or ())
    for layer in [part for part in inner.modules() if type(part).__name__ in layers]:
        fully_shard(layer, **options)
    fully_shard(inner, **options)
    for part in inner.modules():
        if isinstance(part, FSDPModule):  # gradients are added up, as a loss is divided by the targets of all ranks
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    # The loss uses the head's weights, which are gathered only around a forward method of the module that holds them.
    inner.sharded_loss = MethodType(plain_loss, inner)
    register_fsdp_forward_method(inner, "sharded_loss")


def gathered(tensors: Mapping[str, torch.Tensor], *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Whole tensors of sharded ones, one after the other, off the device; others as they are.

    Every rank has to call this; one with ``keep=False`` sends its parts and holds nothing.
    """
    found = {}
    for name, tensor in tensors.items():
        together = whole(tensor).to("cpu") if is_sharded(tensor) else tensor
        if keep:
            found[name] = together
    return found


def is_sharded(tensor: Any) -> bool:
    """Whether this is a part of a tensor (torch's DTensor; the name alone would load all of its machinery)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> torch.Tensor:
    """All of a sharded tensor, which every rank has to ask for; another one as it is."""
    together: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return together


def local(tensor: Any) -> torch.Tensor:
    """The part of a tensor that is in this process."""
    held: torch.Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return held


def own_part(together: torch.Tensor, like: Any) -> torch.Tensor:
    """What this rank holds of a tensor where `like` is sharded; all of it where that is not."""
    if not is_sharded(like):
        return together
    from torch.distributed.tensor import distribute_tensor

    # Each rank has read the whole: nothing is sent.
    together = together.to(like.device)
    part: torch.Tensor = distribute_tensor(together, like.device_mesh, like.placements, src_data_rank=None)
    return part
