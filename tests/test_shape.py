"""Shapes: counts by hand, transformers' own counts, published counts, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.model.shape_read import read_shape
from afina.model.shape_table import KNOWN, dense_shape, scratch_shape
from afina.plan.bases import find_shape, known_bases, recipe_shape
from afina.recipe import Recipe, Scratch

SHARED = Path(__file__).parents[2] / "shared" / "planner" / "architectures.json"
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 101,
    "max_position_embeddings": 64,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 101, "n_positions": 64}


def test_parameters_by_hand() -> None:
    shape = read_shape(LLAMA, "here")
    attention = 32 * 48 + 2 * 32 * 24 + 48 * 32
    mlp = 3 * 32 * 56
    assert shape.linear_parameters == 3 * (attention + mlp)
    assert shape.embedding_parameters == 2 * 101 * 32
    assert shape.parameters == 3 * (attention + mlp + 2 * 32) + 32 + 2 * 101 * 32


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("change", [{}, {"tie_word_embeddings": True}, {"attention_bias": True}, {"mlp_bias": True}])
def test_parameters_equal_those_of_transformers(kind: str, change: dict[str, bool]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values = {key: value for key, value in (GPT2 if kind == "gpt2" else LLAMA).items() if key != "model_type"}
    if kind in ("qwen2", "phi3"):
        del values["head_dim"]
    config = transformers.AutoConfig.for_model(kind, **values, **change, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = read_shape(config.to_dict(), kind)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    modules = {name.rpartition("layers.0.")[2]: module for name, module in model.named_modules()}
    if kind != "gpt2":
        for linear in shape.linears:
            assert tuple(modules[linear.name].weight.shape) == (linear.outputs, linear.inputs)


def test_published_counts() -> None:
    """Totals that the hub shows for these weights."""
    published = {
        "Qwen/Qwen3-0.6B": 596_049_920,
        "Qwen/Qwen3-8B": 8_190_735_360,
        "Qwen/Qwen2.5-0.5B": 494_032_768,
        "Qwen/Qwen2.5-7B": 7_615_616_512,
        "meta-llama/Llama-2-7b-hf": 6_738_415_616,
        "meta-llama/Llama-3.1-8B": 8_030_261_248,
        "meta-llama/Llama-3.2-1B": 1_235_814_400,
        "mistralai/Mistral-7B-v0.3": 7_248_023_552,
        "google/gemma-2-9b": 9_241_705_984,
        "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
        "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
        "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
        "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
        "microsoft/phi-4": 14_659_507_200,
        "openai-community/gpt2": 124_439_808,
    }
    assert {name: find_shape(name).parameters for name in published} == published


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/planner, which is not here")
def test_shapes_agree_with_the_collected_ones() -> None:
    collected = json.loads(SHARED.read_text(encoding="utf-8"))
    both = [name for name in known_bases() if name in collected]
    assert len(both) >= 20
    for name in both:
        shape, facts = find_shape(name), collected[name]
        assert shape.parameters / 1e9 == pytest.approx(facts["computed_params_b"], rel=0.015), name
        assert shape.linear_parameters / 1e9 == pytest.approx(facts["linear_params_b"], rel=0.001), name
        assert shape.kv_bytes_per_token(2) == facts["kv_bytes_per_token_bf16"], name


def test_kv_bytes() -> None:
    assert find_shape("meta-llama/Meta-Llama-3-8B").kv_bytes_per_token(2) == 131_072
    assert find_shape("Qwen/Qwen3-8B").kv_bytes_per_token(2) == 144 * 1024
    assert find_shape("Qwen/Qwen3-8B").kv_bytes_per_token(1) == 72 * 1024


def test_lora_parameters() -> None:
    shape = read_shape(LLAMA, "here")
    assert shape.lora_parameters(2, ["q_proj", "v_proj"]) == 2 * 3 * ((32 + 48) + (32 + 24))
    assert find_shape("meta-llama/Llama-3.1-8B").lora_parameters(16) == 41_943_040  # 41.9 M, published
    assert find_shape("Qwen/Qwen3-14B").lora_parameters(16) == 64_225_280  # printed by Unsloth


def test_lora_parameters_equal_those_of_peft() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    for values in (LLAMA, LLAMA | {"model_type": "phi3", "head_dim": 8}):
        config = transformers.AutoConfig.for_model(**values, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
            adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
        trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
        assert read_shape(config.to_dict(), "here").lora_parameters(4, "all-linear") == trained


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        read_shape(LLAMA, "here").lora_parameters(2, ["q_prj", "up_proj", "experts"])
    assert len(caught.value.problems) == 2
    assert "did you mean q_proj?" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "nobody_has_it"}, "knows no model of type 'nobody_has_it'"),
        ({"model_type": None}, "knows no model of type 'None'"),
        ({"num_attention_heads": 5}, "5 heads cannot share 2"),
        ({"hidden_size": 0}, "`hidden_size` is 0"),
        ({"hidden_size": "big"}, "`hidden_size` is 'big'"),
    ],
)
def test_refused_and_never_guessed(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        read_shape(LLAMA | change, "model/config.json")
    assert caught.value.problems[0].where == "model/config.json"


def test_all_missing_numbers_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        read_shape({"model_type": "llama", "hidden_size": 32}, "config.json")
    missing = {problem.what for problem in caught.value.problems}
    assert {"`num_hidden_layers` is missing", "`vocab_size` is missing", "`intermediate_size` is missing"} <= missing


def test_sliding_window_only_where_used() -> None:
    assert read_shape(LLAMA | {"model_type": "mistral", "sliding_window": 4096}, "").layers[0].window == 4096
    off = {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}
    assert read_shape(LLAMA | off, "").layers[0].window is None


def test_scratch_shape() -> None:
    shape = scratch_shape(Scratch(hidden=64, layers=2, heads=4, kv_heads=2, vocab=300), 128)
    per_layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 192 + 2 * 64
    assert shape.parameters == 2 * per_layer + 64 + 300 * 64
    assert shape.max_positions == 128


@given(
    layers=st.integers(1, 80),
    hidden=st.integers(1, 64).map(lambda n: n * 64),
    groups=st.sampled_from([1, 2, 4]),
    vocab=st.integers(300, 200_000),
    rank=st.integers(1, 128),
)
def test_counts_grow_with_every_size(layers: int, hidden: int, groups: int, vocab: int, rank: int) -> None:
    def shape(**change: Any) -> Shape:
        sizes = {"layers": layers, "hidden": hidden, "intermediate": 3 * hidden, "vocab": vocab} | change
        return dense_shape(
            "llama", heads=8, kv_heads=8 // groups, head_dim=64, tied_embeddings=True, max_positions=64, **sizes
        )

    smaller = shape()
    for larger in (shape(layers=layers + 1), shape(hidden=hidden + 64), shape(vocab=vocab + 1)):
        assert larger.parameters > smaller.parameters
    assert smaller.lora_parameters(2 * rank) == 2 * smaller.lora_parameters(rank)
    assert smaller.linear_parameters + smaller.embedding_parameters < smaller.parameters


def test_an_unknown_base_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"did you mean Qwen/Qwen3-8B\?"):
        find_shape("Qwen/Qwen3-8b", cache_folder=tmp_path)


def test_a_base_in_a_folder_or_in_the_cache(tmp_path: Path) -> None:
    config = {"model_type": "qwen3", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 99, "max_position_embeddings": 64}
    cached = tmp_path / "models--someone--small" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text(json.dumps(config))
    assert find_shape(str(cached)) == find_shape("someone/small", cache_folder=tmp_path)
    assert find_shape("someone/small", "abc", tmp_path).vocab == 99
    with pytest.raises(RecipeError, match="not known here"):
        find_shape("someone/small", "other", tmp_path)
    (cached / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(RecipeError, match="quantized by GPTQ"):
        find_shape(str(cached))
    (cached / "config.json").write_text("{")
    with pytest.raises(RecipeError, match="damaged"):
        find_shape(str(cached))
    (cached / "config.json").unlink()
    with pytest.raises(RecipeError, match=r"no config\.json"):
        find_shape(str(cached))


def test_the_shape_of_a_recipe() -> None:
    raw: dict[str, Any] = {"name": "x", "sources": [{"path": "a.md"}]}
    assert recipe_shape(Recipe.model_validate(raw | {"base": "Qwen/Qwen3-8B"})).hidden == 4096
    assert recipe_shape(Recipe.model_validate(raw | {"train": {"method": "scratch"}})).hidden == 192
