"""Adapters over a base that mlx-lm has opened: put on, taken off, read and written in PEFT's format and in mlx-lm's.

PEFT holds A as rank x inputs and B as outputs x rank, mlx-lm the transposed; both compute ``W x + scale * B A x``. The
layers are mlx-lm's own, but for their dropout (:class:`KeyedDropout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear

from afina.errors import BaseError, RecipeError
from afina.model.base import TRAIN_AGAIN, read_adapter_config
from afina.model.base_damage import read_shapes
from afina.model.factors import Factors
from afina.model.mlx.arrays_mlx import read_arrays, save_arrays
from afina.model.mlx.mlx_model import TABLES, MlxModel
from afina.run import read_mapping
from afina.whole import write_json

PEFT_PREFIX = "base_model.model."
ENDS = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
"""How PEFT's file calls what it holds of a matrix."""
MLX_ENDS = {"a": "lora_a", "b": "lora_b", "magnitude": "m"}
"""How mlx-lm's layers and its file call the same."""
PLAIN: Mapping[str, Any] = {
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
}
"""Settings of PEFT's that MLX's layers do not have, with the values at which they do nothing."""


def is_of_adapter(name: str) -> bool:
    """Whether a parameter of mlx-lm's model is part of an adapter, and none of the base.

    >>> is_of_adapter("model.layers.0.self_attn.q_proj.lora_a"), is_of_adapter("model.norm.weight")
    (True, False)
    """
    return name.rpartition(".")[2] in MLX_ENDS.values()


class KeyedDropout(nn.Module):  # type: ignore[misc]
    """Dropout that draws from a key of its own, see :func:`draw_dropout`.

    mlx's draws from the one generator whenever it is called. A layer whose activations are computed again
    (``mx.checkpoint``) is called twice, so that its gradient would be that of another mask.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._key = mx.random.key(0)

    def __call__(self, x: mx.array) -> mx.array:
        if not self.training or not self.share:
            return x
        kept = mx.random.bernoulli(1.0 - self.share, x.shape, key=self._key)
        return x * kept * (1.0 / (1.0 - self.share))


def draw_dropout(model: MlxModel) -> None:
    """Give every dropout the key of the next forward pass, from mlx's generator."""
    layers = [layer.dropout for layer in model.adapted.values() if layer.dropout.share]
    if layers:
        for layer, key in zip(layers, mx.random.randint(0, 2**31 - 1, (len(layers), 2)).astype(mx.uint32), strict=True):
            layer._key = key


def put_on(model: MlxModel, factors: Iterable[Factors], *, trainable: bool = False) -> MlxModel:
    """Put an adapter on a model without one; gives the model.

    Raises:
        BaseError: the model has no such matrix, or one of another size.
    """
    assert not model.adapted, "one adapter at a time"
    layers = {each.name: _layer(model, each) for each in factors}
    for layer in layers.values():
        layer.train(model.network.training)
        if not trainable:
            layer.freeze()
    model.put(layers)
    model.adapted.update(layers)
    return model


def take_off(model: MlxModel) -> MlxModel:
    """Give the model back as it was without an adapter."""
    model.put({name: layer.linear for name, layer in model.adapted.items()})
    model.adapted.clear()
    return model


def _layer(model: MlxModel, held: Factors) -> Any:
    """mlx-lm's layer with these factors, around the model's own matrix."""
    where = str(model.folder)
    try:
        linear = model.part(held.name)
    except KeyError as error:
        raise BaseError(f"{held.name} has another name in mlx-lm's model", "backend: torch", where) from error
    if not isinstance(linear, nn.Linear | nn.QuantizedLinear):
        what = f"{held.name} is a {type(linear).__name__} in mlx-lm's model, and no plain matrix"
        raise BaseError(what, "leave it out of adapter.targets, or backend: torch", where)
    outputs, inputs = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        inputs = inputs * 32 // linear.bits
    if (held.b.shape[0], held.a.shape[1]) != (outputs, inputs):
        what = f"{held.name} is {outputs} x {inputs}, its adapter for {held.b.shape[0]} x {held.a.shape[1]}"
        raise BaseError(what, TRAIN_AGAIN, where)
    made = (DoRALinear if held.dora else LoRALinear).from_base(linear, r=held.a.shape[0], scale=held.scale)
    made.dropout = KeyedDropout(held.dropout)
    made.lora_a, made.lora_b = (_trained(mx.array(each).T) for each in (held.a, held.b))
    if held.magnitude is not None:
        made.m = _trained(mx.array(held.magnitude))
    mx.eval(made.parameters())
    return made


