"""How long it takes: arithmetic divided by the share of the device's rate that training reaches.

    h hidden   q heads*head_dim   L layers   V vocab   s mean length of an example
    N matrices of the layers (L * sum of inputs * outputs)   A adapter parameters

One multiply and one add per parameter make 2 FLOPs forward; the backward pass costs 2 more for
the gradient of the input and 2 more for the gradient of the weight, if the weight is trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from afina.model.shape import Shape
from afina.plan.device import Device
from afina.plan.interval import Interval
from afina.plan.memory import Setup, trained_parameters
from afina.plan.tokens import TokenCount

FILL = Interval(0.88, 0.70, 0.95)
"""Real tokens / padded tokens of a micro-batch."""
START_SECONDS = {"cpu": Interval(10, 4, 30), "mps": Interval(15, 5, 60), "cuda": Interval(30, 10, 180)}
"""Imports, the tokenizer, the first step."""
LOAD_BYTES_PER_SECOND = Interval(1.0e9, 0.2e9, 2.5e9)
"""Reading weights from a disk."""
GENERATION_BATCH = 8
GENERATION_SHARE = Interval(0.3, 0.1, 0.5)
"""Share of the memory's rate that decoding reaches in plain PyTorch (0.28 measured on an A100)."""


@dataclass(frozen=True)
class Efficiency:
    """The share of the device's matrix rate that a training loop reaches.

        ceiling * h**2 / (h**2 + half_hidden**2) * T / (T + half_tokens)

    Matrix work grows with h**2 while what surrounds it (dispatch, norms, the optimizer) hardly
    does, so narrow models reach little; and a micro-batch of few tokens pays the same fixed
    cost. At `half_hidden` and `half_tokens` half the ceiling is reached.
    """

    ceiling: float
    half_hidden: float
    half_tokens: float
    low: float
    high: float
    """Factors from the point to the slowest and the fastest to expect."""

    def at(self, hidden: int, batch_tokens: float) -> Interval:
        """The share, with its interval.

        >>> round(EFFICIENCY["cpu"].at(192, 1024).point, 2), round(EFFICIENCY["cpu"].at(2048, 1024).point, 2)
        (0.25, 0.69)
        """
        wide = hidden**2 / (hidden**2 + self.half_hidden**2)
        full = batch_tokens / (batch_tokens + self.half_tokens)
        return Interval.around(self.ceiling * wide * full, self.low, self.high)


EFFICIENCY = {
    # float32, measured on two virtual processors: 0.25 at h 192, 0.70 for wide models.
    "cpu": Efficiency(0.74, 260, 50, 0.6, 1.4),
    # bfloat16, published runs: A100 7B LoRA 0.40-0.50 from 1k tokens and 0.23-0.33 at 256;
    # 1.8B 0.22-0.30; 4090 and 3090 0.43-0.67; models below 30M parameters under 0.05.
    "cuda": Efficiency(0.62, 2000, 250, 0.55, 1.6),
    # M1 Max, 8B: 0.43 (98 tokens/s at 2k).
    "mps": Efficiency(0.50, 1000, 250, 0.5, 1.4),
}
CUDA_FLOAT32_SHARE = Interval(0.15, 0.06, 0.5)
"""float32 rate / bfloat16 rate of a GPU: a half on gaming cards, a sixteenth on data-centre ones."""
QLORA_HALF_TOKENS = 500
"""On a GPU with 4-bit weights: 0.285 s fixed and 0.56 ms per token (4090, 8B)."""


def flops_per_token(shape: Shape, setup: Setup, mean_length: float, target_share: float) -> float:
    """FLOPs that training spends on one real token.

    Matrices: 6N when trained, 4N when frozen (+2N with checkpointing), 6A for the adapter.
    Attention, causal: 6*L*q*s (8 with checkpointing). Output layer, at learned positions only: 6*V*h when
    trained, 4*V*h when frozen.
    """
    full = setup.kind == "none"
    again = 2 * setup.checkpointing
    matrices = ((6 if full else 4) + again) * shape.linear_parameters
    adapter = 0 if full else (6 + again) * trained_parameters(shape, setup)
    attention = (6 + again) * shape.layers * shape.query_size * mean_length
    head = (6 if full else 4) * shape.head_parameters * target_share
    return matrices + adapter + attention + head


