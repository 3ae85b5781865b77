"""How much memory training takes, part by part, in bytes.

    h hidden   M intermediate   q heads*head_dim   k kv_heads*head_dim   L layers   V vocab
    T padded tokens of one micro-batch             r adapter rank        G devices

The peak is what lives through the whole step (weights, adapter, gradients, the optimizer's moments) plus
the largest of what comes and goes: the logits at the end of the forward pass, one layer on its way back,
or the optimizer's temporary copies. How programs differ is data: :mod:`afina.plan.programs`.

Sources: QLoRA, arXiv 2305.14314 (NF4 sizes); Korthikanti et al., arXiv 2205.05198 (activations); 8-bit
optimizers, arXiv 2110.02861; ZeRO, arXiv 1910.02054 (what sharding divides). What a layer keeps for its
backward pass is what torch's saved-tensor hooks count for transformers + PEFT (``tests/test_plan.py``
counts it again), or what published slopes over the length say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from afina.model.shape import Layer, Linear, Shape, named_by
from afina.plan.calibration import Sureness
from afina.plan.interval import Interval
from afina.plan.programs import AFINA_CPU, Format, Kept, MlxFormat, TrainingProgram

AdapterKind = Literal["lora", "qlora", "none"]
Place = Literal["cpu", "cuda", "mps"]
Parallel = Literal["none", "ddp", "fsdp"]
Checkpointing = bool | Literal["selective"]

WEIGHT_BYTES: dict[str, float] = {
    "float32": 4.0,
    "16bit": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "mxfp4": 0.5 + 1 / 32,
    "nf4": 0.5 + 4 / 64,
    "nf4-double": 0.5 + 1 / 64 + 4 / (64 * 256),
    "gptq-int4": 0.5 + 2.5 / 128,
    "gptq-int8": 1.0 + 3 / 128,
    "awq-int4": 0.5 + 2.5 / 128,
}
"""Bytes of one value of a matrix with its scales. nf4: 4 bits and one float32 scale per 64 values; double: an 8-bit
scale per 64 and a float32 one per 256 of those; GPTQ and AWQ: a 16-bit scale and a packed zero per group of 128;
MXFP4: an 8-bit exponent per 32. MLX's are :func:`mlx_bytes`."""
READ_TOGETHER = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Matrices that read the same input as another."""
DORA_SUM_BYTES = 8.0
"""Of one number of a matrix while mlx-lm's DoRA measures the rows of it with its adapter: two arrays in float32."""
CHECK_BYTES = 8.0
"""Of one logit where the model computes its own loss without a gradient: the logits and their log-softmax."""
ROUNDED_SPREAD = (0.99, 1.02)
"""Parts that follow from counting: block sizes of the allocator."""
UNCERTAIN_SPREAD = (0.4, 2.5)
"""What layers keep where it is estimated from their sizes: hybrids keep several times what a transformer does."""


@dataclass(frozen=True)
class Setup:
    """What the memory of a training step depends on, beside the shape.

    Args:
        kind: `lora`, `qlora` (frozen matrices in fewer bits), or `none` for every weight.
        batch_tokens: T, padded tokens of the largest micro-batch on one device.
        target_tokens: positions of it whose logits are computed (the learned ones).
        length: of the longest row; only an attention that makes its scores depends on it.
        weights: what the frozen matrices are held in; the program's own where not given.
        checkpointing: whether activations inside a layer are computed again in the backward pass.
        check_tokens: of the row on which the loss is compared with the model's own before the first step; its logits
            are made at once.
        state_bytes: of AdamW's two moments per trained parameter; the program's own where not given.
        dora: whether each adapted matrix has a trained length for each of its outputs (DoRA).
        saved_parameters: weights of layers that are trained whole beside the adapter (`modules_to_save`).
        kept_states: how many copies of trained weights and moments the loop keeps to go back to, in this memory.
        dropout: whether the adapter drops inputs, which keeps a masked copy of each.
        parallel, devices: `ddp` copies everything, `fsdp` shares weights, gradients and states.
        offload: whether weights, the optimizer's moments and the gradients of a base trained whole live in the host's
            memory.
        step_in_backward: whether each gradient is applied and freed as soon as it is made.
        adapted_layers: how many of the last layers have adapters, and so a backward pass; all where not given.
        muon: whether the hidden matrices take Muon's steps, with one moment instead of two.
    """

    kind: AdapterKind
    batch_tokens: int
    target_tokens: int
    rank: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    place: Place = "cpu"
    program: TrainingProgram = AFINA_CPU
    length: int = 0
    weights: Format | MlxFormat | None = None
    checkpointing: Checkpointing = False
    check_tokens: int = 0
    state_bytes: float | None = None
    dora: bool = False
    saved_parameters: int = 0
    kept_states: float = 0.0
    dropout: bool = False
    parallel: Parallel = "none"
    devices: int = 1
    offload: bool = False
    step_in_backward: bool = False
    adapted_layers: int | None = None
    muon: bool = False

    @property
    def shards(self) -> int:
        """Into how many parts weights and states are divided."""
        return self.devices if self.parallel == "fsdp" else 1

    @property
    def trained_bytes(self) -> tuple[float, float, float]:
        """Of one trained parameter: its weight, its gradient, its moments."""
        weight, gradient, state = self.program.full_bytes if self.kind == "none" else self.program.adapter_bytes
        return weight, gradient, state if self.state_bytes is None else self.state_bytes


