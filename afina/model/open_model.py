"""How a model is handed to what measures it or talks to it: opened in evaluation mode for the time of a ``with`` block,
so that base and adapter can take turns with one set of weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

OpenModel = Callable[[], AbstractContextManager[Any]]
