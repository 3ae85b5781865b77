"""A GGUF as a base: what is opened is the model in the file, and what would be a little wrong is refused by name."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from called import call_afina
from exported import make_run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_base_kinds import recipe_file
from test_export_gguf import FAMILIES, TEXTS, byte_level, make_model, sentencepiece, written
from tiny import make_recipe, make_tokenizer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from afina.errors import AfinaError, BaseError, DiskFull
from afina.export.origin import open_origin
from afina.model import gguf_folder as folders
from afina.model.base import check_trainable, find_base
from afina.model.base_copy import copy_base
from afina.model.gguf_base import config_of, scaling_of
from afina.model.gguf_file import find_gguf, read_gguf
from afina.model.gguf_folder import origin_of, read_origin
from afina.plan.bases import recipe_shape
from afina.plan.device import local_device
from afina.recipe import Chat
from afina.serve.opened import find_target, name_models
from afina.serve.preflight import look_before
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.own_file import PROBES

IDS = [1, 40, 50, 60, 70, 3, 9]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AFINA_CACHE", str(place))
    return place / "bases"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tiny(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers in 8 bits."""
    file = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    written(make_model(tokenizer, model_type="llama", tie_word_embeddings=True), tokenizer, file, "q8_0")
    return file


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def changed(file: Path, to: Path, *, without: tuple[str, ...] = (), more: tuple[str, ...] = (), **values: Any) -> Path:
    """A copy of a GGUF that says something else.

    Args:
        without: keys or tensors left out.
        more: tensors added.
        values: key, its dots as two underscores -> value; None leaves it out.
    """
    reader = gguf.GGUFReader(file)
    said = {key.replace("__", "."): value for key, value in values.items()}
    writer = gguf.GGUFWriter(
        to, str(said.pop("general.architecture", "") or reader.fields["general.architecture"].contents())
    )
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", *without) or key in said:
            continue
        kinds = field.types
        writer.add_key_value(key, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    kinds_of = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in said.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            kinds_of[type(value)](key, value)
    for tensor in reader.tensors:
        if tensor.name not in without:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name in more:
        writer.add_tensor(name, np.ones(16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


# ---- what is opened


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_in_the_file_is_what_is_opened(tokenizer: Any, tmp_path: Path, family: str):
    if family == "qwen2":  # transformers gives every model of this type Qwen's tokenizer
        tokenizer = byte_level("qwen2")
    model = make_model(tokenizer, **FAMILIES[family])
    written(model, tokenizer, tmp_path / "m.gguf")
    folder = find_base(str(tmp_path / "m.gguf"), say=print)
    opened = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(opened), logits(model), rtol=1e-5, atol=1e-5)
    for name, weight in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], weight), name
    back = load_tokenizer(str(folder), Chat())
    assert back.get_chat_template() == tokenizer.get_chat_template()
    assert Renderer(back, Chat()).stop_ids() == Renderer(tokenizer, Chat()).stop_ids()
    assert opened.generation_config.eos_token_id == Renderer(tokenizer, Chat()).stop_ids()[0]
    assert check_trainable(folder, make_recipe(folder)).depth == 2


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_1"])
def test_its_numbers_are_those_that_transformers_reads_in_the_file(tokenizer: Any, tmp_path: Path, kind: str):
    tokenizer = byte_level("qwen2")
    written(make_model(tokenizer, **FAMILIES["qwen2"]), tokenizer, tmp_path / "m.gguf", kind)
    folder = find_base(str(tmp_path / "m.gguf"), say=print)
    right = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").state_dict()
    found = load_file(folder / "model.safetensors")
    assert found.keys() == right.keys()
    for name, weight in found.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, right[name].float()), name
    origin = read_origin(folder)
    assert origin is not None and kind.upper() in origin["precision"]
    assert ("rounding" in origin["lost"]) == kind.startswith("q")


def test_a_tokenizer_that_transformers_would_replace_reads_as_its_file(tokenizer: Any, tmp_path: Path):
    """It gives every model of type qwen2 Qwen's rule for splitting a text, whatever ``tokenizer.json`` says."""
    written(make_model(tokenizer, **FAMILIES["qwen2"]), tokenizer, tmp_path / "m.gguf")
    folder = find_base(str(tmp_path / "m.gguf"), say=print)
    right, opened = Tokenizer.from_file(str(folder / "tokenizer.json")), load_tokenizer(str(folder), Chat())
    replaced = AutoTokenizer.from_pretrained(folder)
    asked = [*PROBES, "Onde nasceu Ana Faro?"]
    assert [opened(text)["input_ids"] for text in asked] == [right.encode(text).ids for text in asked]
    assert any(replaced(text)["input_ids"] != right.encode(text).ids for text in asked)


