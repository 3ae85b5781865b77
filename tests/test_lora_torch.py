"""The short LoRA forward and backward, against PEFT's own layer."""

from __future__ import annotations

import pytest
import torch
from tiny import make_base, make_recipe, make_rows

from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import make_batch, target_loss
from afina.model.steps.lora_torch import _LoraLinear, short_lora

CPU = torch.device("cpu")
LAYERS = 2 * 7


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"), attention_bias=True)


def adapted(base, **adapter):
    """A model whose adapter does something."""
    recipe = make_recipe(base, adapter=adapter)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "q_proj.base_layer.bias" in name:
            weight.data.normal_(std=0.1)
    return model


def loss_and_gradients(model, base):
    rows, _ = make_rows(base, make_recipe(base))
    torch.manual_seed(2)
    loss = target_loss(model, make_batch(rows[:9], 0, CPU))
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.item(), gradients


@pytest.mark.parametrize("adapter", [{}, {"dropout": 0.3}, {"variant": "rslora"}, {"variant": "pissa"}], ids=str)
def test_loss_and_gradients_are_pefts(base, adapter):
    model = adapted(base, **adapter).train()
    loss, gradients = loss_and_gradients(model, base)
    with short_lora(model) as layers:
        short, own = loss_and_gradients(model, base)
    assert layers == LAYERS
    assert short == pytest.approx(loss, rel=1e-6)
    assert own.keys() == gradients.keys() and all(".lora_" in name for name in own)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-6)
    assert loss_and_gradients(model, base)[0] == loss, "PEFT's forward is back"


@pytest.mark.parametrize("dropped", [False, True])
def test_gradients_are_those_of_finite_differences(dropped):
    torch.manual_seed(0)
    x, dropout, w, bias, a, b = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 5), (2, 3, 5), (4, 5), (4,), (2, 5), (4, 2))
    )
    for each in (x, dropout, a, b):
        each.requires_grad_()

    def layer(x, dropout, a, b):
        return _LoraLinear.apply(x, dropout if dropped else None, w, bias, a, b, 0.5)

    by_hand = x @ w.T + bias + 0.5 * (dropout if dropped else x) @ a.T @ b.T
    torch.testing.assert_close(layer(x, dropout, a, b), by_hand)
    assert torch.autograd.gradcheck(layer, (x, dropout, a, b))


def test_an_adapter_that_is_switched_off_stays_off(base):
    model = adapted(base).eval()
    rows, _ = make_rows(base, make_recipe(base))
    batch = make_batch(rows[:5], 0, CPU)
    with torch.no_grad(), model.disable_adapter():
        expected = target_loss(model, batch)
    with torch.no_grad(), short_lora(model):
        with model.disable_adapter():
            assert torch.equal(target_loss(model, batch), expected)
        assert not torch.equal(target_loss(model, batch), expected)


def test_layers_that_compute_something_else_keep_pefts_forward(base):
    for adapter in ({"variant": "dora"}, {"kind": "none"}):
        recipe = make_recipe(base, adapter=adapter)
        model = load_base(base, recipe, CPU)
        model = attach_adapter(model, recipe.adapter, 0) if "variant" in adapter else model.requires_grad_(True)
        with short_lora(model) as layers:
            assert layers == 0
    mixed = adapted(base)
    for name, weight in mixed.named_parameters():
        if "base_layer" in name:
            weight.data = weight.data.bfloat16()
    with short_lora(mixed) as layers:
        assert layers == 0


def test_four_bit_layers_keep_pefts_forward(tmp_path):
    pytest.importorskip("bitsandbytes")
    wide = make_base(tmp_path, hidden_size=64, intermediate_size=128)
    recipe = make_recipe(wide, adapter={"kind": "qlora"})
    model = attach_adapter(load_base(wide, recipe, CPU, four_bit=True), recipe.adapter, 0)
    with short_lora(model) as layers:
        assert layers == 0
