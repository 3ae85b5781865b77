"""How long it takes: what a micro-batch computes, moves, unpacks and launches on the device.

    h hidden   q heads*head_dim   k kv_heads*head_dim   M intermediate   L layers   V vocab
    T padded tokens of a micro-batch   s mean length of an example   N matrices of the layers (L * sum of
    inputs * outputs)   A adapter parameters

One multiply and one add per parameter make 2 FLOPs forward; the backward pass costs 2 more for
the gradient of the input and 2 more for the gradient of the weight, if the weight is trained.

On a GPU, seconds of a micro-batch = the larger of

    FLOPs / (ceiling * rate) + bytes moved between kernels / bandwidth + 4-bit matrices unpacked
    launches of kernels, which the processor pays whatever their size

so that a narrow model, a short micro-batch and a card with much arithmetic for its bandwidth all reach a small share
of its rate, without a constant of their own. The constants are fitted over all published cases together
(``benchmarks/plan_accuracy.py``). On a CPU and an Apple chip a measured share of the rate takes their place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from afina.model.footprint import ORTHOGONAL_ITERATIONS
from afina.model.shape import Shape
from afina.plan.asking import AskedTokens
from afina.plan.calibration import Sureness, sureness
from afina.plan.device import Device
from afina.plan.interval import Interval
from afina.plan.memory import Setup, backward_layers, frozen_weight_bytes, trained_parameters
from afina.plan.tokens import TokenCount
from afina.recipe import METHODS, Method

FILL = Interval(0.88, 0.70, 0.95)
"""Real tokens / padded tokens of a micro-batch, where the lengths are not known."""
START_SECONDS = {"cpu": Interval(10, 4, 30), "mps": Interval(15, 5, 60), "cuda": Interval(30, 10, 180)}
"""Imports, the tokenizer, the first step."""
LOAD_BYTES_PER_SECOND = Interval(1.0e9, 0.2e9, 2.5e9)
"""Reading weights from a disk."""
CHOSEN = "choices and passages"
"""The part of the time in which evaluation reads sentences to choose among, and passages before questions."""
GENERATION_BATCH = 8
GENERATION_SHARE = Interval(0.3, 0.1, 0.5)
"""Share of the memory's rate that decoding reaches in plain PyTorch (0.28 measured on an A100)."""

MATRIX_CEILING = 0.8
"""Share of a GPU's matrix rate that its library reaches on large matrices."""
ATTENTION_CEILING = 0.45
"""The same for a fused attention kernel, both directions together."""
MOVES_PER_PASS = 12.0
"""How often each value that a layer makes is read or written by the small kernels between the matrices, in one pass."""
COMPILED_MOVES = 0.72
FUSED_MOVES = 0.5
"""The same with ``torch.compile``, and with hand-written kernels for norms, MLP and loss, as shares."""
LAUNCH_SECONDS = 1.35e-3
"""What the processor spends on launching one pass through one layer."""
QUANTIZED_LAUNCHES = 1.5
"""The same with matrices that have to be unpacked first, as a factor."""
UNPACK_MOVES = 2.2
"""Times that unpacking quantized weights takes longer than reading 0.5, writing 2 and reading 2 bytes of each."""
GPTQ_UNPACK = 2.0
"""The same for GPTQ's kernel, beside NF4's."""
LINK_BYTES_PER_SECOND = {"pcie": 7e9, "nvlink": 150e9}
"""What one GPU gets from the others, measured with FSDP."""
ROUTED_HIGH = 2.0
STATE_HIGH = 8.0
"""The high end further up for experts and for layers with a state: neither is among the measured cases."""
OPTIMIZER_BYTES = 30.0
"""Read and written per trained parameter in an optimizer step."""


@dataclass(frozen=True)
class Efficiency:
    """The share of the device's matrix rate that a training loop reaches on a CPU or an Apple chip.

        ceiling * h**2 / (h**2 + half_hidden**2) * T / (T + half_tokens)

    Matrix work grows with h**2 while what surrounds it (dispatch, norms, the optimizer) hardly
    does, so narrow models reach little; and a micro-batch of few tokens pays the same fixed
    cost. At `half_hidden` and `half_tokens` half the ceiling is reached.
    """

    ceiling: float
    half_hidden: float
    half_tokens: float

    def at(self, hidden: int, batch_tokens: float) -> float:
        """The share.

        >>> round(EFFICIENCY["cpu"].at(192, 1024), 2), round(EFFICIENCY["cpu"].at(2048, 1024), 2)
        (0.25, 0.69)
        """
        wide = hidden**2 / (hidden**2 + self.half_hidden**2)
        return self.ceiling * wide * batch_tokens / (batch_tokens + self.half_tokens)


