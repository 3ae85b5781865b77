"""The cases that this project started from, predicted beside what their authors reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from afina.plan.bases import find_shape
from afina.plan.calibration import sureness
from afina.plan.device import Device, find_device
from afina.plan.interval import Interval
from afina.plan.memory import Setup, frozen_weight_bytes, peak_interval, training_memory
from afina.plan.programs import CUDA_CONTEXT_BYTES, TRANSFORMERS_UPCAST, UNSLOTH, TrainingProgram
from afina.plan.scratch import ScratchBudget
from afina.plan.serving import Serving, largest_context, served_weight_bytes, serves
from afina.plan.time import micro_batch_seconds, optimizer_seconds, time_sureness


def seeds_table() -> str:
    """Markdown: the job, what is predicted, what was reported."""
    rows = [*_training(), *_serving(), *_portuguese(), *_others()]
    lines = ["| job | predicted | reported |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _peak(base: str, tokens: int, program: TrainingProgram) -> Interval:
    """LoRA of rank 16 on every matrix, 8-bit AdamW, recomputation, as nvidia-smi counts it."""
    shape = find_shape(base)
    program = replace(program, fixed_bytes=program.fixed_bytes + CUDA_CONTEXT_BYTES)
    setup = Setup("lora", tokens, tokens, place="cuda", program=program, checkpointing=True, state_bytes=2.03)
    sure = sureness("training peak, settings guessed", "cuda", UNSLOTH.name)  # the lengths and the rank are not stated
    return peak_interval(training_memory(shape, setup), sure)


def _gb(interval: Interval) -> str:
    return f"{interval.point / 1e9:.1f} GB ({interval.low / 1e9:.1f} to {interval.high / 1e9:.1f})"


def _verdict(peak: Interval, device: Device) -> str:
    if peak.high <= device.usable_bytes:
        return "fits"
    return "does not fit" if peak.low > device.usable_bytes else "depends"


def _training() -> list[tuple[str, str, str]]:
    rows = []
    for base, name, tokens, reported in (
        ("Qwen/Qwen3-8B", "RTX 4090", 2 * 2048, "about 21 GB, fits"),
        ("Qwen/Qwen3-32B", "A40", 2048, "does not fit"),
        ("Qwen/Qwen3-32B", "H100 SXM", 2048, "about 75 GB, fits"),
    ):
        peak, device = _peak(base, tokens, UNSLOTH), find_device(name)
        rows.append((f"{base} LoRA, Unsloth, {name}", f"{_gb(peak)}, {_verdict(peak, device)}", reported))
    return rows


def _serving() -> list[tuple[str, str, str]]:
    rows = []
    said: dict[Literal["yes", "no", "maybe"], str] = {"yes": "works", "no": "fails", "maybe": "depends"}
    for base, name, context, reported in (
        ("Qwen/Qwen3-32B", "H100 SXM", 40960, "fails"),
        ("Qwen/Qwen3-32B", "H100 SXM", 16384, "fails"),
        ("Qwen/Qwen3-32B", "H100 SXM", 10240, "works"),
        ("Qwen/Qwen3-8B", "RTX 4090", 40960, "fails"),
        ("Qwen/Qwen3-8B", "RTX 4090", 8192, "works"),
    ):
        shape, device = find_shape(base), find_device(name)
        serving = Serving(context=context, lora_slots=1)
        room = largest_context(shape, device, serving)
        room_text = f"{room.point:.0f} ({room.low:.0f} to {room.high:.0f}) tokens"
        reach = f"{said[serves(shape, device, serving)]}: room for {room_text}"
        rows.append((f"{base} with a LoRA in vLLM, {name}, {context} tokens", reach, reported))
    return rows


def _portuguese() -> list[tuple[str, str, str]]:
    """Llama-3.1-8B, NF4, rank 16 on every matrix, micro-batches of two, on a rented 4090 at US$ 0.30 an hour."""
    shape, device = find_shape("meta-llama/Meta-Llama-3.1-8B"), find_device("RTX 4090")
    setup = Setup("qlora", 4096, 4096, place="cuda", program=TRANSFORMERS_UPCAST, checkpointing=True)
    rows = []
    for name, length, tokens, hours, money in (
        ("CPT, packed to 2048, 13.4 M tokens", 2048.0, 13_430_784, 2.35, 0.71),
        ("SFT, 16,000 rows of 170 tokens", 170.0, 2_720_000, 1.06, 0.32),
    ):
        batch = 2 * length
        each = micro_batch_seconds(shape, setup, device, batch, length) + optimizer_seconds(shape, setup, device) / 8
        spent = time_sureness(setup, device).around(each * tokens / batch / 3600)
        text = f"{spent.point:.2f} h ({spent.low:.2f} to {spent.high:.2f}), US$ {spent.point * 0.30:.2f}"
        rows.append((f"Llama-3.1-8B QLoRA {name}, RTX 4090", text, f"{hours} h, US$ {money}"))
    return rows


def _others() -> list[tuple[str, str, str]]:
    mistral, device = find_shape("mistralai/Mistral-7B-v0.1"), find_device("T4")
    weights = served_weight_bytes(mistral, "gptq-int4") / 1e9
    setup = Setup("qlora", 512, 512, place="cuda", program=UNSLOTH, checkpointing=True, state_bytes=2.03)
    held = frozen_weight_bytes(mistral, setup) / 1e9
    sure = sureness("training peak", "cuda", UNSLOTH.name)
    peak = peak_interval(training_memory(mistral, setup), sure)
    budget = ScratchBudget(7e9, 140e9, find_device("H100 SXM"))
    parts = " + ".join(f"{size / 1e9:.0f}" for size in budget.state_bytes.values())
    return [
        (
            "Mistral-7B in 4 bits on 16 GB",
            f"weights {weights:.1f} GB to serve, {held:.1f} GB to train; QLoRA of 512 tokens {_gb(peak)}, "
            f"{_verdict(peak, device)}",
            "fits",
        ),
        ("7B from nothing, float32 and AdamW", f"{sum(budget.state_bytes.values()) / 1e9:.0f} GB ({parts})", "112 GB"),
    ]
