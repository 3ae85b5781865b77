"""Muon: what a step of it is, which parameters take it, what it keeps, and where it is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError
from test_train import CPU, Recorder, adapter_weights, run_training
from tiny import make_base, make_recipe, same_tensors

from afina.model.load_torch import load_base
from afina.model.shape_read import shape_of_folder
from afina.plan.advise import what_would_fit
from afina.plan.bases import find_shape
from afina.plan.device import Device
from afina.plan.memory import Setup, training_memory
from afina.plan.tokens import TokenCount
from afina.train.muon_torch import MuonAndAdamW, hidden_matrices, orthogonal
from afina.train.optimizer_torch import make_optimizer, optimizer_tensors, set_rate
from afina.train.shard_torch import choose_parallel

MUON = {"optimizer": "muon"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def whole_model(base, recipe):
    return load_base(base, recipe, CPU).requires_grad_(True)


def muon_recipe(base, **train):
    return make_recipe(base, train=MUON | train, adapter={"kind": "none"})


@pytest.mark.parametrize("sides", [(6, 15), (15, 6), (9, 9)])
def test_the_iterations_act_on_singular_values_alone(sides) -> None:
    """Each goes five times through 3.4445 s - 4.775 s^3 + 2.0315 s^5; both bases of singular vectors stay."""
    torch.manual_seed(0)
    matrix = torch.randn(*sides)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonal(matrix), (left * values @ right).float(), rtol=1e-3, atol=1e-4)
    assert values.min() > 0.3 and values.max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_a_step_is_that_of_torchs_own() -> None:
    """Several steps with weight decay; torch's own multiplies in bf16, which rounds to 1 in 256."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 160).view(8, 20).clone()) for _ in range(2))
    own = MuonAndAdamW([{"params": [ours], "muon": True}], lr=0.1, weight_decay=0.3)
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        before, gradient = ours.detach().clone(), torch.randn(8, 20)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        other.step()
        moved, expected = ours.detach() - before, theirs.detach() - before
        assert (moved - expected).norm() < 0.03 * expected.norm()
    torch.testing.assert_close(own.state[ours]["momentum_buffer"], other.state[theirs]["momentum_buffer"])


def test_the_size_of_a_step_is_that_of_adamw() -> None:
    """A rate means the same: 0.2 of it, in the mean of squares, whatever the matrix's sides."""
    for sides in ((8, 8), (8, 200), (200, 8)):
        torch.manual_seed(1)
        weight = torch.nn.Parameter(torch.zeros(*sides))
        optimizer = MuonAndAdamW([{"params": [weight], "muon": True}], lr=1.0, weight_decay=0.0)
        weight.grad = torch.randn(*sides)
        optimizer.step()
        assert 0.15 < weight.detach().square().mean().sqrt() < 0.25


def test_every_trained_parameter_is_in_one_group(base) -> None:
    recipe = muon_recipe(base)
    model = whole_model(base, recipe)
    optimizer = make_optimizer(model, recipe.train, CPU)
    muon, adamw = optimizer.param_groups
    names = {id(weight): name for name, weight in model.named_parameters()}
    counted = [names[id(weight)] for group in (muon, adamw) for weight in group["params"]]
    assert sorted(counted) == sorted(names.values())
    of_layer = {name.rsplit(".", 2)[1] for name in (names[id(weight)] for weight in muon["params"])}
    assert of_layer == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(muon["params"]) == 2 * 7
    set_rate(optimizer, 0.25)
    assert muon["lr"] == adamw["lr"] == 0.25


def test_a_head_of_its_own_and_experts_in_one_tensor_take_adamw() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = MixtralForCausalLM(MixtralConfig(**small, vocab_size=50, num_local_experts=3, tie_word_embeddings=False))
    hidden = {id(weight) for weight in hidden_matrices(model)}
    for name, weight in model.named_parameters():
        assert (id(weight) in hidden) == (weight.dim() == 2 and "embed" not in name and "lm_head" not in name), name


def test_the_plan_counts_what_the_optimizer_keeps(base) -> None:
    """One moment of each hidden matrix, two of the rest; AdamW's step counts are a number each."""
    recipe = muon_recipe(base)
    model = whole_model(base, recipe)
    optimizer = make_optimizer(model, recipe.train, CPU)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = sum(tensor.nbytes for tensor in optimizer_tensors(optimizer).values() if tensor.dim())
    setup = Setup("none", batch_tokens=16, target_tokens=16, muon=True, kept_states=1.0)
    parts = training_memory(shape_of_folder(base), setup)
    assert parts["optimizer"].point == kept
    assert parts["state to go back to"].point == kept + sum(weight.nbytes for weight in model.parameters())
    assert training_memory(shape_of_folder(base), dataclasses.replace(setup, muon=False))["optimizer"].point > kept


def test_killed_and_resumed_is_bitwise_uninterrupted(base, tmp_path) -> None:
    recipe = muon_recipe(base, checkpoint_seconds=1e-9, epochs=1, weight_decay=0.1)
    whole, *_ = run_training(base, tmp_path / "whole", recipe, model=whole_model(base, recipe))
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=5), model=whole_model(base, recipe))
    resumed, *_ = run_training(base, tmp_path / "killed", recipe, model=whole_model(base, recipe))
    first, second = adapter_weights(whole), adapter_weights(resumed)
    assert same_tensors(first, second)


def test_it_learns(base, tmp_path) -> None:
    recipe = muon_recipe(base, epochs=4)
    *_, log, _ = run_training(base, tmp_path, recipe, model=whole_model(base, recipe))
    assert log.losses()[-1] < 0.7 * log.losses()[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": {"kind": "lora"}}, "two factors: use adamw"),
        ({"adapter": {"kind": "none"}, "train": {"parallel": "fsdp"}}, "use optimizer adamw, or parallel ddp"),
    ],
    ids=["adapter", "fsdp"],
)
def test_where_no_matrix_is_whole_it_is_refused(changes, said) -> None:
    with pytest.raises(ValidationError, match=said):
        make_recipe(**changes | {"train": MUON | changes.get("train", {})})


def test_it_is_not_sharded_by_itself(base) -> None:
    """Where AdamW's weights would be sharded for their size, those of Muon stay whole in each process."""
    shape = shape_of_folder(base)
    assert choose_parallel(make_recipe(adapter={"kind": "none"}), shape, 1000) == "fsdp"
    assert choose_parallel(muon_recipe("x"), shape, 1000) == "ddp"


def test_settings_that_would_fit_leave_it_where_an_adapter_is_trained() -> None:
    """Too little for 0.6 billion weights with gradients and moments, enough for an adapter over them."""
    tokens = TokenCount(tokens=8_000, targets=8_000, rows=80, longest=64)
    small = Device("small", "cpu", 8 * 2**30, int(4.5e9), flops_per_second=1e11, bytes_per_second=1e10)
    found = what_would_fit(muon_recipe("Qwen/Qwen3-0.6B"), find_shape("Qwen/Qwen3-0.6B"), tokens, small)
    assert found and all(each.settings["adapter.kind"] == "lora" for each in found)
    assert {each.settings["train.optimizer"] for each in found} <= {"adamw", "adamw_8bit"}
