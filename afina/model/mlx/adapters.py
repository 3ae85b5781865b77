"""Several adapters over one base: which is in place, and how they take turns. No mlx.

A layer of mlx-lm holds one adapter around the base's own matrix. Adapters that take turns share that matrix: to change
from one to another, the layers of the one are exchanged for those of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afina.model.generate.request import BASE
from afina.model.mlx.mlx_model import MlxModel

TRAINED = "default"
"""What the adapter that a run trained is called, as by PEFT."""


def adapters_of(model: MlxModel) -> Mapping[str, Mapping[str, Any]]:
    """All adapters by name, each as its layers by the names of their matrices."""
    return ({TRAINED: model.adapted} if model.adapted else {}) | model.beside


def standing_adapter(model: MlxModel) -> str:
    """The adapter that a plain forward uses now; :data:`~afina.model.generate.request.BASE` for none."""
    for name, layer in model.adapted.items():
        return TRAINED if model.part(name) is layer else BASE
    return BASE


@contextmanager
def switched(model: MlxModel, adapter: str) -> Iterator[None]:
    """Let a plain forward within use this adapter, or none."""
    before = standing_adapter(model)
    if adapter == before:
        yield
        return
    _exchange(model, before, adapter)
    try:
        yield
    finally:
        _exchange(model, adapter, before)


def _exchange(model: MlxModel, gone: str, coming: str) -> None:
    layers = {BASE: {}, **adapters_of(model)}
    model.put({name: layer.linear for name, layer in layers[gone].items()})
    model.put(layers[coming])


def load_beside(model: MlxModel, name: str, folder: Path) -> None:
    """Open a trained adapter beside those that are there; it answers where it is asked by its name.

    Raises:
        BaseError: it is damaged, of another base, or holds what mlx-lm's layers cannot.
    """
    from afina.model.mlx.adapter_mlx import open_adapter, take_off

    assert not model.adapted, "an adapter that stands has no others beside it"
    open_adapter(model, folder)
    layers = dict(model.adapted)
    take_off(model)
    model.beside[name] = layers
