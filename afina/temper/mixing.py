"""How two adapters are mixed: the methods by PEFT's names, see :mod:`afina.temper.mix_torch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

METHODS = (
    *("cat", "svd", "linear"),
    *("ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"),
    *("magnitude_prune", "magnitude_prune_svd"),
)
OF_ONE_RANK = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Those that add A to A and B to B."""
WHOLE = ("cat", "svd", "linear")
"""Those that drop nothing."""


@dataclass(frozen=True)
class Mixing:
    """How two adapters are mixed.

    Args:
        density: of what prunes, the share of the numbers that stay.
        seed: of what is drawn.
    """

    method: str = "cat"
    density: float = 0.5
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """What of it an answer follows from.

        >>> Mixing("ties").as_json(), Mixing().as_json()
        ({'method': 'ties', 'density': 0.5}, {'method': 'cat'})
        """
        found: dict[str, Any] = {"method": self.method}
        found |= {} if self.method in WHOLE else {"density": self.density}
        return found | ({"seed": self.seed} if self.method.startswith("dare") else {})