def _trained(array: mx.array) -> mx.array:
    """As adapters are held whatever the base is held in."""
    return mx.contiguous(array.astype(mx.float32))


def open_adapter(model: MlxModel, folder: Path, *, trainable: bool = False) -> MlxModel:
    """Put a trained adapter in PEFT's format on a model without one; gives the model.

    Raises:
        BaseError: it is damaged, of another base, or holds what mlx-lm's layers cannot.
    """
    return put_on(model, read_peft(folder), trainable=trainable)


def read_peft(folder: Path) -> list[Factors]:
    """An adapter in PEFT's format.

    Raises:
        BaseError: it is damaged, or holds what mlx-lm's layers cannot.
    """
    file, config = folder / "adapter_model.safetensors", read_adapter_config(folder)
    if unknown := [key for key, nothing in PLAIN.items() if (config.get(key) or nothing) != nothing]:
        raise BaseError(
            f"uses {', '.join(unknown)}, which mlx-lm's layers do not have", "backend: torch opens it", str(folder)
        )
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    found = _by_matrix(_read(file), ENDS, PEFT_PREFIX, str(file))
    dora = bool(config.get("use_dora"))
    return [
        Factors(name, each["a"], each["b"], scale, config.get("lora_dropout") or 0.0, dora, each.get("magnitude"))
        for name, each in found.items()
    ]


def read_mlx_lm(folder: Path) -> list[Factors]:
    """An adapter in mlx-lm's format.

    Raises:
        BaseError: it is damaged, holds whole weights (``fine_tune_type: full``), or adapts what is no plain matrix.
    """
    file, config = folder / "adapters.safetensors", read_mapping(folder / "adapter_config.json")
    kind, settings = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    if kind not in ("lora", "dora") or not isinstance(settings, dict) or "scale" not in settings:
        raise BaseError(
            f"is no LoRA or DoRA of mlx-lm (fine_tune_type {kind})", "mlx_lm.fuse makes a model of it", str(folder)
        )
    found = _by_matrix(_read(file), MLX_ENDS, "", str(file))
    for name, each in found.items():
        last = name.rpartition(".")[2]
        if last in TABLES or each["a"].ndim != 2 or each["b"].ndim != 2:
            what = "the embedding" if last in TABLES else "a stack of experts"
            raise BaseError(
                f"adapts {what} ({name}), which PEFT's file holds otherwise",
                "train it with the keys of plain matrices, or mlx_lm.fuse makes a model of it",
                str(file),
            )
    return [
        Factors(
            name,
            each["a"].T,
            each["b"].T,
            float(settings["scale"]),
            float(settings.get("dropout") or 0.0),
            kind == "dora",
            each.get("magnitude"),
        )
        for name, each in found.items()
    ]


def _read(file: Path) -> dict[str, mx.array]:
    """
    Raises:
        BaseError: the file is missing or damaged.
    """
    try:
        read_shapes(file)
    except (ValueError, OSError) as error:
        raise BaseError(str(error), TRAIN_AGAIN, str(file)) from error
    return read_arrays(file)


