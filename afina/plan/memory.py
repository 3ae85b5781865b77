"""How much memory training takes, part by part, in bytes.

    h hidden   M intermediate   q heads*head_dim   k kv_heads*head_dim   L layers   V vocab
    T padded tokens of one micro-batch             r adapter rank

Each part has a point and an interval. Parts that follow from counting (weights, states) are known
to about 2 %, activations to about 20 %: how much a kernel saves for its backward pass differs.

Sources: QLoRA, arXiv 2305.14314 (NF4 sizes); Korthikanti et al., arXiv 2205.05198 (activations);
fitcheck-llm 0.3.1, MIT (the values of `lean`, measured on a T4); all other values per layer are
what torch's saved-tensor hooks count for transformers + PEFT, rows padded on the right without a
mask (``tests/test_plan.py`` counts them again).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from afina.model.shape import Shape
from afina.plan.interval import Interval

AdapterKind = Literal["lora", "qlora", "none"]
Place = Literal["cpu", "cuda", "mps"]

Arithmetic = Literal["float32", "mixed", "16bit", "lean"]
"""What weights and activations are held in. `float32`: a CPU, a model from nothing, and a 4-bit base, whose other
weights become float32. `mixed`: a 16-bit base under float32 adapters. `16bit`: every weight trained in 16 bits.
`lean`: 16 bits with adapters in 16 bits too, as other programs have it."""


class Kept(NamedTuple):
    """Values that one layer keeps for its backward pass, per token: how many times each size."""

    hidden: int
    query: int
    key: int
    intermediate: int
    normalized_qk: int
    """Times q + k, where queries and keys are normalized."""
    rank: int
    """Times r, for each adapted matrix."""


KEPT = {
    ("float32", "adapter"): Kept(4, 2, 2, 4, 1, 1),
    ("float32", "all"): Kept(6, 2, 2, 4, 2, 0),
    ("mixed", "adapter"): Kept(14, 4, 2, 5, 2, 2),  # each adapted matrix keeps a float32 copy of its input
    ("16bit", "all"): Kept(8, 2, 2, 4, 3, 0),
    ("lean", "adapter"): Kept(12, 3, 1, 3, 2, 1),
    ("lean", "all"): Kept(12, 3, 1, 3, 2, 1),
}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""4 bits, one 8-bit scale per 64 values, one float32 scale per 256 of those: 0.5159 with double quantization."""
LOGIT_BYTES = Interval(12, 10, 17)
"""Per logit: float32 copy, log-softmax and gradient, and 16-bit ones beside them; 10 to 17 measured."""
PROCESS_BYTES = {"cpu": Interval(0.5e9, 0.35e9, 0.8e9), "mps": Interval(0.6e9, 0.4e9, 1.2e9)}
"""Python, torch, transformers, the tokenizer."""
CUDA_CONTEXT_BYTES = Interval(0.5e9, 0.15e9, 1.4e9)
"""What the driver takes; 0.14 (T4) to 0.65 GB seen, 1.4 quoted for the newest stacks."""
CUDA_WORKSPACE_BYTES = Interval(0.3e9, 0.1e9, 0.5e9)
"""Scratch space of the matrix library and small buffers."""
ALLOCATOR_SLACK = Interval(0.05, 0.0, 0.25)
"""Reserved but unused, as a share of what varies from micro-batch to micro-batch."""


@dataclass(frozen=True)
class Setup:
    """What the memory of a training step depends on, beside the shape.

    Args:
        kind: `lora`, `qlora`, or `none` for every weight.
        batch_tokens: T, padded tokens of the largest micro-batch.
        target_tokens: positions of it whose logits are computed (the learned ones).
        place: decides the overhead.
        arithmetic: what frozen weights and activations are held in.
        rest_bytes: per weight of a 4-bit base that is not in 4 bits: embeddings, norms, lm_head.
        checkpointing: whether activations inside a layer are computed again in the backward pass.
        validation_target_tokens: the same as `target_tokens`, for a micro-batch of the held-out loss.
        trained_bytes: per trained parameter, for its weight and its gradient (float32) and AdamW's two averages.
    """

    kind: AdapterKind
    batch_tokens: int
    target_tokens: int
    rank: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    place: Place = "cpu"
    arithmetic: Arithmetic = "float32"
    rest_bytes: float = 4.0
    checkpointing: bool = False
    validation_target_tokens: int = 0
    trained_bytes: tuple[float, float, float] = (4.0, 4.0, 8.0)

    @property
    def value_bytes(self) -> int:
        """Bytes of one frozen weight or activation."""
        return 4 if self.arithmetic == "float32" else 2


