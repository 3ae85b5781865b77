"""Which back end asks a model."""

from __future__ import annotations

from typing import Any

from afina.model.mlx.mlx_model import MlxModel
from afina.model.reader import Reader


def reader_of(model: Any) -> Reader:
    """Ask a model: one of transformers or PEFT, or of MLX."""
    if isinstance(model, MlxModel):
        from afina.model.reader_mlx import MlxReader

        return MlxReader(model)
    from afina.model.reader_torch import TorchReader

    return TorchReader(model)
