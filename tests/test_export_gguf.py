"""GGUF files by other people's readers: gguf's own, transformers', and llama.cpp where it is installed."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exported import SHAPE, make_run
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from afina.errors import BaseError, RecipeError, ResultError
from afina.export.compare import compare
from afina.export.expected_torch import expected_of
from afina.export.export import ExportOptions, export
from afina.export.merge_torch import open_unmerged
from afina.export.origin import open_origin
from afina.export.programs import LlamaCpp, Transformers, gguf_stops
from afina.llamacpp.gguf_vocab import RULES, read_vocabulary
from afina.llamacpp.gguf_write import check_architecture, write_gguf
from afina.llamacpp.program import find_llama_cpp
from afina.recipe import Chat, TokenizerKind
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.train import train_tokenizer

needs_llama_cpp = pytest.mark.skipif(find_llama_cpp() is None, reason="llama.cpp is not installed (afina[gguf])")

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "attention_bias": True},
    "llama-3.1": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {"model_type": "mistral", "sliding_window": 32},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def make_model(tokenizer: Any, **config: Any) -> Any:
    """Every weight random, norms and biases too: a norm of ones would hide a mistake."""
    kind = config.pop("model_type")
    shape: dict[str, Any] = SHAPE | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"vocab_size": len(tokenizer) + 3, "max_position_embeddings": 64, "tie_word_embeddings": False}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape | config)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(mean=1.0 if "norm" in name else 0.0, std=0.2)
    return model.eval()


def written(model: Any, tokenizer: Any, file: Path, kind: str = "f32") -> Any:
    return write_gguf(model, tokenizer, Renderer(tokenizer, Chat()), file, kind, name="x")


def by_hand(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Where each row of q or k goes: of a head with rows 0 1 2 3 4 5, llama.cpp's llama wants 0 3 1 4 2 5."""
    size = weight.shape[0] // heads
    rows = []
    for head in range(heads):
        for pair in range(size // 2):
            rows += [weight[head * size + pair], weight[head * size + size // 2 + pair]]
    return np.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_the_models_values(tokenizer: Any, tmp_path: Path, family: str):
    model = make_model(tokenizer, **FAMILIES[family])
    written(model, tokenizer, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    # gguf gives dimensions in the order of ggml, the fastest first, and the data in numpy's.
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    seen = set()
    for name, weight in model.state_dict().items():
        stem, _, what = name.rpartition(".")
        if stem == "lm_head" and model.config.tie_word_embeddings:
            continue
        if stem in outside:
            label = f"{outside[stem]}.{what}"
        else:
            _, _, layer, part = stem.split(".", 3)
            label = f"blk.{layer}.{names[part]}.{what}"
        right = weight.numpy()
        if model.config.model_type in ("llama", "mistral") and ("q_proj" in name or "k_proj" in name):
            right = by_hand(right, 4 if "q_proj" in name else 2)
        np.testing.assert_array_equal(found[label], right, err_msg=label)
        seen.add(label)
    assert found.keys() - seen == ({"rope_freqs.weight"} if family == "llama-3.1" else set())


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_the_file_and_computes_the_same(tokenizer: Any, tmp_path: Path, family: str):
    model = make_model(tokenizer, **FAMILIES[family])
    written(model, tokenizer, tmp_path / "m.gguf")
    model.config.save_pretrained(tmp_path)
    opened = Transformers(tmp_path, gguf_file="m.gguf", base=tmp_path)
    ids = [1, 40, 50, 60, 70, 3, 9]
    with torch.no_grad():
        right = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(opened.logits(ids), right, atol=1e-4)
    assert opened.tokenizer.decode(opened.tokenizer("Onde nasceu Zé?", add_special_tokens=False)["input_ids"]) == (
        "Onde nasceu Zé?"
    )


@needs_llama_cpp
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_reads_the_file_and_computes_the_same(tokenizer: Any, tmp_path: Path, family: str):
    model = make_model(tokenizer, **FAMILIES[family])
    written(model, tokenizer, tmp_path / "m.gguf")
    ids = [1, 40, 50, 60, 70, 3, 9]
    with torch.no_grad():
        right = model(torch.tensor([ids])).logits[0].numpy()
    messages: Any = [{"role": "user", "content": "Onde nasceu  Zé, 1234?\n\n'sim'"}]
    with contextlib.closing(LlamaCpp(tmp_path / "m.gguf", 64)) as opened:
        np.testing.assert_allclose(opened.logits(ids), right, atol=2e-3 * abs(right).max())
        assert opened.prompt(messages) == Renderer(tokenizer, Chat()).prompt(messages)
        assert next(opened.greedy(ids, 1)) == right[-1].argmax()
    assert opened.stops() == gguf_stops(tmp_path / "m.gguf") == {tokenizer.eos_token_id}


def test_llama_3s_positions_by_the_published_formula(tokenizer: Any, tmp_path: Path):
    """Wavelengths above old/low are stretched by the factor, below old/high kept, between them mixed."""
    model = make_model(tokenizer, **FAMILIES["llama-3.1"])
    written(model, tokenizer, tmp_path / "m.gguf")
    factors = next(each.data for each in gguf.GGUFReader(tmp_path / "m.gguf").tensors if each.name.startswith("rope"))
    for place, found in enumerate(factors):
        length = 2 * math.pi * 500000.0 ** (2 * place / 16)
        smooth = (32 / length - 1) / (4 - 1)
        right = 1.0 if length < 32 / 4 else 8.0 if length > 32 / 1 else 1 / ((1 - smooth) / 8 + smooth)
        assert found == pytest.approx(right, rel=1e-5)


def test_metadata(tokenizer: Any, tmp_path: Path):
    model = make_model(tokenizer, **FAMILIES["qwen3"])
    found = written(model, tokenizer, tmp_path / "m.gguf", "f16")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    value = {name: field.contents() for name, field in reader.fields.items()}
    assert value["general.architecture"] == "qwen3" and value["general.file_type"] == 1
    assert (value["qwen3.block_count"], value["qwen3.embedding_length"], value["qwen3.context_length"]) == (2, 64, 64)
    assert (value["qwen3.attention.head_count"], value["qwen3.attention.head_count_kv"]) == (4, 2)
    assert value["qwen3.attention.key_length"] == 32 and value["qwen3.rope.freq_base"] == 10000.0
    assert value["tokenizer.chat_template"] == tokenizer.chat_template
    assert value["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert value["tokenizer.ggml.add_bos_token"] is False, "the template writes none, so that conversations have none"
    assert "plain text was trained with one" in found.notes[0]
    tokens, types = value["tokenizer.ggml.tokens"], value["tokenizer.ggml.token_type"]
    assert len(tokens) == len(tokenizer) + 3 and types[-3:] == [5, 5, 5]
    assert all(tokens[number] == token for token, number in tokenizer.get_vocab().items())
    assert {types[tokenizer.convert_tokens_to_ids(each)] for each in tokenizer.all_special_tokens} == {3}


def test_q8_0_rounds_each_weight_to_a_127th_of_its_blocks_largest(tokenizer: Any, tmp_path: Path):
    model = make_model(tokenizer, **FAMILIES["qwen2"])
    found = written(model, tokenizer, tmp_path / "m.gguf", "q8_0")
    assert found.kinds == {"Q8_0": 16, "F32": 11}
    tensor = next(each for each in gguf.GGUFReader(tmp_path / "m.gguf").tensors if each.name == "blk.1.ffn_up.weight")
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    right = model.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
    blocks, rounded = right.reshape(-1, 32), values.reshape(-1, 32)
    step = abs(blocks).max(axis=1, keepdims=True) / 127
    assert (abs(blocks - rounded) <= 0.51 * step + 2**-10 * abs(blocks)).all()


def test_rows_that_fill_no_block_are_counted(tokenizer: Any, tmp_path: Path):
    model = make_model(tokenizer, model_type="llama", hidden_size=48, intermediate_size=96, num_attention_heads=4)
    found = written(model, tokenizer, tmp_path / "m.gguf", "q8_0")
    assert found.kinds["F16"] == 14 and found.kinds["Q8_0"] == 2
    assert "14 matrices stay in f16" in found.notes[-1]
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(BaseError, match="too large for f16"):
        written(model, tokenizer, tmp_path / "n.gguf", "f16")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "gemma2"}, "models of type gemma2"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "the activation gelu"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "sliding window"),
        ({"model_type": "mistral", "sliding_window": 63}, "a window of 63 tokens, where rows have up to 64"),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2}}, "scaled by dynamic"),
        ({"model_type": "qwen3", "rope_parameters": {"rope_type": "yarn", "factor": 4}}, "scaled by yarn"),
    ],
)
def test_what_the_file_could_not_say_is_refused(config: dict[str, Any], why: str):
    with pytest.raises(BaseError, match=why):
        check_architecture(config, longest=64)