EFFICIENCY = {
    # float32, measured on two virtual processors: 0.25 at h 192, 0.70 for wide models.
    "cpu": Efficiency(0.74, 260, 50),
    # torch, float32; nobody has published a case that is complete.
    "mps": Efficiency(0.50, 1000, 250),
}
MLX_EFFICIENCY = Efficiency(0.46, 300, 60)
"""The same of MLX on an Apple chip: 0.43 of an M1 Max's rate for 8B (98 tokens/s at 2k), 0.46 of an M4 Pro's for 0.6B,
0.32 to 0.41 of six chips' for 161 M parameters from nothing."""
RECURRENT = {
    # float32, one core: an LSTM of 256 reached 0.66 of the rate with 16 lanes, 0.74 with 64.
    "cpu": Efficiency(0.78, 60, 3),
    "mps": EFFICIENCY["mps"],
    # TF32, 256 lanes: four published trainings on an RTX 3080, an LSTM of 256 at 0.14, LSTMs and GRUs of 512 at 0.18.
    "cuda": Efficiency(0.196, 158, 0),
}
"""The same of recurrent layers, which are one operation of torch; of tokens, those that are read side by side count."""
RECURRENT_STEP_SECONDS = 1e-5
"""What a GPU spends on one step of a recurrent layer in one direction, however little there is to compute."""
CUDA_FLOAT32_SHARE = 0.15
"""float32 rate / bfloat16 rate of a GPU: a half on gaming cards, a sixteenth on data-centre ones."""


def passes(setup: Setup) -> float:
    """Passes through the layers, in forward passes: forward, two for the backward one, and the recomputation."""
    again = {False: 0.0, True: 1.0, "selective": 0.35}[setup.checkpointing]
    return 3.0 + again


def flops_per_token(shape: Shape, setup: Setup, mean_length: float, target_share: float) -> float:
    """FLOPs that training spends on one real token.

    Matrices: 6N when trained, 4N when frozen (+2N with checkpointing), 6A for the adapter; of layers below the lowest
    one that is trained 2N, for the forward pass alone. Attention, causal: 6*L*q*s (8 with checkpointing). Output layer,
    at learned positions only: 6*V*h when trained, 4*V*h when frozen (+2*V*h where chunks of logits are made twice).
    """
    full = setup.kind == "none"
    again = 2 * (passes(setup) - 3)
    behind = backward_layers(shape, setup) / shape.depth
    matrices = (2 + ((4 if full else 2) + again) * behind) * shape.active_parameters
    adapter = 0 if full else (6 + again) * trained_parameters(shape, setup) * active_share(shape, setup)
    attention = attention_flops(shape, setup, mean_length)
    twice = 2 if setup.program.chunk_logits is not None and not setup.program.gradient_with_loss else 0
    head = ((6 if full else 4) + twice) * shape.head_parameters * target_share
    return matrices + adapter + attention + head


def attention_flops(shape: Shape, setup: Setup, mean_length: float) -> float:
    """Of one token: causal, 6*L*q*s, and 2 more for what is computed again; a sliding window bounds s. A state is
    updated and read once, whatever s is."""
    work = 0.0
    for layer in shape.layers:
        seen = min(mean_length, 2 * layer.window) if layer.window else mean_length
        work += layer.count * (layer.query * seen + 2 * layer.state_values)
    behind = backward_layers(shape, setup) / shape.depth
    return (2 + (4 + 2 * (passes(setup) - 3)) * behind) * work


def active_share(shape: Shape, setup: Setup) -> float:
    """Of the adapter, what one token goes through: not those of experts that its router leaves out."""
    adapted = shape.adapted(setup.targets)
    whole = sum(each.ranks * each.count * (each.inputs + each.outputs) for each in adapted)
    used = sum(each.ranks * each.active * (each.inputs + each.outputs) for each in adapted)
    return used / whole if whole else 1.0


