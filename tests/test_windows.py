"""Windows of held-out text: the same bytes for every model, each of them predicted once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_base, make_recipe, make_tokenizer

from afina.evaluate.text_scores import WindowScores
from afina.evaluate.windows import BETWEEN, ReadWindows, compare_windows, context_of, cut_windows, window_bits
from afina.model.load_torch import load_base
from afina.model.reader_torch import TorchReader
from afina.model.rnn_torch import make_recurrent
from afina.recipe import Chat, Recipe, Scratch, Source
from afina.record import Record
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer

CPU = torch.device("cpu")
WINDOWS = [
    "O clube de Faro foi fundado em 1910. 🙂 " * 3,
    "Não é em Olhão; é em Tavira, à beira-mar.",
    "São Brás " * 20,
]


def write_examples(file: Path, texts: list[str]) -> Path:
    talk = Example(messages=({"role": "user", "content": "Onde?"}, {"role": "assistant", "content": "Faro"}))
    examples = [talk, *(Example(text=text, path="a.txt") for text in texts)]
    file.write_bytes(b"".join(example.as_line() for example in examples))
    return file


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), min_size=1, max_size=8),
    size=st.integers(8, 64),
    count=st.integers(1, 9),
)
def test_windows_are_the_bytes_that_stand_there(tmp_path_factory, texts: list[str], size: int, count: int):
    file = write_examples(tmp_path_factory.mktemp("w") / "validation.jsonl", texts)
    whole = "".join(text + BETWEEN for text in texts).encode()
    found, number = cut_windows(file, size, count), len(whole) // size
    if number <= 1:
        assert found == [whole[:size].decode(errors="ignore")]
        return
    starts = [each * number // min(count, number) * size for each in range(min(count, number))]
    assert found == [whole[start : start + size].decode(errors="ignore") for start in starts]
    assert all(size - 6 <= len(window.encode()) <= size for window in found), "parts of two characters at most"


def test_conversations_alone_give_no_window(tmp_path):
    assert cut_windows(write_examples(tmp_path / "validation.jsonl", []), 64, 4) == []


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp("base"))
    model = load_base(base, make_recipe(base), CPU)
    return model.eval(), Renderer(load_tokenizer(str(base), Chat()), Chat())


@pytest.mark.parametrize("context", [None, 64, 17])
def test_bits_and_hits_are_those_of_the_models_own_logits(opened, context):
    """By hand: each context through transformers' forward, one after the other."""
    model, renderer = opened
    read = ReadWindows.of(WINDOWS, renderer, context)
    bits, hits = window_bits(TorchReader(model), read, pad_id=renderer.tokenizer.pad_token_id, batch_tokens=128)
    own_bits, own_hits = [0.0] * len(WINDOWS), 0
    for window, text in enumerate(WINDOWS):
        ids = renderer.tokenizer(text, verbose=False)["input_ids"]
        assert ids[0] == renderer.tokenizer.bos_token_id, "the first byte is predicted too"
        step = (context or len(ids)) - 1
        for start in range(0, len(ids) - 1, step):
            block = torch.tensor([ids[start : start + step + 1]])
            with torch.no_grad():
                logits = model(block).logits[0, :-1].double()
            own_bits[window] -= logits.log_softmax(1).gather(1, block[0, 1:, None]).sum().item() / math.log(2)
            own_hits += int((logits.argmax(1) == block[0, 1:]).sum())
    assert bits == pytest.approx(own_bits, rel=1e-5) and hits == own_hits


def test_every_token_is_predicted_once_in_whatever_contexts(opened):
    _, renderer = opened
    tokens = sum(len(renderer.tokenizer(text, verbose=False)["input_ids"]) - 1 for text in WINDOWS)
    for context in (None, 2, 9, 64):
        read = ReadWindows.of(WINDOWS, renderer, context)
        assert sum(row.targets for row in read.rows) == tokens
        assert context is None or max(len(row.ids) for row in read.rows) <= context


