"""Trial steps by torch: see :mod:`afina.train.trial`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from afina.model.loss_torch import check_loss, make_batch, target_loss
from afina.recipe import Train
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row
from afina.train.flops_torch import process_peak_bytes
from afina.train.memory_torch import memory_errors
from afina.train.optimizer_torch import make_optimizer
from afina.train.switches_torch import products_in, switch_kernels, training_mode
from afina.train.trial import Trial, take_steps


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
    """The steps of :func:`afina.train.trial.take_steps`; of every method with the loss of the rows' own targets.

    The model is changed by them and must not be used afterwards. None where memory runs out.
    """
    optimizer = make_optimizer(model, settings, device, lora_plus_ratio=lora_plus_ratio)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]

    def take(batch: Sequence[Row]) -> float:
        started = time.perf_counter()
        made = make_batch(batch, pad_id, device)
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

    found = None
    with training_mode(model, settings), memory_errors() as short:
        check_loss(
            model, make_batch([rows[0]], pad_id, device), lambda: switch_kernels(model, settings, lambda _: None)
        )
        model.train()
        found = take_steps(take, rows, settings, seed=seed, peak_bytes=partial(_peak_bytes, device), progress=progress)
    return None if short else found


def _peak_bytes(device: torch.device) -> int:
    """The most that was held: by torch and the driver's context on a GPU, or by this process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        context = max(0, total - free - torch.cuda.memory_reserved(device))
        return torch.cuda.max_memory_reserved(device) + min(context, 2 << 30)
    return process_peak_bytes()
