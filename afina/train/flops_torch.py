"""What torch computes and holds: operations of a training step, memory so far."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch

from afina.model.decoder_torch import text_decoder
from afina.model.loss_torch import causal_lm


def flops_per_token(model: Any) -> tuple[float, float]:
    """Floating-point operations of one training step per token, and per target token for the head.

    Each number of a matrix costs 2 forward, 2 for the gradient of its input and, where it is trained, 2
    more for its own. Attention's products and what checkpointing computes twice are not counted, as in
    the usual MFU.
    """
    inner = causal_lm(model)
    output = inner.get_output_embeddings()
    head = {id(module): module for module in (output.modules() if output is not None else ())}
    per_token = per_target = 0.0
    for module in ({id(module): module for module in text_decoder(inner).modules()} | head).values():
        if isinstance(module, torch.nn.RNNBase):
            per_token += 6.0 * sum(weight.numel() for weight in module.parameters() if weight.dim() > 1)
            continue
        if not (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"):
            continue
        weight: Any = module.weight
        packed = getattr(weight, "quant_state", None)
        numbers = packed.shape.numel() if packed is not None else weight.numel()
        cost = numbers * (6.0 if weight.requires_grad else 4.0)
        if id(module) in head:
            per_target += cost
        else:
            per_token += cost
    return per_token, per_target


def memory_bytes(device: torch.device) -> int:
    """The most memory held so far: of the GPU, or of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_peak_bytes()


def process_peak_bytes() -> int:
    """The most memory that this process itself has held so far.

    Linux's own maximum of the address space. `getrusage` would count who started the process: its `ru_maxrss` goes
    through fork and exec, so that a run started from a notebook that holds 10 GB says at least 10 GB.
    """
    status = Path("/proc/self/status")
    told = status.read_text(encoding="ascii") if status.exists() else ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB$", told, re.MULTILINE):
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
