"""Training in several processes: how each of them comes to its model, and how what was trained comes together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from afina.run import hash_file
from afina.walk.base import base_files, model_shape
from afina.walk.context import Context
from afina.walk.models import model_to_train
from afina.walk.trainings import Training

if TYPE_CHECKING:
    import torch

    from afina.model.choices import Precision
    from afina.train.ranks import Ranks


def model_of_rank(context: Context, training: Training, precision: Precision) -> tuple[Any, torch.device]:
    """Begin a training: let the others come, connect to them, and open this rank's model or its part of it."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    from afina.model.load_torch import pick_device
    from afina.train.shard_torch import choose_parallel, shard

    ranks, recipe = context.ranks, context.recipe
    assert ranks is not None
    if ranks.first:
        ranks.start(training=training.name, base=base_files(context), stages=hash_file(context.folder / "stages.json"))
    device = ranks.device(pick_device(recipe.device))
    ranks.connect(device)
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    ranks.sharded = ranks.from_first(choose_parallel(recipe, model_shape(context), room)) == "fsdp"
    holds = "a part of every weight (fsdp)" if ranks.sharded else "the whole model (ddp)"
    context.run.say(f"train: {ranks.world} processes, each with {holds}")
    if not ranks.sharded:
        return model_to_train(context, training, precision, device)[0], device
    mesh = init_device_mesh(device.type, (ranks.world,))
    with ranks.in_turn():  # the whole model stands in the machine's memory once, before it is shared out
        model = model_to_train(context, training, precision, torch.device("cpu"))[0]
        shard(model, mesh)
    return model, device


def put_together(model: Any, ranks: Ranks | None) -> dict[str, torch.Tensor] | None:
    """What was trained, whole, at rank 0; None where the model is whole anyway."""
    if ranks is None or not ranks.sharded:
        return None
    from afina.train.shard_torch import gathered
    from afina.train.snapshot_torch import trained_parameters

    kept = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    trained = {name: weight.detach() for name, weight in trained_parameters(model).items()}
    return gathered(trained | buffers, keep=ranks.first)