def micro_batch_seconds(
    shape: Shape, setup: Setup, device: Device, tokens: float, mean_length: float, target_share: float = 1.0
) -> float:
    """Seconds of the forward and backward passes of `tokens` (padding among them) on one device."""
    if tokens <= 0:
        return 0.0
    flops = flops_per_token(shape, setup, mean_length, target_share) * tokens
    if shape.recurrent:
        steps = max(1, setup.length)
        share = RECURRENT[device.kind].at(shape.hidden, tokens / steps)
        waiting = steps * shape.depth * passes(setup) * RECURRENT_STEP_SECONDS if device.kind == "cuda" else 0.0
        return max(flops / (share * device.flops_per_second), waiting)
    if device.kind != "cuda":
        by_mlx = device.kind == "mps" and setup.program.by_mlx
        share = (MLX_EFFICIENCY if by_mlx else EFFICIENCY[device.kind]).at(shape.hidden, tokens)
        return flops / (share * device.flops_per_second)
    times = setup.program.seconds
    rate = device.flops_per_second * MATRIX_CEILING * times.get("rate", 1.0)
    if setup.program.weights == "float32" and setup.kind != "qlora":
        rate *= CUDA_FLOAT32_SHARE
    made = sum(
        layer.count * (8 * layer.hidden + 3 * layer.query + layer.key + 3 * layer.intermediate)
        for layer in shape.layers
    )
    moved = tokens * made * 2 * MOVES_PER_PASS * passes(setup) * times.get("moves", 1.0)
    read = frozen_weight_bytes(shape, setup) * (passes(setup) - 1)
    attention = attention_flops(shape, setup, mean_length) * tokens
    seconds = (flops - attention) / rate + attention / (rate * ATTENTION_CEILING / MATRIX_CEILING)
    seconds += (moved + read) / device.bytes_per_second + unpack_seconds(shape, setup, device)
    launches = shape.depth * passes(setup) * LAUNCH_SECONDS * times.get("launch", 1.0)
    launches *= QUANTIZED_LAUNCHES if setup.kind == "qlora" else 1.0
    return max(seconds, launches)


def unpack_seconds(shape: Shape, setup: Setup, device: Device) -> float:
    """Quantized matrices in 16 bits, once for each pass that needs them."""
    if setup.kind != "qlora":
        return 0.0
    factor = GPTQ_UNPACK if setup.weights and setup.weights.startswith("gptq") else 1.0
    times = passes(setup) - 1  # the backward pass unpacks once
    return shape.module_parameters * times * 4.5 * UNPACK_MOVES * factor / device.bytes_per_second


def exchange_seconds(shape: Shape, setup: Setup, device: Device) -> float:
    """What several devices send each other in one micro-batch: weights of FSDP, gradients of DDP."""
    if setup.devices == 1:
        return 0.0
    link = LINK_BYTES_PER_SECOND["nvlink" if device.linked else "pcie"]
    others = (setup.devices - 1) / setup.devices
    trained = trained_parameters(shape, setup) + setup.saved_parameters
    gradients = 2 * others * trained * setup.trained_bytes[1]
    if setup.parallel != "fsdp":
        return gradients / link
    full = setup.kind == "none"
    weights = 2.0 * shape.parameters if full else frozen_weight_bytes(shape, setup)
    return (weights * others * (passes(setup) - 1) + gradients) / link


def optimizer_seconds(shape: Shape, setup: Setup, device: Device) -> float:
    """One step of the optimizer over the trained parameters of one device."""
    trained = trained_parameters(shape, setup) + setup.saved_parameters
    share = 0.5 if device.kind == "cpu" else 0.7
    moved = trained / setup.shards * OPTIMIZER_BYTES / (device.bytes_per_second * share)
    return moved + (orthogonal_flops(shape) / (device.flops_per_second * share) if setup.muon else 0.0)


def orthogonal_flops(shape: Shape) -> float:
    """FLOPs of the Newton-Schulz iterations in one step of Muon: of a matrix a x b with a <= b, each makes the products
    a*b*a, a*a*a and a*a*b.

    >>> from afina.model.shape_table import dense_shape
    >>> tiny = dense_shape("llama", layers=2, hidden=8, intermediate=24, heads=2, kv_heads=2, head_dim=4, vocab=10,
    ...                    tied_embeddings=True, max_positions=32)
    >>> orthogonal_flops(tiny) == 2 * 5 * (4 * 2 * 3 * 8**3 + 3 * 2 * (2 * 8 * 8 * 24 + 8**3))
    True
    """
    sides = ((each.count, *sorted((each.inputs, each.outputs))) for each in shape.hidden_matrices)
    return sum(count * ORTHOGONAL_ITERATIONS * 2.0 * (2 * a * a * b + a**3) for count, a, b in sides)


