"""How a model is handed to what measures it or talks to it: opened in evaluation mode for the time of a ``with`` block,
so that base and adapter can take turns with one set of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

OpenModel = Callable[[], AbstractContextManager[Any]]


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """The same model while its adapter is switched off."""
    with model.disable_adapter():
        yield model
