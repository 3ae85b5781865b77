"""What evaluation asks of a torch model is, to the last bit, what the model's own functions give."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_base, make_recipe, make_rows

from afina.evaluate import evaluate as evaluation
from afina.evaluate.evaluate import HeldOut, MeasuredBeside
from afina.evaluate.loss import by_length, held_out_loss, row_losses
from afina.evaluate.scores import read_scores
from afina.model.load_torch import load_base
from afina.model.loss_torch import answer_log_probs, make_batch, target_loss, target_scores
from afina.model.reader_torch import TorchReader

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    base: Path = make_base(tmp_path_factory.mktemp("base"))
    recipe = make_recipe(base)
    return load_base(base, recipe, CPU), make_rows(base, recipe)[0]


def test_losses_are_the_sums_of_the_batches_bit_by_bit(opened: Any) -> None:
    model, rows = opened
    found, total = held_out_loss(TorchReader(model), rows, pad_id=0, batch_tokens=128), 0.0
    with torch.no_grad():
        for numbers in by_length(rows, 128):
            total += target_loss(model, make_batch([rows[number] for number in numbers], 0, CPU)).item()
    assert found.loss == total / sum(row.targets for row in rows) and found.tokens == sum(row.targets for row in rows)


def test_answers_targets_and_rows_are_those_of_one_batch_bit_by_bit(opened: Any) -> None:
    model, rows = opened
    rows = rows[:7]
    reader, batch = TorchReader(model), make_batch(rows, 0, CPU)
    with torch.no_grad():
        sums, counts = answer_log_probs(target_loss(model, batch, reduction="none").double(), batch)
        nll_N, hit_N = target_scores(model, batch)
    assert [tuple(each) for each in reader.log_probs(rows, 0)] == list(zip(sums.tolist(), counts.tolist(), strict=True))
    scores = reader.target_scores(rows, 0)
    assert [nats for each in scores for nats in each.nats] == nll_N.double().tolist()
    assert [hit for each in scores for hit in each.hits] == hit_N.tolist()
    for row, loss, score in zip(rows, row_losses(reader, rows, pad_id=0, batch_tokens=4096), scores, strict=True):
        assert (loss.learned_tokens, loss.all_tokens) == (row.targets, len(row) - 1)
        assert loss.learned == pytest.approx(math.fsum(score.nats), abs=1e-5)


def test_rows_whose_losses_are_known_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out rows of a book take longer than its training did where each model reads them twice."""
    base = make_base(tmp_path / "base")
    recipe = make_recipe(base, evaluate={"samples": 0})
    (rows, renderer), model = make_rows(base, recipe), load_base(base, recipe, CPU).eval()
    models = (lambda: contextlib.nullcontext(model),) * 2

    def found(**beside: Any) -> Any:
        evaluation.evaluate(models, renderer, recipe, HeldOut(rows, []), [], tmp_path, beside=MeasuredBeside(**beside))
        scores = read_scores(tmp_path)
        assert scores is not None and scores.loss is not None
        return [scores.loss.after[key] for key in ("loss", "tokens", "utf8_bytes", "bits_per_byte")]

    anew = found()
    pad = renderer.tokenizer.pad_token_id
    losses = row_losses(TorchReader(model), rows, pad_id=pad, batch_tokens=512)
    monkeypatch.setattr(evaluation, "held_out_loss", None)
    assert found(losses=(losses, losses)) == pytest.approx(anew, rel=1e-5)
