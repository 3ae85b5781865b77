"""Rows that say whether their answer is a good one (`label`): read, kept, refused where nobody learns it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import make_base, make_recipe

from afina.dataset.audit.between_examples import Between
from afina.dataset.audit.row_table import RowBlock, RowTable
from afina.dataset.build.build import build_dataset
from afina.errors import DataError
from afina.evaluate.loss import held_out_pairs
from afina.model.load_torch import load_base
from afina.model.reader_torch import TorchReader
from afina.recipe import Recipe
from afina.text.example import Example, read_examples
from afina.text.identity import content_key
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import encode_examples
from afina.tokenizer.load import load_tokenizer


def rows(count=8, **more):
    return [{"prompt": f"Onde nasceu {n}?", "completion": f"Em Faro {n}", "label": n % 2 == 0} | more
            for n in range(count)]  # fmt: skip


def build(folder: Path, made, method="sft", name="rows.jsonl", **source):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in made))
    recipe = Recipe(name="x", base="b", root=str(folder), sources=[{"path": name, **source}],
                    train={"method": method}, dataset={"validation": 0.25})  # fmt: skip
    summary = build_dataset(recipe, folder / "dataset")
    return summary, [each for split in ("train", "validation")
                     for each in read_examples(folder / f"dataset/{split}.jsonl")]  # fmt: skip


def test_labels_are_not_dropped_like_an_id(tmp_path):
    """Bad answers were learned like good ones, and nothing said so."""
    with pytest.raises(DataError, match=r"8 of 8 rows say in `label`.*rows\.jsonl:1"):
        build(tmp_path, rows())


def test_named_columns_without_the_label_learn_all_answers_alike(tmp_path):
    summary, examples = build(tmp_path, rows(), columns={"prompt": "prompt", "completion": "completion"})
    assert len(examples) == 8 and {each.label for each in examples} == {None}
    assert "column `label`" in json.dumps(summary)


@pytest.mark.parametrize("value", ["spam", 3, 0, 1, [True]])
def test_a_label_of_another_kind_is_refused_by_its_name_or_left_out_by_it(tmp_path, value):
    with pytest.raises(DataError, match=r"`label` says something else than true or false"):
        build(tmp_path, rows(label=value))
    _, examples = build(tmp_path, rows(label=value), leave_out=["label"])
    assert {each.label for each in examples} == {None}


def test_a_label_without_a_value_is_none(tmp_path):
    _, examples = build(tmp_path, rows(label=None))
    assert {each.label for each in examples} == {None}


def test_a_rated_example_goes_through_its_file_and_is_another_than_its_opposite():
    turns = ({"role": "user", "content": "Onde?"}, {"role": "assistant", "content": "Faro"})
    good, bad, plain = (Example(messages=turns, label=label) for label in (True, False, None))
    assert Example.from_json(json.loads(bad.as_line())) == bad and bad.kind == "rated" and plain.kind == "messages"
    assert len({good.id, bad.id, plain.id}) == 3 == len({content_key(each) for each in (good, bad, plain)})


def test_one_answer_that_is_good_and_bad_is_a_contradiction():
    turns = ({"role": "user", "content": "Onde?"}, {"role": "assistant", "content": "Faro"})
    other = ({"role": "user", "content": "Onde?"}, {"role": "assistant", "content": "Lagos"})
    rated = [(turns, True), (other, False), (turns, False)]
    rows = [Example(messages=said, label=label, path="rows.jsonl", line=n) for n, (said, label) in enumerate(rated, 1)]
    table = RowTable()
    table.append(RowBlock(rows))
    (found,) = [item for item in Between(table, 3, 0.8).within("train") if item.name == "contradictory_answers"]
    assert found.count == 2 and found.shown == [{"where": "rows.jsonl:3", "text": "Onde? -> Faro"}]


def test_the_held_out_score_of_rated_answers_by_hand(tmp_path):
    base = make_base(tmp_path)
    recipe = make_recipe(base)
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    turns = [({"role": "user", "content": f"Onde nasceu {n}?"}, {"role": "assistant", "content": f"Faro {n}"})
             for n in "abcde"]  # fmt: skip
    made = [Example(messages=each, label=n < 2) for n, each in enumerate(turns)]
    encoded = encode_examples(made, renderer, recipe).rows
    model = load_base(base, recipe, torch.device("cpu")).eval()

    def mean(row):
        with torch.no_grad():
            log_probs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        places = [place for place, learned in enumerate(row.mask) if learned]
        return sum(log_probs[place - 1, row.ids[place]].item() for place in places) / len(places)

    means = [mean(row) for row in encoded]
    found = held_out_pairs(TorchReader(model), encoded, pad_id=0, batch_tokens=64)
    right = sum(good > bad for good in means[:2] for bad in means[2:])
    assert (found.pairs, found.accuracy) == (6, right / 6)
    assert found.margin == pytest.approx(sum(means[:2]) / 2 - sum(means[2:]) / 3, abs=1e-5)
    alone = held_out_pairs(TorchReader(model), encoded[:2], pad_id=0, batch_tokens=64)
    assert (alone.pairs, alone.margin) == (0, pytest.approx(sum(means[:2]) / 2, abs=1e-5))


def test_only_the_last_answer_of_a_rated_conversation_is_learned(tmp_path):
    base = make_base(tmp_path)
    recipe = make_recipe(base)
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    turns = ({"role": "user", "content": "Faro?"}, {"role": "assistant", "content": "Sim"},
             {"role": "user", "content": "Lagos?"}, {"role": "assistant", "content": "Sim"})  # fmt: skip
    whole = Example(messages=turns, label=False)
    one, alone = encode_examples([whole, replace(whole, messages=turns[2:])], renderer, recipe).rows
    assert one.targets == alone.targets < len(one.ids)
