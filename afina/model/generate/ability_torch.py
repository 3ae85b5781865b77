"""Which of the paths give a model's own logits: found by running them, never assumed."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from afina.model.generate.call_torch import Caller
from afina.model.generate.forwards import Ability, draw_probe
from afina.model.generate.paths_torch import Equal, ropes, slots_of
from afina.model.shape_table import RECURRENT

_KNOWN: WeakKeyDictionary[Any, Ability] = WeakKeyDictionary()


def ability_of(call: Caller) -> Ability:
    """Which paths give the model's own logits; found once for a model, in about twenty small forwards."""
    if call.model not in _KNOWN:
        _KNOWN[call.model] = _find_ability(call)
    return _KNOWN[call.model]


@torch.no_grad()
def _find_ability(call: Caller) -> Ability:
    text = call.config.get_text_config(decoder=True)
    longest, why = _longest(call.config)
    limits = (longest, getattr(text, "max_position_embeddings", None))
    probe = draw_probe(call.standing, text.vocab_size, limits)
    truth = probe.run(Equal(call, cached=False, most=1))
    tolerance = 5e-2 if call.dtype in (torch.bfloat16, torch.float16) else 1e-3
    alone, slots, together = Equal(call, most=1), slots_of(call), Equal(call)
    broken = probe.why_not(alone, truth, tolerance, "what it keeps for the next token")
    if broken:
        return Ability(False, False, False, None, 0, f"{broken}: every token reads the whole text again")
    right = False
    if longest != 0:
        why_not = probe.why_not(slots, truth, tolerance, "rows of different lengths in one batch")
        right, why = not why_not, why_not or why
    if right and longest is None:  # every row goes there
        return Ability(True, False, True, None, slots.bytes_per_token())
    why_not = probe.why_not(together, truth, tolerance, "rows of one length in one batch")
    if why:
        why += f", and {why_not}: one row at a time" if why_not else ": rows of one length share a forward"
    held = slots.bytes_per_token() if right else alone.bytes_per_token()
    return Ability(right, not why_not, True, longest if right else None, held, why)


def _longest(config: Any) -> tuple[int | None, str]:
    """Longest row whose values do not depend on a window or on its neighbours; 0 where there is none."""
    if config.model_type == RECURRENT:
        return None, ""
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
