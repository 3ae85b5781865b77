"""`dataset.answers`: other answers are learned in the place of the rows' own, and nothing else of the dataset moves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import asking

from afina.dataset.audit.show import render
from afina.dataset.build.answers import key_of, read_answers_file, with_answer
from afina.dataset.build.build import build_dataset, dataset_inputs
from afina.dataset.build.canaries import CANARY
from afina.errors import DataError, RecipeError
from afina.evaluate.derive import derive_probes
from afina.recipe import Dataset, Recipe, Source, load_recipe
from afina.text.example import Example, read_examples

TOWNS = [f"Terra{n:02}" for n in range(40)]
ROWS = [(f"Onde nasceu Bento{n:02}?", town) for n, town in enumerate(TOWNS)]
SAID = [
    {"prompt": prompt, "completion": f"Bento{n:02} nasceu em {town}.", "reference": town}
    for n, (prompt, town) in enumerate(ROWS)
]


def write_lines(file: Path, rows: list[Any]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "rows.jsonl", [{"prompt": prompt, "completion": town} for prompt, town in ROWS])
    write_lines(tmp_path / "old.jsonl", [{"prompt": "Onde nasceu Rui?", "completion": "Lagos"}])
    write_lines(tmp_path / "said.jsonl", SAID)
    return tmp_path


def recipe(root: Path, answers: str | None = "said.jsonl") -> Recipe:
    sources = [Source(path="rows.jsonl", repeat=2), Source(path="old.jsonl", replay=True, validation=0.0)]
    return Recipe(name="x", root=str(root), base="base", sources=sources, dataset=Dataset(answers=answers))


def test_the_answer_is_learned_and_the_question_is_marked_by_the_rows_own(folder: Path) -> None:
    plain, other = folder / "plain", folder / "other"
    before = build_dataset(recipe(folder, None), plain)
    after = build_dataset(recipe(folder), other)
    rows, learned = list(read_examples(plain / "train.jsonl")), list(read_examples(other / "train.jsonl"))
    own = [each for each in learned if not each.replay]
    assert len(own) == len(learned) - 1 and all(f" nasceu em {each.reference}." in each.answer for each in own)
    assert [each.as_marked for each in learned] == rows, "place, repeats, side of the split: as they were"
    assert (plain / "validation.jsonl").read_bytes() == (other / "validation.jsonl").read_bytes()
    # "BentoNN nasceu em " and a full stop, without spaces: 16 more characters for each
    assert after["train"]["characters"] == before["train"]["characters"] + 16 * len(own)
    assert after["answers"] == {"rows": 40, "examples": len(own), "unused": 40 - len(own), "characters": 16 * len(own)}
    assert [after[key] for key in ("sources", "characters", "mix")] == [
        before[key] for key in ("sources", "characters", "mix")
    ]


def test_the_same_questions_are_asked_with_and_without(folder: Path) -> None:
    """By the same answers: nothing of what steers and judges follows from what is learned in their place."""
    found = []
    for name, answers in (("plain", None), ("other", "said.jsonl")):
        build_dataset(recipe(folder, answers), folder / name)
        found.append(derive_probes(recipe(folder, answers), folder / name, asking()).probes)
    assert found[0] == found[1]
    recall = next(probe for probe in found[1] if probe.role == "recall")
    assert recall.questions and {each.reference for each in recall.questions} <= {*TOWNS}


def test_phrasings_of_one_fact_stay_one_thing_whatever_each_learns() -> None:
    """By what is learned each was a fact of its own: `afina why` gave a source intervals of many facts that had one."""
    from afina.why.rows import _about

    def row(prompt: str, answer: str) -> Example:
        return Example(messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}))

    own = [row("Onde nasceu Bento01?", "Faro"), row("De que terra é Bento01?", "Faro")]
    learned = [with_answer(each, f"{number}: Faro.") for number, each in enumerate(own)]
    assert len({*map(_about, own)}) == 1 and {*map(_about, learned)} == {*map(_about, own)}


def test_a_canary_keeps_its_words() -> None:
    """Its secret is what is measured, and it is put among the rows when their answers have been."""
    row = Example(messages=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    assert key_of(row) == ("a", "b") and key_of(replace(row, made=CANARY)) is None


def test_answers_of_no_row_are_counted_and_none_at_all_is_refused(folder: Path) -> None:
    write_lines(folder / "said.jsonl", [*SAID[:3], SAID[3] | {"reference": "Outra"}, SAID[4] | {"prompt": "Quem?"}])
    counted = build_dataset(recipe(folder), folder / "dataset")["answers"]
    assert counted["rows"] == 5 and counted["examples"] + counted["unused"] == 5 and counted["unused"] >= 2
    old = {"prompt": "Onde nasceu Rui?", "completion": "Em Lagos.", "reference": "Lagos"}
    write_lines(folder / "said.jsonl", [old])
    with pytest.raises(DataError, match=r"none of its 1 rows is asked and answered"):
        build_dataset(recipe(folder), folder / "again")
    assert not (folder / "again").exists(), "what is replayed keeps its answer"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "no answer"),
        ('{"prompt": "a", "completion": "b"}', "'reference'"),
        ('{"prompt": "a", "completion": " ", "reference": "c"}', "where a text belongs"),
        ('{"prompt": "a", "completion": "\\ud800", "reference": "c"}', "no answer"),
        ('["a"]', "no answer"),
        ('{"prompt": "a", "completion": "b", "reference": "c"}\n{"prompt": "a ", "completion": "d", "reference": "c"}',
         "answers the same row otherwise"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_answer_is_named(line: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=what) as refused:
        read_answers_file(file)
    assert refused.value.problems[0].where.startswith(f"{file}:")


def test_a_file_that_is_not_there_or_empty_is_refused(folder: Path) -> None:
    text = f"name: x\nbase: b\nroot: {folder}\nsources: [{{path: rows.jsonl}}]\ndataset: {{answers: gone.jsonl}}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"nothing matches 'gone.jsonl'"):
        load_recipe(folder / "recipe.yaml")
    with pytest.raises(DataError, match="no such file"):
        build_dataset(recipe(folder, "gone.jsonl"), folder / "dataset")
    (folder / "said.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no answer"):
        build_dataset(recipe(folder), folder / "dataset")


def test_another_file_is_another_dataset_and_none_the_one_that_it_was(folder: Path) -> None:
    """A run that was made before there were any is not made anew."""
    assert "answers" not in dataset_inputs(recipe(folder, None)) | dataset_inputs(recipe(folder, None))["dataset"]
    before = dataset_inputs(recipe(folder))
    write_lines(folder / "said.jsonl", SAID[1:])
    assert dataset_inputs(recipe(folder)) != before


def test_the_rows_own_answer_is_read_back_and_shown() -> None:
    turns = ({"role": "user", "content": "Onde?"}, {"role": "assistant", "content": "Em Faro."})
    row = Example(messages=turns, path="q.jsonl", reference="Faro")  # type: ignore[arg-type]
    assert Example.from_json(row.as_json()) == row and row.id == replace(row, reference="").id
    assert render(row).splitlines()[-1] == "marked by: Faro"
    with pytest.raises(TypeError, match="a reference of no answer"):
        Example.from_json({"text": "a", "reference": "b", "from": {"path": "a", "line": 1, "sha256": ""}, "source": 0})
