"""Rows that begin alike compute their beginning once: the same loss, the same gradients, or not at all."""

from __future__ import annotations

import pytest
import torch
from test_train import CPU, Recorder, adapter_weights, architectures, run_training
from tiny import TOWNS, make_base, make_recipe, make_rows, same_tensors

from afina.model.loss_torch import make_batch, target_loss
from afina.model.steps.prefix_torch import shared_prefix
from afina.text.example import Example
from afina.tokenizer.encode import Row
from afina.train.sharing_torch import may_share

OFTEN = {"checkpoint_seconds": 1e-9}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def row(prefix, *ids, context=1):
    """A row that learns all but its first `context` own tokens."""
    return Row([*prefix, *ids], [False] * (len(prefix) + context) + [True] * (len(ids) - context), Example(text=""))


def rows_of(*, prefix=24, count=6):
    system = [3 + number % 50 for number in range(prefix)]
    return [row(system, *range(60 + n, 66 + 2 * n), context=1 + n % 3) for n in range(count)]


def test_prefix_ends_before_the_token_that_predicts_a_target():
    system = list(range(100, 140))
    assert shared_prefix([row(system, 1, 2, 3), row(system, 4, 5)]) == 40
    assert shared_prefix([row(system, 1, 2, 3), row(system, 1, 5)]) == 40, "token 1 predicts the first target"
    assert shared_prefix([row(system, 1, 2, 3, context=2), row(system, 1, 5, 6, context=2)]) == 41
    assert shared_prefix([row(system, 1, 2), row(system[:39], 4, 5)]) == 39


def test_what_saves_little_is_left_alone():
    assert shared_prefix([row(range(40), 1, 2)]) == 0, "one row"
    assert shared_prefix([row(range(15), 1, 2), row(range(15), 3, 4)]) == 0, "a short prefix"
    long = list(range(200, 600))
    assert shared_prefix([row(range(20), *long), row(range(20), 1, 2)]) == 0, "little of the batch"
    assert shared_prefix([row((), *range(50)), row((), *range(50))]) == 0, "texts learn from their second token on"


def llama():
    from transformers import LlamaConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaConfig(**small, num_key_value_heads=2, vocab_size=400, max_position_embeddings=64, pad_token_id=0)


@pytest.mark.parametrize("config", [llama(), *architectures()], ids=lambda config: config.model_type)
def test_loss_and_gradients_are_those_of_whole_rows(config):
    """Mistral's window of 16 is shorter than the prefix of 24."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).train()
    rows = rows_of()
    results = []
    for share in (False, True):
        batch = make_batch(rows, 0, CPU, share=share)
        assert batch.prefix == (24 if share else 0)
        loss = target_loss(model, batch)
        loss.backward()
        results.append((loss.item(), {name: weight.grad for name, weight in model.named_parameters()}))
        model.zero_grad(set_to_none=True)
    assert batch.saved == 5 * 24
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    said = []
    assert may_share(model, rows, [range(6)], make_recipe().train, pad_id=0, device=CPU, say=said.append)
    assert said == [
        f"train: 120 of the {sum(map(len, rows))} tokens of an epoch repeat the beginning of a neighbouring row, "
        "and are computed once"
    ]


def test_dropout_noise_and_checkpointing_are_for_each_row(base):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    rows, said = rows_of(), []

    def ask(**train):
        settings = make_recipe(train=train).train
        return may_share(model, rows, [range(6)], settings, pad_id=0, device=CPU, say=said.append)

    assert not ask(share_prefix=False) and not said
    assert not ask(neftune_alpha=5) and "neftune_alpha draws" in said[-1]
    assert not ask(checkpoint_activations=True) and "keeps no keys" in said[-1]
    model.config.attention_dropout = 0.1
    assert not ask() and "dropout draws" in said[-1]


@pytest.mark.parametrize("how", ["detached", "wrong"])
def test_an_architecture_whose_cache_is_not_exact_is_refused_with_the_reason(base, monkeypatch, how):
    from transformers import AutoModelForCausalLM, DynamicCache

    own = DynamicCache.update

    def update(self, keys, values, *arguments, **options):
        if how == "detached":
            return own(self, keys.detach(), values.detach(), *arguments, **options)
        return own(self, keys, values * 1.01, *arguments, **options)

    monkeypatch.setattr(DynamicCache, "update", update)
    said = []
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = make_recipe().train
    assert not may_share(model, rows_of(), [range(6)], settings, pad_id=0, device=CPU, say=said.append)
    assert "for each row: this architecture" in said[-1]


def with_system_prompt(base):
    """The tiny rows behind one long system prompt, as the renderer writes them."""
    from afina.tokenizer.encode import encode_examples

    recipe = make_recipe(base)
    _, renderer = make_rows(base, recipe)
    made = [
        Example(
            messages=(
                {"role": "system", "content": "Responde com uma palavra"},
                {"role": "user", "content": f"Onde nasceu {town}?"},
                {"role": "assistant", "content": town},
            ),
            path="rows.jsonl",
            line=line,
        )
        for line, town in enumerate(TOWNS * 2, start=1)
    ]
    return encode_examples(made, renderer, recipe).rows


def test_training_is_the_same_with_and_without(base, tmp_path):
    rows = with_system_prompt(base)
    runs = {}
    for share in (False, True):
        recipe = make_recipe(base, train={"share_prefix": share, "epochs": 3})
        runs[share] = run_training(base, tmp_path / str(share), recipe, rows=rows)
    (plain, _, before, _), (model, state, log, said) = runs[False], runs[True]
    assert any("are computed once" in line for line in said)
    assert log.losses() == pytest.approx(before.losses(), abs=1e-4)
    for name, weight in adapter_weights(plain).items():
        torch.testing.assert_close(adapter_weights(model)[name], weight, rtol=5e-3, atol=1e-4)
    steps = [[e for e in each.events if e["event"] == "step"] for each in (before, log)]
    assert sum(e["shared_tokens"] for e in steps[0]) == 0 < sum(e["shared_tokens"] for e in steps[1])
    assert state.tokens == 3 * sum(map(len, rows)), "every token of every row counts as trained"


@pytest.mark.long
def test_killed_and_resumed_is_bitwise_uninterrupted(base, tmp_path):
    rows = with_system_prompt(base)
    recipe = make_recipe(base, train=OFTEN | {"epochs": 3})
    whole = adapter_weights(run_training(base, tmp_path / "whole", recipe, rows=rows)[0])
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=2), rows=rows)
    resumed = adapter_weights(run_training(base, tmp_path / "killed", recipe, rows=rows)[0])
    assert same_tensors(whole, resumed)


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_the_two_answers_of_a_preference_share_their_question(base, method):
    """One pair is a batch of two rows, whatever the other pairs ask."""
    from transformers import AutoModelForCausalLM

    from afina.model.loss_torch import Totals
    from afina.train.methods import objective_of

    question = list(range(3, 43))
    pair = row(question, 60, 61, 62)
    pair.rejected, pair.reference = row(question, 60, 70, 71, 72), (-9.0, -12.0)
    model = AutoModelForCausalLM.from_pretrained(base)
    objective = objective_of(make_recipe(train={"method": method}).train)
    found = []
    for share in (False, True):
        batch = make_batch([pair], 0, CPU, share=share)
        assert (batch.prefix, batch.saved) == ((40, 40) if share else (0, 0))
        loss, figures = objective.loss(model, batch, Totals.of([batch]))
        found.append((torch.autograd.grad(loss, model.get_input_embeddings().weight)[0], loss.item(), figures))
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-6)
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-5)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-5)