def test_a_tokenizer_without_a_begin_token_reads_behind_its_end(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.save_pretrained(tmp_path)
    renderer = Renderer(load_tokenizer(str(tmp_path), Chat()), Chat())
    assert not renderer.begins_with_bos
    row = ReadWindows.of(["Faro"], renderer, None).rows[0]
    assert row.ids[0] == renderer.end_id and renderer.tokenizer.decode(row.ids[1:]) == "Faro" and all(row.mask[1:])


def test_a_model_from_scratch_reads_no_longer_than_it_was_trained(opened):
    model, _ = opened
    assert model.config.max_position_embeddings == 64
    assert [context_of(TorchReader(model), trained_at) for trained_at in (None, 32, 100)] == [64, 32, 64]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_model_reads_a_window_at_once_with_its_state_carried(kind, tmp_path):
    """By hand: seven tokens at a time, each part with the state that the ones before left. No length is beyond it."""
    tokenizer = make_tokenizer(tmp_path)
    model = make_recurrent(Scratch(kind=kind, hidden=12, layers=2), len(tokenizer)).eval()
    assert context_of(TorchReader(model), trained_at=16) is None
    read = ReadWindows.of(WINDOWS, Renderer(tokenizer, Chat()), None)
    assert [len(row.ids) for row in read.rows] == [row.targets + 1 for row in read.rows] and len(read.rows) == 3
    bits, hits = window_bits(TorchReader(model), read, pad_id=tokenizer.pad_token_id, batch_tokens=4096)
    own_bits, own_hits = [], 0
    for row in read.rows:
        carried, nats = None, 0.0
        for start in range(0, row.targets, 7):
            targets = torch.tensor(row.ids[start + 1 : start + 8])
            with torch.no_grad():
                said = model(
                    torch.tensor([row.ids[start : start + len(targets)]]), past_key_values=carried, use_cache=True
                )
            carried, logits = said.past_key_values, said.logits[0].double()
            nats -= logits.log_softmax(1).gather(1, targets[:, None]).sum().item()
            own_hits += int((logits.argmax(1) == targets).sum())
        own_bits.append(nats / math.log(2))
    assert bits == pytest.approx(own_bits, rel=1e-5) and hits == own_hits


def test_figures_stand_over_the_same_bytes_and_are_read_back(opened):
    _, renderer = opened
    read = ReadWindows.of(WINDOWS, renderer, 64)
    sizes = [len(text.encode()) for text in WINDOWS]
    found = compare_windows(read, ([8.0 * size for size in sizes], 0), ([2.0 * size for size in sizes], 5))
    assert (found.before.bits_per_byte, found.after.bits_per_byte) == (8.0, 2.0)
    assert found.after.interval == (2.0, 2.0) and found.change == (-6.0, -6.0, -6.0)
    assert found.after.loss == pytest.approx(2.0 * sum(sizes) * math.log(2) / found.after.tokens)
    assert found.contexts > found.windows == 3 and found.bytes == sum(sizes)
    assert WindowScores.of(Record(found.as_json(), "scores.json")) == found
    other = ReadWindows.of([*WINDOWS[:2], WINDOWS[2] + "."], renderer, 64)
    assert compare_windows(other, ([1.0] * 3, 0), ([1.0] * 3, 0)).sha256 != found.sha256


def test_characters_that_a_tokenizer_drops_or_folds_are_counted(opened, tmp_path):
    """They cost no bits: such a vocabulary would be ahead of one that tells capitals apart."""
    from tokenizers import normalizers

    assert ReadWindows.of(WINDOWS, opened[1], 64).lost == 0
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(tmp_path)
    read = ReadWindows.of(
        ["Não é em Olhão;\n é em Tavira."], Renderer(load_tokenizer(str(tmp_path), Chat()), Chat()), None
    )
    found = compare_windows(read, ([8.0], 0), ([4.0], 0))
    assert found.lost == 3 and WindowScores.of(Record(found.as_json(), "scores.json")) == found


@pytest.mark.parametrize(
    ("method", "windows", "most"),
    [("scratch", {}, 32), ("cpt", {}, 32), ("sft", {}, 0), ("sft", {"count": 5}, 5), ("cpt", {"count": 0}, 0)],
)
def test_windows_are_read_where_texts_are_learned_whole(method, windows, most):
    base = None if method == "scratch" else "b"
    sources = [Source(path="a")]
    recipe = Recipe(name="x", base=base, sources=sources, train={"method": method}, evaluate={"windows": windows})
    assert recipe.most_windows == most
