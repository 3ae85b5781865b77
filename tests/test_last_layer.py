"""The last layer where the loss looks, and RMSNorm in few passes: the numbers of the whole, with less work."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prefix import llama, rows_of
from test_train import CPU, architectures

from afina.model.anatomy_torch import anatomy_of
from afina.model.loss_torch import make_batch, target_loss
from afina.model.steps import last_layer_torch
from afina.model.steps.last_layer_torch import last_layer_at, layers
from afina.model.steps.norm_torch import _RmsNorm, short_norms

ARCHITECTURES = [llama(), *architectures()]
PARTS = {"llama": 3, "qwen2": 3, "qwen3": 3, "mistral": 3, "gemma2": 3, "phi3": 2}
"""The MLP, the queries and the attention's way out; Phi-3 makes queries, keys and values in one product."""


def model_of(config):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.model_type)
@pytest.mark.parametrize("share", [False, True], ids=["whole rows", "shared prefix"])
def test_loss_and_gradients_are_those_of_all_positions(config, share, monkeypatch):
    model = model_of(config)
    batch = make_batch(rows_of(), 0, CPU, share=share)
    results = []
    assert anatomy_of(model, batch.ids_BL).last_layer
    for worth in (-1.0, 0.9):  # nothing is worth it; what is asked of a recipe
        monkeypatch.setattr(last_layer_torch, "WORTH", worth)
        loss = target_loss(model, batch)
        loss.backward()
        results.append((loss.item(), {name: weight.grad for name, weight in model.named_parameters()}))
        model.zero_grad(set_to_none=True)
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.model_type)
def test_only_those_positions_are_computed_and_the_model_is_left_as_it_was(config):
    model = model_of(config)
    ids, seen = torch.arange(20).view(2, 10), []
    block = layers(model)[-1]
    hook = block.mlp.act_fn if hasattr(block.mlp, "act_fn") else block.mlp.activation_fn
    hook.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].numel() // inputs[0].shape[-1]))
    whole = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    with last_layer_at(model, torch.tensor([3, 17]), 20) as parts:
        some = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    assert parts == PARTS[config.model_type] and seen == [20, 2]
    torch.testing.assert_close(some.flatten(0, 1)[[3, 17]], whole.flatten(0, 1)[[3, 17]])
    assert torch.equal(model.base_model(input_ids=ids, use_cache=False).last_hidden_state, whole)
    assert "forward" not in block.mlp.__dict__


def test_where_it_cannot_be_or_does_not_pay_everything_is_computed():
    model = model_of(llama())

    def parts(positions=(3,)):
        with last_layer_at(model, None if positions is None else torch.tensor(positions), 20) as parts:
            return parts

    assert parts() == 3 and parts(None) == 0 and parts(range(19)) == 0
    model.gradient_checkpointing_enable()
    assert parts() == 0, "activations are computed again after this context"
    model.gradient_checkpointing_disable()
    layers(model)[-1].compile()
    assert parts() == 0, "a compiled layer would be compiled once more for every batch"


def test_a_mixture_of_experts_keeps_its_last_layer():
    """Its router balances the load over all positions."""
    from transformers import MixtralConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = model_of(MixtralConfig(**small, num_key_value_heads=2, vocab_size=400, num_local_experts=2))
    with last_layer_at(model, torch.tensor([3]), 20) as parts:
        assert parts == 0


def test_a_layer_that_was_shortened_before_gets_that_back():
    model = model_of(llama())
    mlp = layers(model)[-1].mlp
    mlp.forward = mlp.forward
    given = mlp.forward
    with last_layer_at(model, torch.tensor([3]), 20):
        assert mlp.forward is not given
    assert mlp.__dict__["forward"] is given


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 1000))
def test_rms_norm_is_its_formula_and_its_gradient(rows, size, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(size, dtype=torch.float64, requires_grad=True)
    expected = weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(_RmsNorm.apply(x, weight, 1e-6), expected)
    assert torch.autograd.gradcheck(lambda x, weight: _RmsNorm.apply(x, weight, 1e-6), (x, weight))


def test_norms_that_are_something_else_keep_their_own():
    counts = {}
    for config in ARCHITECTURES:
        with short_norms(model_of(config)) as count:
            counts[config.model_type] = count
    assert counts == {"llama": 5, "qwen2": 5, "qwen3": 9, "mistral": 5, "gemma2": 0, "phi3": 5}
    with short_norms(model_of(llama()).bfloat16()) as count:
        assert count == 0


def test_training_with_short_norms_is_training():
    """Of trained norms too: the same loss and gradients as with transformers' own."""
    model, results = model_of(llama()), []
    batch = make_batch(rows_of(), 0, CPU)
    torch.nn.init.normal_(model.model.norm.weight)
    loss = target_loss(model, batch)
    results.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    with short_norms(model):
        loss = target_loss(model, batch)
        results.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(results[0], results[1])
    assert "forward" not in model.model.norm.__dict__
