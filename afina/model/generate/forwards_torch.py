"""A transformers model (or PEFT's around it), as the engine drives it."""

from __future__ import annotations

from typing import Any

import torch

from afina.model.generate.ability_torch import ability_of
from afina.model.generate.call_torch import Caller
from afina.model.generate.forwards import CACHE_BYTES, Ability
from afina.model.generate.paths_torch import Equal, Slots, States, slots_of
from afina.model.shape_table import positions_of


class TorchForwards(Caller):
    """See :class:`~afina.model.generate.forwards.Forwards`."""

    @property
    def numbers(self) -> str:
        """E.g. ``float32 cpu``."""
        return f"{self.dtype} {self.device.type}".removeprefix("torch.")

    @property
    def full_precision(self) -> bool:
        """Whether it computes in float32."""
        return bool(self.dtype == torch.float32)

    @property
    def context(self) -> int | None:
        """Positions that the text model has."""
        return positions_of(self.config.get_text_config(decoder=True).to_dict())

    @property
    def vocabulary(self) -> int:
        """Logits of a place."""
        return int(self.config.get_text_config(decoder=True).vocab_size)

    @property
    def ability(self) -> Ability:
        """Found once for a model, in about twenty small forwards."""
        return ability_of(self)

    @property
    def cache_bytes(self) -> int:
        """On a GPU half of what is free, if that is more than :data:`CACHE_BYTES`."""
        if self.device.type != "cuda":
            return CACHE_BYTES
        return max(CACHE_BYTES, torch.cuda.mem_get_info(self.device)[0] // 2)

    def adopt(self, model: Any) -> None:
        """See :class:`~afina.model.generate.forwards.Forwards`."""
        call = Caller(model)
        self.model, self.inner, self.standing = call.model, call.inner, call.standing
        self.linears, self.adapted = call.linears, call.adapted

    def slots(self, most_tokens: int | None) -> Slots | States:
        """See :mod:`afina.model.generate.paths_torch`."""
        return slots_of(self, most_tokens)

    def equal(self) -> Equal:
        """See :mod:`afina.model.generate.paths_torch`."""
        return Equal(self)

    def alone(self) -> Equal:
        """With the model's own cache where it has one that gives its own values."""
        return Equal(self, cached=self.ability.cached, most=1)