def _by_matrix(
    tensors: Mapping[str, mx.array], ends: Mapping[str, str], prefix: str, where: str
) -> dict[str, dict[str, mx.array]]:
    """What belongs to each matrix of the base, by its full name.

    Raises:
        BaseError: a tensor is none of an adapter's, or one of a pair is missing.
    """
    found: dict[str, dict[str, mx.array]] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix(prefix)
        part = next((part for part, end in ends.items() if name.endswith(f".{end}")), None)
        if part is None:
            raise BaseError(f"holds {full}, which is no part of a LoRA over a plain matrix", "backend: torch", where)
        found.setdefault(name.removesuffix(f".{ends[part]}"), {})[part] = tensor
    if alone := [name for name, each in found.items() if not {"a", "b"} <= each.keys()]:
        raise BaseError(f"holds one factor of {', '.join(alone[:3])} and not the other", TRAIN_AGAIN, where)
    return found


def trained_factors(model: MlxModel) -> Iterator[Factors]:
    """What the adapter of a model holds now."""
    for name, layer in model.adapted.items():
        yield Factors(
            name,
            np.array(layer.lora_a.T),
            np.array(layer.lora_b.T),
            layer.scale,
            layer.dropout.share,
            isinstance(layer, DoRALinear),
            np.array(layer.m) if isinstance(layer, DoRALinear) else None,
        )


def _settings(factors: Iterable[Factors]) -> tuple[int, float, float, bool]:
    """Rank, scale, dropout, and whether it is DoRA, of all matrices.

    Raises:
        RecipeError: they differ, and both formats have one of each for all.
    """
    kinds = {(len(each.a), each.scale, each.dropout, each.dora) for each in factors}
    if len(kinds) != 1:
        raise RecipeError(
            "its matrices have several ranks or scales, and one file of settings names one of each",
            "train it again with one rank for all",
            "adapter",
        )
    return kinds.pop()


def _arrays(held: Iterable[Factors]) -> Iterator[tuple[str, str, Any]]:
    """What an adapter holds: the matrix of the base, which part, and its values. A magnitude has one dimension, so that
    both formats write it alike."""
    for each in held:
        for part, value in (("a", each.a), ("b", each.b), ("magnitude", each.magnitude)):
            if value is not None:
                yield each.name, part, value


def write_mlx_lm(factors: Iterable[Factors], folder: Path, *, layers: int) -> None:
    """Write an adapter as mlx-lm reads it: ``adapters.safetensors`` and its ``adapter_config.json``.

    Args:
        layers: of the base.

    Raises:
        RecipeError: matrices differ in rank or scale.
    """
    held = list(factors)
    rank, scale, dropout, dora = _settings(held)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{MLX_ENDS[part]}": mx.array(value.T) for name, part, value in _arrays(held)}
    save_arrays(tensors, folder / "adapters.safetensors", {"format": "mlx"})
    write_json(
        folder / "adapter_config.json",
        {
            "fine_tune_type": "dora" if dora else "lora",
            "num_layers": layers,
            # Full names are looked for in the whole model, so that any set of matrices can be said.
            "lora_parameters": {"rank": rank, "scale": scale, "dropout": dropout, "keys": [each.name for each in held]},
        },
    )


def write_peft(factors: Iterable[Factors], folder: Path, *, base_name: str) -> None:
    """Write an adapter as PEFT reads it, its configuration by PEFT's own class.

    Raises:
        RecipeError: matrices differ in rank or scale.
    """
    from peft import LoraConfig

    held = list(factors)
    rank, scale, dropout, dora = _settings(held)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{PEFT_PREFIX}{name}.{ENDS[part]}": mx.array(value) for name, part, value in _arrays(held)}
    save_arrays(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    LoraConfig(
        r=rank,
        lora_alpha=scale * rank,
        lora_dropout=dropout,
        target_modules=[each.name for each in held],
        use_dora=dora,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
        inference_mode=True,
    ).save_pretrained(folder)


def peft_to_mlx_lm(peft: Path, folder: Path, *, layers: int) -> None:
    """An adapter in PEFT's format, in mlx-lm's."""
    write_mlx_lm(read_peft(peft), folder, layers=layers)


def mlx_lm_to_peft(mlx_lm: Path, folder: Path, *, base_name: str) -> None:
    """An adapter in mlx-lm's format, in PEFT's."""
    write_peft(read_mlx_lm(mlx_lm), folder, base_name=base_name)
