"""Every variant of LoRA: nothing changes before training, and plain PEFT opens the result on the untouched base."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from test_train import CPU, Recorder, adapter_weights, run_training
from tiny import make_base, make_recipe, make_rows, same_tensors

from afina.errors import RecipeError
from afina.model.adapter_torch import save_trained
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import make_batch, target_loss

FAST = {"epochs": 1}
VARIANTS = {
    "lora": {},
    "rslora": {"variant": "rslora"},
    "dora": {"variant": "dora", "dropout": 0.1},
    "pissa": {"variant": "pissa"},
    "lora+": {"lora_plus_ratio": 8.0},
    "head": {"modules_to_save": ["lm_head"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "pissa and head": {"variant": "pissa", "modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """By whether the head is the embeddings."""
    return {tied: make_base(tmp_path_factory.mktemp("base"), tie_word_embeddings=tied) for tied in (False, True)}


@pytest.fixture
def base(bases):
    return bases[False]


def logits_of(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=False).logits


TIED = ("lora", "head", "embeddings")
"""Variants of which `make test` tries both kinds of heads."""


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        pytest.param(name, tied, marks=pytest.mark.long if tied and name not in TIED else ())
        for name in VARIANTS
        for tied in (False, True)
    ],
)
def test_variant_starts_as_the_base_and_plain_peft_opens_it(bases, tmp_path, name, tied):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = bases[tied]
    recipe = make_recipe(base, adapter=VARIANTS[name], train=FAST)
    ids = make_batch(make_rows(base, recipe)[0][:6], 0, CPU).ids_BL
    untouched = AutoModelForCausalLM.from_pretrained(base)
    expected = logits_of(untouched, ids)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    torch.testing.assert_close(logits_of(model, ids), expected, rtol=1e-4, atol=1e-5)
    run_training(base, tmp_path / "checkpoints", recipe, model=model)
    trained = logits_of(model, ids)
    assert (trained - expected).abs().max() > 1e-3
    save_trained(model, tmp_path / "adapter")
    plain = PeftModel.from_pretrained(untouched, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(plain, ids), trained, rtol=1e-4, atol=2e-5)
    with plain.disable_adapter():
        assert torch.equal(logits_of(plain, ids), expected)


@pytest.mark.parametrize("name", ["pissa", *(pytest.param(each, marks=pytest.mark.long) for each in ("dora", "lora+"))])
def test_variant_resumes_bitwise(base, tmp_path, name):
    recipe = make_recipe(base, adapter=VARIANTS[name], train=FAST | {"checkpoint_seconds": 1e-9})
    whole = adapter_weights(run_training(base, tmp_path / "whole", recipe)[0])
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=4))
    model, _, log, _ = run_training(base, tmp_path / "killed", recipe)
    assert log.events[0]["event"] == "resumed"
    assert same_tensors(adapter_weights(model), whole)


def test_pissa_converts_to_twice_the_rank(base, tmp_path):
    recipe = make_recipe(base, adapter={"variant": "pissa"})
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    save_trained(model, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    a, b = (next(v for k, v in weights.items() if f"q_proj.lora_{side}" in k) for side in "AB")
    assert (a.shape[0], b.shape[1]) == (2 * recipe.adapter.rank,) * 2
    torch.testing.assert_close(b @ a, torch.zeros(32, 32), rtol=0, atol=1e-6)  # untrained: no difference


def test_lora_plus_gives_b_its_own_rate(base):
    from afina.train.optimizer_torch import make_optimizer, set_rate

    recipe = make_recipe(base)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    optimizer = make_optimizer(model, recipe.train, CPU, lora_plus_ratio=16.0)
    set_rate(optimizer, 1e-4)
    rate_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert rate_of[id(weight)] == pytest.approx(16e-4 if "lora_B" in name else 1e-4), name


def test_loftq_is_nearer_to_the_full_base_and_opens_on_the_4_bit_one(tmp_path):
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel

    wide = make_base(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    adapter = {"kind": "qlora", "variant": "loftq"}
    recipe = make_recipe(wide, adapter=adapter, train=FAST)
    ids = make_batch(make_rows(wide, recipe)[0][:6], 0, CPU).ids_BL
    full = logits_of(load_base(wide, recipe, CPU), ids)
    lost = (logits_of(load_base(wide, recipe, CPU, four_bit=True), ids) - full).norm()
    model = attach_adapter(load_base(wide, recipe, CPU, four_bit=True), recipe.adapter, 0)
    assert (logits_of(model, ids) - full).norm() < 0.9 * lost
    run_training(wide, tmp_path / "checkpoints", recipe, model=model)
    save_trained(model, tmp_path / "adapter")
    plain = PeftModel.from_pretrained(load_base(wide, recipe, CPU, four_bit=True), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(plain, ids), logits_of(model, ids), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "adapter",
    [
        {"variant": "loftq"},
        {"variant": "pissa", "kind": "qlora"},
        {"variant": "dora", "kind": "none"},
        {"lora_plus_ratio": 2.0, "kind": "none"},
        {"modules_to_save": ["lm_head"], "kind": "none"},
    ],
    ids=str,
)
def test_variants_that_cannot_be_are_refused_in_the_recipe(adapter):
    with pytest.raises(ValidationError, match="kind"):
        make_recipe(adapter=adapter)


def test_a_rank_above_the_singular_values_and_a_layer_that_is_not_there_are_refused(base):
    from afina.recipe import Adapter

    recipe = make_recipe(base)
    with pytest.raises(RecipeError, match="16 singular values"):
        attach_adapter(load_base(base, recipe, CPU), Adapter(rank=20, variant="pissa"), 0)
    with pytest.raises(RecipeError, match="no layer lm_haed"):
        attach_adapter(load_base(base, recipe, CPU), Adapter(rank=4, modules_to_save=["lm_haed"]), 0)


def test_loss_of_a_trained_head_is_transformers_own(base):
    from afina.model.loss_torch import check_loss

    recipe = make_recipe(base, adapter={"modules_to_save": ["lm_head"]})
    rows, _ = make_rows(base, recipe)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    batch = make_batch(rows[:7], 0, CPU)
    assert check_loss(model, batch) < 1e-6
    target_loss(model, batch).backward()
    assert all(w.grad is not None for n, w in model.named_parameters() if w.requires_grad and "lora_A" not in n)