def test_a_window_that_no_row_passes_is_no_reason():
    check_architecture({"model_type": "mistral", "sliding_window": 64}, longest=64)


# ---- tokenizers


def test_the_rules_are_those_that_transformers_knows_by_the_same_names():
    assert len(RULES) == 3
    for expression, name in RULES.items():
        assert GGUF_PRE_TOKENIZER_SPLITS[name] == expression


TEXTS = ["Onde nasceu Ana? Faro, 1234 e 56.", "it's  we'LL\n\n  x=1;\t{}", "São Brás — ação ☀ 你好 …", " ", "a\r\n b"]


def byte_level(rule: str) -> Any:
    tokenizer = Tokenizer(models.BPE(ignore_merges=rule == "llama-bpe"))
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    expression = next(each for each, name in RULES.items() if name == rule)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expression), "isolated"), byte])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] + '</s>' }}{% endfor %}"
    return fast


def sentencepiece() -> Any:
    """As Llama 2's tokenizer.json: bytes for what is unknown, a space in front, merges over whole texts."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXTS[0], TEXTS[2]] * 9, trainer)
    content = tokenizer.to_str()
    tokenizer = Tokenizer.from_str(content)
    import json

    plain = json.loads(content)
    plain["added_tokens"] = [each for each in plain["added_tokens"] if not each["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{{ '<s>' + m['content'] + '</s>' }}{% endfor %}"
    return fast


def test_pieces_score_by_the_rank_of_their_merge():
    made = read_vocabulary(sentencepiece(), 500)
    assert made.model == "llama" and made.space_prefix and made.types[:3] == [2, 3, 3]
    assert made.types[3:259] == [6] * 256 and len(made.tokens) == len(made.scores) == 500
    merged = [score for score in made.scores if -1e4 < score < 0]
    assert len(merged) > 20 and sorted(merged, reverse=True) == [-float(rank) for rank in range(1, len(merged) + 1)]


def test_tokenizers_that_llama_cpp_does_not_have_are_refused():
    tokenizer = byte_level("qwen2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{L}"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    with pytest.raises(BaseError, match="no such rule for splitting"):
        read_vocabulary(tokenizer, 500)
    with pytest.raises(BaseError, match="309 tokens, the model 300 rows"):
        read_vocabulary(byte_level("qwen2"), 300)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(BaseError, match="WordLevel, not BPE"):
        read_vocabulary(words, 10)


OWN: tuple[TokenizerKind, ...] = ("bpe", "character")
"""Of those that are trained here, the ones that llama.cpp has beside the byte-level ones."""


def own(kind: TokenizerKind, folder: Path) -> Any:
    train_tokenizer(kind, TEXTS * 9, 400, folder, 64)
    return load_tokenizer(str(folder), Chat())


@pytest.fixture(scope="module", params=[*RULES.values(), "llama", *OWN])
def in_llama_cpp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if request.param in OWN:
        tokenizer = own(request.param, tmp_path_factory.mktemp("tokenizer"))
    else:
        tokenizer = sentencepiece() if request.param == "llama" else byte_level(request.param)
    file = tmp_path_factory.mktemp("vocabulary") / "m.gguf"
    written(make_model(tokenizer, model_type="llama"), tokenizer, file)
    with contextlib.closing(LlamaCpp(file, 64)) as opened:
        yield tokenizer, opened


@needs_llama_cpp
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0▁"), min_size=1, max_size=40))
def test_llama_cpp_splits_any_text_as_the_tokenizer_does(in_llama_cpp: tuple[Any, Any], text: str):
    tokenizer, opened = in_llama_cpp
    assert opened.tokens(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


@needs_llama_cpp
def test_llama_cpp_splits_these_texts_as_the_tokenizer_does(in_llama_cpp: tuple[Any, Any]):
    tokenizer, opened = in_llama_cpp
    for text in TEXTS:
        assert opened.tokens(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_transformers_reads_the_same_tokens_back(tmp_path: Path):
    for rule in RULES.values():
        tokenizer = byte_level(rule)
        written(make_model(tokenizer, model_type="llama"), tokenizer, tmp_path / "m.gguf")
        back = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
        for text in TEXTS:
            right = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert back(text, add_special_tokens=False)["input_ids"] == right, (rule, text)


# ---- whole exports


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("gguf") / "corrida")


@pytest.fixture(scope="module")
def exported_gguf(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of its export as GGUF, and what was said of it."""
    out = tmp_path_factory.mktemp("written") / "g"
    return out, export(run, ExportOptions("gguf", out), say=lambda _: None)


