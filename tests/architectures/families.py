"""Tiny bases of the causal families that transformers opens, each with what its architecture does differently:
windows shorter than the rows, more experts than a token uses, scaled positions, capped or scaled logits, tied heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
EIGHT = {"head_dim": 8}
WINDOW = 16
"""Shorter than a third of the rows' tokens, so that a window that is forgotten is seen."""
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
"""Multi-head latent attention."""
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Family:
    """One architecture, as small as it can be."""

    name: str
    """Its ``model_type``, with a word for a second configuration of the same."""
    config: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""
    """What of it can go wrong."""

    @property
    def model_type(self) -> str:
        return self.name.partition(" ")[0]


def _plain(name: str, what: str = "", **config: Any) -> Family:
    """A family whose config takes the usual names."""
    return Family(name, SMALL | config, what)


FAMILIES = (
    _plain("llama", "positions scaled as in Llama 3", rope_parameters=LLAMA3),
    _plain("llama tied", "tied head", tie_word_embeddings=True),
    _plain("mistral", "window", sliding_window=WINDOW),
    _plain(
        "ministral",
        "window in some layers",
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        **EIGHT,
    ),
    _plain(
        "ministral3",
        "YaRN, scaled queries",
        rope_parameters=YARN | {"llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0},
        **EIGHT,
    ),
    _plain("mixtral", "mixture", num_local_experts=4, num_experts_per_tok=2),
    _plain("qwen2", "biases of query, key and value", tie_word_embeddings=True),
    _plain("qwen2 yarn", "YaRN", rope_parameters=YARN),
    _plain(
        "qwen2_moe",
        "mixture, shared expert",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=32,
    ),
    _plain("qwen3", "normed queries and keys", **EIGHT),
    _plain("qwen3_moe", "mixture", num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, **EIGHT),
    _plain(
        "qwen3_next",
        "linear attention, mixture",
        num_hidden_layers=4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        **LINEAR,
        **EIGHT,
    ),
    _plain("qwen3_5_text", "linear attention", num_hidden_layers=4, **LINEAR, **EIGHT),
    _plain(
        "qwen3_5_moe_text",
        "linear attention, mixture",
        num_hidden_layers=4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        **LINEAR,
        **EIGHT,
    ),
    _plain("gemma", "tied head, scaled embedding", **EIGHT),
    _plain("gemma2", "window, capped logits", sliding_window=WINDOW, query_pre_attn_scalar=8, **EIGHT),
    _plain(
        "gemma3_text",
        "window, two rotations",
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
        **EIGHT,
    ),
    _plain(
        "gemma3n_text",
        "shared keys and values, alternating updates, capped logits",
        num_hidden_layers=4,
        intermediate_size=[48] * 4,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        activation_sparsity_pattern=[0.9, 0.0, 0.0, 0.0],
        vocab_size_per_layer_input=512,
        **EIGHT,
    ),
    _plain(
        "gemma4_text",
        "window, shared keys and values, capped logits",
        num_hidden_layers=4,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=512,
        final_logit_softcapping=30.0,
        per_layer_config={"1": {"head_dim": 16}, "3": {"head_dim": 16}},
        **EIGHT,
    ),
    _plain(
        "gemma4_text moe",
        "mixture beside an MLP, keys that are values",
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=0,
        final_logit_softcapping=30.0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
        per_layer_config={"1": {"head_dim": 16}},
        **EIGHT,
    ),
    _plain(
        "vaultgemma",
        "window, capped logits",
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
        **EIGHT,
    ),
    _plain(
        "gpt_oss",
        "mixture with biases, attention sinks, window",
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=YARN,
        **EIGHT,
    ),
    _plain("smollm3", "layers without positions", num_hidden_layers=4),
    _plain("olmo", "norms without weights", clip_qkv=0.5),
    _plain("olmo2", "norms after the layers"),
    _plain(
        "olmo3",
        "window in some layers",
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
    ),
    _plain("olmoe", "mixture", num_experts=4, num_experts_per_tok=2),
    _plain("flex_olmo", "mixture", num_experts=4, num_experts_per_tok=2),
    Family(
        "olmo_hybrid",
        SMALL
        | {"num_hidden_layers": 4, "num_key_value_heads": 4}
        | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
        | LINEAR
        | {"linear_num_key_heads": 4},
        "linear attention",
    ),
    _plain(
        "granite",
        "scaled embedding, residuals, attention and logits",
        embedding_multiplier=3.0,
        logits_scaling=4.0,
        residual_multiplier=0.5,
        attention_multiplier=0.2,
    ),
    _plain(
        "granitemoe",
        "mixture, scaled logits",
        num_local_experts=4,
        num_experts_per_tok=2,
        embedding_multiplier=3.0,
        logits_scaling=4.0,
        residual_multiplier=0.5,
        attention_multiplier=0.2,
    ),
    _plain(
        "granitemoeshared",
        "mixture, shared expert, scaled logits",
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
        logits_scaling=4.0,
    ),
    _plain(
        "granitemoehybrid",
        "state space and attention, mixture, scaled logits",
        layer_types=["linear_attention", "full_attention"],
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
        logits_scaling=4.0,
        position_embedding_type="nope",
        **MAMBA,
    ),
    _plain("lfm2", "convolutions", layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    _plain(
        "lfm2_moe",
        "convolutions, mixture",
        num_hidden_layers=3,
        layer_types=["conv", "full_attention", "conv"],
        num_dense_layers=1,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
    _plain("glm", "half of each head rotated", **EIGHT),
    _plain("glm4", "half of each head rotated, norms after the layers", **EIGHT),
    _plain(
        "glm4_moe",
        "mixture, dense first layer",
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        **EIGHT,
    ),
    Family(
        "glm4_moe_lite",
        SMALL
        | LATENT
        | {
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "mlp_layer_types": ["dense", "sparse"],
        },
        "latent attention, mixture",
    ),
    _plain("ernie4_5", "interleaved rotation", **EIGHT),
    _plain(
        "ernie4_5_moe",
        "mixture, shared experts",
        moe_intermediate_size=16,
        moe_k=2,
        moe_num_experts=4,
        moe_num_shared_experts=1,
        moe_layer_end_index=1,
    ),
    Family(
        "deepseek_v2",
        SMALL
        | LATENT
        | {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}
        | {"first_k_dense_replace": 1},
        "latent attention, mixture",
    ),
    Family(
        "deepseek_v3",
        SMALL
        | LATENT
        | {"moe_intermediate_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}
        | {"first_k_dense_replace": 1, "n_group": 2, "topk_group": 1},
        "latent attention, grouped mixture",
    ),
    _plain(
        "llama4_text",
        "mixture, attention in chunks, layers without positions",
        intermediate_size_mlp=48,
        num_local_experts=4,
        num_experts_per_tok=1,
        attention_chunk_size=WINDOW,
        layer_types=["chunked_attention", "full_attention"],
        no_rope_layers=[1, 0],
        floor_scale=16,
        **EIGHT,
    ),
    Family(
        "gpt2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "resid_pdrop": 0, "embd_pdrop": 0}
        | {"attn_pdrop": 0},
        "learned positions, transposed matrices, tied head",
    ),
    Family(
        "gpt_bigcode",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "resid_pdrop": 0, "embd_pdrop": 0}
        | {"attn_pdrop": 0},
        "one key-value head, learned positions",
    ),
    Family(
        "gpt_neo",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128, "window_size": WINDOW}
        | {"attention_types": [[["global", "local"], 1]]},
        "window, learned positions",
    ),
    Family(
        "gptj",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
        "attention beside the MLP, head with a bias",
    ),
    Family(
        "codegen",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128, "rotary_dim": 4},
        "fused query, key and value in blocks",
    ),
    Family("gpt_neox", SMALL | {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "fused heads"),
    Family(
        "opt",
        {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "dropout": 0.0}
        | {"max_position_embeddings": 128, "word_embed_proj_dim": 32},
        "learned positions with an offset",
    ),
    Family("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "ALiBi, tied head"),
    Family(
        "falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_kv_heads": 2}
        | {"new_decoder_architecture": True, "max_position_embeddings": 128, "ffn_hidden_size": 48},
        "fused groups, attention beside the MLP",
    ),
    Family(
        "falcon alibi",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True, "alibi": True}
        | {"max_position_embeddings": 128, "ffn_hidden_size": 48, "parallel_attn": False, "bias": True},
        "ALiBi, one key-value head",
    ),
    Family("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128, "expansion_ratio": 2}, "ALiBi"),
    _plain("phi", "attention beside the MLP, head with a bias"),
    _plain("phi3", "fused matrices, window", sliding_window=WINDOW),
    _plain(
        "phi3 longrope",
        "frequencies by the length of the row",
        original_max_position_embeddings=64,
        rope_parameters=LONGROPE,
    ),
    _plain(
        "phimoe",
        "mixture, head with a bias",
        num_local_experts=4,
        num_experts_per_tok=2,
        lm_head_bias=True,
        router_jitter_noise=0.0,
    ),
    _plain("cohere", "scaled logits, attention beside the MLP", logit_scale=0.25),
    _plain(
        "cohere2",
        "scaled logits, window, layers without positions",
        logit_scale=0.25,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        **EIGHT,
    ),
    _plain("stablelm", "a quarter of each head rotated", use_qkv_bias=True),
    _plain("starcoder2", "biases, window", sliding_window=WINDOW),
    _plain("persimmon", "fused heads"),
    _plain("nemotron", "squared ReLU, norms of one plus their weight", **EIGHT),
    Family(
        "nemotron_h",
        SMALL
        | {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"], "head_dim": 8}
        | {"ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2, "chunk_size": 8}
        | {"n_routed_experts": 4, "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16},
        "state space, attention and mixture, each a layer",
    ),
    _plain(
        "exaone4",
        "window, norms after the layers",
        sliding_window=WINDOW,
        sliding_window_pattern=2,
        layer_types=["sliding_attention", "full_attention"],
    ),
    _plain("hunyuan_v1_dense", "normed queries and keys", **EIGHT),
    _plain("hunyuan_v1_moe", "mixture", num_experts=4, moe_topk=2, **EIGHT),
    _plain(
        "minimax",
        "linear attention, mixture",
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"],
        block_size=8,
        **EIGHT,
    ),
    _plain("minimax_m2", "mixture", num_local_experts=4, num_experts_per_tok=2, **EIGHT),
    _plain("bamba", "state space and attention", attn_layer_indices=[1], **MAMBA),
    _plain(
        "jamba",
        "state space, attention, mixture",
        num_hidden_layers=4,
        num_experts=4,
        num_experts_per_tok=2,
        attn_layer_period=4,
        attn_layer_offset=2,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    Family(
        "mamba",
        {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4},
        "state space alone",
    ),
    Family(
        "falcon_mamba",
        {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "time_step_rank": 4},
        "state space alone",
    ),
    Family(
        "mamba2",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 2}
        | {"chunk_size": 8},
        "state space alone",
    ),
    Family(
        "zamba2",
        SMALL
        | {"num_hidden_layers": 3, "num_key_value_heads": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2}
        | {"num_hidden_layers": 4, "mamba_d_state": 8, "n_mamba_heads": 4, "chunk_size": 8, "adapter_rank": 4},
        "state space, shared attention blocks",
    ),
    _plain("falcon_h1", "state space beside attention", mamba_d_ssm=64, lm_head_multiplier=0.5, **MAMBA),
    Family(
        "recurrent_gemma",
        SMALL | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": WINDOW, "head_dim": 8},
        "recurrence, window, capped logits",
    ),
    Family(
        "rwkv",
        {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        | {"context_length": 128},
        "recurrence alone",
    ),
    _plain("seed_oss", "biases", attention_dropout=0.0, residual_dropout=0.0, **EIGHT),
    _plain("apertus", "xIELU, normed queries and keys", rope_parameters=LLAMA3),
    _plain("arcee", "squared ReLU", **EIGHT),
    _plain(
        "dots1",
        "mixture, dense first layer, window",
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        sliding_window=WINDOW,
        max_window_layers=1,
        **EIGHT,
    ),
    _plain("helium", "interleaved rotation", **EIGHT),
    _plain("bitnet", "norms inside the layers"),
    _plain("diffllama", "differential attention", **EIGHT),
    Family(
        "jetmoe",
        {k: v for k, v in SMALL.items() if k != "num_attention_heads"}
        | {"kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
        "mixture of attention heads and of MLPs",
    ),
    Family(
        "xglm",
        {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 128}
        | {"dropout": 0.0, "attention_dropout": 0.0},
        "sinusoidal positions, scaled embedding",
    ),
    Family(
        "biogpt",
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"max_position_embeddings": 128, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "learned positions with an offset",
    ),
    _plain("doge", "dynamic mask", keep_window_size=WINDOW),
    _plain("nanochat", "capped logits, norms without weights"),
    _plain("cwm", "window", sliding_window=WINDOW, layer_types=["full_attention", "sliding_attention"], **EIGHT),
    _plain(
        "afmoe",
        "mixture, gated attention, window",
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        num_shared_experts=1,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        **EIGHT,
    ),
    Family("youtu", SMALL | LATENT, "latent attention"),
    Family("minicpm3", SMALL | LATENT | {"dim_model_base": 16}, "latent attention, scaled embedding and logits"),
    _plain("hyperclovax", "scaled embedding, residuals and logits", logits_scaling=4.0, **EIGHT),
)


def family_of(name: str) -> Family:
    """The one of that name."""
    return next(family for family in FAMILIES if family.name == name)


def make_model(family: Family, tokenizer: Any, seed: int = 0) -> Any:
    """The model with random weights, in evaluation mode: norms, biases and tables drawn too, so that one that is left
    out is seen."""
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = AutoConfig.for_model(family.model_type, vocab_size=len(tokenizer) + 1, **special, **family.config)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point():
                weight += 0.1 * torch.randn_like(weight)
    return model


def make_base(family: Family, folder: Path, seed: int = 0) -> Path:
    """The same with a tokenizer, in one folder, as transformers saves them."""
    from tiny import make_tokenizer

    tokenizer = make_tokenizer(folder)
    make_model(family, tokenizer, seed).save_pretrained(folder)
    return folder
