"""KTO: by hand, against TRL, through the loop, and a whole run on rows with a `label`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from called import call_afina
from test_preference import judged, learning, moved
from test_train import CPU, Recorder, adapter_weights, run_training
from tiny import NAMES, TOWNS, make_base, make_recipe, same_tensors

from afina.errors import DataError
from afina.evaluate.loss import held_out_pairs
from afina.model.loss_torch import Totals, make_batch
from afina.model.reader_torch import TorchReader
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import encode_examples
from afina.tokenizer.load import load_tokenizer
from afina.train.backend_torch import TorchBackend
from afina.train.methods import objective_of
from afina.train.reference_torch import read_reference

OFTEN = {"checkpoint_seconds": 1e-9}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def rated():
    """Good answers name the town, bad ones do not know; twice as many are good."""
    for line, (name, town) in enumerate(((name, town) for name in NAMES for town in TOWNS), start=1):
        said = "Não sei. " * (line % 4) + "Não" if line % 3 == 0 else f"{town} de {name}"
        turns = ({"role": "user", "content": f"Onde nasceu {name} {town}?"}, {"role": "assistant", "content": said})
        yield Example(messages=turns, label=line % 3 != 0, path="rated.jsonl", line=line)


def make(base, examples=None, **parts):
    recipe = make_recipe(base, train={"method": "kto", "beta": 0.3} | parts.pop("train", {}), **parts)
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    return recipe, encode_examples(examples or rated(), renderer, recipe).rows


def whole_loss(objective, model, batches):
    """The loss and figures of a step of these micro-batches, as the back end puts them together."""
    with torch.no_grad():
        sums = [objective.sums_before(model, batch) for batch in batches]
    totals = Totals.of(batches)._replace(before=tuple(map(sum, zip(*sums, strict=True))))
    found = [objective.loss(model, batch, totals) for batch in batches]
    return sum(loss for loss, _ in found), {key: sum(more[key] for _, more in found) for key in found[0][1]}


@pytest.mark.parametrize("shift", [-9.0, 9.0])
def test_by_hand(base, tmp_path, shift):
    """With both signs of the estimate of the divergence: below zero it counts as zero."""
    recipe, rows = make(base, train={"desirable_weight": 0.5, "undesirable_weight": 2.0})
    some, start = rows[:6], learning(base, recipe)

    def log_prob(model, row):
        with torch.no_grad():
            log_probs_LV = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        return sum(log_probs_LV[at - 1, row.ids[at]].item() for at, learned in enumerate(row.mask) if learned)

    before = [(log_prob(start, row), log_prob(start, row.mismatched) + shift) for row in some]
    some = judged(base, recipe, some, tmp_path, start)
    for row in some:
        row.reference = (row.reference[0], row.reference[1] + shift)
    model = moved(start)
    kl = max(0.0, sum(log_prob(model, row.mismatched) - was for row, (_, was) in zip(some, before, strict=True)) / 6)
    assert (kl > 0) == (shift < 0)
    expected, rewards = [], {True: [], False: []}
    for row, (was, _) in zip(some, before, strict=True):
        ratio, good = log_prob(model, row) - was, row.example.label
        side = ratio - kl if good else kl - ratio
        expected.append((0.5 if good else 2.0) * (1 - 1 / (1 + math.exp(-0.3 * side))))
        rewards[good].append(0.3 * ratio)
    loss, figures = whole_loss(objective_of(recipe.train), model, [make_batch(some, 0, CPU)])
    assert loss.item() == pytest.approx(sum(expected) / 6, abs=1e-5)
    assert figures["kl"] == pytest.approx(kl, abs=1e-4)
    assert figures["reward_margin"] == pytest.approx(sum(rewards[True]) / 4 - sum(rewards[False]) / 2, abs=1e-4)


def test_loss_and_gradient_are_trls(base, tmp_path):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    recipe, rows = make(base, train={"desirable_weight": 0.7, "undesirable_weight": 1.9})
    some = judged(base, recipe, rows, tmp_path)[:9]
    # TRL rotates the answers within its batch; here they were within the dataset.
    some = [replace(row, mismatched=replace(row.mismatched)) for row in some]
    first, last = some[0], some[-1]
    start = last.mask.index(True)
    question = first.ids[: first.mask.index(True)]
    first.mismatched = replace(first, ids=question + last.ids[start:], mask=[False] * len(question) + last.mask[start:])
    model = learning(base, recipe)
    objective = objective_of(recipe.train)
    with torch.no_grad():
        asked = objective.judge(model, make_batch(some, 0, CPU)).T.tolist()
    for row, said in zip(some, asked, strict=True):
        row.reference = tuple(said)
    options = {"report_to": [], "use_cpu": True, "bf16": False, "output_dir": str(tmp_path / "trl")}
    options |= {"beta": 0.3, "desirable_weight": 0.7, "undesirable_weight": 1.9, "max_length": None}
    data = Dataset.from_list([{"prompt": "a", "completion": "b", "label": True}] * 4)
    tokenizer = load_tokenizer(str(base), recipe.chat)
    trainer = KTOTrainer(model, args=KTOConfig(**options), train_dataset=data, processing_class=tokenizer)
    moved(model).eval()

    def parts(row, other):
        at, from_ = row.mask.index(True), other.mask.index(True)
        return {"prompt_ids": row.ids[:at], "completion_ids": row.ids[at:], "KL_completion_ids": other.ids[from_:],
                "label": row.example.label}  # fmt: skip

    features = trainer.data_collator([parts(row, row.mismatched) for row in some])
    trainer.model.eval()
    theirs = trainer.compute_loss(trainer.model, features)
    theirs.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad
                 and weight.grad is not None}  # fmt: skip
    model.zero_grad()
    ours, figures = whole_loss(objective, model, [make_batch(some, 0, CPU)])
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert figures["kl"] == pytest.approx(trainer._metrics["eval"]["kl"][-1], abs=1e-4)
    assert gradients
    for name, weight in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-6)


def test_every_row_has_the_answer_to_another_question(base):
    _, rows = make(base, list(rated())[:5])
    for one, other in pairwise([rows[-1], *rows]):
        start, at = other.mask.index(True), one.mask.index(True)
        assert other.mismatched.ids == other.ids[:start] + one.ids[at:]
        assert other.mismatched.mask == [False] * start + one.mask[at:]
    asked = [replace(each, messages=({"role": "user", "content": "Onde?"}, each.messages[1])) for each in rated()]
    with pytest.raises(DataError, match="two questions at least"):
        make(base, asked[:4])
    _, rows = make(base, [asked[0], asked[2], next(rated())])  # one question twice: the third row's answer for both
    answer = rows[2].ids[rows[2].mask.index(True) :]
    assert [row.mismatched.ids[-len(answer) :] == answer for row in rows[:2]] == [True, True]


def test_how_micro_batches_are_cut_changes_nothing(base, tmp_path):
    """The estimate of the divergence is of the whole step: 1 x 8, 4 x 2 and 8 x 1 give the same update."""
    recipe, rows = make(base, train={"desirable_weight": 0.7})
    some = judged(base, recipe, rows, tmp_path)[:8]
    found = []
    for size in (8, 2, 1):
        model = moved(learning(base, recipe))
        backend = TorchBackend(model, recipe.train, pad_id=0, device=CPU, say=print)
        model.eval()
        sums = backend.gradients(some, [some[start : start + size] for start in range(0, 8, size)])
        found.append(
            ({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}, sums)
        )
    for gradients, sums in found[1:]:
        assert sums.loss == pytest.approx(found[0][1].loss, rel=1e-5)
        assert sums.figures == pytest.approx(dict(found[0][1].figures), rel=1e-4, abs=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][0][name], rtol=1e-3, atol=1e-6)


def test_it_learns_and_a_killed_one_is_bitwise_an_uninterrupted(base, tmp_path):
    settings = OFTEN | {"epochs": 4, "learning_rate": 1e-2}

    def go(folder, log=None, again=False):
        recipe, rows = make(base, train=settings, adapter={"dropout": 0.2})
        if again:
            rows = read_reference(tmp_path / "reference.jsonl", rows, recipe.train)
        else:
            rows = judged(base, recipe, rows, tmp_path)
        model = learning(base, recipe)
        before = held_out_pairs(TorchReader(model.eval()), rows[:6], pad_id=0, batch_tokens=128)
        out = run_training(base, folder, recipe, log, rows=rows[6:], held_out=rows[:6], model=model)
        return out, before, held_out_pairs(TorchReader(out[0].eval()), rows[:6], pad_id=0, batch_tokens=128)

    (model, _, log, _), before, after = go(tmp_path / "whole")
    assert after.margin > before.margin + 0.3 and after.accuracy == 1.0
    steps = [event for event in log.events if event["event"] == "step"]
    assert steps[0]["loss"] == pytest.approx(0.5, abs=0.02) and steps[-1]["loss"] < 0.4
    assert steps[-1]["reward_margin"] > steps[0]["reward_margin"] and {"kl", "rated_accuracy"} <= steps[0].keys()
    whole = adapter_weights(model)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed", Recorder(die_after=5))
    (model, *_), _, _ = go(tmp_path / "killed", again=True)
    assert same_tensors(adapter_weights(model), whole)


@pytest.mark.long
def test_memory_that_runs_out_before_the_first_gradient_makes_batches_smaller(base, tmp_path, monkeypatch):
    import afina.train.methods.kto_torch as kto

    recipe, rows = make(base)
    rows = judged(base, recipe, rows, tmp_path)
    plain = run_training(base, tmp_path / "plain", recipe, rows=rows, held_out=rows[:4], model=learning(base, recipe))
    own = kto.target_loss

    def short(model, batch, **options):
        if batch.ids_BL.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(model, batch, **options)

    monkeypatch.setattr(kto, "target_loss", short)
    found = run_training(base, tmp_path / "small", recipe, rows=rows, held_out=rows[:4], model=learning(base, recipe))
    assert found[1].splits >= 1
    assert found[2].losses() == pytest.approx(plain[2].losses(), abs=1e-4)


def test_a_run_on_labelled_rows_is_planned_trained_and_judged(base, tmp_path):
    """`afina run`: the dataset, the audit, the plan with its reference, the training, the verdict and the report."""
    lines = [{"prompt": each.prompt, "completion": each.answer, "label": each.label} for each in rated()]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "recipe.yaml").write_text(
        f"name: rated\nbase: {base}\nsources: [{{path: rated.jsonl}}]\ndataset: {{validation: 0.2}}\n"
        "adapter: {rank: 4}\nevaluate: {samples: 1, max_new_tokens: 4, questions: 0}\n"
        "train: {method: kto, beta: 0.3, epochs: 6, learning_rate: 1.0e-2, batch_tokens: 128, max_length: 64}\n"
    )
    done = call_afina("run", "recipe.yaml", folder=tmp_path, check=None)
    run = tmp_path / "runs/rated"
    scores = json.loads((run / "scores.json").read_text())
    pairs = scores["pairs"]
    assert pairs["after"]["margin"] > pairs["before"]["margin"] and pairs["after"]["pairs"] > 0, done.stderr
    assert done.returncode in (0, 5) and scores["verdict"]["learned"] != "no", (done.stderr, scores["verdict"])
    plan = json.loads((run / "plan.json").read_text())
    assert plan["job"] == "lora kto" and plan["time"]["parts"]["validation"]["point"] > 0
    reference = [json.loads(line) for line in (run / "reference.jsonl").read_text().splitlines()]
    assert len(reference) == len(lines) and set(reference[0]) == {"id", "answer", "mismatched"}
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("kl" in event for event in events if event["event"] == "validation")
    assert (run / "report.html").is_file() and (run / "adapter/adapter_config.json").is_file()
    plain = ("--runs", "other", "train.method=sft", "train.beta=0.1")
    said = call_afina("data", "build", "recipe.yaml", *plain, folder=tmp_path, check=3).stderr
    assert "36 of 36 rows say in `label`" in said and "train.method: kto" in said, said
