"""A row of ``cases.json`` as shape and setup: what its program, its settings and its way of measuring mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.model.shape_table import dense_shape
from afina.plan.device import Device, find_device
from afina.plan.memory import Checkpointing, Parallel, Place, Setup
from afina.plan.programs import (
    AXOLOTL,
    CUDA_CONTEXT_BYTES,
    DEEPSPEED,
    FSDP_QLORA,
    LITGPT,
    MLX,
    MLX_EAGER,
    TORCHTITAN,
    TORCHTUNE,
    TORCHTUNE_WHOLE,
    TRANSFORMERS,
    TRANSFORMERS_UPCAST,
    UNSLOTH,
    Format,
    TrainingProgram,
)
from afina.plan.serving import GPU_SHARE, Engine, Serving
from afina.plan.serving import LITGPT as LITGPT_SERVING
from afina.plan.time import COMPILED_MOVES, FUSED_MOVES

Case = Mapping[str, Any]

DEVICES = {
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA A100-80GB": "A100 80GB",
    "NVIDIA A100-80GB SXM": "A100 80GB",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-40GB": "A100 40GB",
    "A100": "A100 80GB",
    "A100 40GB SXM": "A100 40GB",
    "H100": "H100 SXM",
    "NVIDIA H100": "H100 SXM",
    "H100 80GB SXM": "H100 SXM",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "RTX 3090 (280W)": "RTX 3090",
    "RTX 3090 Ti": "RTX 3090",
    "Tesla T4": "T4",
    "A6000 Ada": "RTX A6000",
    "NVIDIA L40": "L40S",
    "Apple M-series 32GB": "Apple M1 Max 32GB",
}
"""Names of cases that are not ours."""
NOT_MEASURED = {
    "litgpt-hub-llama-3.2-1B-full": "below weights, gradients and moments: it cannot have been one GPU",
    "litgpt-hub-llama-3.2-3B-full": "below weights, gradients and moments: it cannot have been one GPU",
    "mlx-mirobaldo-b1x256": "its author's estimate, not a measurement",
    "mlx-seed-mistral7b-m1-16": "its author's estimate, not a measurement",
    "torchtune-Llama3.18B-full-RTXA6000x1": "flags not stated",
    "torchtune-Llama3.18B-lora-RTXA6000x1": "flags not stated",
}
"""Rows that say themselves, or by arithmetic, that they are no measurement of their settings."""
TARGETS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "lm_head": "lm_head"}
MLX_LAYERS = 16
"""``num_layers`` of mlx-lm's own settings."""
FORMATS: dict[str, Format] = {
    "nf4-dq": "nf4-double",
    "gptq-int4": "gptq-int4",
    "gptq-int8": "gptq-int8",
    "awq-int4": "awq-int4",
    "int8": "int8",
    "fp8": "fp8",
}
"""Beginnings of `quantization`; plain nf4 is what the program makes of it."""


def published_shape(name: str, facts: Mapping[str, Any]) -> Shape:
    """A row of ``architectures.json``, with what is known of its family; biases are left out there, and so here."""
    known = name.lower()
    parallel = facts["mlp_matrices"] == 2 and "gpt2" not in known
    return dense_shape(
        model_type="llama",
        layers=facts["num_layers"],
        hidden=facts["hidden"],
        intermediate=facts["intermediate"],
        heads=facts["heads"],
        kv_heads=facts["kv_heads"],
        head_dim=facts["head_dim"],
        vocab=facts["vocab"],
        tied_embeddings=facts["tied_embeddings"],
        max_positions=0,
        mlp_matrices=facts["mlp_matrices"],
        qk_norm="qwen3" in known,
        norms=4 if "gemma-2-" in known else 1 if parallel else 2,
        capped_attention="gemma-2-" in known,
    )


def source_of(case: Case) -> str:
    """The publication: a repository, or whoever reported it."""
    return str(case["source"].removeprefix("github:").split()[0])


def kind_of(case: Case) -> Place:
    """The kind of device. No published case is of a CPU."""
    return "mps" if "Apple" in case["device"]["name"] else "cuda"


