"""Which of the three paths gives a model's own logits: found by running them, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from afina.model.generate.call_torch import Caller
from afina.model.generate.paths_torch import ActiveRow, Alone, Slots

PROBE_LENGTHS, PROBE_STEPS = (3, 6), 2


@dataclass(frozen=True)
class Ability:
    """What was found out about a model."""

    slots: bool
    cached: bool
    longest: int | None
    """Longest row that may share a forward; None where there is no such limit."""
    bytes_per_token: int
    """Of the cache; 0 without one."""
    why: str = ""
    """In words, why it is not all of it."""


_KNOWN: WeakKeyDictionary[Any, Ability] = WeakKeyDictionary()


def ability_of(call: Caller) -> Ability:
    """Which paths give the model's own logits; found once for a model, in about ten small forwards."""
    if call.model not in _KNOWN:
        _KNOWN[call.model] = _find_ability(call)
    return _KNOWN[call.model]


@torch.no_grad()
def _find_ability(call: Caller) -> Ability:
    text = call.config.get_text_config(decoder=True)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(text.vocab_size, (n + PROBE_STEPS,), generator=generator).tolist() for n in PROBE_LENGTHS]

    def run(path: Slots | Alone) -> torch.Tensor:
        """Logits of all rows at the end of the prompt and at each step after it."""
        probes = [
            ActiveRow(ids[:-PROBE_STEPS], n, len(ids), call.standing)
            for n, ids in zip(PROBE_LENGTHS, rows, strict=True)
        ]
        path.add(probes)
        logits = [path.step()]
        for step in range(PROBE_STEPS):
            for probe, ids in zip(probes, rows, strict=True):
                probe.ids.append(ids[probe.prompt + step])
            logits.append(path.step())
        return torch.stack(logits).float()

    truth = run(Alone(call, cached=False))
    tolerance = (5e-2 if call.dtype in (torch.bfloat16, torch.float16) else 1e-3) * truth.abs().max().clamp(min=1e-3)
    alone = Alone(call, cached=True)
    cached, why = _agrees(lambda: run(alone), truth, tolerance, "a cache of keys and values")
    if not cached:
        return Ability(False, False, None, 0, f"{why}: every token reads the whole text again")
    longest, why = _longest(call.config)
    slots = Slots(call)
    if longest != 0:
        right, why_not = _agrees(lambda: run(slots), truth, tolerance, "rows of different lengths in one batch")
        if right:
            return Ability(True, True, longest, slots.cache.bytes_per_token(), why)
        why = f"{why_not}: one row at a time"
    return Ability(False, True, None, alone.bytes_per_token(), why)


def _agrees(
    run: Callable[[], torch.Tensor], truth: torch.Tensor, tolerance: torch.Tensor, what: str
) -> tuple[bool, str]:
    try:
        difference = (run() - truth).abs().max()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, NotImplementedError) as error:
        # Any of these is a model that does not take what it was given; the slower path is right for it, and said.
        return False, f"the model does not take {what} ({type(error).__name__}: {str(error).splitlines()[:1]})"
    if not difference <= tolerance:
        return False, f"the model gives other values with {what} (by {difference.item():.2g})"
    return True, ""


def _longest(config: Any) -> tuple[int | None, str]:
    """Longest row whose values do not depend on a window or on its neighbours; 0 where there is none."""
    limits: list[tuple[int, str]] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicSlidingWindowLayer:
            limits.append((layer.sliding_window, "its attention has a window"))
        elif type(layer) is not DynamicLayer:
            return 0, f"layers of the kind {type(layer).__name__}: one row at a time"
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    for each in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if each.get("rope_type") in ("dynamic", "longrope"):  # frequencies that follow the longest row of a batch
            original = each.get("original_max_position_embeddings") or text.max_position_embeddings
            limits.append((original, "its positions are scaled by length"))
    if not limits:
        return None, ""
    longest, why = min(limits)
    return longest, f"{why}: rows that may pass {longest} tokens run one at a time"
