"""How far answers may part because numbers are held in fewer bits, and not because the model is another."""

from __future__ import annotations

from collections.abc import Mapping

TOLERANCES: Mapping[str, tuple[float, float]] = {
    "f32": (1e-6, 0.01),
    "f16": (1e-3, 0.1),
    "bf16": (5e-3, 0.5),
    "q8": (0.02, 0.5),
    "q6": (0.04, 0.7),
    "q5": (0.08, 1.0),
    "q4": (0.2, 2.0),
}
"""By how the weights are held: the largest mean KL in nats, and the lead below which a greedy choice may turn."""
COARSE = (0.4, 3.0)
"""For anything coarser."""


def tolerance(kind: str) -> tuple[float, float]:
    """
    >>> tolerance("bf16"), tolerance("q4_k_m"), tolerance("iq2_xs")
    ((0.005, 0.5), (0.2, 2.0), (0.4, 3.0))
    """
    return TOLERANCES.get(kind) or TOLERANCES.get(kind[:2], COARSE)
