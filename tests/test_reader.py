"""What evaluation asks of a torch model is, to the last bit, what the model's own functions give."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_base, make_recipe, make_rows

from afina.evaluate.evaluate import HeldOut, evaluate
from afina.evaluate.loss import by_length, held_out_loss, mean_loss, row_losses
from afina.evaluate.scores import read_scores
from afina.model.load_torch import load_base
from afina.model.loss_torch import answer_log_probs, make_batch, target_loss, target_scores
from afina.model.reader_torch import TorchReader
from afina.model.rnn_torch import RecurrentConfig, RecurrentForCausalLM

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


def test_the_mean_of_rows_read_one_by_one_is_the_held_out_loss(opened: Any) -> None:
    model, rows = opened
    reader = TorchReader(model)
    whole = held_out_loss(reader, rows, pad_id=0, batch_tokens=128)
    found = mean_loss(rows, row_losses(reader, rows, pad_id=0, batch_tokens=16))
    assert found is not None and (found.tokens, found.utf8_bytes) == (whole.tokens, whole.utf8_bytes)
    assert found.loss == pytest.approx(whole.loss, abs=1e-5) and mean_loss([], []) is None


def test_a_small_model_is_read_in_larger_batches_than_it_was_trained_in(opened: Any) -> None:
    """Of one token, 2 x 4 x 64 numbers in float32: 2,048 bytes, of which 128 MiB hold 65,536."""
    lstm = RecurrentForCausalLM(RecurrentConfig(vocab_size=300, embedding_size=32, hidden_size=64))
    assert TorchReader(lstm).tokens_at_once(16) == 65_536 and TorchReader(lstm).tokens_at_once(200_000) == 200_000
    model, _ = opened
    assert TorchReader(model).tokens_at_once(16) > 16


def test_a_held_out_row_is_read_once_by_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss, its loss by kinds of tokens and its part of the replay's come of one forward."""
    base = make_base(tmp_path / "base")
    recipe = make_recipe(base)
    rows, renderer = make_rows(base, recipe)
    models = [load_base(base, recipe, CPU).eval() for _ in range(2)]
    read: list[tuple[int, int]] = []

    def counted(model: Any, batch: Any, **options: Any) -> Any:
        read.append((id(model), batch.ids_BL.shape[0]))
        return (target_loss if options else target_scores)(model, batch, **options)

    monkeypatch.setattr("afina.model.reader_torch.target_scores", counted)
    monkeypatch.setattr("afina.model.reader_torch.target_loss", counted)
    opened = [lambda model=model: contextlib.nullcontext(model) for model in models]
    evaluate((opened[0], opened[1]), renderer, recipe, HeldOut(rows, []), [], tmp_path)
    scores = read_scores(tmp_path)
    assert scores and scores.loss and scores.intrinsic.record("learned")
    for model in models:
        assert sum(count for of, count in read if of == id(model)) == len(rows)