def training_rate(shape: Shape, setup: Setup, device: Device) -> Interval:
    """FLOPs per second that training reaches on the device; `low` is the slowest."""
    efficiency = EFFICIENCY[device.kind]
    if setup.kind == "qlora" and device.kind == "cuda":
        efficiency = Efficiency(
            efficiency.ceiling, efficiency.half_hidden, QLORA_HALF_TOKENS, efficiency.low, efficiency.high
        )
    rate = efficiency.at(shape.hidden, setup.batch_tokens) * device.flops_per_second
    if device.kind == "cuda" and setup.arithmetic == "float32" and setup.kind != "qlora":
        share = CUDA_FLOAT32_SHARE
        return Interval(rate.point * share.point, rate.low * share.low, rate.high * share.high)
    return rate


def run_time(
    shape: Shape,
    setup: Setup,
    device: Device,
    tokens: TokenCount,
    *,
    epochs: float,
    validations: float,
    generated_tokens: float,
    weight_bytes: float,
    judged_before: bool = False,
) -> dict[str, Interval]:
    """Seconds by part.

    Args:
        epochs: passes over the dataset.
        validations: how many times the held-out loss is measured.
        generated_tokens: most tokens that the probes and samples may ask for.
        weight_bytes: of the base, read from disk.
        judged_before: whether the model looks at every row once before it is trained, as DPO asks.
    """
    rate = training_rate(shape, setup, device)
    spread = tokens.spread
    per_token = flops_per_token(shape, setup, tokens.mean_length, tokens.target_share)
    forward = 2 * shape.linear_parameters + 2 * shape.layers * shape.query_size * tokens.mean_length
    forward += 2 * shape.head_parameters * tokens.target_share
    once = tokens.tokens + tokens.held_out if judged_before else 0
    return {
        "start": START_SECONDS[device.kind] + _divide(weight_bytes, LOAD_BYTES_PER_SECOND),
        "training": _work(per_token * tokens.tokens * epochs, rate, spread),
        "validation": _work(forward * (tokens.held_out * validations + once), rate, spread),
        "generation": _generation(shape, device, generated_tokens, weight_bytes),
    }


def optimizer_steps(tokens: TokenCount, batch_tokens: int, accumulate: int, epochs: float) -> int:
    """ceil(micro-batches per epoch * epochs / accumulate), micro-batches filled to :data:`FILL`.

    >>> optimizer_steps(TokenCount(8800, 8800, 100, 100), 1000, 2, 3.0)
    15
    """
    if tokens.longest > batch_tokens:  # a micro-batch holds at least one example
        batch_tokens = tokens.longest
    micro_batches = math.ceil(round(tokens.tokens / FILL.point / batch_tokens, 6))
    return max(1, math.ceil(micro_batches * epochs / accumulate))


def _work(flops: float, rate: Interval, spread: float) -> Interval:
    """Seconds for FLOPs over real tokens; padding is computed too."""
    return Interval(
        flops / FILL.point / rate.point, flops / spread / FILL.high / rate.high, flops * spread / FILL.low / rate.low
    )


def _divide(amount: float, per_second: Interval) -> Interval:
    """Seconds; the lowest rate takes longest."""
    return Interval(amount / per_second.point, amount / per_second.high, amount / per_second.low)


def _generation(shape: Shape, device: Device, tokens: float, weight_bytes: float) -> Interval:
    """Decoding reads every weight once for each step of a batch. Answers mostly end before the limit."""
    step = _divide(weight_bytes, GENERATION_SHARE * device.bytes_per_second)
    dispatch = shape.layers * 0.5e-3  # a step of a small model costs its launches, not its bytes
    steps = tokens / GENERATION_BATCH
    return Interval(
        (step.point + dispatch) * steps * 0.5,
        (step.low + dispatch / 2) * steps * 0.1,
        (step.high + dispatch * 2) * steps,
    )
