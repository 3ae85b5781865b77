"""Containers as people keep them: splits side by side, saved datasets, packed tables, exports, and documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afina.dataset.audit.audit import Audit, audit_dataset, audit_files
from afina.dataset.audit.describe import describe_audit, describe_summary
from afina.dataset.build.build import build_dataset
from afina.recipe import Recipe, Source
from afina.text.example import read_examples

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
FIELD = SHARED / "field" / "data"
needs_field = pytest.mark.skipif(not FIELD.is_dir(), reason="../shared/field/data is not here")
needs_farense = pytest.mark.skipif(not (SHARED / "data/farense").is_dir(), reason="../shared/data/farense is not here")


def rows(path: Path, *asked: str, answer: str = "Because of {}.") -> Path:
    """A file of rows, one for each prompt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": each, "completion": answer.format(each)}) for each in asked]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def asks(first: int, count: int) -> list[str]:
    return [f"Why does berth {number} stay free?" for number in range(first, first + count)]


def leaks(audit: Audit) -> int:
    return sum(item.count for item in audit.findings if item.name == "leakage")


def recipe_of(root: Path, *sources: dict, **dataset: object) -> Recipe:
    return Recipe(name="x", base="a/b", root=str(root), sources=[Source(**each) for each in sources], dataset=dataset)  # type: ignore[arg-type]


def built(folder: Path, name: str) -> list[str]:
    return [example.prompt for example in read_examples(folder / f"{name}.jsonl")]


# ---- splits


LAYOUTS = {
    "side by side": ("train.jsonl", "valid.jsonl"),
    "with what they are of": ("train_full.jsonl", "valid_full.jsonl"),
    "folders": ("train/a.jsonl", "dev/a.jsonl"),
    "folders of text": ("train/a.txt", "test/a.txt"),
    "shards": ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
    "tables": ("set.train.csv", "set.eval.csv"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_of_a_folder_are_told_by_names_and_leaks_between_them_are_found(tmp_path: Path, layout: str) -> None:
    """A folder was one training set, so that a row in both files was a duplicate and no leak."""
    train, held = LAYOUTS[layout]
    for name, first in ((train, 0), (held, 28)):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("csv"):
            file.write_text("prompt,completion\n" + "".join(f"{each},So.\n" for each in asks(first, 30)), "utf-8")
        elif name.endswith("txt"):
            file.write_text(" ".join(asks(0, 30)), "utf-8")
        else:
            rows(file, *asks(first, 30))
    audit = audit_files([tmp_path])
    assert leaks(audit) == (1 if train.endswith("txt") else 2)
    assert audit.validation == (1 if train.endswith("txt") else 30)
    shown = describe_audit(audit).splitlines()[1]
    assert shown.startswith("splits told by their names: ") and held in shown


def test_two_named_files_are_splits_too_and_a_held_out_file_that_is_named_goes_first(tmp_path: Path) -> None:
    train, valid = rows(tmp_path / "train.jsonl", *asks(0, 20)), rows(tmp_path / "val.jsonl", *asks(15, 20))
    assert leaks(audit_files([train, valid])) == 5
    other = rows(tmp_path / "other.jsonl", *asks(0, 3))
    audit = audit_files([train, valid], other)
    assert (leaks(audit), audit.train, audit.validation) == (3, 40, 3)


@pytest.mark.parametrize(
    "names",
    [
        ["train.jsonl"],  # all there is
        ["valid.jsonl", "test.jsonl"],  # nothing to train on beside them
        ["how-to-train.md", "test.md"],  # pages of a manual
        ["how-to-train.txt", "how-to-test.txt"],
        ["a/train.jsonl", "b/test.jsonl"],  # not side by side
        ["train.jsonl", "train-test-split.jsonl"],  # says two
        ["train.jsonl", "latest.jsonl"],
    ],
)
def test_names_that_tell_no_split(tmp_path: Path, names: list[str]) -> None:
    for place, name in enumerate(names):
        rows(tmp_path / name, *asks(10 * place, 10))
    assert not describe_audit(audit_files([tmp_path])).count("splits told")


def test_a_build_holds_out_what_is_called_so_and_leaves_the_test_out(tmp_path: Path) -> None:
    """Before, all three were mixed and split by a hash."""
    rows(tmp_path / "in/train.jsonl", *asks(0, 30))
    rows(tmp_path / "in/valid.jsonl", *asks(28, 5))
    rows(tmp_path / "in/test.jsonl", *asks(40, 4), "Why does berth 3 stay free?")
    recipe = recipe_of(tmp_path, {"path": "in"}, validation=0.5)
    summary = build_dataset(recipe, tmp_path / "out")
    assert set(built(tmp_path / "out", "validation")) == set(asks(28, 5))
    assert set(built(tmp_path / "out", "test")) == {*asks(40, 4), *asks(3, 1)}
    assert set(built(tmp_path / "out", "train")) == {*asks(0, 28)} - {*asks(3, 1)}, "what is measured stays whole"
    assert summary["dropped"] == {"duplicate": 3} and summary["balanced"]
    said = describe_summary(summary)
    assert "splits told by their names: validation 5 (in/valid.jsonl), test 5 (in/test.jsonl), train 27" in said
    assert "the test split is left out of training" in said


def test_a_test_split_alone_is_left_out_and_the_rest_is_split_by_content(tmp_path: Path) -> None:
    rows(tmp_path / "in/train.jsonl", *asks(0, 40))
    rows(tmp_path / "in/test.jsonl", *asks(40, 4))
    summary = build_dataset(recipe_of(tmp_path, {"path": "in"}, validation=0.25), tmp_path / "out")
    assert summary["test"]["examples"] == 4 and summary["splits"] == {"in/test.jsonl": "test"}
    assert 3 <= summary["validation"]["examples"] <= 20 and not {*built(tmp_path / "out", "train")} & {*asks(40, 4)}


def test_a_leak_that_duplicates_are_kept_of_is_found_in_the_test_too(tmp_path: Path) -> None:
    rows(tmp_path / "in/train.jsonl", *asks(0, 30))
    rows(tmp_path / "in/test.jsonl", *asks(27, 6))
    recipe = recipe_of(tmp_path, {"path": "in"}, validation=0.0, on_duplicate="keep")
    build_dataset(recipe, tmp_path / "out")
    assert leaks(audit_dataset(tmp_path / "out", recipe)) == 3


def test_two_sources_of_one_folder_are_splits_unless_their_names_are_to_be_ignored(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", *asks(0, 30))
    rows(tmp_path / "valid.jsonl", *asks(30, 10))
    sources = [{"path": "train.jsonl"}, {"path": "valid.jsonl"}]
    build_dataset(recipe_of(tmp_path, *sources), tmp_path / "told")
    assert set(built(tmp_path / "told", "validation")) == set(asks(30, 10))
    ignored = [{**each, "splits": "ignore"} for each in sources]
    summary = build_dataset(recipe_of(tmp_path, *ignored), tmp_path / "ignored")
    assert "splits" not in summary and summary["validation"]["examples"] < 10


@needs_farense
def test_farense_has_splits_and_ten_leaked_rows() -> None:
    folder = SHARED / "data/farense"
    audit = audit_files([folder / "train_full.jsonl", folder / "valid_full.jsonl"])
    assert (leaks(audit), audit.validation) == (10, 269)
    assert "validation 269 (" in audit.said[0] and "train 2413 (" in audit.said[0]