def program_of(case: Case) -> TrainingProgram:
    """What ran: by its name and its kernels, and for the Qwen scripts by the launcher that each method has there."""
    name, kernels = case["framework"].lower(), (case["kernels"] or "").lower()
    if "litgpt" in name or "lit-gpt" in name:
        return LITGPT
    if "fsdp_qlora" in name:
        return FSDP_QLORA
    if "torchtune" in name:
        return TORCHTUNE if "chunked" in kernels else TORCHTUNE_WHOLE
    if "torchtitan" in name:
        return TORCHTITAN
    if "mlx" in name:
        return MLX_EAGER if "mlx-examples" in case["source"] else MLX  # the repository that it left in 2024
    if "unsloth" in kernels:
        return UNSLOTH
    if "axolotl" in name:
        return AXOLOTL
    if "deepspeed" in name and (case["method"] != "lora" or case["device"]["count"] > 1):
        return DEEPSPEED  # finetune_lora_single_gpu.sh starts without it, the q-lora and the full one with it
    if "chunked_nll" in kernels or "cce" in kernels or "liger" in kernels:
        return AXOLOTL
    return TRANSFORMERS if "deepspeed" in name else TRANSFORMERS_UPCAST


def setup_of(case: Case, shape: Shape, program: TrainingProgram | None = None) -> Setup:
    """The case's settings. Logits at every position, as its program (or another one) computes them.

    Raises:
        RecipeError: the length or the micro-batch is not stated.
    """
    if not case["seq_len"] or not case["micro_batch"]:
        raise RecipeError("the length or the micro-batch is not stated", "", case["id"])
    program, method = program or program_of(case), case["method"]
    kind = method if method in ("lora", "qlora") else "none"
    metric = case["mem_metric"] or ""
    if "torch" in metric or "reserved" in metric.lower() or "mx." in metric:
        program = replace(program, fixed_bytes=max(0.1e9, program.fixed_bytes - CUDA_CONTEXT_BYTES))
    if "allocated" in metric:
        program = replace(program, slack=0.0)
    if case["flash_attention"] is False and "mlx" not in program.name:
        program = replace(program, eager_attention=True)
    compiled = "torch.compile" in (case["kernels"] or "")
    fused = "fused" in (case["kernels"] or "") or "liger" in (case["kernels"] or "") or program.name == UNSLOTH.name
    seconds = {"moves": COMPILED_MOVES if compiled else FUSED_MOVES if fused else 1.0}
    seconds["rate"] = 2.0 if "float8" in (case["kernels"] or "") else 1.0
    program = replace(program, seconds=seconds)
    note = case["measured"].get("note", "")
    parallel: Parallel = "none"
    if case["device"]["count"] > 1:
        parallel = "ddp" if "DDP" in note else "fsdp"
    tokens = case["micro_batch"] * case["seq_len"]
    if "context parallel" in (case["seq_len_is"] or "") or "CP" in (case["kernels"] or ""):
        tokens //= 8 if "CP8" in (case["kernels"] or "") or "8 GPUs" in case["seq_len_is"] else 4
    return Setup(
        kind=kind,
        batch_tokens=tokens,
        target_tokens=tokens,
        rank=case["lora_rank"] or 16,
        targets=targets_of(case, shape) if kind != "none" else (),
        place=kind_of(case),
        program=program,
        length=case["seq_len"],
        weights=format_of(case),
        checkpointing=checkpointing_of(case),
        state_bytes=state_of(case),
        saved_parameters=2 * shape.head_parameters if "wte(full)" in (case["target_modules"] or ()) else 0,
        dropout="litgpt" in case["framework"],
        parallel=parallel,
        devices=case["device"]["count"],
        offload="CPU offload" in note + (case["optimizer"] or ""),
        step_in_backward="in_backward" in (case["optimizer"] or ""),
        adapted_layers=adapted_layers_of(case),
    )


def adapted_layers_of(case: Case) -> int | None:
    """mlx-lm adapts the last 16 layers where its user does not say otherwise; so does mlx-tune."""
    if not case["framework"].startswith("mlx-") or case["method"] not in ("lora", "qlora"):
        return None
    if case.get("lora_layers"):
        return int(case["lora_layers"])
    stated = re.search(r"(\d+) (?:LoRA )?layers", case["measured"].get("note", ""))
    return int(stated[1]) if stated else MLX_LAYERS