def training_memory(shape: Shape, setup: Setup) -> dict[str, Interval]:
    """Bytes by part at the moment of the peak; their sum is the peak.

    >>> tiny = Shape("llama", layers=2, hidden=8, intermediate=24, heads=2, kv_heads=2, head_dim=4, vocab=10,
    ...              tied_embeddings=True, max_positions=32)
    >>> parts = training_memory(tiny, Setup("none", batch_tokens=16, target_tokens=16))
    >>> parts["weights"].point == 4 * tiny.parameters, parts["optimizer"].point == 8 * tiny.parameters
    (True, True)
    """
    trained = trained_parameters(shape, setup)
    weight, gradient, state = setup.trained_bytes
    full = setup.kind == "none"
    frozen = 0.0 if full else frozen_weight_bytes(shape, setup)
    logits = LOGIT_BYTES * (setup.target_tokens * shape.vocab)
    step = activation_bytes(shape, setup) + Interval(
        *(max(a, b) for a, b in zip(_ends(logits), _ends(_backward_bytes(shape, setup)), strict=True))
    )
    held_out = LOGIT_BYTES * (setup.validation_target_tokens * shape.vocab)
    parts = {
        "weights": Interval.around(trained * weight if full else frozen, 0.99, 1.02),
        "adapter": Interval.around(0.0 if full else trained * weight, 1.0, 1.02),
        "gradients": Interval.around(trained * gradient, 1.0, 1.05),
        "optimizer": Interval.around(trained * state, 1.0, 1.25 if full and setup.place == "cuda" else 1.05),
        "activations": activation_bytes(shape, setup),
        "logits": Interval(*(a - b for a, b in zip(_ends(step), _ends(activation_bytes(shape, setup)), strict=True))),
        "validation": Interval(*(max(0.0, a - b) for a, b in zip(_ends(held_out), _ends(step), strict=True))),
    }
    return parts | {"overhead": overhead_bytes(shape, setup, step)}


def trained_parameters(shape: Shape, setup: Setup) -> int:
    """All of them, or the adapter's."""
    return shape.parameters if setup.kind == "none" else shape.lora_parameters(setup.rank, setup.targets)


def frozen_weight_bytes(shape: Shape, setup: Setup) -> float:
    """The base's bytes: 4-bit matrices for `qlora`, else what the arithmetic says.

    Llama-2-7B in NF4, the rest in 16 bits: 6.476e9 * 0.5159 + 0.262e9 * 2 = 3.87e9.
    """
    if setup.kind == "qlora":
        rest = shape.parameters - shape.linear_parameters
        return shape.linear_parameters * NF4_BYTES + rest * setup.rest_bytes
    return float(shape.parameters * setup.value_bytes)


def values_per_layer(shape: Shape, setup: Setup) -> float:
    """Values that one layer keeps for its backward pass, per token: :data:`KEPT` times the sizes.

    In float32 with adapters 4h + 2q + 2k + 4M + r per adapted matrix: the two inputs of the norms and
    their outputs, what attention reads and writes, the MLP's gate, up, activation and product.
    """
    full = setup.kind == "none"
    kept = KEPT[setup.arithmetic, "all" if full else "adapter"]
    gateless = 3 - shape.mlp_matrices
    values = (
        (kept.hidden + shape.norms - 2) * shape.hidden
        + kept.query * shape.query_size
        + kept.key * shape.kv_size
        + (kept.intermediate - gateless) * shape.intermediate
        + kept.normalized_qk * (shape.query_size + shape.kv_size) * shape.qk_norm
    )
    adapted = 0 if full else setup.rank * len(shape.adapted(setup.targets))
    return float(values + kept.rank * adapted)


def activation_bytes(shape: Shape, setup: Setup) -> Interval:
    """What the forward pass leaves for the backward pass.

    Without checkpointing L * T * :func:`values_per_layer` * bytes; with it the layers' inputs,
    L * T * h * bytes, and one layer in full.
    """
    layer = setup.batch_tokens * values_per_layer(shape, setup) * setup.value_bytes
    if setup.checkpointing:
        kept = Interval.around(shape.layers * setup.batch_tokens * shape.hidden * setup.value_bytes, 1.0, 2.0)
        return kept + Interval.around(layer, 0.8, 1.5)
    counted = setup.arithmetic != "lean" and setup.kind != "qlora"
    return Interval.around(shape.layers * layer, *((0.9, 1.15) if counted else (0.75, 1.35)))


def overhead_bytes(shape: Shape, setup: Setup, step: Interval) -> Interval:
    """The process on a CPU; on a GPU the context, workspace, one matrix out of 4 bits, and the allocator's slack."""
    if setup.place != "cuda":
        return PROCESS_BYTES[setup.place]
    slack = Interval(*(a * b for a, b in zip(_ends(step), _ends(ALLOCATOR_SLACK), strict=True)))
    return CUDA_CONTEXT_BYTES + CUDA_WORKSPACE_BYTES + slack + Interval.around(dequantized_bytes(shape, setup), 1, 1)


def dequantized_bytes(shape: Shape, setup: Setup) -> float:
    """The largest matrix in 16 bits, for the moment of its product; 0 without 4-bit weights."""
    if setup.kind != "qlora":
        return 0.0
    return float(max(linear.inputs * linear.outputs for linear in shape.linears) * 2)


def _backward_bytes(shape: Shape, setup: Setup) -> Interval:
    """Gradients in flight inside one layer: of the MLP's three products and its input."""
    values = setup.batch_tokens * (3 * shape.intermediate + 2 * shape.hidden)
    return Interval.around(float(values * setup.value_bytes), 0.5, 1.3)


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.point, interval.low, interval.high