def run_time(
    shape: Shape,
    setup: Setup,
    device: Device,
    tokens: TokenCount,
    *,
    epochs: float,
    accumulate: int,
    validations: float,
    asked: AskedTokens,
    weight_bytes: float,
    facts: Method = METHODS["sft"],
) -> dict[str, Interval]:
    """Seconds by part.

    Args:
        epochs: passes over the dataset.
        accumulate: micro-batches per optimizer step.
        validations: how many times the held-out loss is measured.
        asked: what evaluation writes and reads besides.
        weight_bytes: of the base, read from disk.
        facts: of the method: whether the model judges every row before it is trained, and its further passes.
    """
    padded = tokens.padded or tokens.tokens / FILL.point
    micro_batches = tokens.micro_batches or max(1.0, padded / setup.batch_tokens)
    each = padded / micro_batches
    batch = micro_batch_seconds(shape, setup, device, each, tokens.mean_length, tokens.target_share)
    batch += exchange_seconds(shape, setup, device)
    batch += optimizer_seconds(shape, setup, device) / accumulate
    training = batch * micro_batches * epochs / setup.devices
    forward = 2 * shape.active_parameters + attention_flops(shape, setup, tokens.mean_length) / passes(setup)
    forward += 2 * shape.head_parameters * tokens.target_share
    whole = flops_per_token(shape, setup, tokens.mean_length, tokens.target_share)
    looked_at = tokens.held_out * validations + tokens.tokens * epochs * facts.forward_passes
    looked_at += (tokens.tokens + tokens.held_out) * facts.needs_reference
    read = batch * micro_batches / max(tokens.tokens, 1) * forward / whole
    reach = time_sureness(setup, device).factor
    low, high = 1 / reach, reach * math.prod(slow_parts(shape).values())
    if not tokens.padded:  # the lengths are unknown: more or less padding
        low, high = low * FILL.point / FILL.high, high * FILL.point / FILL.low
    low, high = low / tokens.spread, high * tokens.spread
    parts = {
        "start": START_SECONDS[device.kind] + _divide(weight_bytes, LOAD_BYTES_PER_SECOND),
        "training": Interval.around(training, low, high),
        "validation": Interval.around(read * looked_at, low, high),
        "generation": _generation(shape, device, asked.written, weight_bytes),
    }
    return parts | ({CHOSEN: Interval.around(read * asked.read, low, high)} if asked.read else {})


def slow_parts(shape: Shape) -> dict[str, float]:
    """Why training may take longer than arithmetic and moved bytes say, and how many times at most.

    >>> from afina.plan.bases import find_shape
    >>> slow_parts(find_shape("Qwen/Qwen3-8B"))
    {}
    """
    found = {}
    if any(layer.routed for layer in shape.layers):
        found["how its router spreads the tokens decides how fast its experts compute"] = ROUTED_HIGH
    if any(layer.state_values for layer in shape.layers) and not shape.recurrent:
        found["layers with a state have fast kernels on some GPUs only, and plain code elsewhere"] = STATE_HIGH
    return found


def time_sureness(setup: Setup, device: Device) -> Sureness:
    """How sure the seconds of training are."""
    return sureness("training time", device.kind, setup.program.name)


def optimizer_steps(tokens: TokenCount, batch_tokens: int, accumulate: int, epochs: float) -> int:
    """ceil(micro-batches per epoch * epochs / accumulate), micro-batches filled to :data:`FILL` where not counted.

    >>> optimizer_steps(TokenCount(8800, 8800, 100, 100), 1000, 2, 3.0)
    15
    """
    if tokens.longest > batch_tokens:  # a micro-batch holds at least one example
        batch_tokens = tokens.longest
    micro_batches = tokens.micro_batches or math.ceil(round(tokens.tokens / FILL.point / batch_tokens, 6))
    return max(1, math.ceil(micro_batches * epochs / accumulate))


def _divide(amount: float, per_second: Interval) -> Interval:
    """Seconds; the lowest rate takes longest."""
    return Interval(amount / per_second.point, amount / per_second.high, amount / per_second.low)


def _generation(shape: Shape, device: Device, tokens: float, weight_bytes: float) -> Interval:
    """Decoding reads every weight once for each step of a batch. Answers mostly end before the limit."""
    step = _divide(weight_bytes, GENERATION_SHARE * device.bytes_per_second)
    dispatch = shape.depth * 0.5e-3  # a step of a small model costs its launches, not its bytes
    steps = tokens / GENERATION_BATCH
    return Interval(
        (step.point + dispatch) * steps * 0.5,
        (step.low + dispatch / 2) * steps * 0.1,
        (step.high + dispatch * 2) * steps,
    )
