"""Learning which of two answers is better: by hand, against TRL, and through the loop."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_train import CPU, Recorder, adapter_weights, run_training
from tiny import NAMES, TOWNS, make_base, make_recipe, same_tensors

from afina.evaluate.loss import held_out_pairs
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import Totals, answer_log_probs, make_batch, target_loss
from afina.model.reader_torch import TorchReader
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import encode_examples
from afina.tokenizer.load import load_tokenizer
from afina.train.batches import plan_epoch
from afina.train.methods import objective_of
from afina.train.methods.dpo_torch import dpo_loss
from afina.train.methods.orpo_torch import odds_ratio_loss
from afina.train.reference_torch import read_reference, write_reference

OFTEN = {"checkpoint_seconds": 1e-9}


def pairs():
    """Better answers name a town, worse ones say in another length that they do not know."""
    for line, (name, town) in enumerate(((name, town) for name in NAMES for town in TOWNS), start=1):
        turns = ({"role": "user", "content": f"Onde nasceu {name} {town}?"},
                 {"role": "assistant", "content": f"{town} de {name}"})  # fmt: skip
        yield Example(messages=turns, rejected="Não sei. " * (line % 3) + "Não", path="pairs.jsonl", line=line)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def make(base, method="dpo", examples=None, **parts):
    recipe = make_recipe(base, train={"method": method, "beta": 0.3} | parts.pop("train", {}), **parts)
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    return recipe, encode_examples(examples or pairs(), renderer, recipe).rows


def moved(model, by=0.05):
    """The model some way into its training: every trained weight moved at random."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += by * torch.randn_like(weight)
    return model


def learning(base, recipe):
    return attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)


def judged(base, recipe, rows, tmp_path, model=None):
    """Rows with the reference of the model that training starts from."""
    if not recipe.train.facts.needs_reference:
        return rows
    file = tmp_path / "reference.jsonl"
    write_reference(model or learning(base, recipe), rows, file, recipe.train, pad_id=0, device=CPU)
    return read_reference(file, rows, recipe.train)


# ---- by hand


def test_dpo_and_orpo_of_one_pair_by_hand(base, tmp_path):
    """Softmax over every position, the log of what was said, sums, and the papers' formulas."""
    recipe, rows = make(base, train={"label_smoothing": 0.1})
    row, start = rows[1], learning(base, recipe)

    def log_probs(model, half):
        probabilities_LV = model(torch.tensor([half.ids])).logits[0].softmax(-1)
        said = [place for place, learned in enumerate(half.mask) if learned]
        return [math.log(probabilities_LV[place - 1, half.ids[place]]) for place in said]

    with torch.no_grad():
        before = [sum(log_probs(start, half)) for half in (row, row.rejected)]
        row = judged(base, recipe, rows, tmp_path, start)[1]
        model = moved(start)
        better, worse = (log_probs(model, half) for half in (row, row.rejected))
        h = 0.3 * ((sum(better) - before[0]) - (sum(worse) - before[1]))
        dpo = -0.9 * math.log(1 / (1 + math.exp(-h))) - 0.1 * math.log(1 / (1 + math.exp(h)))
        p, q = (math.exp(sum(side) / len(side)) for side in (better, worse))
        odds_ratio = (p / (1 - p)) / (q / (1 - q))
        orpo = -math.log(p) + 0.3 * -math.log(odds_ratio / (1 + odds_ratio))

        batch = make_batch([row], 0, CPU)
        found, figures = objective_of(recipe.train).loss(model, batch, Totals.of([batch]))
        assert found.item() == pytest.approx(dpo, abs=1e-5)
        assert figures == {"reward_margin": pytest.approx(h, abs=1e-5), "preference_accuracy": float(h > 0)}
        found, figures = objective_of(make(base, "orpo")[0].train).loss(model, batch, Totals.of([batch]))
    assert found.item() == pytest.approx(orpo, abs=1e-5)
    assert figures["log_odds"] == pytest.approx(math.log(odds_ratio), abs=1e-4)
    assert figures["nll"] == pytest.approx(-math.log(p), abs=1e-5)


