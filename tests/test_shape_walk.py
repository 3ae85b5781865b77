"""Shapes that are read from the model itself: the same as the table's, as transformers' counts and as PEFT's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from afina.errors import BaseError, RecipeError
from afina.model import shape_read
from afina.model.shape import Shape, shape_from
from afina.model.shape_read import read_shape
from afina.model.shape_table import KNOWN, table_shape
from afina.plan.bases import known_bases, recipe_shape
from afina.recipe import Adapter, Recipe

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
from architectures.families import family_of, make_base  # noqa: E402

from afina.model.adapter_torch import adapter_config  # noqa: E402
from afina.model.shape_walk_torch import build, walk  # noqa: E402

SIZES: dict[str, Any] = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 512}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ROUTED: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
LATENT |= {"v_head_dim": 16, "num_key_value_heads": 4, "n_group": 2, "topk_group": 1, "n_routed_experts": 8}
LATENT |= {"first_k_dense_replace": 1, "n_shared_experts": 1, "head_dim": 8}
DELTA: dict[str, Any] = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
DELTA |= {"linear_value_head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": ROUTED | {"num_experts": 8},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 32},
    "gemma3_text": {"sliding_window": 32},
    "deepseek_v3": ROUTED | LATENT,
    "qwen3_5_text": DELTA,
    "qwen3_next": ROUTED | DELTA | {"num_experts": 8, "shared_expert_intermediate_size": 32},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "olmo3": {},
    "gpt_neox": {},
    "granite": {},
}
"""One configuration a family; `make architectures` has them all."""


def tiny(kind: str, **changes: Any) -> dict[str, Any]:
    """A config.json."""
    made = transformers.AutoConfig.for_model(kind, **SIZES | IDS | FAMILIES.get(kind, {}) | changes)
    content: dict[str, Any] = json.loads(made.to_json_string(use_diff=False))
    return content


def small(kind: str) -> dict[str, Any]:
    """A config.json of a family of the table."""
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 101, "n_positions": 64}
        return dict(transformers.AutoConfig.for_model(kind, **sizes).to_dict())
    return tiny(kind)


def counts(shape: Shape) -> dict[str, Any]:
    """What both ways of reading a shape have to agree on."""
    names = ("parameters", "linear_parameters", "active_parameters", "embedding_parameters", "head_parameters", "depth")
    names += ("hidden", "vocab", "tied_embeddings", "max_positions", "largest_matrix")
    found = {name: getattr(shape, name) for name in names}
    by_size = lambda one: (one.name, one.inputs, one.outputs, one.bias, one.count, one.active)  # noqa: E731
    found |= {"linears": sorted(map(by_size, shape.linears)), "lora": shape.lora_parameters(7)}
    found |= {"cache": [shape.kv_bytes(tokens) for tokens in (1, 100, 10_000)]}
    rows = ("mixer", "window", "query", "key", "heads", "intermediate", "gated", "norms", "qk_norm", "count")
    found["layers"] = sorted(str({name: getattr(layer, name) for name in rows}) for layer in shape.layers)
    return found


@pytest.mark.parametrize("kind", KNOWN)
def test_the_walk_gives_what_the_table_gives(kind: str) -> None:
    config = small(kind)
    assert counts(walk(config)) == counts(table_shape(config, kind))


@pytest.mark.long
@pytest.mark.parametrize("name", known_bases())
def test_the_walk_gives_what_the_table_gives_of_published_models(name: str) -> None:
    config = {"sliding_window": None} | known_bases()[name]  # the table holds what differs from no window
    assert counts(walk(config)) == counts(table_shape(config, name))


@pytest.mark.parametrize(
    "kind",
    [pytest.param(each, marks=() if each in ("deepseek_v3", "qwen3_next") else pytest.mark.long) for each in FAMILIES],
)
def test_counts_are_those_of_transformers_and_peft(kind: str) -> None:
    """Others in test_shape_families.py, too."""
    import peft

    config = tiny(kind)
    shape, model = walk(config), build(config, None)
    assert not shape.uncertain
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    adapted = peft.get_peft_model(model, adapter_config(model, Adapter(kind="lora", rank=3)))
    assert shape.lora_parameters(3) == sum(each.numel() for each in adapted.parameters() if each.requires_grad)


def test_a_mixture_has_all_its_experts_and_computes_with_some() -> None:
    shape = walk(tiny("qwen3_moe"))
    (layer,) = shape.layers
    experts = 8 * 3 * 64 * 32
    assert sum(one.matrix_parameters for one in layer.linears if one.role == "expert") == experts
    left_out = 4 * experts * 6 // 8
    assert shape.linear_parameters - shape.active_parameters == left_out
    assert shape.module_parameters == 4 * (64 * 64 + 2 * 64 * 32 + 64 * 64)  # what 4 bits are for: attention alone
    assert [one.outputs for one in layer.linears if one.role == "router"] == [8]


def test_what_each_kind_of_layer_keeps_of_the_tokens_before() -> None:
    windows = walk(tiny("gpt_oss"))
    assert [(layer.count, layer.mixer, layer.window) for layer in windows.layers] == [
        (2, "sliding window", 32),
        (2, "full attention", None),
    ]
    assert windows.kv_bytes(100, 2) == 2 * (2 * 64 * 32 + 2 * 64 * 100)
    state = walk(tiny("qwen3_5_text"))
    linear, full = state.layers
    assert (linear.mixer, linear.cache_values, full.mixer, full.cache_values) == (
        "linear attention",
        0,
        "full attention",
        64,
    )
    recurrent, convolution = 4 * 16 * 16, 4 * (2 * 2 * 16 + 4 * 16)
    assert linear.state_values == recurrent + convolution
    assert state.kv_bytes(10, 2) == 2 * (3 * (recurrent + convolution) + 64 * 10)
    latent = walk(tiny("deepseek_v3"))  # kept as it is compressed, in transformers too since 5
    assert latent.kv_bytes_per_token(2, compressed=True) == latent.kv_bytes_per_token(2) == 2 * 4 * (16 + 8)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "whisper"}, "speech"),
        ({"model_type": "bart"}, "encoder-decoder"),
        ({"model_type": "bert"}, "encoder"),
        ({"model_type": "vit"}, "images"),
        ({"model_type": "nobody_has_it"}, "knows no model of type 'nobody_has_it'"),
        (tiny("qwen3_moe") | {"num_attention_heads": 0}, "cannot build this qwen3_moe model"),
    ],
)
def test_what_writes_no_text_is_refused_by_what_it_is(config: dict[str, Any], said: str) -> None:
    with pytest.raises(BaseError, match=said):
        read_shape(config, "here/config.json")


@pytest.mark.long
def test_a_walk_is_kept_and_made_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    config = tiny("mixtral")
    script = "import json, sys; from afina.model.shape_read import read_shape; "
    script += "found = read_shape(json.load(sys.stdin), 'x'); print('torch' in sys.modules, found.parameters)"
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(config), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", str(walk(config).parameters)]
    (kept,) = (tmp_path / "shapes").iterdir()
    assert shape_from(json.loads(kept.read_text())) == walk(config), "as where sharded tensors are loaded too"
    monkeypatch.setattr(shape_read, "_walk_here", lambda *_: pytest.fail("it was kept"))
    assert read_shape(config, "x") == shape_from(json.loads(kept.read_text()))
    kept.write_text("{}")
    monkeypatch.undo()
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    assert read_shape(config, "x") == walk(config), "half a file is made again"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["smollm3", "qwen3_next", "gpt_oss"])
def test_a_walk_in_a_process_of_its_own_loads_nothing_that_says_nothing_of_a_shape(kind: str) -> None:
    """Most of its time went into a compiler, its algebra and lists of models; the figures are the same without."""
    config = tiny(kind)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "afina.model.shape_apart"],
        input=json.dumps(config),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"shape": json.loads(json.dumps(walk(config).as_json()))}, "no doubt, either"
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    # By what stands inside of them: a library that was asked for and not found has a line of its own too.
    loaded = {name.partition(".")[0] for name in names if "." in name}
    assert {"torch", "transformers", "peft"} <= loaded, "the list of imports was not understood"
    assert not loaded & {"bitsandbytes", "scipy", "sklearn", "torchaudio", "torchvision", "pandas", "datasets"}
    assert not {"torch.distributed.tensor._ops", "torch.distributed.fsdp._flat_param"} & names
    assert not {"peft.peft_model", "peft.tuners.lokr"} & names
    if kind == "smollm3":  # the others' layers ask more of torch than the stand-ins answer, and get it
        assert "sympy" not in loaded and "torch._dynamo.eval_frame" not in names


def test_what_was_read_with_less_is_read_again_with_all_where_it_is_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that a newer library asks for more may spoil a walk, never a plan."""
    shape = walk(tiny("mixtral"))
    monkeypatch.delitem(sys.modules, "torch")
    first = [
        {"what": "transformers cannot build this mixtral model: no attribute 'x'", "fix": "look", "doubtful": True},
        {"shape": shape.as_json() | {"uncertain": ["its cache is estimated"]}, "doubtful": True},
    ]
    for place, spoiled in enumerate(first):
        monkeypatch.setenv("AFINA_CACHE", str(tmp_path / str(place)))
        asked: list[list[str]] = []

        def answer(words: list[str], *_: Any, asked: Any = asked, spoiled: Any = spoiled) -> dict[str, Any]:
            asked.append(words)
            return spoiled if len(asked) == 1 else {"shape": shape.as_json()}

        monkeypatch.setattr(shape_read, "_ask_apart", answer)
        assert read_shape(tiny("mixtral"), "x") == shape
        assert asked == [[], ["--whole"]]
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "third"))
    monkeypatch.setattr(shape_read, "_ask_apart", lambda *_: {"what": "is a model of speech", "fix": "take another"})
    with pytest.raises(BaseError, match="is a model of speech"):
        read_shape(tiny("mixtral"), "x")


