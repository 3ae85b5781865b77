"""Training in several processes: how each of them comes to its model, and how what was trained comes together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from afina.run import hash_file, read_json

if TYPE_CHECKING:
    import torch

    from afina.model.choices import Precision
    from afina.train.ranks import Ranks
    from afina.walk.walk import Training, Walk


def model_of_rank(walk: Walk, training: Training, precision: Precision) -> tuple[Any, torch.device]:
    """Begin a training: let the others come, connect to them, and open this rank's model or its part of it."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh

    from afina.model.load_torch import pick_device
    from afina.model.shape import read_shape, scratch_shape
    from afina.train.shard_torch import choose_parallel, shard

    ranks, recipe = walk.ranks, walk.recipe
    assert ranks is not None
    if ranks.first:
        ranks.start(training=training.name, base=walk.base_files, stages=hash_file(walk.folder / "stages.json"))
    device = ranks.device(pick_device(recipe.device))
    ranks.connect(device)
    base = walk.base_folder
    shape = (
        read_shape(read_json(base / "config.json"), str(base))
        if base
        else scratch_shape(recipe.scratch, recipe.train.max_length)
    )
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    ranks.sharded = ranks.from_first(choose_parallel(recipe, shape, room)) == "fsdp"
    holds = "a part of every weight (fsdp)" if ranks.sharded else "the whole model (ddp)"
    walk.run.say(f"train: {ranks.world} processes, each with {holds}")
    if not ranks.sharded:
        return walk._start_model(training, precision, device)[0], device
    mesh = init_device_mesh(device.type, (ranks.world,))
    with ranks.in_turn():  # the whole model stands in the machine's memory once, before it is shared out
        model = walk._start_model(training, precision, torch.device("cpu"))[0]
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
