"""A model that mlx-lm has opened. No mlx, so that whoever asks what kind of model it has loads none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.model.shape_table import positions_of

TABLES = ("embed_tokens", "wte", "embeddings")
"""How mlx-lm's models call their embeddings."""


@dataclass(eq=False)
class MlxModel:
    """A base, and the adapter over it where there is one."""

    network: Any
    """mlx-lm's module: from ids B x L to logits B x L x V; with ``cache`` (``mlx_lm.models.cache.make_prompt_cache``)
    it goes on from what it has read."""
    config: Mapping[str, Any]
    """``config.json``, with ``quantization`` where the weights are quantized."""
    folder: Path
    adapted: dict[str, Any] = field(default_factory=dict)
    """Full name of each adapted matrix in the base -> mlx-lm's LoRA or DoRA layer that stands in its place."""
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further adapters by name, in the form of `adapted`; none of them is in place. See :mod:`.adapters`."""

    @property
    def text_config(self) -> Mapping[str, Any]:
        """Of the text model, where `config` is that of one that reads more than text."""
        return self.config.get("text_config") or self.config

    @property
    def vocab(self) -> int:
        """How many logits there are."""
        return int(self.text_config["vocab_size"])

    @property
    def context(self) -> int | None:
        """Positions that it has; None where it sets no limit."""
        return positions_of(self.text_config)

    @property
    def quantization(self) -> Mapping[str, Any]:
        """``bits`` and ``group_size`` of the quantized weights; empty where they are whole."""
        return self.config.get("quantization") or {}

    def train(self) -> MlxModel:
        """Training mode: with dropout."""
        self.network.train()
        return self

    def eval(self) -> MlxModel:
        """Evaluation mode."""
        self.network.eval()
        return self

    def put(self, layers: Mapping[str, Any]) -> None:
        """Put layers in the places of those with these names."""
        for name, layer in layers.items():
            place, _, own = name.rpartition(".")
            setattr(self.part(place), own, layer)

    def part(self, name: str) -> Any:
        """The module of this full name.

        Raises:
            KeyError: there is none.
        """
        found = self.network
        for step in filter(None, name.split(".")):
            inside = found if isinstance(found, dict) else dict(enumerate(found))
            key = int(step) if isinstance(found, list) else step
            # Layers are a property of some networks and a list of others: only what is held counts.
            if key not in inside:
                raise KeyError(name)
            found = inside[key]
        return found

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The base alone, bit for bit, within the block; called as PEFT calls it."""
        self.put({name: layer.linear for name, layer in self.adapted.items()})
        try:
            yield
        finally:
            self.put(self.adapted)


def flat_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """How positions are turned, under the keys that mlx-lm reads.

    transformers 5 writes them below ``rope_parameters``, which most of mlx-lm's models do not know: those then turn by
    a default of their own, and say nothing.

    >>> flat_rope({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    {'rope_theta': 1000000.0}
    >>> flat_rope({"rope_theta": 500.0}), flat_rope({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}})
    ({}, {})
    """
    said = config.get("rope_parameters")
    if not isinstance(said, Mapping) or "rope_type" not in said:  # of several kinds of layers, see why_unknown
        return {}
    flat = {key: said[key] for key in ("rope_theta", "partial_rotary_factor") if said.get(key) is not None}
    if said["rope_type"] != "default":
        flat["rope_scaling"] = dict(said)
    return {key: value for key, value in flat.items() if config.get(key) is None}
