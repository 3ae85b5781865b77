"""What an adapter adds to one matrix of its base, whichever framework computes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Factors:
    """``scale * B A`` beside a matrix W; with DoRA the rows of the sum have sizes of their own.

    Args:
        name: full name of the matrix in the base.
        a: rank x inputs, a NumPy or MLX array. b: outputs x rank.
        magnitude: sizes of the rows of the sum, as DoRA has trained them; None: those of W, as it begins.
    """

    name: str
    a: Any
    b: Any
    scale: float
    dropout: float = 0.0
    dora: bool = False
    magnitude: Any = None
