"""Seconds of a published training: from tokens per second, seconds per step, or a whole run on a known dataset."""

from __future__ import annotations

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.plan.time import exchange_seconds, micro_batch_seconds, optimizer_seconds
from published.cases import Case, device_of, setup_of

ALPACA_TOKENS = 115
"""Mean tokens of an Alpaca example in its template, in a vocabulary of 32,000."""
ALPACA_TRAIN_ROWS = 1900
"""Of Alpaca2k, the dataset of LitGPT's published recipes."""


def predicted_seconds(case: Case, shape: Shape) -> tuple[float, float] | None:
    """(predicted, measured) seconds; none where the case measures no time that follows from its settings.

    Raises:
        RecipeError: the device is not in the table.
    """
    measured, name = case["measured"], case["framework"]
    if name.startswith("litgpt") and "time_s" in measured and case["quality"] != "C":
        return _alpaca(case, shape), measured["time_s"]
    if "tokens_per_s" not in measured or not case["seq_len"] or not case["micro_batch"]:
        return None
    tokens, length = setup_of(case, shape).batch_tokens, float(case["seq_len"])
    if "examples" in measured:  # short rows under a generous bound: what was really trained
        length = measured["tokens_total"] / measured["examples"]
        tokens = length * case["micro_batch"]
    each = _seconds(case, shape, tokens, length)
    gpus = case["device"]["count"] if "total over GPUs" in measured.get("note", "") else 1
    per_second = tokens / each * gpus
    return 1e6 / per_second, 1e6 / measured["tokens_per_s"]


def _seconds(case: Case, shape: Shape, tokens: float, length: float) -> float:
    """One micro-batch with its share of what devices exchange and of the optimizer's step."""
    setup, device = setup_of(case, shape), device_of(case)
    if device.flops_per_second <= 0:
        raise RecipeError("the device's rate is not known", "", case["id"])
    each = micro_batch_seconds(shape, setup, device, tokens, length) + exchange_seconds(shape, setup, device)
    return each + optimizer_seconds(shape, setup, device) / (case["grad_accum"] or 8)


def _alpaca(case: Case, shape: Shape) -> float:
    """Micro-batches of Alpaca, padded to the longest: with exponential lengths 1 + 1/2 + ... + 1/b times the mean."""
    batch = case["micro_batch"]
    longest = ALPACA_TOKENS * sum(1 / part for part in range(1, batch + 1))
    tokens = batch * min(longest, case["seq_len"])
    count = case["steps"] or ALPACA_TRAIN_ROWS * int(case["measured"]["note"].split()[0]) / batch
    return _seconds(case, shape, tokens, min(longest, case["seq_len"])) * count
