"""Counts of every causal family that transformers builds tiny: its own, and PEFT's of an adapter."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from afina.errors import BaseError
from afina.recipe import Adapter

pytest.importorskip("transformers")
pytest.importorskip("peft")
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from afina.model.adapter_torch import adapter_config
from afina.model.shape_walk_torch import UNBUILDABLE, build, walk

TINY: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128, "max_position_embeddings": 512}
TINY |= {"moe_intermediate_size": 32, "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8}
TINY |= {"num_experts_per_tok": 2, "moe_num_experts": 8, "moe_k": 2, "shared_expert_intermediate_size": 32}
TINY |= {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
TINY |= {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "sliding_window": 128, "n_inner": 96}
TINY |= {"d_model": 64, "n_embd": 64, "n_layer": 4, "n_layers": 4, "n_head": 4, "n_heads": 4, "n_positions": 512}
TINY |= {"ffn_dim": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXACT = 60
"""Families at least, in the whole form."""
OPEN = {"afmoe", "git"}
"""Not settled: AFMoE's router gets an adapter that is not counted; GIT is a model of images with a causal class."""
SHORT = ("bloom", "ernie4_5_moe", "falcon", "gemma4_text", "glm4_moe", "lfm2", "phi", "stablelm")


def tiny(kind: str) -> dict[str, Any] | None:
    """A configuration of the sizes above, as far as its class knows them; None where it wants other ones."""
    known = CONFIG_MAPPING[kind]
    names = {name for each in known.__mro__ for name in getattr(each, "__annotations__", {})}
    names |= set(known.attribute_map)
    try:
        made = known(**{name: value for name, value in TINY.items() if name in names})
    except (StrictDataclassError, *UNBUILDABLE):
        return None
    content: dict[str, Any] = json.loads(made.to_json_string(use_diff=False))
    return content if getattr(made, "num_hidden_layers", 0) == TINY["num_hidden_layers"] else None


def compared(kind: str) -> str:
    """How the counts of a family compare: `exact`, or why they cannot be compared, or both counts."""
    import peft

    config = tiny(kind)
    if config is None:
        return "other sizes"
    try:
        shape, model = walk(config), build(config, None)
    except BaseError as error:
        return error.problems[0].what
    counted = [shape.trainable_parameters, shape.lora_parameters(3)]
    transformers_says = shape.parameters == sum(each.numel() for each in model.parameters())
    try:
        adapted = peft.get_peft_model(model, adapter_config(model, Adapter(kind="lora", rank=3)))
    except ValueError:
        return "exact" if transformers_says and any("PEFT" in reason for reason in shape.uncertain) else str(counted)
    right = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    return "exact" if transformers_says and right == counted[1] else f"{counted}, PEFT {right}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SHORT)
def test_the_counts_of_a_family_are_exact(kind: str) -> None:
    assert compared(kind) == "exact"


@pytest.mark.long
def test_the_counts_of_every_family_that_builds_are_exact() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {kind: compared(kind) for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}
    wrong = {kind for kind, said in found.items() if said.startswith("[")}
    assert wrong <= OPEN, {kind: found[kind] for kind in wrong}
    assert sum(said == "exact" for said in found.values()) >= EXACT
