"""Options of the loop: noise, activations computed again, 8-bit optimizers, logits in chunks."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from test_train import CPU, Recorder, adapter_weights, run_training
from tiny import make_base, make_recipe, make_rows, same_tensors

import afina.model.loss_torch as loss_torch
from afina.errors import RecipeError
from afina.model import footprint
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import check_loss, make_batch, target_loss
from afina.recipe import First, Train
from afina.train.optimizer_torch import make_optimizer
from afina.train.schedule import learning_rate
from afina.train.switches_torch import training_mode

OFTEN = {"checkpoint_seconds": 1e-9, "epochs": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def count(kept):
    """A hook that notes the bytes of each tensor kept for the backward pass."""

    def note(tensor):
        kept.append(tensor.nbytes)
        return tensor

    return note


@pytest.mark.parametrize(
    "options",
    [{"neftune_alpha": 5.0}, {"checkpoint_activations": True, "neftune_alpha": 5.0}, {"optimizer": "adamw_8bit"}],
    ids=str,
)
def test_killed_and_resumed_is_bitwise_uninterrupted(base, tmp_path, options):
    if "optimizer" in options:
        pytest.importorskip("bitsandbytes")
        base = make_base(tmp_path / "wide", hidden_size=64, intermediate_size=1536)  # above 4096 values: 8 bits
    recipe = make_recipe(base, train=OFTEN | options, adapter={"dropout": 0.2})
    whole = adapter_weights(run_training(base, tmp_path / "whole", recipe)[0])
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=5))
    model, *_ = run_training(base, tmp_path / "killed", recipe)
    assert same_tensors(adapter_weights(model), whole)


def test_noise_is_there_only_while_training(base, tmp_path):
    recipe = make_recipe(base, train={"neftune_alpha": 5.0})
    rows, _ = make_rows(base, recipe)
    model = load_base(base, recipe, CPU)
    batch = make_batch(rows[:5], 0, CPU)
    quiet = target_loss(model, batch).item()
    with training_mode(model, recipe.train):
        assert target_loss(model, batch).item() != target_loss(model, batch).item()
        model.eval()
        assert target_loss(model, batch).item() == pytest.approx(quiet, rel=1e-6)
        model.train()
        noise = model.get_input_embeddings()(batch.ids_BL) - model.get_input_embeddings().weight[batch.ids_BL]
        bound = 5.0 / (batch.ids_BL.shape[1] * 32) ** 0.5
        assert 0.9 * bound < noise.abs().max() <= bound * 1.0001
    assert not model.training and target_loss(model, batch).item() == quiet


def test_activations_computed_again_give_the_same_gradients(base):
    recipe = make_recipe(base, adapter={"dropout": 0.2})
    rows, _ = make_rows(base, recipe)
    found = []
    for again in (False, True):
        model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
        settings = make_recipe(base, train={"checkpoint_activations": again}).train
        kept = []
        with training_mode(model, settings):
            torch.manual_seed(3)
            with torch.autograd.graph.saved_tensors_hooks(count(kept), lambda t: t):
                loss = target_loss(model, make_batch(rows[:8], 0, CPU))
            loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        found.append((loss.item(), gradients, sum(kept)))
    assert found[0][0] == found[1][0]
    assert same_tensors(found[0][1], found[1][1])
    assert found[1][2] < 0.5 * found[0][2]


def test_eight_bit_state_goes_through_the_checkpoint(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    from afina.train.optimizer_torch import optimizer_tensors, restore_optimizer

    torch.manual_seed(0)
    weights = torch.nn.ParameterDict({"large": torch.randn(128, 64), "small": torch.randn(8)})
    settings = make_recipe(base, train={"optimizer": "adamw_8bit"}).train
    optimizer = make_optimizer(weights, settings, CPU)
    (weights["large"].square().sum() + weights["small"].sum()).backward()
    optimizer.step()
    tensors = optimizer_tensors(optimizer)
    assert tensors["0.state1"].dtype == torch.uint8 and tensors["1.state1"].dtype == torch.float32
    other = make_optimizer(weights, settings, CPU)
    restore_optimizer(other, tensors)
    assert same_tensors(optimizer_tensors(other), tensors)


def test_paging_without_a_gpu_is_refused(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(RecipeError, match="there is no paging on cpu"):
        run_training(base, tmp_path, make_recipe(base, train={"optimizer": "paged_adamw_8bit"}))


# ---- the learning rate


def test_warmup_stable_decay_is_linear_that_begins_later():
    """Each stage of two by its own shares; where it falls at once, it is the linear schedule."""
    both = Train(learning_rate=1.0, warmup=0.0, final_rate=0.2, schedule="wsd", decay=0.25,
                 first=First(warmup=0.5, decay=0.5))  # fmt: skip
    assert [learning_rate(step, 8, both) for step in range(8)] == pytest.approx([1.0] * 7 + [0.6])
    first = both.of_first()
    assert [learning_rate(step, 4, first) for step in range(4)] == pytest.approx([0.5, 1.0, 1.0, 0.6])
    linear = Train(learning_rate=1.0, warmup=0.1, schedule="linear")
    at_once = linear.model_copy(update={"schedule": "wsd", "decay": 0.9})
    for step in range(50):
        assert learning_rate(step, 50, at_once) == learning_rate(step, 50, linear)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decay": 0.1}, "belongs to schedule wsd"),
        ({"schedule": "cosine", "first": {"decay": 0.1}}, "belongs to schedule wsd"),
        ({"schedule": "wsd", "warmup": 0.5, "decay": 0.6}, "together 1 at most"),
        ({"first": {"schedule": "wsd", "warmup": 0.9}}, "together 1 at most"),
    ],
    ids=str,
)
def test_a_decay_that_cannot_be_is_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Train(**settings)


# ---- the loss


def test_logits_in_chunks_are_the_same_loss_and_gradient(base, monkeypatch):
    recipe = make_recipe(base, adapter={"modules_to_save": ["lm_head"]})
    rows, _ = make_rows(base, recipe)
    batch = make_batch(rows[:9], 0, CPU)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    vocab = model.get_base_model().config.vocab_size
    found = []
    for targets in (batch.targets, 7):
        monkeypatch.setattr(footprint, "LOGIT_BYTES", targets * vocab * 4)
        model.zero_grad()
        loss = target_loss(model, batch)
        loss.backward()
        gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
        with torch.no_grad():
            each = target_loss(model, batch, reduction="none")
        found.append((loss.item(), gradients, each))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][2].shape == (batch.targets,)
    torch.testing.assert_close(found[0][2], found[1][2])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_large_vocabulary_keeps_no_logits(monkeypatch):
    """152,000 tokens, 400 targets: 243 MB of logits at once, 61 MB in chunks of 100."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from afina.model.loss_torch import Batch

    config = LlamaConfig(vocab_size=152_000, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, tie_word_embeddings=True)  # fmt: skip
    model = LlamaForCausalLM(config)
    batch = Batch(torch.arange(401)[None], torch.arange(400), torch.arange(1, 401), 401)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(count(kept), lambda t: t):
        target_loss(model, batch)
    assert max(kept) <= 152_000 * 8 * 4  # the embeddings themselves


def test_a_small_vocabulary_is_one_piece(base, monkeypatch):
    def never(*_, **__):
        raise AssertionError("computed again for nothing")

    monkeypatch.setattr(loss_torch, "checkpoint", never)
    recipe = make_recipe(base)
    rows, _ = make_rows(base, recipe)
    target_loss(attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0), make_batch(rows, 0, CPU))


def scaled_architectures():
    from transformers import Cohere2Config, CohereConfig, GraniteConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": 400, "max_position_embeddings": 64, "pad_token_id": 0}
    return [
        GraniteConfig(**small, logits_scaling=8.0),
        CohereConfig(**small, logit_scale=0.25),
        Cohere2Config(**small, logit_scale=0.25, sliding_window=16),
    ]


@pytest.mark.parametrize("config", scaled_architectures(), ids=lambda config: config.model_type)
def test_scaled_logits_are_transformers_own(base, config):
    from transformers import AutoModelForCausalLM

    rows, _ = make_rows(base, make_recipe(base))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.get_output_embeddings().weight.data.mul_(40)  # so that a missing scale is seen
    assert check_loss(model, make_batch(rows[:7], 0, CPU)) < 1e-4
