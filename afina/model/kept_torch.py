"""What of a base is neither trained nor opened, and goes along into what is made of it, bit for bit.

transformers leaves out tensors that its classes have no place for (heads that predict several tokens at once,
``mtp.*``), casts towers and norms that a checkpoint holds in another precision than its matrices, and knows nothing of
the files by which pictures are read. A merged model without them would be another model for whoever serves it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from afina.model.base_damage import INDEX, SINGLE, read_shapes, weight_files
from afina.whole import write_json

READERS = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("image_processor_config.json", "audio_processor_config.json"),
)
"""Files that say how pictures and sound become a model's input."""
KEPT_FILE = "model-kept.safetensors"
_OF_QUANTIZATION = re.compile(r"(?:\.(?:absmax|quant_map|nested_\w+|quant_state\.\w+)|_(?:blocks|scales|scale_inv))$")
"""Ends of names of what a quantized base keeps beside a matrix, or instead of it."""


def keep_rest(model: Any, base: Path, folder: Path) -> list[str]:
    """Add to a saved model the tensors of its base that transformers did not open, and the files that read pictures.

    Args:
        model: as it was opened from `base`, with whatever was trained in it.
        folder: where ``save_pretrained`` has written it.

    Returns:
        Names of the tensors that were added.
    """
    for name in READERS:
        if (base / name).is_file() and not (folder / name).exists():
            shutil.copyfile(base / name, folder / name)
    there = {name for _, name in _tensors(folder)}
    left = [(file, name) for file, name in not_opened(model, base) if name not in there]
    if not left:
        return []
    from safetensors.torch import save_file

    if (folder / SINGLE).is_file():  # which would be opened alone, whatever stands beside it
        (folder / SINGLE).rename(folder / "model-00001-of-00001.safetensors")
    tensors = {name: _read(file, name) for file, name in left}
    save_file(tensors, folder / KEPT_FILE, metadata={"format": "pt"})
    files = {name: file.name for file in sorted(folder.glob("*.safetensors")) for name in read_shapes(file)}
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": files})
    return list(tensors)


def not_opened(model: Any, base: Path) -> Iterator[tuple[Path, str]]:
    """Files and names of a base's tensors that are no part of the opened model, by transformers' own renaming."""
    names = model.state_dict().keys()
    renamed = _renaming(model)
    for file, name in _tensors(base):
        stem = _OF_QUANTIZATION.sub("", name)
        if not {name, stem, renamed(name), renamed(stem)} & names:
            yield file, name


@torch.no_grad()
def restore_rest(model: Any, base: Path) -> None:
    """Give what was not trained the precision in which its base's files hold it: towers, and norms kept in 32 bits."""
    parameters, renamed = dict(model.named_parameters()), _renaming(model)
    for file, name in _tensors(base):
        if (weight := parameters.get(renamed(name))) is None:
            continue
        held = _read(file, name)
        if (
            held.dtype != weight.dtype
            and held.itemsize > 1
            and held.shape == weight.shape
            and torch.equal(held.to(weight.dtype), weight)
        ):
            weight.data = held


def _renaming(model: Any) -> Any:
    """Name in a base's files -> name in the opened model."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = getattr(model, "_weight_conversions", None) or []
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    names = model.state_dict()

    def renamed(name: str) -> str:
        found: str = rename_source_key(name, renamings, converters, model.base_model_prefix, names)[0]
        return found if found in names or name not in names else name

    return renamed


def _tensors(folder: Path) -> Iterator[tuple[Path, str]]:
    """File and name of each tensor that transformers would read."""
    for file in weight_files(folder):
        yield from ((file, name) for name in read_shapes(file))


def _read(file: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
    return tensor
