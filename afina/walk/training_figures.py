"""What a training took: the peak rate that its share is counted of, and the figures that it leaves."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afina.train.backend import Backend
    from afina.train.checkpoint import LoopState

LIBRARIES = {"torch": ("torch", "transformers", "peft"), "mlx": ("mlx", "mlx-lm", "torch", "transformers", "peft")}
"""What computes and writes a training, by its back end."""


def versions_of(backend: str) -> dict[str, str]:
    """The versions of what computes a training."""
    return {name: version(name) for name in LIBRARIES[backend]}


def peak_flops_of(device: Any, precision: str) -> tuple[float | None, str]:
    """Floating-point operations per second that MFU is a share of, and where the figure comes from or why there is
    none."""
    from afina.plan.device import local_device
    from afina.plan.matrix_rate import measure_rate

    if device.type == "cpu":
        if precision != "fp32":
            return None, f"the rate of {precision} on a CPU is not measured"
        rate = measure_rate()
        return (rate.flops_per_second, f"float32 matrix products: {rate.in_words}") if rate else (None, "not measured")
    if device.type == "cuda" and precision == "fp32":
        return None, "the table of devices has no rate of fp32"
    found = local_device(device.type)
    return found.flops_per_second, f"{found.name} in plan/devices.json"


def what_it_took(
    model: Any, state: LoopState, backend: Backend, device: Any, peak_flops: float | None
) -> dict[str, Any]:
    """The figures that a finished training leaves among the run's stages.

    Args:
        model: says what is trained; of another back end than torch it computes nothing.
    """
    import torch

    flops_token, flops_target = backend.flops
    seconds = max(state.seconds, 1e-9)
    mfu = (flops_token * state.tokens + flops_target * state.targets) / seconds / peak_flops if peak_flops else None
    peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else backend.memory_bytes()
    return {
        "steps": state.step,
        "stopped": state.stopped,
        "best_step": state.best_step,
        "best_loss": state.best_loss,
        "went_back": state.tries,
        "rate_factor": state.rate_factor,
        "splits": state.splits,
        "tokens": state.tokens,
        "target_tokens": state.targets,
        "train_seconds": round(state.seconds, 3),
        # On a CPU torch computes in the thread that asks for it: what is missing of 1, other programs had.
        "own_share": round(state.thread_seconds / seconds, 4) if device.type == "cpu" else None,
        "tokens_per_second": round(state.tokens / seconds, 1),
        "mfu": None if mfu is None else round(mfu, 4),
        "peak_bytes": peak,
        "device": str(device),
        "threads": backend.threads,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }


def what_is_adapted(model: Any, packed: tuple[int, float] | None = None) -> tuple[dict[str, Any], str]:
    """What an adapter adapts and leaves out, as plain values and in words; nothing of a model without one.

    Args:
        packed: in how many bits which share of the base's numbers is held, where `model` does not hold them.
    """
    if not hasattr(model, "peft_config"):
        return {}, ""
    from afina.model.targets_torch import adapted, share_in_4_bits

    found = adapted(model)
    bits, share = packed or (4, share_in_4_bits(model))
    text = f"{found}; {share:.1%} of the base's numbers are in {bits} bits" if share else str(found)
    return {"adapted": found.as_json() | {f"share_in_{bits}_bits": round(share, 4)}}, text
