"""What a model from nothing would take: 6*N*D, Chinchilla's tokens, bytes, days and money."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from afina.errors import RecipeError
from afina.plan.device import Device
from afina.plan.interval import Interval
from afina.units import show_bytes, show_count, show_money

CHINCHILLA_TOKENS = 20.0
"""Tokens per parameter that use a given amount of arithmetic best (Hoffmann et al., arXiv 2203.15556)."""
UTILISATION = Interval(0.40, 0.25, 0.55)
"""Share of the device's rate over a whole pre-training: torchtitan 0.33 to 0.39, nanochat 0.50, TinyLlama 0.56."""
STATE_BYTES = {"weights": 4.0, "gradients": 4.0, "optimizer": 8.0}
"""Of one parameter in float32 with AdamW."""


@dataclass(frozen=True)
class ScratchBudget:
    """Bytes and FLOPs that N parameters and D tokens ask for."""

    parameters: float
    tokens: float
    device: Device
    devices: int = 1

    @property
    def flops(self) -> float:
        """6*N*D."""
        return 6.0 * self.parameters * self.tokens

    @property
    def state_bytes(self) -> dict[str, float]:
        """Weights, gradients and moments, without any activation.

        >>> from afina.plan.device import find_device
        >>> [part / 1e9 for part in ScratchBudget(7e9, 140e9, find_device("H100 SXM")).state_bytes.values()]
        [28.0, 28.0, 56.0]
        """
        return {name: size * self.parameters for name, size in STATE_BYTES.items()}

    @property
    def seconds(self) -> Interval:
        """On all devices together."""
        rate = self.device.flops_per_second * self.devices
        best, worst = UTILISATION.high, UTILISATION.low
        return Interval(self.flops / rate / UTILISATION.point, self.flops / rate / best, self.flops / rate / worst)

    @property
    def money(self) -> Interval | None:
        """None where the device has no price."""
        price = self.device.price_per_hour
        return self.seconds * (price / 3600 * self.devices) if price else None

    @property
    def least_devices(self) -> int:
        """How many of the device hold weights, gradients and moments, with a fifth left for activations."""
        return max(1, -(-int(sum(self.state_bytes.values())) // int(self.device.usable_bytes * 0.8)))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "parameters": self.parameters,
            "tokens": self.tokens,
            "chinchilla_tokens": CHINCHILLA_TOKENS * self.parameters,
            "flops": self.flops,
            "bytes": {**self.state_bytes, "total": sum(self.state_bytes.values())},
            "device": self.device.as_json(),
            "devices": self.devices,
            "least_devices": self.least_devices,
            "days": (self.seconds * (1 / 86400)).as_json(),
            "money": self.money.as_json() if self.money else None,
        }

    def describe(self) -> str:
        """The budget in a few aligned lines."""
        parts, total = self.state_bytes, sum(self.state_bytes.values())
        in_gb = " + ".join(f"{size / 1e9:.3g} {name}" for name, size in parts.items())
        days = self.seconds * (1 / 86400)
        per = self.tokens / self.parameters
        lines = [
            (
                "model",
                f"{show_count(self.parameters)} parameters, {show_count(self.tokens)} tokens ({per:.3g} for each)",
            ),
            (
                "optimum",
                f"{show_count(CHINCHILLA_TOKENS * self.parameters)} tokens (Chinchilla: 20 for each parameter)",
            ),
            ("memory", f"{total / 1e9:.4g} GB: {in_gb}; activations come on top"),
            ("", f"{self.least_devices} x {self.device.name} hold it ({show_bytes(self.device.usable_bytes)} each)"),
            ("FLOPs", f"6*N*D = {self.flops:.3g}"),
            (
                "time",
                f"{days.point:.3g} days ({days.low:.3g} to {days.high:.3g}) on {self.devices} x {self.device.name}",
            ),
        ]
        if self.money:
            low, high = (show_money(amount, self.device.currency) for amount in (self.money.low, self.money.high))
            lines.append(("money", f"{show_money(self.money.point, self.device.currency)} ({low} to {high})"))
        return "\n".join(f"{name:<8}{text}" for name, text in lines)


def read_count(text: str, what: str) -> float:
    """A count such as 7B, 350M or 1.5T.

    >>> read_count("7B", "parameters"), read_count("1.5T", "tokens"), read_count("2000", "tokens")
    (7000000000.0, 1500000000000.0, 2000.0)

    Raises:
        RecipeError: it is no positive number with k, M, B (or G) or T behind it.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbBgGtT]?)\s*", text)
    if not found or not 0 < float(found[1]) < math.inf:
        raise RecipeError(f"{text!r} is no count", "write it like 7B, 350M or 140e9 as 140B", what)
    return float(found[1]) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}[found[2].lower()]
