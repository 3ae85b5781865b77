"""Policies, duplicates, the split and the sum of characters, by hand; then real rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from taking import split, take

from afina.dataset.audit.show import show_examples
from afina.dataset.build import corpus
from afina.dataset.build.build import build_dataset, dataset_inputs
from afina.errors import AfinaError, DataError, RecipeError
from afina.recipe import Dataset, Recipe, Source, Train
from afina.text.document import Document, Ledger
from afina.text.example import Example, read_examples

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def recipe(root: Path = Path(), *, method: str = "sft", sources: list[Source] | None = None, **dataset: Any) -> Recipe:
    return Recipe(
        name="x",
        root=str(root),
        base=None if method == "scratch" else "base",
        sources=sources or [Source(path="rows.jsonl")],
        dataset=Dataset(**dataset),
        train=Train(method=method),  # type: ignore[arg-type]
    )


def row(prompt: str, answer: str, line: int = 1, system: str = "", source: int = 0) -> Document:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Document("rows.jsonl", "0" * 64, line, "messages", messages=tuple(messages), source=source)  # type: ignore[arg-type]


def write_rows(folder: Path, rows: list[tuple[str, str]], name: str = "rows.jsonl") -> None:
    lines = [json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False) for prompt, answer in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# --- policies


def test_empty_prompts_and_answers_stop_it_all_in_one_error():
    documents = [row("", f"a{line}", line) for line in range(1, 14)] + [row("q", " \n", 14), row("q", "a", 15)]
    with pytest.raises(DataError) as raised:
        take(recipe(), documents)
    prompts, answers = raised.value.problems
    assert prompts.what.startswith("no prompt in 13 of 15 rows: rows.jsonl:1, rows.jsonl:2, ")
    assert prompts.what.endswith("rows.jsonl:10 and 3 more")
    assert "`dataset.on_empty_prompt: drop`" in prompts.fix and "`text`" in prompts.fix
    assert (answers.what, answers.where) == ("no answer in 1 of 15 rows: rows.jsonl:14", "rows.jsonl:14")


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff \u00ad", "\u3164", "\u2060\n", "\x00"])
def test_a_question_or_an_answer_that_nobody_can_see_is_none(nothing: str):
    """A model would learn to say nothing, and to nothing."""
    with pytest.raises(DataError) as raised:
        take(recipe(), [row(nothing, "a", 1), row("q", nothing, 2), row("q", f"a{nothing}", 3)])
    assert [problem.where for problem in raised.value.problems] == ["rows.jsonl:1", "rows.jsonl:2"]


def test_what_the_sources_found_travels_in_the_same_error(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "", "completion": "a"}\n{"prompt": \n', encoding="utf-8")
    with pytest.raises(DataError) as raised:
        build_here(tmp_path)
    assert [problem.where for problem in raised.value.problems] == ["rows.jsonl:2", "rows.jsonl:1"]


def test_empty_rows_dropped_are_counted_and_can_be_read_back():
    intake = take(recipe(on_empty_prompt="drop", on_empty_answer="drop"), [row("", "a"), row("q", "", 2)])
    assert intake.examples == []
    assert [(item.reason, item.where, item.chars) for item in intake.dropped] == [
        ("empty_prompt", "rows.jsonl:1", 1),
        ("empty_answer", "rows.jsonl:2", 1),
    ]
    assert intake.dropped[1].as_json()["messages"][0] == {"role": "user", "content": "q"}


def test_an_answer_without_a_prompt_as_text_loses_nothing_silently():
    intake = take(recipe(on_empty_prompt="text"), [row(" ", "The answer.", 4, system="Be kind.")])
    (example,) = intake.examples
    assert (example.text, example.messages, example.line) == ("The answer.", (), 4)
    assert [(item.reason, item.text) for item in intake.dropped] == [("system_without_prompt", "Be kind.")]
    assert intake.chars_read == len("Theanswer.Bekind.")


def test_duplicates(tmp_path: Path):
    write_rows(tmp_path, [("q", "a b"), ("q", "a  b\n"), ("Q", "a b")])
    build_here(tmp_path, validation=0.0)
    folder = tmp_path / "dataset"
    assert [example.line for example in read_examples(folder / "train.jsonl")] == [1, 3]
    (dropped,) = lines_of(folder / "dropped.jsonl")
    assert (dropped["reason"], dropped["where"], dropped["same_as"]) == ("duplicate", "rows.jsonl:2", "rows.jsonl:1")
    assert build_here(tmp_path, validation=0.0, on_duplicate="keep")["train"]["examples"] == 3
    with pytest.raises(DataError, match=r"1 examples stand there again: rows.jsonl:2 \(again rows.jsonl:1\)"):
        build_here(tmp_path, on_duplicate="error")


def test_duplicates_are_found_across_replay(tmp_path: Path):
    write_rows(tmp_path, [("q", "a")], "a.jsonl")
    write_rows(tmp_path, [("q", "a")], "b.jsonl")
    sources = [Source(path="a.jsonl"), Source(path="b.jsonl", replay=True)]
    build_dataset(recipe(tmp_path, sources=sources), tmp_path / "dataset")
    assert [example.replay for example in read_examples(tmp_path / "dataset/train.jsonl")] == [False]


def test_prose_is_cut_for_sft_and_stays_whole_otherwise():
    page = Document("a.md", "0" * 64, kind="markdown", text="# A\n\nOne.\n\n## B\n\nTwo.\n")
    cut = take(recipe(), [page]).examples
    assert [example.text for example in cut] == ["# A\n\nOne.", "A > B\n\n## B\n\nTwo."]
    assert [(example.heading, example.line) for example in cut] == [("A", 1), ("A > B", 5)]
    for method in ("cpt", "scratch"):
        assert [example.text for example in take(recipe(method=method), [page]).examples] == [page.text]
        assert take(recipe(method=method), [row("q", "a")]).examples[0].messages


# --- split


def some(count: int, source: int = 0) -> list[Example]:
    return [take(recipe(), [row(f"q{n}", f"a{n}", n + 1)]).examples[0] for n in range(count)]


def test_the_split_follows_content_not_order():
    examples = some(400)
    train, validation = split(examples, recipe(validation=0.1))
    shuffled = examples.copy()
    random.Random(1).shuffle(shuffled)
    again = split(shuffled, recipe(validation=0.1))
    assert {example.id for example in validation} == {example.id for example in again[1]}
    assert [example.line for example in train] == sorted(example.line for example in train)
    assert 20 <= len(validation) <= 60
    fewer = split(examples[:200], recipe(validation=0.1))[1]
    assert {example.id for example in fewer} == {example.id for example in validation if example.line <= 200}


def test_another_seed_gives_another_split():
    first = split(some(100), recipe(validation=0.2))[1]
    other = split(some(100), recipe(validation=0.2).model_copy(update={"seed": 1}))[1]
    assert [example.line for example in first] != [example.line for example in other]


def test_one_question_with_two_answers_stays_on_one_side():
    documents = [
        row(prompt, answer) for n in range(200) for prompt, answer in ((f"Who {n}?", "A"), (f"who  {n}? ", "B"))
    ]
    train, validation = split(take(recipe(), documents).examples, recipe(validation=0.3))
    asked = [{" ".join(example.prompt.split()).lower() for example in side} for side in (train, validation)]
    assert len(asked[1]) > 20 and not asked[0] & asked[1]


def test_from_twenty_examples_on_one_is_held_out():
    assert len(split(some(20), recipe(validation=1e-9))[1]) == 1
    assert split(some(19), recipe(validation=1e-9))[1] == []
    assert split(some(20), recipe(validation=0.0))[1] == []


def test_a_source_has_its_own_share():
    sources = [Source(path="a", validation=0.0), Source(path="b", validation=0.5)]
    own = recipe(sources=sources)
    documents = [row(f"{source} {n}", "a", n + 1, source=source) for source in (0, 1) for n in range(100)]
    validation = split(take(own, documents).examples, own)[1]
    assert {example.source for example in validation} == {1} and 30 < len(validation) < 70


def test_nothing_left_to_train_on():
    with pytest.raises(DataError, match="all of them held out"):
        split(some(3), recipe(validation=1.0))
    with pytest.raises(DataError, match="the sources gave no example"):
        split([], recipe())


# --- the folder


def build_here(folder: Path, **dataset: Any) -> dict[str, Any]:
    return build_dataset(recipe(folder, **dataset), folder / "dataset")


def test_the_folder_and_its_sum(tmp_path: Path):
    write_rows(tmp_path, [("q", "a b"), ("", "lost"), ("q", "a  b"), ("r", "c")])
    (tmp_path / "page.md").write_text("# A\n\nOne.\n\n## B\n\nTwo.\n", encoding="utf-8")
    sources = [Source(path="rows.jsonl", repeat=2), Source(path="page.md", replay=True)]
    made = recipe(tmp_path, sources=sources, on_empty_prompt="drop", validation=0.0)
    summary = build_dataset(made, tmp_path / "dataset")
    folder = tmp_path / "dataset"
    assert sorted(file.name for file in folder.iterdir()) == [
        "dataset.json", "dropped.jsonl", "train.jsonl", "validation.jsonl"]  # fmt: skip
    assert json.loads((folder / "dataset.json").read_text(encoding="utf-8")) == summary
    assert summary["dropped"] == {"empty_prompt": 1, "duplicate": 1}
    assert [(part["texts"], part["conversations"]) for part in summary["sources"]] == [(0, 2), (2, 0)]
    # q + ab + r + c = 5 visible characters, twice; the page has 4 + 1 + 4 + 2 + 1 ... counted here:
    page = len("#AOne.##BTwo.") + len("A>B")
    assert summary["train"]["replay_share"] == round(page / (page + 2 * 5), 6)
    chars = summary["characters"]
    assert chars["read"] == sum(len("".join(text.split())) for text in ("qab", "lost", "qab", "rc", "#AOne.##BTwo."))
    assert chars["read"] == chars["examples"] - chars["context_added"] + sum(chars["dropped"].values())
    assert summary["balanced"] and all(len(file["sha256"]) == 64 for file in summary["ledger"]["files"])
    assert {item["reason"]: item.get("same_as") for item in lines_of(folder / "dropped.jsonl")} == {
        "empty_prompt": None,
        "duplicate": "rows.jsonl:1",
    }
    assert [example.line for example in read_examples(folder / "train.jsonl")] == [1, 4, 1, 5]


def test_a_refused_dataset_leaves_nothing_behind_and_keeps_the_old_one(tmp_path: Path):
    write_rows(tmp_path, [("q", "a"), ("", "b")])
    with pytest.raises(DataError):
        build_here(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    build_here(tmp_path, on_empty_prompt="drop")
    before = (tmp_path / "dataset" / "train.jsonl").read_bytes()
    with pytest.raises(DataError):
        build_here(tmp_path)
    assert (tmp_path / "dataset" / "train.jsonl").read_bytes() == before


def test_characters_that_do_not_add_up_are_our_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_rows(tmp_path, [("q", "a")])
    whole = corpus.gather

    def forgetful(recipe: Recipe, ledger: Ledger, *others: Any) -> Any:
        made = whole(recipe, ledger, *others)
        ledger.files[0].chars_out += 1
        return made

    monkeypatch.setattr(corpus, "gather", forgetful)
    with pytest.raises(AfinaError, match="do not add up") as raised:
        build_here(tmp_path)
    assert raised.value.exit_code == 1 and not (tmp_path / "dataset").exists()


def test_the_order_of_the_files_does_not_move_an_example(tmp_path: Path):
    rows = [(f"q{n}", f"a{n}") for n in range(100)]
    sides = []
    for name, order in (("one", rows), ("two", rows[::-1])):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, order)
        build_here(tmp_path / name, validation=0.2)
        sides.append({example.prompt for example in read_examples(tmp_path / name / "dataset" / "validation.jsonl")})
    assert sides[0] == sides[1] and sides[0]


def test_inputs_change_with_the_files_and_the_recipe(tmp_path: Path):
    write_rows(tmp_path, [("q", "a")])
    first = dataset_inputs(recipe(tmp_path))
    assert first == dataset_inputs(recipe(tmp_path)) and len(first["files"]) == 1
    assert first != dataset_inputs(recipe(tmp_path, validation=0.5))
    write_rows(tmp_path, [("q", "b")])
    assert first["files"] != dataset_inputs(recipe(tmp_path))["files"]
    json.dumps(first)


def test_an_included_file_is_an_input_too(tmp_path: Path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "a.md").write_text("{{#include ../a.zig}}\n", encoding="utf-8")
    (tmp_path / "a.zig").write_text("const a = 1;\n", encoding="utf-8")
    book = recipe(tmp_path, sources=[Source(path="book")])
    assert list(dataset_inputs(book)["files"]) == ["a.zig", "book/a.md"]


def test_examples_are_shown_with_where_they_came_from(tmp_path: Path):
    write_rows(tmp_path, [(f"q{n}", f"a{n}") for n in range(9)])
    build_here(tmp_path, validation=0.0)
    folder = tmp_path / "dataset"
    assert list(show_examples(folder, 2)) == [
        "--- train 1 | rows.jsonl:1\nuser: q0\nassistant: a0",
        "--- train 2 | rows.jsonl:2\nuser: q1\nassistant: a1",
    ]
    chosen = list(show_examples(folder, 3, seed=1))
    assert chosen == list(show_examples(folder, 3, seed=1)) and len(chosen) == 3
    assert len(list(show_examples(folder, 99, find="A7"))) == 1
    with pytest.raises(RecipeError, match=r"there is no train.jsonl"):
        list(show_examples(tmp_path, 1))


# --- real rows


@needs_shared
def test_farense_is_refused_and_with_a_choice_nothing_is_lost(tmp_path: Path):
    farense = recipe(SHARED / "farense", sources=[Source(path="train_full.jsonl")])
    with pytest.raises(DataError, match=r"no prompt in 2351 of 2413 rows: train_full\.jsonl:1, "):
        build_dataset(farense, tmp_path / "dataset")
    assert not list(tmp_path.iterdir())
    as_text = recipe(SHARED / "farense", sources=[Source(path="train_full.jsonl")], on_empty_prompt="text")
    summary = build_dataset(as_text, tmp_path / "dataset")
    assert summary["dropped"] == {"duplicate": 123}
    parts = [summary[name] for name in ("train", "validation")]
    assert sum(part["examples"] for part in parts) == 2413 - 123
    assert sum(part["conversations"] for part in parts) == 2413 - 2351
    assert len(lines_of(tmp_path / "dataset" / "dropped.jsonl")) == 123


@needs_shared
def test_a_code_tree_for_scratch(tmp_path: Path):
    tree = recipe(SHARED / "zig" / "cookbook", method="scratch", sources=[Source(path="src", kind="code")])
    summary = build_dataset(tree, tmp_path / "dataset")
    assert summary["train"]["texts"] + summary["validation"]["texts"] == summary["documents"] >= 35
    assert summary["balanced"]


@needs_shared
def test_a_section_of_a_page_is_placed_in_the_pages_own_lines(tmp_path: Path):
    manual = recipe(SHARED / "zig", sources=[Source(path="documentation-0.14.0.html")])
    build_dataset(manual, tmp_path / "dataset")
    lines = (SHARED / "zig" / "documentation-0.14.0.html").read_text(encoding="utf-8").split("\n")
    examples = list(read_examples(tmp_path / "dataset" / "train.jsonl"))
    (doc_comments,) = [example for example in examples if example.heading.endswith("> Comments > Doc Comments")]
    assert 'id="Doc-Comments"' in lines[doc_comments.line - 1]
    assert [example.line for example in examples] == sorted(example.line for example in examples)


@needs_shared
def test_pairs_and_pages_add_up(tmp_path: Path):
    sources = [
        Source(path="release-notes-0.14.0.html"),
        Source(path="cookbook/book-src", kind="pairs", solutions="cookbook/src"),
    ]
    summary = build_dataset(recipe(SHARED / "zig", sources=sources), tmp_path / "dataset")
    assert [part["conversations"] for part in summary["sources"]] == [0, 35]
    chars = summary["characters"]
    delivered = sum(file["chars_out"] for file in summary["ledger"]["files"])
    assert chars["examples"] - chars["context_added"] + sum(chars["dropped"].values()) == chars["read"] == delivered
