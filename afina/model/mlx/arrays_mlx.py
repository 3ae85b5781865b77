"""MLX's arrays in safetensors files, written by safetensors itself: MLX's writer does not say that a disk is full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors import serialize_file

Arrays = dict[str, mx.array]


def save_arrays(arrays: Mapping[str, mx.array], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write arrays under their names."""
    held = {
        name: {
            "dtype": str(array.dtype).rpartition(".")[2],
            "shape": list(array.shape),
            # NumPy has no bfloat16: its bits are those of a whole number.
            "data": np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array).tobytes(),
        }
        for name, array in arrays.items()
    }
    serialize_file(held, file, metadata)


def read_arrays(file: Path) -> Arrays:
    """The arrays of a file, read now: MLX reads when it computes, and the file may be gone by then."""
    arrays: Arrays = mx.load(str(file))
    mx.eval(arrays)
    return arrays