def training_memory(shape: Shape, setup: Setup) -> dict[str, Interval]:
    """Bytes of one device by part at the moment of the peak; their sum is the peak.

    >>> from afina.model.shape_table import dense_shape
    >>> tiny = dense_shape("llama", layers=2, hidden=8, intermediate=24, heads=2, kv_heads=2, head_dim=4, vocab=10,
    ...                    tied_embeddings=True, max_positions=32)
    >>> parts = training_memory(tiny, Setup("none", batch_tokens=16, target_tokens=16))
    >>> parts["weights"].point == 4 * tiny.parameters, parts["optimizer"].point == 8 * tiny.parameters
    (True, True)
    """
    trained, full = trained_parameters(shape, setup), setup.kind == "none"
    weight, gradient, state = setup.trained_bytes
    on_device = 0.0 if setup.offload else 1.0 / setup.shards
    saved = setup.saved_parameters
    copy, saved_gradient, saved_state = setup.program.saved_bytes
    kept, passing = activation_bytes(shape, setup), passing_bytes(shape, setup)
    step = trained * setup.program.step_bytes[0 if full else 1] + saved * setup.program.step_bytes[0]
    moving = kept + passing
    graded = largest_gradient(shape) if full and setup.step_in_backward else trained
    moments = trained * state - _spared_moments(shape, setup)
    states = (graded * gradient + saved * saved_gradient) * (on_device if full else 1.0 / setup.shards)
    check = CHECK_BYTES * setup.check_tokens * shape.vocab - states - max(moving, step / setup.shards)
    parts = {
        "weights": (trained * weight if full else frozen_weight_bytes(shape, setup)) * on_device,
        "adapter": 0.0 if full else (trained * weight + saved * copy) * on_device,
        "gradients": states,
        "optimizer": (moments + saved * saved_state) * on_device,
        "gathered": gathered_bytes(shape, setup),
        "experts as computed": expert_copies(shape, setup),
        "state to go back to": (trained * weight + moments + saved * (copy + saved_state)) * setup.kept_states,
        "activations": kept,
        "logits and backward": passing,
        "optimizer step": max(0.0, step / setup.shards - moving),
        "first check": max(0.0, check),
    }
    spread = {"activations": (0.9, 1.15), "logits and backward": (0.8, 1.3), "first check": (0.5, 1.3)}
    if shape.uncertain:
        spread |= {"activations": UNCERTAIN_SPREAD, "logits and backward": UNCERTAIN_SPREAD}
    found = {name: Interval.around(part, *spread.get(name, ROUNDED_SPREAD)) for name, part in parts.items()}
    return found | {"overhead": overhead_bytes(shape, setup, max(moving, step / setup.shards))}


def _spared_moments(shape: Shape, setup: Setup) -> float:
    """Bytes of the second moments that Muon's matrices do not have."""
    if not setup.muon:
        return 0.0
    return sum(linear.matrix_parameters for linear in shape.hidden_matrices) * setup.trained_bytes[2] / 2