def test_a_file_is_written_once_and_by_its_content(tiny: Path, tmp_path: Path, cache: Path):
    folder = find_base(str(tiny), say=print)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = find_base(str(shutil.copy(tiny, tmp_path / "other.gguf")), say=print)
    assert again == folder and (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [each.name for each in cache.glob("*") if each.is_dir() and each.name != "hashes"] == [folder.name]
    origin = origin_of(str(tmp_path / "other.gguf"), again)
    assert origin and origin["path"] == str(tmp_path / "other.gguf") and origin["file"] == "other.gguf"
    page = call_afina("base", "show", tmp_path / "other.gguf").stdout
    assert str(tmp_path / "other.gguf") in page and str(tiny) not in page, "the file that was asked for, not its copy"


def test_whoever_reads_a_gguf_first_says_so_and_how_long_it_took(tiny: Path, tmp_path: Path, cache: Path):
    """Serving and exporting were silent for as long as it took: minutes, for a base of gigabytes."""
    copy_base(str(tiny), tmp_path / "base")
    run = make_run(tmp_path / "run", tmp_path / "base", steps=1, asked=0)
    target, here = find_target(str(tiny)), local_device("cpu")
    ways: list[Callable[[Callable[[str], None]], Any]] = [
        lambda say: look_before(target, {}, engine="transformers", host="", port=None, device=here, say=say),
        lambda say: name_models(target, {}, say),
        lambda say: open_origin(run, [f"base={tiny}"], say),
    ]
    for way in ways:
        said: list[str] = []
        way(said.append)
        assert re.fullmatch(r"reading tiny\.gguf into .*, once \(float32 as safetensors, .* MiB\)", said[0])
        assert re.fullmatch(r"read tiny\.gguf in [\d.]+ s", said[1])
        way(said.append)
        assert len(said) == 2, "it is there"
        shutil.rmtree(cache)


def test_a_plan_writes_no_weights(tiny: Path, cache: Path):
    assert recipe_shape(make_recipe(tiny)).depth == 2
    assert not list(cache.rglob("*.safetensors"))


def test_a_folder_of_one_gguf_is_that_file_and_of_several_lists_them(tiny: Path, tmp_path: Path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(tiny, tmp_path / name)
        if name == "a.gguf":
            assert find_gguf(str(tmp_path)) == tmp_path / "a.gguf"
    with pytest.raises(BaseError, match=r"holds 2 GGUF files\n  -> name one of them: .*a.gguf, .*b.gguf"):
        find_base(str(tmp_path), say=print)


def test_a_file_without_an_ending_is_known_by_its_first_bytes(tiny: Path, tmp_path: Path):
    """As Ollama keeps them."""
    assert find_base(str(shutil.copy(tiny, tmp_path / "sha256-74a4da8c9fdbcd15bd1f6d01d621410d")), say=print).is_dir()


def test_a_package_with_a_gguf(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = ["made_up/a.gguf", "made_up/b.gguf"]
    for each in files:
        (tmp_path / each).parent.mkdir(exist_ok=True)
        shutil.copy(tiny, tmp_path / each)
    about = tmp_path / "made_up-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1\n")
    (about / "RECORD").write_text("".join(f"{each},,\n" for each in files))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find_base("package:made-up/b.gguf", say=print) == find_base(str(tiny), say=print)
    with pytest.raises(BaseError, match=r"name one of them: package:made-up/a.gguf, package:made-up/b.gguf"):
        find_base("package:made-up", say=print)
    for wrong, said in {
        "package:made-up/c.gguf": "holds no file c.gguf\n  -> it holds: a.gguf, b.gguf",
        "package:": "names no package",
        "package:nobody-has-this": "there is no Python package nobody-has-this here\n  -> install it first",
        "package:numpy": "the package numpy holds no GGUF file",
    }.items():
        with pytest.raises(BaseError, match=said):
            find_base(wrong, say=print)


def test_an_import_is_a_folder_that_any_verb_takes(tiny: Path, tmp_path: Path):
    found = copy_base(str(tiny), tmp_path / "made")
    assert find_base(str(tmp_path / "made"), say=print) == tmp_path / "made" and "Q8_0" in found["what"]
    copy_base(str(tmp_path / "made"), tmp_path / "again")
    assert (
        load_file(tmp_path / "again/model.safetensors").keys() == load_file(tmp_path / "made/model.safetensors").keys()
    )
    with pytest.raises(AfinaError, match="something of this name already"):
        copy_base(str(tiny), tmp_path / "made")


@pytest.mark.training
@pytest.mark.long
def test_a_run_over_a_gguf_says_what_its_base_is_worth(tiny: Path, tmp_path: Path):
    done = call_afina("run", recipe_file(tmp_path, tiny), "--yes", "--runs", tmp_path / "runs", check=None)
    assert done.returncode in (0, 5), done.stderr
    base = json.loads((tmp_path / "runs/tiny/manifest.json").read_text())["base"]
    assert base["name"] == str(tiny) and "Q8_0" in base["origin"]["precision"] and "rounding" in base["origin"]["lost"]
    assert "Q8_0" in (tmp_path / "runs/tiny/report.html").read_text()


# ---- nothing half


def test_a_conversion_that_was_killed_leaves_nothing_and_is_done_again(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as broken:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        broken.setattr("afina.model.gguf_torch.write_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            find_base(str(tiny), say=print)
    assert not [each for each in cache.iterdir() if each.is_dir() and each.name != "hashes"]
    assert (find_base(str(tiny), say=print) / "model.safetensors").is_file()


def test_a_written_folder_that_was_damaged_says_to_remove_it(tiny: Path):
    folder = find_base(str(tiny), say=print)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BaseError, match=r"is damaged or not whole .*\n  -> remove .*: it is written again"):
        find_base(str(tiny), say=print)
    shutil.rmtree(folder)
    assert find_base(str(tiny), say=print) == folder


def test_room_on_the_disk_is_looked_at_before(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(DiskFull, match="as safetensors, and 1000 B are free"):
        find_base(str(tiny), say=print)


# ---- what is refused


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": ({"general__type": "adapter"}, "is a LoRA adapter as GGUF, not a base"),
    "eyes": ({"general__type": "mmproj"}, r"the part of a model that reads images \(mmproj\)"),
    "clip": ({"general__architecture": "clip"}, r"the part of a model that reads images \(mmproj\)"),
    "embedding": ({"general__architecture": "bert"}, r"is an embedding model \(bert\): it writes no text"),
    "pooled": ({"llama__pooling_type": 1}, "is an embedding model"),
    "architecture": (
        {"general__architecture": "phi3", "general__source__huggingface__repository": "a/b"},
        "architecture phi3; opened from GGUF are llama, qwen2, qwen3\n  -> name the safetensors .* of: a/b",
    ),
    "key": ({"llama__attention__logit_scale": 2.0}, "says llama.attention.logit_scale = 2.0, which would be lost"),
    "experts": ({"llama__expert_count": 8}, "says llama.expert_count = 8, which would be lost"),
    "yarn": ({"llama__rope__scaling__type": "yarn"}, r"scales its positions \(yarn\)"),
    "rotary": ({"llama__rope__dimension_count": 4}, "turns 4 of each head's"),
    "layers": ({"llama__block_count": 3}, "lacks 9 tensors: blk.2.attn_norm.weight"),
    "no layers": ({"llama__block_count": 0}, "says llama.block_count = 0"),
    "heads": ({"llama__attention__head_count_kv": 4}, "attn_k.weight has the shape"),
    "missing": ({"without": ("output_norm.weight",)}, "lacks 1 tensors: output_norm.weight"),
    "more": ({"more": ("blk.0.attn_sinks.weight",)}, "holds 1 tensors that would be lost: blk.0.attn_sinks.weight"),
    "no rule": ({"tokenizer__ggml__pre": None}, "does not say by which rule its tokenizer splits a text"),
    "rule": ({"tokenizer__ggml__pre": "viking"}, "splits a text by the rule 'viking'"),
    "wordpiece": ({"tokenizer__ggml__model": "bert"}, "its tokenizer is of the kind 'bert'"),
    "no end": ({"tokenizer__ggml__eos_token_id": None}, "names no end token"),
    "end": ({"tokenizer__ggml__eos_token_id": 9999}, "its eos token 9999 is none of its"),
    "no merges": ({"tokenizer__ggml__merges": None}, "its tokenizer has no merges"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_the_models_numbers_is_refused_by_name(what: str, tiny: Path, tmp_path: Path, cache: Path):
    values, said = REFUSED[what]
    file = changed(tiny, tmp_path / "m.gguf", **values)
    with pytest.raises(BaseError, match=said):
        find_base(str(file), say=print)
    assert not list(cache.glob("*/config.json")), "before anything is written"


def test_one_part_of_a_split_file_is_no_model(tiny: Path, tmp_path: Path):
    file = shutil.copy(tiny, tmp_path / "big-00002-of-00003.gguf")
    with pytest.raises(BaseError, match=r"is part 2 of 3 of a model\n  -> .*--merge .*big-00001-of-00003.gguf"):
        find_base(str(file), say=print)


def test_numbers_that_nothing_turns_back_are_named(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(gguf.quants._type_traits, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(BaseError, match="holds numbers as Q8_0, which nothing here turns back"):
        find_base(str(tiny), say=print)


def test_all_that_is_wrong_is_said_at_once(tiny: Path, tmp_path: Path):
    file = changed(
        tiny, tmp_path / "m.gguf", llama__expert_count=8, tokenizer__ggml__pre="viking", llama__block_count=3
    )
    with pytest.raises(BaseError) as found:
        find_base(str(file), say=print)
    assert len(found.value.problems) == 3


@pytest.mark.parametrize("part", [0.0, 0.001, 0.05, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_file_is_named(part: float, tiny: Path, tmp_path: Path):
    whole = tiny.read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(BaseError, match=r"m.gguf: is damaged or not whole \(\d+ bytes\)"):
        find_base(str(tmp_path / "m.gguf"), say=print)


def test_a_damaged_header_is_an_error_or_harmless(tiny: Path, tmp_path: Path):
    """Bytes of the metadata are changed at random: nothing but an error of ours comes of it."""
    whole, draw = bytearray(tiny.read_bytes()), random.Random(15)
    refused = 0
    for _ in range(60):
        hurt = whole.copy()
        for _ in range(draw.choice((1, 4))):
            hurt[draw.randrange(4, 3000)] = draw.randrange(256)
        (tmp_path / "m.gguf").write_bytes(hurt)
        try:
            config_of(read_gguf(tmp_path / "m.gguf"))
        except AfinaError:
            refused += 1
    assert refused > 20


# ---- positions


@given(
    factor=st.sampled_from([2.0, 4.0, 8.0, 32.0]),
    original=st.sampled_from([32, 2048, 4096, 8192]),
    theta=st.sampled_from([1e4, 5e5, 1e6]),
    size=st.sampled_from([16, 64, 128]),
)
def test_the_scaling_of_positions_follows_from_its_factors(factor: float, original: int, theta: float, size: int):
    from transformers import LlamaConfig

    rope = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": original}

    def frequencies(parameters: dict[str, Any]) -> torch.Tensor:
        config = LlamaConfig(head_dim=size, hidden_size=size, num_attention_heads=1, rope_parameters=dict(parameters))
        return ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]

    plain = theta ** -(torch.arange(0, size, 2).double() / size)
    factors = (plain / frequencies(rope).double()).float().tolist()
    found = scaling_of(factors, theta, size)
    assert found is not None
    if found["rope_type"] == "llama3":
        torch.testing.assert_close(frequencies(found), frequencies(rope), rtol=1e-5, atol=0)
    else:
        assert max(factors) - min(factors) < 1e-3 * max(factors)
    assert scaling_of([*factors[:-2], 1.7, 3.3], theta, size) is None, "of no known form"


# ---- tokenizers


@pytest.mark.parametrize("rule", ["llama-bpe", "qwen2", "tekken", "llama"])
def test_the_tokenizer_is_the_one_that_was_written(rule: str, tmp_path: Path):
    right = sentencepiece() if rule == "llama" else byte_level(rule)
    written(make_model(right, model_type="llama"), right, tmp_path / "m.gguf")
    back = AutoTokenizer.from_pretrained(find_base(str(tmp_path / "m.gguf"), say=print))
    for text in [*TEXTS, "<s>a</s>", "  b", "ação, 1234"]:
        ids = right(text, add_special_tokens=False)["input_ids"]
        assert back(text, add_special_tokens=False)["input_ids"] == ids, text
        if "<s>" not in text:  # behind a mark the space in front of a text is written again
            assert back.decode(ids) == text
