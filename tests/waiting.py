"""Waiting for what another process or thread does. How long it may take says nothing: machines of tests are busy.

`LONGEST` is no limit of anything that is tested; it ends a test that would otherwise hang for ever, with a word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Found = TypeVar("Found")
LONGEST = 600.0
"""Seconds."""


def longer(seconds: float = 0.5) -> Iterator[float]:
    """Time limits for a program that is to be ended at its limit, each twice the one before: on a busy machine it may
    not have begun by then, and would be ended before it did what is looked for."""
    while seconds < LONGEST:
        yield seconds
        seconds *= 2
    raise AssertionError(f"it did not begin within {LONGEST:.0f} s")


def until(
    condition: Callable[[], Found],
    *,
    every: float = 0.05,
    gone: Callable[[], bool] = lambda: False,
    said: Callable[[], str] = lambda: "it did not happen",
    pause: Callable[[float], object] = time.sleep,
) -> Found:
    """What `condition` gives as soon as that is true.

    Args:
        every: seconds between two looks.
        gone: whether it cannot happen any more; what did in the same moment still counts.
        said: told where it does not happen.
        pause: how to wait, where it is not slept: a browser's page wants to be waited for by its own means.
    """
    end = time.monotonic() + LONGEST
    while True:
        over = gone() or time.monotonic() > end
        if found := condition():
            return found
        assert not over, said()
        pause(every)