def targets_of(case: Case, shape: Shape) -> str | tuple[str, ...]:
    """Published names as those of a Llama; all matrices where nothing is stated."""
    named = case["target_modules"]
    if named is None or isinstance(named, str) or "c_attn" in named:
        return "all-linear"
    mlp = [linear.name for linear in shape.linears if linear.name.startswith("mlp.")]
    found: list[str] = []
    for target in named:
        found += mlp if target == "mlp(all)" else [TARGETS.get(target, target)]
    return tuple(found)


def format_of(case: Case) -> Format | None:
    """What the frozen matrices are held in, where it is not the program's own."""
    quantization = case["quantization"]
    if not quantization:
        return "float32" if case["dtype"] == "float32" else None
    return next((known for start, known in FORMATS.items() if quantization.startswith(start)), None)


def checkpointing_of(case: Case) -> Checkpointing:
    """`selective` where the case says so; unknown counts as on."""
    stated = case["gradient_checkpointing"]
    if stated == "selective":
        return "selective"
    return stated is not False


def state_of(case: Case) -> float | None:
    """Bytes of AdamW's averages per parameter, where they are in 8 bits."""
    optimizer = (case["optimizer"] or "").lower()
    if "paged" in optimizer and "in_backward" in optimizer:
        return 0.0
    if "8bit" in optimizer:
        return 2.03
    return 1.0 if "4bit" in optimizer else None


def device_of(case: Case) -> Device:
    """The device of the table.

    Raises:
        RecipeError: the case does not say, or it is not in the table.
    """
    facts = case["device"]
    name = facts["name"]
    if name in DEVICES:
        return find_device(DEVICES[name])
    if name.startswith("H100 96GB"):
        return replace(find_device("H100 SXM"), memory_bytes=96 * 2**30, bytes_per_second=2.4e12)
    if name.startswith("Apple") and facts["memory_gb"]:
        return find_device(f"{name} {facts['memory_gb']}GB")
    return find_device(name)


def usable_of(case: Case) -> float | None:
    """Bytes that one device of the case can use: the table's, or nineteen twentieths of what the card is called."""
    try:
        return float(device_of(case).usable_bytes)
    except RecipeError:
        gib = case["device"]["memory_gb"]
        return gib * 2**30 * 0.95 if gib else None


MLX_BITS = {"mlx 4-bit g64": "mlx-4-64", "mlx 4-bit g32": "mlx-4-32", "mlx 8-bit g64": "mlx-8-64"}
MLX_BITS |= {"mlx 6-bit g64": "mlx-6-64", "mlx 5-bit g64": "mlx-5-64", "mlx 4-bit": "mlx-4-64"}


def serving_of(case: Case) -> Serving:
    """How the case serves.

    Raises:
        RecipeError: a format of weights that is not known.
    """
    name, quantization = case["framework"], case["quantization"]
    engine: Engine = "vllm" if name == "vLLM" else "mlx" if name.startswith("mlx") else "transformers"
    weights = "float32" if case["dtype"] == "float32" else "16bit"
    if quantization:
        weights = MLX_BITS.get(quantization) or format_of(case) or ("nf4" if quantization == "nf4" else "")
    if not weights:
        raise RecipeError(f"weights in {quantization} are not known", "", case["id"])
    prompt, generated = case.get("prompt_len"), case.get("gen_len")
    context = prompt + generated if prompt and generated else case["seq_len"] or 100
    if prompt is None and "prompt ~1" in (case["seq_len_is"] or ""):
        prompt = 1
    if name.startswith("litgpt"):
        prompt = context = 100  # a prompt of some tens of tokens, about 50 new
    return Serving(
        engine=engine,
        weights=weights,
        context=context,
        prompt=prompt,
        users=case["micro_batch"] or 1,
        lora_slots=1 if "lora" in case["id"] and engine == "vllm" else 0,
        devices=case["device"]["count"],
        gpu_share=case.get("gpu_memory_utilization") or GPU_SHARE,
        program=LITGPT_SERVING if name.startswith("litgpt") else "",
        allocated="allocated" in (case["mem_metric"] or ""),
    )


def serving_device_of(case: Case) -> Device:
    """The device of the table; a card that is only called by its size stands for the usual one of it.

    Raises:
        RecipeError: the case does not say.
    """
    usual = {"24 GB GPU": "RTX 4090", "16 GB GPU (T4 class)": "T4"}
    name = case["device"]["name"]
    return find_device(usual[name]) if name in usual else device_of(case)