def test_only_the_last_answer_is_learned(base):
    turns = ({"role": "user", "content": "Faro?"}, {"role": "assistant", "content": "Sim"},
             {"role": "user", "content": "Lagos?"}, {"role": "assistant", "content": "Sim"})  # fmt: skip
    _, [row] = make(base, examples=[Example(messages=turns, rejected="Não")])
    _, [alone] = make(base, examples=[Example(messages=turns[2:], rejected="Não")])
    assert row.targets == alone.targets < len(row.ids)
    assert row.ids[: row.mask.index(True)] == row.rejected.ids[: row.rejected.mask.index(True)]


def test_an_answer_that_is_certain_has_a_gradient_that_is_a_number():
    sure = torch.tensor([[0.0, -60.0], [-1e-9, -0.5]], requires_grad=True)
    (loss, _), log_odds = odds_ratio_loss(sure, beta=1.0)
    loss.sum().backward()
    assert loss.isfinite().all() and log_odds.isfinite().all() and sure.grad.isfinite().all()


# ---- against TRL


@pytest.fixture
def trl(tmp_path, monkeypatch):
    """TRL's trainer for a model; its data are put into its collator by hand."""
    pytest.importorskip("trl")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset

    def make_trainer(trainer, config, model, tokenizer, **options):
        quiet = {"report_to": [], "use_cpu": True, "bf16": False, "output_dir": str(tmp_path / "trl")}
        data = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
        return trainer(model, args=config(**quiet, **options), train_dataset=data, processing_class=tokenizer)

    return make_trainer


def cut(row):
    """Prompt and answers, as TRL takes them."""
    start, other = row.mask.index(True), row.rejected.mask.index(True)
    assert row.ids[:start] == row.rejected.ids[:other]
    return {"prompt_ids": row.ids[:start], "chosen_ids": row.ids[start:], "rejected_ids": row.rejected.ids[other:]}


def test_dpo_is_trls(base, tmp_path, trl):
    from trl import DPOConfig, DPOTrainer

    recipe, rows = make(base)
    some = judged(base, recipe, rows, tmp_path)[:9]
    model = learning(base, recipe)
    tokenizer = load_tokenizer(str(base), recipe.chat)
    trainer = trl(DPOTrainer, DPOConfig, model, tokenizer, beta=0.3)  # keeps a copy of the adapter as its reference
    moved(model).eval()
    theirs = trainer.compute_loss(trainer.model.eval(), trainer.data_collator([cut(row) for row in some]))
    batch = make_batch(some, 0, CPU)
    ours, _ = objective_of(recipe.train).loss(model, batch, Totals.of([batch]))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(ours.item() - math.log(2)) > 0.01, "the model has moved"


