"""The tokens folder: the same rows as in memory, written once, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benched import opened
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_base, make_recipe

from afina.errors import AfinaError, DataError, DiskFull, RecipeError
from afina.evaluate.loss import RowLoss, compare_losses
from afina.model.loss_torch import make_batch
from afina.recipe import load_recipe
from afina.run import Run, no_progress
from afina.text.example import Example, ExamplePlace, read_examples, read_placed_examples
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import EncodedCounts, ExampleRows, Row, encode_each, encode_examples, with_examples
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.tokens import TokenRows, open_set, row_sizes, write_index, write_set
from afina.walk.context import Context
from afina.walk.rows import encoded_rows
from afina.walk.walk import do_stages
from afina.whole import whole_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def renderer(base: Path) -> Renderer:
    recipe = make_recipe(base)
    return Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)


def turns(question: str, answer: str):
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


def store(folder: Path, examples: list[Example], renderer: Renderer, recipe):
    """Examples written as a dataset, encoded into a tokens folder, opened."""
    lines = folder / "train.jsonl"
    lines.write_bytes(b"".join(example.as_line() for example in examples))
    counts = EncodedCounts()
    with whole_folder(folder / "tokens") as beside:
        encoded = encode_each(read_placed_examples(lines), renderer, recipe, counts)
        described = write_set(beside / "train", encoded, counts, len(renderer.tokenizer))
        write_index(beside, {}, {"train": described})
    return open_set(folder / "tokens", "train", lines)


def plain(row: Row):
    """All that training and evaluation read of a row."""
    worse = row.rejected and (row.rejected.ids, row.rejected.mask, row.rejected.example)
    return row.ids, row.mask, row.example, row.learned_bytes, worse, len(row), row.tokens, row.targets


words = st.text(min_size=1, max_size=30).filter(str.strip)
kinds = st.one_of(
    st.builds(lambda text, n: Example(text=text * 9, repeat=n), words, st.integers(1, 3)),
    st.builds(lambda a, b, n: Example(messages=turns(a, b), repeat=n), words, words, st.integers(1, 3)),
    st.builds(lambda a, b, c: Example(messages=turns(a, b), rejected=c), words, words, words),
)


def test_a_text_of_many_rows_is_read_once(base, renderer, tmp_path, monkeypatch):
    """A book is a line of the dataset, and each of its thousands of rows would read it whole."""
    examples = [Example(text=f"{name} nasceu em Faro. " * 200) for name in ("Ana", "Rui")]
    rows, reads, own = store(tmp_path, examples, renderer, make_recipe(base)).rows, [], ExamplePlace.read
    texts = [row.example.text for row in rows]
    monkeypatch.setattr(ExamplePlace, "read", lambda place: reads.append(place) or own(place))
    found = list(with_examples(rows))
    assert len(reads) == 2 and len(found) == len(rows) > 20
    assert [(row.ids, example.text) for row, example in found] == list(zip((r.ids for r in rows), texts, strict=True))
    losses = [RowLoss(1.0, 1, 1.0, 1)] * len(rows)
    assert compare_losses(rows, losses, losses)["all"]["after"]["utf8_bytes"] > 2000 and len(reads) == 4


@settings(max_examples=40)
@given(examples=st.lists(kinds, max_size=8))
def test_rows_on_the_disk_are_those_in_memory(examples, renderer, tmp_path_factory):
    """Ids, masks, examples, bytes and counts; and the sizes that are read without the tokens."""
    recipe = make_recipe(dataset={"on_too_long": "drop"}, train={"max_length": 60})
    expected = encode_examples(examples, renderer, recipe)
    found = store(tmp_path_factory.mktemp("set"), examples, renderer, recipe)
    assert [plain(row) for row in found.rows] == [plain(row) for row in expected.rows]
    assert isinstance(found.rows, TokenRows) and row_sizes(found.rows) == row_sizes(expected.rows)
    both = ({name: value for name, value in asdict(each).items() if name != "rows"}
            for each in (replace(found, rows=()), replace(expected, rows=())))  # fmt: skip
    assert next(both) == next(both)


@settings(max_examples=30)
@given(texts=st.lists(st.text(max_size=40), max_size=6))
def test_texts_encoded_together_are_those_encoded_alone(texts, renderer):
    alone = [renderer.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert [each.ids[1:-1] for each in renderer.texts(texts)] == alone  # between the begin and the end token


def test_a_batch_of_stored_rows_is_the_one_of_rows_in_memory(renderer, tmp_path):
    examples = [Example(messages=turns(f"Onde joga {n}?", "Em Faro."), rejected="Não sei.") for n in range(5)]
    recipe = make_recipe()
    stored = store(tmp_path, examples, renderer, recipe).rows
    held = encode_examples(examples, renderer, recipe).rows
    one, two = (make_batch(rows, 0, torch.device("cpu")) for rows in (stored, held))
    assert torch.equal(one.ids_BL, two.ids_BL) and torch.equal(one.targets_N, two.targets_N)
    assert (one.pairs, one.better, one.tokens) == (two.pairs, two.better, two.tokens) == (5, one.better, two.tokens)


def test_the_files_by_hand(tmp_path):
    """Two rows, the second seen twice: its tokens stand there once. Other programs open the files as NumPy does."""
    lines = tmp_path / "train.jsonl"
    lines.write_bytes(Example(text="a").as_line() + Example(text="b").as_line())
    (first, _), (second, _) = read_placed_examples(lines)
    counts = EncodedCounts()
    rows = [ExampleRows([Row([5, 6, 7], [False, True, True], first, 1.5)], 1),
            ExampleRows([Row([8, 70_000], [False, True], second, 2.0)], 2)]  # fmt: skip
    described = write_set(tmp_path / "set", iter(rows), counts, 80_000)
    assert described["rows"] == 3
    ids, bits, table = (np.load(tmp_path / f"set/{name}.npy") for name in ("ids", "mask", "rows"))
    assert ids.tolist() == [5, 6, 7, 8, 70_000] and ids.dtype == np.uint32
    assert bits.tolist() == [0b01101000]
    assert table["start"].tolist() == [0, 3, 3] and table["length"].tolist() == [3, 2, 2]
    assert table["example"].tolist() == [0, second.offset, second.offset] and second.read().text == "b"


def test_an_id_outside_the_vocabulary_is_refused(tmp_path):
    place = next(read_placed_examples(_one_line(tmp_path)))[0]
    row = ExampleRows([Row([1, 70_000], [False, True], place)], 1)
    with pytest.raises(OverflowError):
        write_set(tmp_path / "set", iter([row]), EncodedCounts(), 400)


def _one_line(folder: Path) -> Path:
    (folder / "one.jsonl").write_bytes(Example(text="a").as_line())
    return folder / "one.jsonl"


def test_a_folder_that_is_cut_or_of_another_version_is_named(renderer, tmp_path):
    store(tmp_path, [Example(text="Faro marcou.")], renderer, make_recipe())
    index = tmp_path / "tokens/index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"version": 2}))
    with pytest.raises(AfinaError, match="its format is 2"):
        open_set(tmp_path / "tokens", "train", tmp_path / "train.jsonl")
    index.write_text(json.dumps(content))
    ids = tmp_path / "tokens/train/ids.npy"
    ids.write_bytes(ids.read_bytes()[:-1])
    with pytest.raises(AfinaError, match="damaged"):
        open_set(tmp_path / "tokens", "train", tmp_path / "train.jsonl")


# ---- the stage


@pytest.fixture
def project(tmp_path: Path, base: Path) -> Path:
    (tmp_path / "a.txt").write_text(" ".join(f"Faro {number} marcou." for number in range(200)), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n}?", "completion": f"Em {n}."}) + "\n" for n in range(20)), encoding="utf-8"
    )
    (tmp_path / "recipe.yaml").write_text(
        f"name: x\nbase: {base}\nsources: [{{path: a.txt}}, {{path: rows.jsonl}}]\ndataset: {{validation: 0.2}}\n"
        "train: {max_length: 64}\n",
        encoding="utf-8",
    )
    return tmp_path


def encode(project: Path, *overrides: str, said: list[str] | None = None) -> Context:
    """The stages up to the tokens."""
    recipe = load_recipe(project / "recipe.yaml", list(overrides))
    with Run.open(project / "run", recipe, (said if said is not None else []).append) as run:
        context = Context(run, lambda _: contextlib.nullcontext(no_progress))
        do_stages(context, "recipe", "dataset", "tokens")
        return context


def test_encoded_once_and_again_when_something_changed(project: Path):
    said: list[str] = []
    context = encode(project)
    before = context.tokens_hash
    train, validation = encoded_rows(context)["train"]
    for encoded, split in ((train, "train"), (validation, "validation")):
        written = {each.id for each in read_examples(project / f"run/dataset/{split}.jsonl")}
        assert written and {row.example.id for row in encoded.rows} == written
    assert encode(project, said=said).tokens_hash == before and "tokens: done before, unchanged, kept" in said
    assert encode(project, "train.max_length=32", said=said).tokens_hash != before
    assert any(each.startswith("tokens: redone") and "max_length: 64 -> 32" in each for each in said)
    assert not (project / "run/replaced").exists()


def test_another_template_under_the_same_name_is_noticed(project: Path):
    """Its file is no part of the recipe; the rows, the training and the scores depend on it."""
    template = project / "own.jinja"
    text = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    text += "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    template.write_text(text)
    before = encode(project, "chat.template=own.jinja").tokens_hash
    template.write_text(text.replace("'|>'", "'|> '"))
    said: list[str] = []
    assert encode(project, "chat.template=own.jinja", said=said).tokens_hash != before
    assert any("tokens: redone" in each and "template" in each for each in said)


def test_a_refused_row_leaves_no_tokens(project: Path):
    with (project / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write(json.dumps({"prompt": "Quem?", "completion": "Ana, " * 90 + "Rui."}) + "\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"conversations are longer than train.max_length \(64 tokens"):
            encode(project, "dataset.validation=0")
    assert not list((project / "run").glob("tokens*"))


def test_rows_are_not_there_before_the_stage(project: Path):
    with Run.open(project / "run", load_recipe(project / "recipe.yaml"), lambda _: None) as run:
        context = Context(run, lambda _: contextlib.nullcontext(no_progress))
        do_stages(context, "dataset")
        with pytest.raises(RecipeError, match="has no tokens yet"):
            encoded_rows(context)


@pytest.mark.long
def test_killed_in_the_middle_it_starts_clean(project: Path):
    """kill -9 after the first set is written."""
    expected = encode(project).tokens_hash
    (project / "run/tokens").rename(project / "earlier")
    kill = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, 'tests')\n"
        "import afina.walk.rows as rows, test_tokens\n"
        "own, done = rows.write_set, []\n"
        "def write_set(*arguments):\n"
        "    if done: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(own(*arguments)); return done[0]\n"
        "rows.write_set = write_set\n"
        f"test_tokens.encode(Path({str(project)!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", kill], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (project / "run/tokens.partial/train/rows.npy").exists() and not (project / "run/tokens").exists()
    assert encode(project).tokens_hash == expected
    assert [path.name for path in (project / "run").glob("tokens*")] == ["tokens"]


def test_a_full_disk_is_named_and_leaves_nothing(renderer, tmp_path, monkeypatch):
    """A device that is really full, in the place of the growing file."""
    import afina.tokenizer.tokens as tokens

    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    own = tokens._Column.__init__
    monkeypatch.setattr(tokens._Column, "__init__", lambda self, file, dtype: own(self, Path("/dev/full"), dtype))
    with pytest.raises(DiskFull, match="the disk is full"):
        store(tmp_path, [Example(text="Faro marcou. " * 500)] * 9, renderer, make_recipe())
    assert not list(tmp_path.glob("tokens*"))


# ---- memory


@pytest.mark.long
def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    """The benchmark in small: killed, encoded, started again. Of what it is held against, the encoding alone."""
    benchmark = opened("encode_memory", monkeypatch)
    (tmp_path / "texts").mkdir()
    for number in range(4):
        text = "\n\n".join(f"O jogador {n * 7 + number} marcou {n} golos em Faro." for n in range(2000))
        (tmp_path / f"texts/{number}.txt").write_text(text, encoding="utf-8")
    for copies in (2, 12):
        (tmp_path / str(copies)).mkdir()
        benchmark.prepare(tmp_path / "texts", tmp_path / str(copies), copies)
    small, large = benchmark.watch(tmp_path / "2"), benchmark.measure_prepared(tmp_path / "12")
    assert small.status == 0, small.said
    tokens = benchmark.counts_of(tmp_path / "2")["counts"]["tokens"]
    assert large["tokens"] == 6 * tokens and large["killed"]["status"] == -signal.SIGKILL
    assert large["second_start"]["said"] == "tokens: done before, unchanged, kept" and large["left_after"] == ["tokens"]
    assert large["peak_bytes"] < small.peak_bytes + (40 << 20) and large["peak_bytes"] < 700 << 20
