"""Bases that are published in few bits, which transformers opens as the numbers that those stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import SHAPE, make_run
from safetensors.torch import load_file, save_file
from tiny import make_base, make_recipe, make_tokenizer
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM

from afina.errors import BaseError
from afina.export.merge_torch import merge, open_unmerged, save_merged
from afina.export.origin import open_origin
from afina.export.programs import Transformers
from afina.model.base import check_trainable
from afina.model.base_kind import kind_of
from afina.model.load_torch import load_base
from afina.plan.bases import rounding_of
from afina.walk.plan_answers import PlanAsked, answer

IDS = [5, 9, 17, 33]
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""The sixteen values of MXFP4 (OCP Microscaling Formats 1.0)."""
SCALE = 121
"""Exponent of a block of 32: 2^(121 - 127)."""


def rewrite(folder: Path, tensors: dict[str, torch.Tensor], quantization: dict[str, Any]) -> Path:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return folder


def make_mxfp4(folder: Path) -> Path:
    """gpt-oss as published: experts in blocks of 32 values, two to a byte."""
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 16}
    config = GptOssConfig(
        **small,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        num_experts_per_tok=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    held = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj") and "experts" in name:
            experts, inputs, outputs = weight.shape
            held[f"{name}_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            held[f"{name}_scales"] = torch.full((experts, outputs, inputs // 32), SCALE, dtype=torch.uint8)
        else:
            held[name] = weight
    return rewrite(folder, held, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})


def make_fp8(folder: Path) -> Path:
    """A Llama in FP8 with one scale for each block of 128 x 128, as DeepSeek and Qwen publish theirs."""
    make_base(folder, **SHAPE)
    held = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = weight.abs().max() / 448
            held[name] = (weight / scale).to(torch.float8_e4m3fn)
            held[f"{name}_scale_inv"] = scale.reshape(1, 1)
        else:
            held[name] = weight.to(torch.bfloat16)
    return rewrite(folder, held, {"quant_method": "fp8", "weight_block_size": [128, 128]})


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([IDS])).logits[0].float()


def test_the_plan_says_what_few_bits_are_opened_as(tmp_path: Path):
    plain = make_recipe(make_base(tmp_path / "plain", **SHAPE))
    rounded = plain.model_copy(update={"base": str(make_fp8(tmp_path / "fp8"))})
    (tmp_path / "x").touch()
    file = tmp_path / "recipe.yaml"
    file.write_text(rounded.to_yaml())
    note = "the base holds weights in FP8; they are opened as the 16-bit numbers that those bits stand for"
    told = answer(PlanAsked(str(file), (), (), tmp_path / "runs")).values["notes"]
    assert rounding_of(plain) is None and f"{note}; what rounding them took is lost" in told


def test_mxfp4_is_opened_as_the_numbers_that_its_bits_stand_for(tmp_path: Path):
    base = make_mxfp4(tmp_path)
    model = load_base(base, make_recipe(base), torch.device("cpu"), precision="fp32")
    blocks = load_file(base / "model.safetensors")["model.layers.0.mlp.experts.down_proj_blocks"]
    pairs = torch.stack([E2M1[(blocks & 15).long()], E2M1[(blocks >> 4).long()]], -1)  # the lower half comes first
    right = pairs.flatten(2).transpose(1, 2) * 2.0 ** (SCALE - 127)
    assert torch.equal(model.model.layers[0].mlp.experts.down_proj, right)


def test_fp8_is_opened_as_its_numbers_times_their_scale(tmp_path: Path):
    base = make_fp8(tmp_path)
    model = load_base(base, make_recipe(base), torch.device("cpu"), precision="fp32")
    held = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    right = (held[name].float() * held[f"{name}_scale_inv"]).to(torch.bfloat16).float()
    assert torch.equal(model.get_parameter(name), right)


@pytest.mark.parametrize("make", [make_mxfp4, make_fp8])
def test_a_base_of_few_bits_is_trained_and_merged_in_16(make: Callable[[Path], Path], tmp_path: Path):
    base = make(tmp_path / "base")
    assert kind_of(base).name == "rounded" and "16-bit" in kind_of(base).what
    targets = {"targets": ["q_proj", "v_proj"]}
    origin = open_origin(make_run(tmp_path / "run", base, steps=3, asked=0, adapter=targets))
    assert origin.precision == "bf16" and origin.in_few_bits
    trained = logits(open_unmerged(origin, torch.device("cpu"), "fp32"))
    assert (trained - logits(load_base(base, origin.recipe, torch.device("cpu"), precision="fp32"))).abs().max() > 1e-2
    with_adapter = Transformers(base, adapter=origin.adapter)
    torch.testing.assert_close(torch.from_numpy(with_adapter.logits(IDS)), trained, rtol=1e-4, atol=1e-5)
    save_merged(merge(origin), origin, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    held = load_file(tmp_path / "out/model.safetensors")
    assert {weight.dtype for weight in held.values()} == {torch.bfloat16}
    assert not [name for name in held if "scale" in name or "blocks" in name]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(logits(merged), trained, rtol=0.05, atol=0.02)  # W + s B A, rounded to bf16


@pytest.mark.parametrize("make", [make_mxfp4, make_fp8])
def test_a_base_of_few_bits_is_not_rounded_again(make: Callable[[Path], Path], tmp_path: Path):
    base = make(tmp_path)
    assert check_trainable(base, make_recipe(base)).vocab
    with pytest.raises(BaseError, match="kind qlora does not train"):
        check_trainable(base, make_recipe(base, adapter={"kind": "qlora"}))
