"""The precision that a base's matrices are stored in: what an adapter is merged into, and a GGUF file is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afina.errors import BaseError
from afina.model.base_damage import weight_files
from afina.model.base_kind import kind_of_config
from afina.model.choices import Precision

MERGED_INTO = ("causal", "sees", "bnb-4bit", "rounded", "recurrent")
"""Kinds of models that are written whole, with an adapter merged into them where there is one; of those in few bits,
the numbers that they stand for."""
IN_FEW_BITS = ("bnb-4bit", "rounded")
STORED: Mapping[str, Precision] = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
"""What a safetensors file calls the precisions that weights are merged in."""


def stored_precision(base: Path, config: Mapping[str, Any]) -> Precision:
    """The precision of a folder's matrices, by how many values there are of each; of a base in few bits, of its others.

    Raises:
        BaseError: they are quantized, or in a precision that nothing is merged in.
    """
    from safetensors import safe_open

    kind = kind_of_config(config)
    if kind.name not in MERGED_INTO:
        raise BaseError(f"the base {kind.what}", "an adapter is merged into 16 or 32 bits: " + kind.instead, str(base))
    sizes: dict[str, int] = {}
    for file in weight_files(base):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                if ".weight." in name:
                    continue  # what bitsandbytes keeps beside a matrix in 4 bits
                piece = opened.get_slice(name)
                count = 1
                for length in piece.get_shape():
                    count *= length
                sizes[piece.get_dtype()] = sizes.get(piece.get_dtype(), 0) + count
    if kind.name in IN_FEW_BITS:  # they become what the matrices are that were left whole
        sizes = {
            dtype: size for dtype, size in sizes.items() if dtype not in ("U8", "I8") and not dtype.startswith("F8")
        }
    most = max(sizes, key=lambda dtype: sizes[dtype])
    if most not in STORED:
        raise BaseError(
            f"the base's weights are stored as {most}", "an adapter is merged into F32, BF16 or F16", str(base)
        )
    return STORED[most]
