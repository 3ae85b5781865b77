"""Tiny models that read images beside text, made on the spot from the real configurations of each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import make_tokenizer

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "block_ff_dim": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_global_layers": 1,
    "depth": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "attention_heads": 4,
    "num_heads": 4,
    "head_dim": 8,
    "global_head_dim": 8,
    "image_size": 32,
    "patch_size": 8,
    "position_embedding_size": 64,
    "out_hidden_size": 32,
    "projection_dim": 32,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
}
"""What makes a configuration small, wherever it has such a number."""
TURNS = {"rope_type": "default", "rope_theta": 10_000.0}
MORE: dict[str, dict[str, Any]] = {
    "gemma3": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma4": {
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 8,
        "num_kv_shared_layers": 0,
        "num_global_key_value_heads": 2,
    },
    "qwen3_5": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_moe": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2_vl": {"layer_types": ["conv", "full_attention"]},
    "mllama": {"cross_attention_layers": [1]},
    **{
        kind: {"rope_parameters": TURNS | {"mrope_section": [2, 1, 1]}}
        for kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
    },
    "glm4v": {"rope_parameters": TURNS | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}},
    "glm4v_moe": {"rope_parameters": TURNS | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}},
}


def tiny_config(kind: str, vocab: int) -> Any:
    """The configuration of a family, small, with room for a vocabulary."""
    from transformers import AutoConfig

    full = AutoConfig.for_model(kind)
    if kind == "gemma4":  # by default without eyes
        full = AutoConfig.for_model(kind, vision_config={"model_type": "gemma4_vision"})
    text = _small(full.text_config, TEXT) | {"vocab_size": vocab, "model_type": full.text_config.model_type}
    if kind == "gemma4":
        text["vocab_size_per_layer_input"] = vocab
    text |= MORE.get(kind, {})
    vision = _small(full.vision_config, VISION) | {"model_type": full.vision_config.model_type}
    marks = {key: vocab - 1 for key, value in full.to_dict().items() if _is_mark(key, value)}
    return AutoConfig.for_model(kind, text_config=text, vision_config=vision, **marks)


def _small(config: Any, sizes: dict[str, int]) -> dict[str, Any]:
    there = config.to_dict()
    return {key: size for key, size in sizes.items() if isinstance(there.get(key), int)}


def _is_mark(key: str, value: Any) -> bool:
    return isinstance(value, int) and key.endswith(("_token_id", "_token_index"))


def make_seeing(folder: Path, kind: str) -> Path:
    """A tiny checkpoint of a family that reads images, with a tokenizer, as people publish them."""
    from transformers import AutoModelForImageTextToText

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(tiny_config(kind, len(tokenizer)))
    model.save_pretrained(folder)
    return folder