def test_without_torch_a_family_that_is_not_in_the_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape_read, "find_spec", lambda _: None)
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    assert read_shape(small("llama"), "x").depth == 4
    with pytest.raises(BaseError, match="torch and transformers and peft must be installed") as caught:
        read_shape(tiny("mixtral"), "x")
    assert "pip install torch" in caught.value.problems[0].fix and "qwen3" in caught.value.problems[0].fix


# --- positions and vocabulary that do not fit, before anything is built ---------------------------


def asked(folder: Path, **train: Any) -> Recipe:
    """A recipe over a base in a folder."""
    raw = {"name": "x", "sources": [{"path": "a.md"}], "base": str(folder), "train": train}
    return Recipe.model_validate(raw)


def base_with(folder: Path, config: dict[str, Any], *, tokens: int = 5) -> Path:
    """A config.json and a tokenizer.json with so many tokens."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    vocab = {f"t{number}": number for number in range(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    return folder


def wide(text: dict[str, Any]) -> dict[str, Any]:
    """A configuration that nests the one of its text model."""
    return {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": text}


@pytest.mark.parametrize(
    "config",
    [
        small("gpt2") | {"n_positions": 96},
        tiny("mixtral", max_position_embeddings=96),
        tiny("gpt_neox", max_position_embeddings=96),
    ],
    ids=["GPT-2's n_positions", "a mixture", "another family"],
)
def test_rows_longer_than_the_positions_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = base_with(tmp_path / "base", config)
    with pytest.raises(RecipeError, match="the base sees 96 tokens at most"):
        recipe_shape(asked(folder, max_length=128))
    assert recipe_shape(asked(folder, max_length=96)).max_positions == 96


def test_positions_and_vocabulary_of_a_nested_configuration() -> None:
    text = tiny("qwen3_5_text", max_position_embeddings=96, vocab_size=77, num_hidden_layers=4)
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    shape = walk(wide(text) | {"vision_config": vision})
    assert (shape.max_positions, shape.vocab) == (96, 77)
    alone = walk(text)
    assert shape.parameters - shape.unread_parameters == alone.parameters == shape.trainable_parameters
    assert shape.lora_parameters(4) == alone.lora_parameters(4) and shape.unread_parameters > 0


def test_a_model_without_positions_takes_any_length() -> None:
    shape = walk(dict(transformers.AutoConfig.for_model("falcon_mamba", hidden_size=32, num_hidden_layers=2,
                                                        vocab_size=99, state_size=4).to_dict()))  # fmt: skip
    assert shape.max_positions == 0
    assert {(layer.mixer, layer.cache_values) for layer in shape.layers} == {("linear attention", 0)}


@pytest.mark.parametrize("config", [small("gpt2"), tiny("mixtral")], ids=["gpt2", "mixtral"])
def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    """Without any weights, as a plan is made."""
    rows = config["vocab_size"]
    recipe_shape(asked(base_with(tmp_path / "base", config, tokens=rows), max_length=32))
    with pytest.raises(BaseError, match="the tokenizer has 3 tokens that the model has no embedding for"):
        recipe_shape(asked(base_with(tmp_path / "base", config, tokens=rows + 3), max_length=32))


@pytest.mark.parametrize("name", ["gemma3n_text", "mamba2"])
def test_what_stands_beside_the_layers_and_what_is_written_as_infinity_is_read(name: str, tmp_path: Path) -> None:
    """Gemma 3n has lists of projections around its layers; Mamba 2 a limit written ``{"__float__": "Infinity"}``."""
    config = json.loads((make_base(family_of(name), tmp_path) / "config.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    shape = read_shape(config, name)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())


def test_a_table_that_a_model_makes_anew_leaves_its_place_to_no_other_tensor() -> None:
    """XGLM's positions grow with the row. The old table's place in memory went to a layer's values, which were then
    taken for the model's own: 4,804, 8,836 or 8,900 values a token, as memory had it."""
    counts = [walk(tiny("xglm")).layers[0].counted for _ in range(3)]
    assert counts[0] == counts[1] == counts[2]
    of_a_token = [count.adapter for count in counts[0]]
    assert of_a_token == sorted(of_a_token), "attention is kept for each pair of tokens"
