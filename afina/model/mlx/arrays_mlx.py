"""MLX's arrays as torch's tensors and in safetensors files: MLX's own writer does not say that a disk is full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import save_file

Arrays = dict[str, mx.array]


def tensor_of(array: mx.array) -> torch.Tensor:
    """The same numbers in memory of their own."""
    if array.dtype == mx.bfloat16:  # which NumPy does not have: its bits are those of a whole number
        return torch.from_numpy(np.array(array.view(mx.int16), order="C")).view(torch.bfloat16)
    kind = str(array.dtype).rpartition(".")[2]  # named, as NumPy has two kinds of 64 bits and torch knows one
    return torch.from_numpy(np.array(array, kind, order="C"))


def save_arrays(arrays: Mapping[str, mx.array], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write arrays under their names."""
    save_file({name: tensor_of(array) for name, array in arrays.items()}, file, metadata)


def read_arrays(file: Path) -> Arrays:
    """The arrays of a file, read now: MLX reads when it computes, and the file may be gone by then."""
    arrays: Arrays = mx.load(str(file))
    mx.eval(arrays)
    return arrays