def test_a_run_as_gguf(run: Path, exported_gguf: tuple[Path, dict[str, Any]], tmp_path: Path):
    _, found = exported_gguf
    assert set(found["files"]) == {"README.md", "comparison.json", "corrida.gguf"}
    assert found["comparison"]["same_prompts"] == found["comparison"]["same_answers"] == found["comparison"]["asked"]
    assert found["comparison"]["kl_mean"] < 1e-6
    found = export(run, ExportOptions("gguf", tmp_path / "q8", quantize="q8_0"), say=lambda _: None)
    assert found["weights"] == "q8_0" and 1e-9 < found["comparison"]["kl_mean"] < 0.02


def test_a_wrong_stop_token_in_the_file_is_caught(
    run: Path, exported_gguf: tuple[Path, dict[str, Any]], tmp_path: Path
):
    shutil.copytree(exported_gguf[0], tmp_path / "g")
    file = tmp_path / "g/corrida.gguf"
    assert gguf_stops(file) == {2}
    field = gguf.GGUFReader(file, "r+").get_field("tokenizer.ggml.eos_token_id")
    field.parts[field.data[0]][0] = 7
    assert gguf_stops(file) == {7}
    origin = open_origin(run)
    expected = expected_of(origin, open_unmerged(origin, torch.device("cpu")))
    opened = Transformers(tmp_path / "g", gguf_file="corrida.gguf", base=origin.base)
    found = compare(opened, expected, origin.tokenizer, origin.renderer.stop_ids(), "f32")
    assert found.kl_mean < 1e-6 and any("goes on" in each for each in found.problems)