def certain_bytes(parts: Mapping[str, Interval]) -> float:
    """What a peak cannot be below: weights, adapter and moments, which are counted and not estimated."""
    return sum(parts[name].low for name in ("weights", "adapter", "optimizer"))


def peak_interval(parts: Mapping[str, Interval], sure: Sureness, *, uncertain: bool = False) -> Interval:
    """The sum of the parts, with the interval that measured cases ask for.

    Args:
        uncertain: whether a part could not be counted; then it is no narrower than the parts' own.
    """
    peak = sure.around(sum(part.point for part in parts.values()), certain_bytes(parts))
    if not uncertain:
        return peak
    whole = Interval.total(parts.values())
    return Interval(peak.point, min(peak.low, whole.low), max(peak.high, whole.high))


def trained_parameters(shape: Shape, setup: Setup) -> int:
    """All of them, or the adapter's; layers trained whole beside it are not among them."""
    if setup.kind == "none":
        return shape.trainable_parameters
    lengths = sum(each.count * each.outputs for each in shape.adapted(setup.targets)) if setup.dora else 0
    everywhere = shape.lora_parameters(setup.rank, setup.targets, experts=adapts_experts(setup)) + lengths
    return everywhere * backward_layers(shape, setup) // shape.depth


def adapts_experts(setup: Setup) -> bool:
    """Whether adapters reach experts that stand in one tensor."""
    return setup.program.remakes_experts and setup.kind == "lora" and not setup.dropout and not setup.dora


def expert_copies(shape: Shape, setup: Setup) -> float:
    """Bytes of what is made of experts in one tensor in each forward, their adapters folded in or out of 4 bits, and
    kept for the backward pass: of all layers, or of one where layers compute again; and the gradient of one layer's."""

    def stacked(linears: Sequence[Linear]) -> list[Linear]:
        return [each for each in linears if each.role == "expert" and not each.module]

    reached = adapts_experts(setup) and bool(stacked(shape.adapted(setup.targets)))
    if not reached and not (setup.kind == "qlora" and setup.program.remakes_experts):
        return 0.0
    numbers = sum(each.matrix_parameters for each in stacked(shape.linears))
    layers = (1 if setup.checkpointing else shape.depth) + reached
    return setup.program.rest_bytes * numbers * layers / shape.depth


def backward_layers(shape: Shape, setup: Setup) -> int:
    """How many layers keep anything for a backward pass: those above the lowest one that is trained."""
    if setup.kind == "none" or setup.adapted_layers is None:
        return shape.depth
    return min(shape.depth, setup.adapted_layers)


def largest_gradient(shape: Shape) -> int:
    """Parameters whose gradients are alive at once where each layer steps as soon as it has them."""
    return max(shape.head_parameters, *(layer.matrix_parameters for layer in shape.layers))


def frozen_weight_bytes(shape: Shape, setup: Setup) -> float:
    """The base's bytes: matrices in the setup's format, the rest as its program holds it.

    Experts that stand in one tensor are no matrices to most quantizers, and stay as they are.
    Llama-2-7B in NF4, double quantization, the rest in 16 bits: 6.476e9 * 0.5159 + 0.262e9 * 2 = 3.87e9.
    """
    program = setup.program
    held = setup.weights or (program.four_bit if setup.kind == "qlora" else program.weights)
    matrices = mlx_bytes(held, scale_bytes=program.value_bytes) or WEIGHT_BYTES[held]
    rest = program.rest_bytes if matrices < 2 and not program.packs_tables else matrices
    head = shape.head_parameters if program.separate_head and shape.tied_embeddings else 0
    packed = shape.module_parameters + (shape.expert_parameters if program.packs_experts else 0)
    if matrices >= 2:
        packed = shape.linear_parameters
    return packed * matrices + (shape.parameters - packed + head) * rest


def mlx_bytes(weights: str, *, scale_bytes: int = 2) -> float:
    """Bytes of one value in MLX's `mlx-BITS-GROUP`, a scale and an offset for each group; 0 for another format.

    >>> mlx_bytes("mlx-4-64"), mlx_bytes("mlx-8-32", scale_bytes=4), mlx_bytes("nf4")
    (0.5625, 1.25, 0.0)
    """
    found = re.fullmatch(r"mlx-(\d)-(\d+)", weights)
    return int(found[1]) / 8 + 2 * scale_bytes / int(found[2]) if found else 0.0


