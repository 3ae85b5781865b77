"""Memory that runs out: noted instead of raised, and given back, whatever the framework calls it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def shortage_noted(ran_out: Callable[[BaseException], bool], give_back: Callable[[], None]) -> Iterator[list[str]]:
    """Collect an out-of-memory error of the block instead of raising it, and give the memory back.

    Args:
        ran_out: whether an error says that memory ran out. Any other is raised.
        give_back: what the framework's own cache lets go of, once the frames of the error are gone.

    >>> with shortage_noted(lambda error: "malloc" in str(error), lambda: None) as short:
    ...     raise RuntimeError("malloc failed")
    >>> short
    ['malloc failed']
    """
    short: list[str] = []
    try:
        yield short
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        short.append((str(error) or "out of memory").splitlines()[0])
    if short:
        gc.collect()
        give_back()
