"""Trial steps: a few real ones, to see what a job takes on this machine before all of it is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from afina.model.loss_torch import check_loss, make_batch, target_loss
from afina.recipe import Train
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row
from afina.tokenizer.tokens import row_sizes
from afina.train.batches import plan_epoch
from afina.train.flops_torch import process_peak_bytes
from afina.train.memory_torch import memory_errors
from afina.train.optimizer_torch import make_optimizer
from afina.train.switches_torch import products_in, switch_kernels, training_mode

STEPS = 3


@dataclass(frozen=True)
class Trial:
    """What the steps took. `padded_tokens` are of the timed micro-batches; `peak_bytes` of the process or the GPU."""

    seconds: float
    padded_tokens: int
    peak_bytes: int
    steps: int


def try_steps(
    model: Any,
    rows: Sequence[Row],
    settings: Train,
    *,
    seed: int,
    pad_id: int,
    device: torch.device,
    lora_plus_ratio: float = 1.0,
    progress: Progress = no_progress,
) -> Trial | None:
    """One step with the largest micro-batch, for the memory, and three with usual ones, for the time.

    The model is changed by them and must not be used afterwards. None where memory runs out.
    """
    lengths = row_sizes(rows).places
    batches = plan_epoch(lengths, batch_tokens=settings.batch_tokens, seed=seed, epoch=0)

    def padded(batch: Sequence[int]) -> int:
        return len(batch) * max(lengths[row] for row in batch)

    order = sorted(batches, key=padded)
    usual = [order[min(len(order) - 1, len(order) * (2 * part + 1) // (2 * STEPS))] for part in range(STEPS)]
    optimizer = make_optimizer(model, settings, device, lora_plus_ratio=lora_plus_ratio)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]

    def step(batch: Sequence[int]) -> float:
        started = time.perf_counter()
        made = make_batch([rows[row] for row in batch], pad_id, device)
        with products_in(settings.precision, device):
            loss = target_loss(model, made) / max(1, made.targets)
        loss.backward()
        _ = loss.item()
        forward = time.perf_counter() - started
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        after = time.perf_counter() - started - forward
        return forward + after / settings.accumulate

    seconds = 0.0
    with training_mode(model, settings), memory_errors() as short:
        check_loss(
            model,
            make_batch([rows[batches[0][0]]], pad_id, device),
            lambda: switch_kernels(model, settings, lambda _: None),
        )
        model.train()
        step(order[-1])
        for number, batch in enumerate(usual, start=1):
            seconds += step(batch)
            progress(number, STEPS, "steps")
    if short:
        return None
    return Trial(seconds, sum(map(padded, usual)), _peak_bytes(device), STEPS)


def _peak_bytes(device: torch.device) -> int:
    """The most that was held: by torch and the driver's context on a GPU, or by this process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        context = max(0, total - free - torch.cuda.memory_reserved(device))
        return torch.cuda.max_memory_reserved(device) + min(context, 2 << 30)
    return process_peak_bytes()