def values_per_layer(layer: Layer, setup: Setup) -> float:
    """Values that one layer keeps for its backward pass, per token: the program's counts times the sizes, and what a
    layer that was counted has beyond what its sizes explain.

    In float32 with adapters 4h + 2q + 2k + 4M + r per adapted matrix: the two inputs of the norms and
    their outputs, what attention reads and writes, the MLP's gate, up, activation and product.
    """
    full = setup.kind == "none"
    values = _explained(layer, setup.program.kept_all if full else setup.program.kept_adapter)
    seen = layer.kept(setup.length, whole=full)
    if seen is not None:  # in float32, as afina computes on a CPU
        values += seen - _explained(layer, AFINA_CPU.kept_all if full else AFINA_CPU.kept_adapter)
    if setup.kind == "qlora" and setup.program.keeps_4bit_inputs:
        values += 2 * layer.hidden + layer.query + layer.intermediate
    if full:
        return float(values)
    kept, adapted = setup.program.kept_adapter, adapted_in(layer, setup.targets)
    values += kept.adapted_input * sum(_inputs_read(adapted, each=setup.program.copies_each_input))
    values += kept.rank * setup.rank * sum(linear.active * linear.ranks for linear in adapted)
    if setup.dropout:  # a masked copy of each input and one byte of mask for two of value
        values += kept.dropped_input * sum(linear.active * linear.inputs for linear in adapted)
    if setup.dora:
        values += kept.dora_output * sum(linear.active * linear.outputs for linear in adapted)
    return float(values)


def _inputs_read(adapted: Sequence[Linear], *, each: bool) -> Iterable[float]:
    """Sizes of the inputs of some matrices: of each of them, or of each input once."""
    if each:
        return [linear.active * linear.inputs for linear in adapted]
    names = ((linear.name.rpartition("."), linear) for linear in adapted)
    return {
        (place, READ_TOGETHER.get(name, name)): linear.active * linear.inputs for (place, _, name), linear in names
    }.values()


def _explained(layer: Layer, kept: Kept) -> float:
    """What the sizes of a layer say that a program keeps."""
    parallel_block = layer.norms < 2 or not layer.gated
    hidden = kept.parallel_hidden if parallel_block and kept.parallel_hidden else kept.hidden + layer.norms - 2
    intermediate = max(1, kept.intermediate - 2 * (not layer.gated))
    values = hidden * layer.hidden + kept.query * layer.query + kept.key * layer.key
    return values + intermediate * layer.intermediate + kept.normalized_qk * (layer.query + layer.key) * layer.qk_norm


def adapted_in(layer: Layer, targets: str | tuple[str, ...]) -> tuple[Linear, ...]:
    """The matrices of one layer that have an adapter."""
    if targets == "all-linear":
        return tuple(linear for linear in layer.linears if linear.ranks)
    linears = tuple(replace(linear, ranks=1) for linear in layer.linears if linear.module)
    named = (targets,) if isinstance(targets, str) else targets
    return tuple(one for one in linears if any(named_by([one], target) for target in named))


def score_bytes(layer: Layer, setup: Setup) -> float:
    """Attention's scores of one layer, T * s * heads, where the program makes them or the model caps them."""
    makes = setup.program.eager_attention or (layer.capped and setup.program.capped_is_eager)
    counted = bool(layer.counted)  # they are among what was counted
    values = setup.batch_tokens * setup.length * layer.heads
    return values * setup.program.value_bytes if makes and not counted else 0.0


def layer_bytes(layer: Layer, setup: Setup) -> float:
    """What one layer keeps for its backward pass."""
    values = setup.batch_tokens * values_per_layer(layer, setup) * setup.program.value_bytes
    return values + 3 * score_bytes(layer, setup) + unpacked_bytes(layer, setup)


