"""Other forward methods for some modules of a model, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def other_forwards(modules: Sequence[Any], forward_of: Callable[[Any], Callable[..., torch.Tensor]]) -> Iterator[int]:
    """Within, each module's forward is what `forward_of` makes of it; gives how many there are.

    Afterwards each has the one that it had, be it its class's or one that somebody else has given it.

    >>> double = torch.nn.Identity()
    >>> with other_forwards([double], lambda module: lambda x: 2 * x) as count:
    ...     count, double(torch.tensor(3)).item()
    (1, 6)
    >>> double(torch.tensor(3)).item()
    3
    """
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = forward_of(module)
    try:
        yield len(modules)
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward
