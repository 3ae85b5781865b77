"""How much memory serving takes, and the longest context that a device has room for.

    P tokens of the prompt   B users at a time   h hidden   M intermediate   V vocab

transformers  weights + KV cache + the MLP of the whole prompt: P * (3M + 3h) values (gate, up, their product;
              the residual stream and its norm), which is the peak of the prefill
vLLM          takes a share of the device; what weights, the profiled prefill of one scheduler step, CUDA graphs and
              LoRA buffers leave is KV cache, in blocks of 16 tokens
mlx-lm        weights (embeddings quantized too) + KV cache + the logits of one prefill step
llama.cpp     weights (embeddings quantized too) + KV cache of every place, set aside at the start + one micro-batch

    tokens/s of one answer = share of the memory's rate / bytes that a token reads (every weight, and the keys and
                             values of a short conversation), on a CPU, where that and not arithmetic is the limit

Sources: vLLM's gpu_worker.py and docs/configuration/conserving_memory.md; mlx-lm's generate.py; llama.cpp's
llama-context.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.plan.calibration import Sureness, sureness
from afina.plan.device import Device
from afina.plan.interval import Interval
from afina.plan.memory import WEIGHT_BYTES, mlx_bytes
from afina.plan.time import GENERATION_SHARE
from afina.units import show_bytes

Engine = Literal["transformers", "vllm", "mlx", "llamacpp"]

LITGPT = "LitGPT"
BLOCK_TOKENS = 16
"""vLLM hands out its cache in blocks of so many tokens."""
GPU_SHARE = 0.9
"""vLLM's ``gpu_memory_utilization``."""
SCHEDULED_TOKENS = {True: 8192, False: 2048}
"""vLLM's ``max_num_batched_tokens`` with and without 70 GiB of memory: what its profile run prefills at once."""
SAMPLED_SEQUENCES = 256
"""Sequences whose logits the profile run makes, at 10 bytes a logit."""
ENGINE_BYTES = Interval(0.4e9, 0.1e9, 1.6e9)
"""Beside torch: the driver's context, NCCL where there are several; 0.07 to 1.8 GiB in logs."""
GRAPH_BYTES = Interval(0.0, 0.0, 1.2e9)
"""CUDA graphs; outside of vLLM's budget up to 0.20, estimated within it later."""
CONTEXT_BYTES = Interval(0.45e9, 0.15e9, 0.7e9)
PREFILL_STEP = 2048
"""Tokens that mlx-lm prefills at once."""
MLX_BYTES = 0.08e9
GGUF_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32}
GGUF_BYTES |= {"q4_1": 20 / 32, "q4_0": 18 / 32}
"""Bytes of a weight in llama.cpp's kinds: a block of 32 with its scale, and its minimum where it has one."""
K_KINDS = {"q2_k": 84 / 256, "q3_k": 110 / 256, "q4_k": 144 / 256, "q5_k": 176 / 256, "q6_k": 210 / 256}
K_KINDS |= {"q8_k": 292 / 256}
"""The same of its kinds with blocks of 256."""
UBATCH = 512
"""Tokens that llama.cpp reads at once; their logits have room."""
LLAMACPP_CACHE_BYTES = 2 * 2**30
"""What the places of a llama.cpp server set aside together, where one does not need more."""
LLAMACPP_PLACES = 8
CONVERSATION = 512
"""Tokens of a conversation whose speed is told."""
SHOWN_KINDS = ("f16", "q8_0")
"""Of llama.cpp's kinds of weights, those whose speed a plan shows."""
LLAMACPP_SHARE = Interval(0.5, 0.3, 0.9)
"""Share of the memory's rate that llama.cpp reaches while it writes one answer on a CPU (0.47 measured on two virtual
processors, 0.135 G parameters in Q4_1)."""


@dataclass(frozen=True)
class Serving:
    """How a model is served.

    Args:
        weights: a format of :data:`afina.plan.memory.WEIGHT_BYTES`, `mlx-BITS-GROUP`, or `gguf-KIND`.
        context: tokens of one user, prompt and answer together.
        prompt: of them, what is read at once; all where not given.
        users: sequences at a time.
        cache_bytes: of one value of the KV cache: 2, or 1 for fp8.
        lora_slots, lora_rank: adapters that vLLM holds at once, and the rank that it makes room for.
        program: what its measured cases are filed under; the engine where not given.
        devices: over which weights and cache are divided (tensor parallel).
        allocated: whether only what torch's allocator gave is counted, without the driver's context.
    """

    engine: Engine = "vllm"
    weights: str = "16bit"
    context: int = 4096
    prompt: int | None = None
    users: int = 1
    cache_bytes: float = 2.0
    lora_slots: int = 0
    lora_rank: int = 16
    devices: int = 1
    gpu_share: float = GPU_SHARE
    program: str = ""
    allocated: bool = False

    @property
    def compresses(self) -> bool:
        """Whether latent attention's cache is kept compressed."""
        return self.engine != "transformers"

    @property
    def litgpt(self) -> bool:
        """Whether it is LitGPT, which holds a tied output matrix apart and has it in 4 bits too."""
        return self.program == LITGPT


def served_weight_bytes(shape: Shape, weights: str, *, litgpt: bool = False) -> float:
    """Bytes of the weights as they are served.

    >>> from afina.model.shape_table import dense_shape
    >>> tiny = dense_shape("llama", layers=2, hidden=8, intermediate=24, heads=2, kv_heads=1, head_dim=4, vocab=10,
    ...                    tied_embeddings=True, max_positions=32)
    >>> served_weight_bytes(tiny, "16bit") == 2 * tiny.parameters
    True

    Raises:
        RecipeError: a format that is not known.
    """
    head = shape.head_parameters if litgpt and shape.tied_embeddings else 0
    if each := mlx_bytes(weights):
        quantized = shape.linear_parameters + shape.embedding_parameters
        return quantized * each + (shape.parameters - quantized) * 2
    if weights.startswith("gguf-"):
        kind = weights.removeprefix("gguf-")
        quantized = shape.linear_parameters + shape.embedding_parameters
        return quantized * gguf_bytes(kind) + (shape.parameters - quantized) * 4
    each = next((size for name, size in WEIGHT_BYTES.items() if name == weights), 0.0)
    if not each:
        raise RecipeError(
            f"weights in {weights!r} are not known",
            "known are " + ", ".join([*WEIGHT_BYTES, "mlx-4-64", "gguf-q8_0"]),
            "weights",
        )
    rest = each if each >= 2 else 2.0
    packed = packed_parameters(shape, weights) + (shape.head_parameters if litgpt else 0)
    return packed * each + (shape.parameters + head - packed) * rest


def gguf_bytes(kind: str) -> float:
    """Bytes of a weight in a kind of llama.cpp's.

    >>> gguf_bytes("q8_0"), gguf_bytes("q4_k")
    (1.0625, 0.5625)

    Raises:
        RecipeError: a kind that is not known.
    """
    if kind in GGUF_BYTES:
        return GGUF_BYTES[kind]
    if found := K_KINDS.get(kind[:4]):
        return found
    raise RecipeError(
        f"weights in gguf-{kind} are not known", f"known are {', '.join([*GGUF_BYTES, *K_KINDS])}", "weights"
    )


def packed_parameters(shape: Shape, weights: str) -> int:
    """How many parameters are in the fewer bits of a format: MXFP4 is of experts alone, bitsandbytes' NF4 of linear
    modules, the others of every matrix of the layers."""
    if weights == "mxfp4":
        return shape.expert_parameters
    return shape.module_parameters if weights.startswith("nf4") else shape.linear_parameters


def unpacked_bytes(shape: Shape, serving: Serving) -> float:
    """The largest NF4 matrix in 16 bits while a prompt is read; LitGPT holds it twice, in two types."""
    if not serving.weights.startswith("nf4"):
        return 0.0
    largest = shape.largest_matrix
    return 2 * 2.0 * max(largest, shape.head_parameters) if serving.litgpt else 2.0 * largest


def lora_slot_bytes(shape: Shape, slots: int, rank: int) -> float:
    """What vLLM sets aside for adapters: slots * rank * sum of (inputs + outputs) * L * 2, whatever the adapter has."""
    return 2.0 * slots * shape.lora_parameters(rank) if slots else 0.0


def prefill_bytes(shape: Shape, tokens: float) -> float:
    """The MLP of so many tokens at once, and the residual stream beside it, in 16 bits."""
    return tokens * (3 * max(layer.intermediate for layer in shape.layers) + 3 * shape.hidden) * 2


def serving_memory(shape: Shape, serving: Serving) -> dict[str, Interval]:
    """Bytes of one device by part while the users' contexts are full.

    Raises:
        RecipeError: a weight format that is not known.
    """
    weights = served_weight_bytes(shape, serving.weights, litgpt=serving.litgpt)
    prompt = serving.context if serving.prompt is None else serving.prompt
    tokens = serving.context
    if serving.engine == "vllm":
        tokens = -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
    cache = serving.users * shape.kv_bytes(tokens, serving.cache_bytes, compressed=serving.compresses)
    if serving.engine == "mlx":
        working, fixed = 2.0 * min(prompt, PREFILL_STEP) * shape.vocab * serving.users, Interval(MLX_BYTES, 0.0, 0.3e9)
    elif serving.engine == "vllm":
        working, fixed = profile_bytes(shape, SCHEDULED_TOKENS[False]), ENGINE_BYTES + GRAPH_BYTES
    elif serving.engine == "llamacpp":
        widest = max(shape.vocab, 3 * max(layer.intermediate for layer in shape.layers))
        working, fixed = 4.0 * min(prompt * serving.users, UBATCH) * widest, Interval(0.1e9, 0.05e9, 0.3e9)
    else:
        working = prefill_bytes(shape, prompt * serving.users) + unpacked_bytes(shape, serving)
        fixed = Interval(0.0, 0.0, 0.1e9) if serving.allocated else CONTEXT_BYTES
    parts = {
        "weights": weights,
        "KV cache": cache,
        "LoRA slots": lora_slot_bytes(shape, serving.lora_slots, serving.lora_rank),
    }
    found = {name: Interval.around(part / serving.devices, 1.0, 1.02) for name, part in parts.items()}
    return found | {"prefill": Interval.around(working, 0.8, 1.3), "engine": fixed}


def serving_peak(shape: Shape, serving: Serving) -> Interval:
    """The sum, with the interval of published cases."""
    parts = serving_memory(shape, serving)
    return widened(Interval.total(parts.values()), serving_sureness(serving))


def widened(total: Interval, sure: Sureness) -> Interval:
    """A sum of parts, no narrower than measured cases ask for."""
    measured = sure.around(total.point)
    return Interval(total.point, min(total.low, measured.low), max(total.high, measured.high))


def serving_sureness(serving: Serving) -> Sureness:
    """How sure the peak is, by what is counted for the program and its usual kind of device."""
    kind = "mps" if serving.engine == "mlx" else "cuda"
    return sureness("serving peak", kind, serving.program or serving.engine)


def profile_bytes(shape: Shape, scheduled: int) -> float:
    """What vLLM measures before it sizes its cache: one full scheduler step and the logits of the sampled sequences."""
    return prefill_bytes(shape, scheduled) + SAMPLED_SEQUENCES * shape.vocab * 10


def cache_room(shape: Shape, device: Device, serving: Serving) -> Interval:
    """Bytes that are left for the KV cache of one device; negative where not even the weights fit."""
    weights = served_weight_bytes(shape, serving.weights, litgpt=serving.litgpt) / serving.devices
    lora = lora_slot_bytes(shape, serving.lora_slots, serving.lora_rank) / serving.devices
    if serving.engine != "vllm":
        parts = serving_memory(shape, serving)
        taken = Interval.total(part for name, part in parts.items() if name != "KV cache")
        usable = float(device.usable_bytes)
        return Interval(usable - taken.point, usable - taken.high, usable - taken.low)
    budget = serving.gpu_share * max(device.usable_bytes, 0.95 * device.memory_bytes)
    large = device.memory_bytes >= 70 * 2**30
    profile = profile_bytes(shape, SCHEDULED_TOKENS[large])
    engine = ENGINE_BYTES + GRAPH_BYTES + (Interval(1.5e9, 0.3e9, 2.5e9) if serving.devices > 1 else Interval(0, 0, 0))
    point = budget - weights - lora - profile - engine.point
    low = budget - weights * 1.03 - max(lora, 1.1e9 if serving.lora_slots else 0.0) - profile * 1.2 - engine.high
    return Interval(point, low, budget - weights - lora - profile * 0.7 - engine.low)