def unpacked_bytes(layer: Layer, setup: Setup) -> float:
    """Bytes of the adapted matrices of one layer out of their bits, however few tokens there are: mlx-lm's DoRA
    multiplies with them so, and its backward pass needs them again (``DoRALinear.__call__``)."""
    if not (setup.dora and setup.kind == "qlora" and setup.program.by_mlx):
        return 0.0
    numbers = sum(linear.matrix_parameters for linear in adapted_in(layer, setup.targets))
    return float(numbers * setup.program.value_bytes)


def activation_bytes(shape: Shape, setup: Setup) -> float:
    """What the forward pass leaves for the backward pass.

    Without checkpointing L layers in full; with it the layers' inputs, L * T * h * bytes (none where
    the program moves them to the host); `selective` keeps the share of the layers that is not computed again.
    """
    program, layers = setup.program, backward_layers(shape, setup)
    whole = sum(layer.count * layer_bytes(layer, setup) for layer in shape.layers) * layers / shape.depth
    if not setup.checkpointing:
        return whole
    if setup.checkpointing == "selective":
        return whole * program.selective_share
    inputs = setup.batch_tokens * shape.hidden * program.residual_bytes
    return (2 if program.offloads_inputs else layers) * inputs


def passing_bytes(shape: Shape, setup: Setup) -> float:
    """The larger of the logits and one layer on its way back (computed again first, with checkpointing)."""
    back = max(_backward_bytes(layer, setup) for layer in shape.layers)
    logits = logit_bytes(shape, setup, setup.target_tokens)
    return logits + back if setup.program.adds_logits else max(logits, back)


def _backward_bytes(layer: Layer, setup: Setup) -> float:
    """One layer on its way back."""
    program = setup.program
    intermediate = program.back_intermediate + (program.back_again if setup.checkpointing else 0.0)
    values = intermediate * layer.intermediate + program.back_hidden * layer.hidden
    back = setup.batch_tokens * values * program.value_bytes
    back += 2 * score_bytes(layer, setup)
    back += program.backward_score_bytes * setup.batch_tokens * setup.length * layer.heads
    return back + layer_bytes(layer, setup) if setup.checkpointing else back


def logit_bytes(shape: Shape, setup: Setup, targets: int) -> float:
    """Logits, their copies and their gradient: of all targets, or of the chunk that the program makes at a time."""
    program = setup.program
    if program.chunk_logits is None:
        return program.logit_bytes * targets * shape.vocab
    chunk = min(targets, max(program.least_chunk, int(program.chunk_logits // shape.vocab)))
    hidden = targets * shape.hidden * program.value_bytes * 2
    return program.logit_bytes * chunk * shape.vocab + hidden + program.whole_logit_bytes * targets * shape.vocab


def gathered_bytes(shape: Shape, setup: Setup) -> float:
    """FSDP puts layers together again while they compute: the one at work and the next, or the embeddings."""
    if setup.shards == 1 and not setup.offload:
        return 0.0
    if setup.program.gathers_all and setup.kind != "none":
        return frozen_weight_bytes(shape, setup)
    each = frozen_weight_bytes(shape, setup) if setup.kind != "none" else shape.parameters * setup.program.gather_bytes
    share = max(layer.matrix_parameters for layer in shape.layers) / shape.parameters
    outside = shape.head_parameters * max(2.0, setup.program.gather_bytes)
    return 2 * each * share + outside


def dequantized_bytes(shape: Shape, setup: Setup) -> float:
    """The largest matrix in 16 bits, for the moment of its product; 0 without quantized weights. By mlx-lm's DoRA the
    sum of a matrix and its adapter in float32, whose rows are measured, and that as it is made."""
    if setup.dora and setup.program.by_mlx:
        return shape.largest_matrix * DORA_SUM_BYTES
    if setup.kind != "qlora":
        return 0.0
    return shape.largest_matrix * setup.program.dequantized_value


def overhead_bytes(shape: Shape, setup: Setup, moving: float) -> Interval:
    """The process or the driver, one matrix out of its bits, and what the allocator holds but does not use."""
    program = setup.program
    slack = (program.slack + (program.slack_4bit if setup.kind == "qlora" else 0.0)) * moving
    fixed = program.fixed_bytes + (program.parallel_bytes if setup.devices > 1 else 0.0)
    return Interval.around(fixed, 0.6, 1.7) + Interval.around(slack + dequantized_bytes(shape, setup), 0.5, 1.5)