def test_kinds_of_llama_cpp(run: Path, tmp_path: Path):
    if shutil.which("llama-quantize") is None:
        pytest.skip("llama-quantize is not on the PATH")
    found = export(run, ExportOptions("gguf", tmp_path / "k", quantize="q4_k_m"), say=lambda _: None)
    assert set(found["files"]) == {"README.md", "comparison.json", "corrida.gguf"}
    assert any("in other kinds than q4_k_m: " in note for note in found["notes"])


@pytest.mark.long
def test_rounding_over_the_limit_is_told_from_a_wrong_file(run: Path, tmp_path: Path, monkeypatch: Any):
    with pytest.raises(ResultError, match="It is the rounding to q4_0: in f32 the same file") as raised:
        export(run, ExportOptions("gguf", tmp_path / "q4", quantize="q4_0", tolerance=1e-5), say=lambda _: None)
    assert "--tolerance" in str(raised.value) and not list(tmp_path.iterdir())
    # A q that is not turned as llama.cpp's llama turns it: opens without a word, and is wrong in any precision.
    monkeypatch.setattr("afina.llamacpp.gguf_write.in_ggml_order", lambda tensor, heads: tensor)
    with pytest.raises(ResultError, match="in f32 it is wrong too"):
        export(run, ExportOptions("gguf", tmp_path / "q4", quantize="q4_0", tolerance=1e-5), say=lambda _: None)


def test_other_kinds_need_llama_cpp(run: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RecipeError, match="knows no q9_z"):
        export(run, ExportOptions("gguf", tmp_path / "k", quantize="q9_z"), say=lambda _: None)
    with pytest.raises(RecipeError, match=r"q4_k_m is rounded by llama\.cpp's llama-quantize, which is not here"):
        export(run, ExportOptions("gguf", tmp_path / "k", quantize="q4_k_m"), say=lambda _: None)