@pytest.mark.parametrize("one_token_prompts", [True, False])
def test_orpo_is_trls(base, tmp_path, trl, one_token_prompts):
    """TRL takes the likelihood over the prompt too: the whole loss is the same where the prompt is one token, which
    is no target; elsewhere the odds ratio is, and the likelihood of the answers' tokens."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    recipe, rows = make(base, "orpo")
    some = rows[:9]
    if one_token_prompts:
        some = [replace(row, ids=row.ids[at:], mask=[False, *row.mask[at + 1 :]],
                        rejected=replace(row.rejected, ids=row.rejected.ids[at:],
                                         mask=[False, *row.rejected.mask[at + 1 :]]))
                for row in some for at in [row.mask.index(True) - 1]]  # fmt: skip
    model = moved(load_base(base, recipe, CPU).requires_grad_(True)).eval()
    trainer = trl(ORPOTrainer, ORPOConfig, model, load_tokenizer(str(base), recipe.chat), beta=0.3)
    features = []
    for row in some:
        parts, feature = cut(row), {}
        for side in ("chosen", "rejected"):
            ids = parts["prompt_ids"] + parts[f"{side}_ids"]
            feature[f"{side}_input_ids"], feature[f"{side}_attention_mask"] = ids, [1] * len(ids)
            feature[f"{side}_labels"] = [-100] * len(parts["prompt_ids"]) + parts[f"{side}_ids"]
        feature["prompt_input_ids"] = parts["prompt_ids"]
        feature["prompt_attention_mask"] = [1] * len(parts["prompt_ids"])
        features.append(feature)
    theirs, metrics = trainer.get_batch_loss_metrics(model, trainer.data_collator(features))
    batch = make_batch(some, 0, CPU)
    ours, figures = objective_of(recipe.train).loss(model, batch, Totals.of([batch]))
    assert figures["log_odds"] == pytest.approx(metrics["log_odds_chosen"], abs=1e-5)
    assert figures["reward_margin"] == pytest.approx(metrics["rewards/margins"], abs=1e-5)
    assert figures["preference_accuracy"] == metrics["rewards/accuracies"]
    if one_token_prompts:
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    else:
        answers = target_loss(model, make_batch([replace(row, rejected=None) for row in some], 0, CPU))
        answers = answers / sum(sum(row.mask) for row in some)
        assert ours.item() == pytest.approx((theirs - metrics["nll_loss"] + answers).item(), abs=1e-5)


# ---- batches and the reference


def test_both_halves_stand_in_one_batch_within_its_bound(base):
    _, rows = make(base)
    planned = plan_epoch([len(row) for row in rows], batch_tokens=128, seed=0, epoch=0)
    assert sorted(number for numbers in planned for number in numbers) == list(range(len(rows)))
    for numbers in planned:
        batch = make_batch([rows[number] for number in numbers], 0, CPU)
        assert batch.ids_BL.shape[0] == 2 * len(numbers) and (batch.ids_BL.numel() <= 128 or len(numbers) == 1)
        assert batch.tokens == sum(rows[number].tokens for number in numbers)


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_accumulation_gives_the_same_update(base, tmp_path, method):
    recipe, rows = make(base, method)
    some = judged(base, recipe, rows, tmp_path)[:8]
    found = []
    for size in (8, 2):
        model = moved(learning(base, recipe))
        batches = [make_batch(some[start : start + size], 0, CPU) for start in range(0, 8, size)]
        for batch in batches:
            objective_of(recipe.train).loss(model, batch, Totals.of(batches))[0].backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-7)


def test_the_reference_is_the_model_with_its_adapter_switched_off(base, tmp_path):
    recipe, rows = make(base)
    rows = judged(base, recipe, rows, tmp_path)
    model = moved(learning(base, recipe)).eval()
    batch = make_batch(rows[:9], 0, CPU)
    with torch.no_grad(), model.disable_adapter():
        sums, counts = answer_log_probs(target_loss(model, batch, reduction="none"), batch)
    torch.testing.assert_close(batch.reference_JR.flatten(), sums, rtol=0, atol=1e-5)
    assert counts.tolist() == [sum(row.mask) for row in (*rows[:9], *(row.rejected for row in rows[:9]))]


@pytest.mark.parametrize(
    "adapter",
    [{"variant": "pissa"}, *(pytest.param(each, marks=pytest.mark.long) for each in ({}, {"kind": "none"}))],
    ids=str,
)
def test_the_first_loss_is_ln_2_whatever_training_starts_from(base, tmp_path, adapter):
    recipe, rows = make(base, adapter=adapter)

    def start():
        return load_base(base, recipe, CPU).requires_grad_(True) if adapter.get("kind") else learning(base, recipe)

    rows = judged(base, recipe, rows, tmp_path, start())
    _, _, log, _ = run_training(base, tmp_path, recipe, rows=rows, model=start(),
                                held_out=rows[:4])  # fmt: skip
    assert log.losses()[0] == pytest.approx(math.log(2), abs=1e-5)


# ---- the loop


def trained(base, tmp_path, recipe, rows, log=None):
    learned, held_out = rows[4:], rows[:4]
    model = learning(base, recipe)
    return run_training(base, tmp_path, recipe, log, rows=learned, held_out=held_out, model=model)


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_it_learns_and_leaves_the_base_bitwise(base, tmp_path, method):
    recipe, rows = make(base, method, train={"epochs": 4, "learning_rate": 1e-2})
    frozen = load_file(base / "model.safetensors")
    before = held_out_pairs(TorchReader(learning(base, recipe)), rows[:4], pad_id=0, batch_tokens=128)
    model, _, log, _ = trained(base, tmp_path, recipe, judged(base, recipe, rows, tmp_path))
    after = held_out_pairs(TorchReader(model.eval()), rows[:4], pad_id=0, batch_tokens=128)
    assert after.margin > before.margin + 0.3 and after.accuracy == 1.0
    steps = [event for event in log.events if event["event"] == "step"]
    assert steps[-1]["preference_accuracy"] == 1.0 and steps[-1]["reward_margin"] > steps[0]["reward_margin"]
    assert ("log_odds" in steps[0]) == (method == "orpo")
    last = [event for event in log.events if event["event"] == "validation"][-1]
    assert last["preference_accuracy"] == 1.0 and last["loss"] < steps[0]["loss"]
    inner = dict(model.get_base_model().named_parameters())
    for name, weight in frozen.items():
        assert torch.equal(inner.get(name, inner.get(name.replace(".weight", ".base_layer.weight"))), weight), name


@pytest.mark.long
def test_killed_and_resumed_with_dropout_is_bitwise_uninterrupted(base, tmp_path):
    recipe, rows = make(base, train=OFTEN, adapter={"dropout": 0.2})
    rows = judged(base, recipe, rows, tmp_path)
    whole = adapter_weights(trained(base, tmp_path / "whole", recipe, rows)[0])
    with pytest.raises(KeyboardInterrupt):
        trained(base, tmp_path / "killed", recipe, rows, Recorder(die_after=5))
    _, again = make(base, train=OFTEN, adapter={"dropout": 0.2})
    again = read_reference(tmp_path / "reference.jsonl", again, recipe.train)  # what a new process has: the file
    model, *_ = trained(base, tmp_path / "killed", recipe, again)
    assert same_tensors(adapter_weights(model), whole)


def test_a_pair_is_never_torn_apart_when_memory_is_short(base, tmp_path, monkeypatch):
    """The batch is halved by pairs; the loss of the step stays the same."""
    from afina.train.guard import halve

    recipe, rows = make(base)
    rows = judged(base, recipe, rows, tmp_path)
    model = moved(learning(base, recipe)).eval()
    objective, found = objective_of(recipe.train), []
    for splits in (0, 1, 2):
        batches = [make_batch([rows[n] for n in numbers], 0, CPU) for numbers in halve([list(range(8))], splits)]
        found.append(sum(objective.loss(model, batch, Totals.of(batches))[0].item() for batch in batches))
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


# ---- the rows


def test_an_example_goes_through_its_file(tmp_path):
    example = next(pairs())
    assert Example.from_json(json.loads(example.as_line())) == example
    assert example.kind == "preference" and example.id != replace(example, rejected="x").id
    assert replace(example, rejected=None).id != example.id


def test_dpo_loss_takes_gradients_of_the_policy_alone():
    now = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
    dpo_loss(now, torch.zeros(2, 1), beta=1.0).loss_P.sum().backward()
    # d/dx -log sigmoid(x) = sigmoid(x) - 1 at x = 1
    slope = 1 / (1 + math.exp(-1)) - 1
    assert now.grad.flatten().tolist() == pytest.approx([slope, -slope], abs=1e-6)