def largest_context(shape: Shape, device: Device, serving: Serving) -> Interval:
    """The longest `max_model_len` with which all users' contexts fit at once, in tokens; 0 where nothing fits.

    >>> from afina.plan.bases import find_shape
    >>> from afina.plan.device import find_device
    >>> found = largest_context(find_shape("Qwen/Qwen3-32B"), find_device("A40"), Serving())
    >>> found.high
    0.0
    """
    room = cache_room(shape, device, serving)

    def tokens(space: float) -> float:
        low, high = 0, min(1 << 24, max(shape.max_positions, 1 << 17))
        while low < high:
            middle = (low + high + 1) // 2
            each = shape.kv_bytes(middle, serving.cache_bytes, compressed=serving.compresses)
            needed = serving.users * each / serving.devices
            low, high = (middle, high) if needed <= space else (low, middle - 1)
        return float(low // BLOCK_TOKENS * BLOCK_TOKENS)

    return Interval(tokens(room.point), tokens(room.low), tokens(room.high))


def cache_places(shape: Shape, device: Device, serving: Serving) -> int:
    """How many answers a llama.cpp server can have under way, each with a context of its own: it sets all of them aside
    at the start, so no more than :data:`LLAMACPP_CACHE_BYTES` where one does not need more."""
    each = shape.kv_bytes(serving.context, serving.cache_bytes, compressed=serving.compresses)
    room = min(cache_room(shape, device, serving).low, LLAMACPP_CACHE_BYTES)
    return max(1, min(LLAMACPP_PLACES, int(room // each) if each else LLAMACPP_PLACES))


def written_per_second(shape: Shape, device: Device, serving: Serving, share: Interval) -> Interval:
    """Tokens a second of one answer, where every token reads every weight and the conversation's keys and values.

    Args:
        share: of the memory's rate that the program reaches.
    """
    cache = shape.kv_bytes(min(serving.context, CONVERSATION), serving.cache_bytes, compressed=serving.compresses)
    read = served_weight_bytes(shape, serving.weights) + cache
    return Interval(*(each * device.bytes_per_second / read for each in (share.point, share.low, share.high)))


@dataclass(frozen=True)
class EngineSpeed:
    """What one engine writes on a CPU, one answer at a time."""

    engine: Engine
    weights: str
    weight_bytes: float
    tokens_per_second: Interval

    @property
    def in_words(self) -> str:
        """One line."""
        name = {"llamacpp": "llama.cpp", "transformers": "afina's own engine"}.get(self.engine, self.engine)
        rate = self.tokens_per_second
        return (
            f"{name} ({self.weights.removeprefix('gguf-')}): about {rate.point:.3g} tokens/s "
            f"({rate.low:.2g} to {rate.high:.2g}); a token reads {show_bytes(self.weight_bytes)} of weights"
        )


def speeds_on_cpu(shape: Shape, device: Device, context: int, kinds: Sequence[str]) -> list[EngineSpeed]:
    """Our own engine in float32 and llama.cpp by kind of weights, the fastest first; none on another device."""
    if device.kind != "cpu":
        return []
    found = []
    own: list[tuple[Engine, str]] = [("llamacpp", f"gguf-{kind}") for kind in kinds]
    for engine, weights in [("transformers", "float32"), *own]:
        serving = Serving(engine=engine, weights=weights, context=context, cache_bytes=4 if engine != "llamacpp" else 2)
        share = LLAMACPP_SHARE if engine == "llamacpp" else GENERATION_SHARE
        rate = written_per_second(shape, device, serving, share)
        found.append(EngineSpeed(engine, weights, served_weight_bytes(shape, weights), rate))
    return sorted(found, key=lambda each: -each.tokens_per_second.point)


def serves(shape: Shape, device: Device, serving: Serving) -> Literal["yes", "no", "maybe"]:
    """Whether all users' contexts fit at once.

    >>> from afina.plan.bases import find_shape
    >>> from afina.plan.device import find_device
    >>> h100 = find_device("H100 SXM")
    >>> [serves(find_shape("Qwen/Qwen3-32B"), h100, Serving(context=size, lora_slots=1)) for size in (40960, 10240)]
    ['no', 'yes']
    """
    room = largest_context(shape, device, serving)
    if room.low >= serving.context:
        return "yes"
    return "maybe" if room.high >= serving.context else "no"


def plan_serving(shape: Shape, device: Device, serving: Serving, kinds: Sequence[str] = SHOWN_KINDS) -> dict[str, Any]:
    """All of it as plain values: memory by part, what fits, the longest context.

    Args:
        kinds: of llama.cpp's weights whose speed is told; none where llama.cpp does not open such a model.
    """
    peak, longest = serving_peak(shape, serving), largest_context(shape, device, serving)
    if sees := float(shape.max_positions):  # there may be room for more
        longest = Interval(min(longest.point, sees), min(longest.low, sees), min(longest.high, sees))
    return {
        "engine": serving.engine,
        "device": device.as_json(),
        "context": serving.context,
        "users": serving.users,
        "lora_slots": serving.lora_slots,
        "memory": {
            "parts": {name: part.as_json() for name, part in serving_memory(shape, serving).items()},
            **peak.as_json(),
            "sure": serving_sureness(serving).as_json(),
        },
        "kv_bytes_per_token": shape.kv_bytes_per_token(serving.cache_bytes, compressed=serving.compresses),
        "max_model_len": longest.as_json(),
        "positions": shape.max_positions,
        "fits": serves(shape, device, serving),
        "speeds": [
            {"engine": each.engine, "weights": each.weights, "tokens_per_second": each.tokens_per_second.as_json()}
            for each in speeds_on_cpu(shape, device, serving.context, kinds)
        ],
    }
