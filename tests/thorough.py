"""How often a test repeats itself: a few times in `make test`, more in `make test-all`."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("AFINA_THOROUGH"))


def times(fast: int, thorough: int) -> int:
    """How often.

    >>> times(3, 3)
    3
    """
    return thorough if THOROUGH else fast
