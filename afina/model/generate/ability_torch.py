"""Which of the paths give a model's own logits: found by running them, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from afina.model.generate.call_torch import Caller
from afina.model.generate.paths_torch import ActiveRow, Equal, Slots, ropes

PROBE_SHORT, PROBE_LONG, PROBE_STEPS = 3, 24, 2
"""Tokens of the shortest and the longest prompts that are tried. A model that takes its distances from places in the
batch, as MPT does, is off by so little after three more tokens that it passes."""


@dataclass(frozen=True)
class Ability:
    """What was found out about a model."""

    slots: bool
    equal: bool
    """Whether rows of one length may share a forward and its cache; not asked where slots take every row."""
    cached: bool
    longest: int | None
    """Longest row that may share a forward with rows of other lengths; None where there is no such limit."""
    bytes_per_token: int
    """Of the cache; 0 without one."""
    why: str = ""
    """In words, why it is not all of it."""


_KNOWN: WeakKeyDictionary[Any, Ability] = WeakKeyDictionary()


def ability_of(call: Caller) -> Ability:
    """Which paths give the model's own logits; found once for a model, in about twenty small forwards."""
    if call.model not in _KNOWN:
        _KNOWN[call.model] = _find_ability(call)
    return _KNOWN[call.model]


@torch.no_grad()
def _find_ability(call: Caller) -> Ability:
    text = call.config.get_text_config(decoder=True)
    generator = torch.Generator().manual_seed(0)
    longest, why = _longest(call.config)
    limits = [each for each in (longest, getattr(text, "max_position_embeddings", None)) if each]
    long = max(PROBE_SHORT + 1, min([PROBE_LONG, *(each - PROBE_STEPS - 1 for each in limits)]))
    prompts = (PROBE_SHORT, long, long)
    lengths = [n + PROBE_STEPS + 1 for n in prompts]
    rows = [torch.randint(text.vocab_size, (n,), generator=generator).tolist() for n in lengths]

    def run(path: Slots | Equal) -> torch.Tensor:
        """Logits of all rows at the end of the prompt and at each step after it; and once more after one has left."""
        probes = [ActiveRow(ids[:n], n, len(ids), call.standing) for n, ids in zip(prompts, rows, strict=True)]
        path.add(probes)
        logits = [path.step()]
        for step in range(PROBE_STEPS + 1):
            if step == PROBE_STEPS:
                path.remove([probes[1]])
            for probe, ids in zip(probes, rows, strict=True):
                probe.ids.append(ids[probe.prompt + step])
            logits.append(path.step())
        return torch.cat(logits).float()

    truth = run(Equal(call, cached=False, most=1))
    tolerance = (5e-2 if call.dtype in (torch.bfloat16, torch.float16) else 1e-3) * truth.abs().max().clamp(min=1e-3)
    alone, slots, together = Equal(call, most=1), Slots(call), Equal(call)
    cached, broken = _agrees(lambda: run(alone), truth, tolerance, "what it keeps for the next token")
    if not cached:
        return Ability(False, False, False, None, 0, f"{broken}: every token reads the whole text again")
    right = False
    if longest != 0:
        right, why_not = _agrees(lambda: run(slots), truth, tolerance, "rows of different lengths in one batch")
        why = why if right else why_not
    if right and longest is None:  # every row goes there
        return Ability(True, False, True, None, slots.cache.bytes_per_token())
    equal, why_not = _agrees(lambda: run(together), truth, tolerance, "rows of one length in one batch")
    if why:
        why += ": rows of one length share a forward" if equal else f", and {why_not}: one row at a time"
    held = slots.cache.bytes_per_token() if right else alone.bytes_per_token()
    return Ability(right, equal, True, longest if right else None, held, why)


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
        if hasattr(layer, "recurrent_states"):
            return 0, "linear attention or a state space keeps one state for all that it has read, padding too"
        if type(layer) is DynamicSlidingWindowLayer:
            limits.append((layer.sliding_window, "its attention has a window"))
        elif type(layer) not in (DynamicLayer, DummyLayer):  # the latter sees the keys of another layer
            return 0, f"its layers keep more than keys and values ({type(layer).__name__})"
    text = config.get_text_config(decoder=True)
    if "local" in getattr(text, "attention_layers", ()):  # GPT-Neo's window stands in no layer of its cache
        limits.append((text.window_size, "its attention has a window"))
    if kept := getattr(text, "keep_window_size", None):  # Doge keeps the strongest keys among a batch's columns
        limits.append((kept, f"its attention keeps {kept} keys of all"))
    for rope in ropes(config):
        if rope["rope_type"] in ("dynamic", "longrope"):  # frequencies that follow the longest row of a batch
            limits.append((rope["original_max_position_embeddings"], "its positions are scaled by length"))
    if not limits:
        return None, ""
    longest, why = min(limits)
    return longest, f"{why}; of rows that may pass {longest} tokens"
