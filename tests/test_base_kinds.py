"""What somebody gives as a base is told apart at second 0, by one table for every verb, and damage is named at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from called import call_afina
from exported import SHAPE
from safetensors.torch import load_file, save_file
from thorough import THOROUGH
from tiny import ROWS, make_base, make_recipe

from afina.errors import BaseError, RecipeError
from afina.export.export import ExportOptions, export
from afina.model.adapter_torch import save_trained
from afina.model.base import check_trainable, find_base
from afina.model.base_kind import KINDS
from afina.model.generate.generate_torch import generate
from afina.model.load_torch import attach_adapter, load_base, open_adapter
from afina.model.named_tokenizer import open_pieces
from afina.model.shape_table import KNOWN, PAD_BY_DEFAULT, ROTARY, WITHOUT_PADDING, rotary_kinds
from afina.model.shape_walk_torch import build
from afina.model.stops import set_stops
from afina.plan.bases import find_shape, recipe_shape
from afina.plan.device import local_device
from afina.recipe import Chat, load_recipe
from afina.serve.opened import Target, open_models
from afina.serve.preflight import look_before
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("plain") / "base", **SHAPE)


@pytest.fixture(scope="module")
def in_four_bits(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as people publish it for QLoRA: weights in NF4, the rest in bf16."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    folder = shutil.copytree(base, tmp_path_factory.mktemp("four") / "base-bnb-4bit")
    options: dict[str, Any] = {"quantization_config": four, "dtype": torch.bfloat16, "device_map": {"": "cpu"}}
    AutoModelForCausalLM.from_pretrained(base, **options).save_pretrained(folder)
    return folder


def changed(base: Path, to: Path, name: str = "config.json", **parts: Any) -> Path:
    """A copy of the base whose JSON file says something else."""
    folder = shutil.copytree(base, to)
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | parts))
    return folder


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def given(kind: str, base: Path, tmp: Path) -> Path:
    """Something of each kind that is no base."""
    to = tmp / "given"
    if kind == "gguf-file":
        file = tmp / "model.gguf"
        file.write_bytes(b"GGUF" + bytes(60))
        return file
    if kind == "gguf-folder":
        return write(to, one__gguf="GGUF", other__gguf="GGUF")
    if kind == "one-file":
        return base / "model.safetensors"
    configs: dict[str, dict[str, Any]] = {
        "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "awq": {"quantization_config": {"quant_method": "awq", "bits": 4}},
        "fbgemm": {"quantization_config": {"quant_method": "fbgemm_fp8"}},
        "bnb-8bit": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "mlx": {"quantization": {"group_size": 64, "bits": 4}},
        "encoder": {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        "headless": {"model_type": "mistral", "architectures": ["MistralModel"]},
        "speech": {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]},
        "image": {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
        "encoder-decoder": {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "is_encoder_decoder": True,
        },
        "classifier": {"architectures": ["LlamaForSequenceClassification"]},
        "multimodal": {"model_type": "qwen2_audio", "audio_config": {}},
        "unknown": {"model_type": "brandnew", "architectures": ["BrandnewForCausalLM"]},
    }
    if kind in configs:
        return changed(base, to, **configs[kind])
    if kind == "sentence-transformers":
        return changed(base, to, "modules.json")
    if kind == "adapter-beside-model":
        return changed(base, to, "adapter_config.json")
    if kind == "pickle":
        (shutil.copytree(base, to) / "model.safetensors").rename(to / "pytorch_model.bin")
        return to
    made = {
        "adapter": {
            "adapter_config__json": '{"base_model_name_or_path": "Qwen/Qwen3-8B"}',
            "adapter_model__safetensors": "",
        },
        "run": {"recipe__yaml": "name: x", "stages__json": "{}"},
        "dataset": {"dataset__json": "{}", "train__jsonl": ""},
        "diffusion": {"model_index__json": "{}"},
        "empty": {},
    }
    return write(to, **made[kind])


SAID = {
    "gguf-file": r"is damaged or not whole \(64 bytes\), or no GGUF",
    "gguf-folder": "holds 2 GGUF files",
    "one-file": r"is one file \(model.safetensors\)",
    "gptq": "quantized by GPTQ",
    "awq": "quantized by AWQ",
    "fbgemm": r"quantized by FP8 \(FBGEMM\)",
    "bnb-8bit": "quantized to 8 bits by bitsandbytes",
    "mlx": "quantized by MLX",
    "encoder": r"is an encoder \(BertForMaskedLM\)",
    "headless": r"has no output head \(MistralModel\)",
    "speech": "is a model of speech",
    "image": "is a model of images",
    "encoder-decoder": "is an encoder-decoder",
    "classifier": "is a classifier or reward model",
    "multimodal": "reads images or sound",
    "unknown": "knows no model of type 'brandnew'",
    "sentence-transformers": "is an embedding model",
    "adapter": r"is an adapter, not a base\n  -> name the base that it was trained on: Qwen/Qwen3-8B",
    "adapter-beside-model": "holds a model and an adapter_config",
    "pickle": "holds its weights as a pickle",
    "run": "is a run of afina",
    "dataset": "is a dataset",
    "diffusion": "is a diffusion pipeline",
    "empty": "has no config.json",
}


def recipe_file(tmp: Path, base: Path, more: str = "") -> Path:
    rows = "".join(json.dumps({"prompt": one, "completion": two}, ensure_ascii=False) + "\n" for one, two in ROWS)
    (tmp / "rows.jsonl").write_text(rows)
    file = tmp / "recipe.yaml"
    text = f"name: tiny\nbase: {base}\nroot: {tmp}\nsources: [{{path: rows.jsonl}}]\n"
    text += "train: {max_length: 64, batch_tokens: 256, epochs: 1, learning_rate: 0.01, validate_per_epoch: 0}\n"
    file.write_text(text + (more or "adapter: {rank: 4, alpha: 8}\n"))
    return file


@pytest.mark.parametrize("kind", SAID)
def test_what_is_no_base_is_named_by_every_verb_before_any_work(kind: str, base: Path, tmp_path: Path):
    """By `run` and one other verb, in turn; by all of them in `make test-all`."""
    place = given(kind, base, tmp_path)
    file = recipe_file(tmp_path, place)
    verbs = [["train", file, "--yes"], ["plan", file], ["data", "audit", "--base", place, file]]
    chosen = verbs if THOROUGH else [verbs[list(SAID).index(kind) % len(verbs)]]
    for verb in (["run", file, "--yes"], *chosen):
        if verb[0] == "data" and kind == "unknown":
            continue  # its tokenizer counts: nothing of the shape is needed
        said = call_afina(*verb, "--runs", tmp_path / "runs", check=2).stderr
        with pytest.raises(BaseError, match=SAID[kind]):
            raise BaseError(said)
        assert "Traceback" not in said
    assert not (tmp_path / "runs/tiny/dataset").exists(), "said before the dataset is built"
    with pytest.raises(RecipeError, match=SAID[kind]):
        target = Target("x", str(place), Chat(), Path())
        engine = "mlx" if kind in ("bnb-8bit",) else "transformers"
        look_before(target, {}, engine=engine, host="127.0.0.1", port=None, device=local_device("cpu"))


@pytest.mark.parametrize("nothing", ["", " "])
def test_no_name_is_no_base(nothing: str, base: Path, monkeypatch: pytest.MonkeyPatch):
    """It was the folder that one stands in."""
    monkeypatch.chdir(base)
    for look in (lambda: find_base(nothing, say=print), lambda: find_shape(nothing), lambda: open_pieces(nothing)):
        with pytest.raises(BaseError, match="is named"):
            look()


def test_a_word_with_slashes_that_is_no_folder_is_no_hub_id(tmp_path: Path):
    for word in ("./models/x", "~/models/x", "models/deep/x", "x.gguf", str(tmp_path / "none")):
        with pytest.raises(BaseError, match="there is no such folder or file"):
            find_base(word, say=print)
        with pytest.raises(BaseError, match="there is no such folder or file"):
            find_shape(word)


def test_every_kind_says_what_it_is_and_what_to_give_instead():
    for kind in KINDS.values():
        assert kind.what.startswith(("is ", "has ", "holds ", "reads ")), kind
        assert kind.instead or kind.name in ("causal", "sees")
        assert not kind.trains or {"transformers", "mlx"} & set(kind.opens), "what trains over it opens it"


# ---- damage


def rewrite(how: str, folder: Path) -> None:
    """The weights as some program has saved them, of a base whose embedding is its output."""
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    if how == "head missing":
        del config["tie_word_embeddings"]  # as for every Llama: two matrices
    elif how == "head apart":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 0.1
    elif how == "deeper":
        config["num_hidden_layers"] = 1
    else:
        put = {"of torch.compile": "_orig_mod.", "of PEFT": "base_model.model."}
        tensors = {put[how] + name: tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def break_it(how: str, folder: Path) -> None:
    weights = folder / "model.safetensors"
    if how == "pointer":
        weights.write_text(POINTER)
    elif how == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif how == "header cut":
        weights.write_bytes(weights.read_bytes()[:40])
    elif how == "empty weights":
        weights.write_bytes(b"")
    elif how == "no weights":
        weights.unlink()
    elif how == "odd name":
        weights.rename(folder / "consolidated.safetensors")
    elif how in ("shard missing", "no index", "index broken", "index lies"):
        tensors = load_file(weights)
        names = sorted(tensors)
        weights.unlink()
        shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        where = {name: shards[number % 2] for number, name in enumerate(names)}
        for shard in shards:
            part = {name: tensors[name] for name in names if where[name] == shard}
            save_file(part, folder / shard, metadata={"format": "pt"})
        index = folder / "model.safetensors.index.json"
        index.write_text(
            json.dumps({"weight_map": where | ({"lost.weight": shards[0]} if how == "index lies" else {})})
        )
        if how == "shard missing":
            (folder / shards[1]).unlink()
        if how == "no index":
            index.unlink()
        if how == "index broken":
            index.write_text("[")
    elif how in ("head missing", "head apart", "of torch.compile", "of PEFT", "deeper"):
        rewrite(how, folder)
    elif how == "config pointer":
        (folder / "config.json").write_text(POINTER)
    elif how == "config broken":
        (folder / "config.json").write_text('{"model_type": "llama",')
    elif how == "config no object":
        (folder / "config.json").write_text("[]")
    elif how == "generation broken":
        (folder / "generation_config.json").write_text("{,")
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "tokenizer pointer":
        (folder / "tokenizer.json").write_text(POINTER)
    elif how == "tokenizer empty":
        (folder / "tokenizer.json").write_text("{}")
    elif how == "not resized":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.save_pretrained(folder)
    else:
        config = json.loads((folder / "config.json").read_text())
        said: dict[str, Any] = {
            "layers": {"num_hidden_layers": 3},
            "vocab": {"vocab_size": 900},
            "rotary": {"rope_scaling": {"rope_type": "foo", "factor": 2.0}},
            "rotary of now": {"rope_parameters": {"rope_type": "foo", "rope_theta": 10000.0}},
            "rotary alone": {"rope_scaling": "yarn"},
            "rotary cut": {"rope_scaling": {"type": "llama3", "factor": 8.0}},
            "padding": {"pad_token_id": config["vocab_size"]},
        }[how]
        (folder / "config.json").write_text(json.dumps(config | said))


DAMAGED = {
    "pointer": "model.safetensors: is a pointer of Git LFS",
    "half": "model.safetensors: is damaged or not whole",
    "header cut": "model.safetensors: is damaged or not whole",
    "empty weights": "model.safetensors: is empty",
    "no weights": "has no weights",
    "odd name": "names that transformers does not open",
    "shard missing": r"1 of 2 files of weights are missing: model-00002-of-00002",
    "no index": "without their index",
    "index broken": "index.json: damaged",
    "index lies": "names 1 weights that no file holds: lost.weight",
    "config pointer": "config.json: is a pointer of Git LFS",
    "config broken": "config.json: damaged",
    "config no object": "config.json: damaged: it is not a mapping",
    "generation broken": "generation_config.json: damaged",
    "no tokenizer": "holds no tokenizer",
    "tokenizer pointer": "tokenizer.json: is a pointer of Git LFS",
    "tokenizer empty": "tokenizer.json: damaged: it holds no vocabulary",
    "not resized": r"2 tokens that the model has no embedding for \(<\|im_start\|>, <\|im_end\|>",
    "layers": "config.json says 3 layers, the weights hold 2",
    "vocab": "config.json says a vocabulary of 900, the weights hold",
    "head missing": r"no output matrix \(lm_head.weight\)",
    "head apart": "embedding and output are one matrix .*, and the weights hold two",
    "of torch.compile": "names of its weights begin with '_orig_mod.'",
    "of PEFT": "names of its weights begin with 'base_model.model.'",
    "deeper": "config.json says 1 layers, the weights hold 2: from layer 1 on",
    "rotary": "config.json: `rope_scaling` names the rotary positions 'foo', which a llama model has not",
    "rotary of now": "config.json: `rope_parameters` names the rotary positions 'foo'",
    "rotary alone": "config.json: `rope_scaling` names the rotary positions 'yarn', which",
    "rotary cut": "names the rotary positions 'llama3' and lacks low_freq_factor, high_freq_factor",
    "padding": r"config.json: `pad_token_id` is (\d+) and the vocabulary has \1 tokens",
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_base_is_named_before_the_dataset_is_built(how: str, base: Path, tmp_path: Path):
    folder = shutil.copytree(base, tmp_path / "base")
    break_it(how, folder)
    file = recipe_file(tmp_path, folder)
    for verb in ("run", "train"):
        said = call_afina(verb, file, "--yes", "--runs", tmp_path / "runs", check=2).stderr
        assert "Traceback" not in said
        with pytest.raises(BaseError, match=DAMAGED[how]):
            raise BaseError(said)
        assert "\n  -> " in said, "with a next step"
    assert not (tmp_path / "runs/tiny/dataset").exists()
    with pytest.raises(BaseError, match=DAMAGED[how]):
        find_base(str(folder), say=print)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"hidden_act": "foo"}, "'foo'"),
        ({"attention_dropout": "some"}, "attention_dropout"),
        ({"rms_norm_eps": "small"}, "eps"),
    ],
)
def test_what_transformers_builds_no_model_of_is_named_before_the_dataset_is_built(
    parts: dict[str, Any], said: str, base: Path, tmp_path: Path
):
    """The shape of a family that is known is read from a table: its model was built when all was paid."""
    folder = changed(base, tmp_path / "base", **parts)
    shown = call_afina("run", recipe_file(tmp_path, folder), "--yes", "--runs", tmp_path / "runs", check=2).stderr
    assert "config.json: transformers cannot build this llama model" in shown and said in shown
    assert "Traceback" not in shown and not (tmp_path / "runs/tiny/dataset").exists()


def test_rotary_positions_are_those_of_transformers_with_all_that_each_needs():
    """A kind that it gains is taken here too, and what is refused here it builds no model of."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert {*ROTARY} == {"default", *ROPE_INIT_FUNCTIONS}
    values = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    values |= {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
    small = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 96, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    for kind in ("llama", "phi3"):
        for named, needed in rotary_kinds(kind).items():
            own = {each: values[each] for each in (*needed, *(["original_max_position_embeddings"] if needed else []))}
            config = small | {"model_type": kind, "rope_scaling": {"rope_type": named, **own}}
            assert build(config, None).config.model_type == kind
            for lacking in needed:
                rope = {key: value for key, value in config["rope_scaling"].items() if key != lacking}
                with pytest.raises(BaseError, match="cannot build this"):
                    build(config | {"rope_scaling": rope}, None)


@pytest.mark.parametrize("kind", [each for each in KNOWN if each not in WITHOUT_PADDING])
def test_a_padding_token_beyond_the_vocabulary_is_one_for_transformers_too(kind: str):
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 4, "head_dim": 8, "vocab_size": 96, "max_position_embeddings": 64}
    config = small | {"model_type": kind}
    for pad in (0, 95, -1, None):
        assert build(config | {"pad_token_id": pad}, None)
    for pad in (96, -97):
        with pytest.raises(BaseError, match="cannot build this"):
            build(config | {"pad_token_id": pad}, None)
    if PAD_BY_DEFAULT.get(kind, 0) >= 96:
        with pytest.raises(BaseError, match="cannot build this"):
            build(config, None)
    else:
        assert build(config, None)


def test_all_that_is_wrong_with_a_base_is_said_at_once(base: Path, tmp_path: Path):
    folder = shutil.copytree(base, tmp_path / "base")
    for how in ("pointer", "generation broken", "no tokenizer"):
        break_it(how, folder)
    with pytest.raises(BaseError) as found:
        find_base(str(folder), say=print)
    assert len(found.value.problems) == 3


def test_a_whole_base_has_no_findings_and_config_alone_is_enough_for_a_plan(base: Path, tmp_path: Path):
    assert find_base(str(base), say=print) == base
    assert check_trainable(base, make_recipe(base)).depth == 2
    alone = write(tmp_path / "alone", config__json=(base / "config.json").read_text())
    assert recipe_shape(make_recipe(alone)) == recipe_shape(make_recipe(base))
    with pytest.raises(BaseError) as found:
        find_base(str(alone), say=print)
    assert len(found.value.problems) == 2, "weights and tokenizer"


def test_an_output_that_is_missing_is_no_random_matrix_whatever_its_family(tmp_path: Path):
    """transformers names what a class could tie; whether a model does is for its configuration to say."""
    base = make_base(tmp_path / "base", tie_word_embeddings=False)
    tensors = load_file(base / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseError, match=r"1 weights are missing or of another shape \(lm_head.weight\)"):
        load_base(base, make_recipe(base), torch.device("cpu"))


def test_weights_that_hold_the_one_matrix_twice_are_whole(base: Path, tmp_path: Path):
    """Qwen3's small models are published so."""
    folder = shutil.copytree(base, tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert find_base(str(folder), say=print) == folder


def test_a_base_whose_positions_are_scaled_takes_rows_as_long_as_that(base: Path, tmp_path: Path):
    """As Qwen2.5's page says it: `max_position_embeddings` stays, YaRN goes beyond it."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    longer = changed(base, tmp_path / "base", rope_scaling=yarn, rope_parameters=yarn)
    recipe = make_recipe(longer, train={"max_length": 256})
    assert check_trainable(longer, recipe).max_positions == 256
    with pytest.raises(RecipeError, match="the base sees 64 tokens at most"):
        check_trainable(base, recipe)


# ---- a base that is in 4 bits already


def settings(kind: str) -> str:
    return f"adapter: {{kind: {kind}, rank: 4, alpha: 8}}\n"


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_plan_and_training_refuse_alike_what_does_not_train_over_4_bits(kind: str, in_four_bits: Path, tmp_path: Path):
    file = recipe_file(tmp_path, in_four_bits, settings(kind))
    for verb in (["plan", file], ["plan", file, "--trial"], ["train", file, "--yes"], ["run", file, "--yes"]):
        said = call_afina(*verb, "--runs", tmp_path / "runs", check=2).stderr
        assert "quantized to 4 bits by bitsandbytes" in said and "`adapter.kind: qlora`" in said, said
    assert not (tmp_path / "runs/tiny/dataset").exists()


def test_loftq_needs_the_whole_weights(in_four_bits: Path):
    recipe = make_recipe(in_four_bits, adapter={"kind": "qlora", "variant": "loftq"})
    with pytest.raises(RecipeError, match="loftq starts from what 4 bits lost"):
        check_trainable(in_four_bits, recipe)


def store_answers(run: Path) -> None:
    """What an evaluation over the base in 4 bits stores."""
    recipe, device = load_recipe(run / "recipe.yaml"), torch.device("cpu")
    renderer = Renderer(load_tokenizer(str(recipe.base), recipe.chat), recipe.chat)
    prompts = [renderer.prompt([{"role": "user", "content": question}]) for question, _ in ROWS[:8]]
    model = load_base(Path(str(recipe.base)), recipe, device, four_bit=True)
    before = generate(model, renderer, prompts, max_new_tokens=recipe.evaluate.max_new_tokens)
    model = open_adapter(model, run / "adapter")
    after = generate(model, renderer, prompts, max_new_tokens=recipe.evaluate.max_new_tokens)
    rows = [
        {"prompt": question, "base": one.text, "adapter": two.text, "adapter_stopped": two.stopped}
        for (question, _), one, two in zip(ROWS[:8], before, after, strict=True)
    ]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.long
def test_a_base_in_4_bits_is_planned_trained_served_and_exported(in_four_bits: Path, tmp_path: Path):
    """Merged, it is W + s B A with the W that its 4 bits stand for: what was trained, not a neighbour of it."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    file = recipe_file(tmp_path, in_four_bits, settings("qlora") + "evaluate: {max_new_tokens: 12}\n")
    call_afina("plan", file, "--runs", tmp_path / "runs")
    done = call_afina("run", file, "train.epochs=40", "--yes", "--runs", tmp_path / "runs", check=None)
    run = tmp_path / "runs/tiny"
    assert done.returncode in (0, 5) and (run / "finished.json").is_file(), done.stderr
    target = Target("x", str(in_four_bits), Chat(), Path())
    assert open_models(target, {})[0].model.is_loaded_in_4bit

    store_answers(run)
    found = export(run, ExportOptions("merged", tmp_path / "m"), say=lambda _: None)
    assert found["comparison"]["same_answers"] >= found["comparison"]["asked"] - 1
    assert found["comparison"]["model_as_stored"] == found["comparison"]["asked"], (
        "opened again, it is what was trained"
    )
    merged, config = load_file(tmp_path / "m/model.safetensors"), json.loads((tmp_path / "m/config.json").read_text())
    assert "quantization_config" not in config and found["weights"] == "bf16"
    held = AutoModelForCausalLM.from_pretrained(in_four_bits, device_map={"": "cpu"}).model.layers[0].mlp.up_proj.weight
    whole = dequantize_4bit(held.data, held.quant_state).float()
    adapter = load_file(run / "adapter/adapter_model.safetensors")
    stem = "base_model.model.model.layers.0.mlp.up_proj"
    right = whole + 8 / 4 * adapter[f"{stem}.lora_B.weight"] @ adapter[f"{stem}.lora_A.weight"]
    torch.testing.assert_close(merged["model.layers.0.mlp.up_proj.weight"].float(), right, rtol=2**-8, atol=2**-10)
    found = export(run, ExportOptions("adapter", tmp_path / "a"), say=lambda _: None)
    assert found["comparison"]["same_answers"] >= found["comparison"]["asked"] - 2


# ---- what the run's own folder says of its end


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_transformers_generate_stops_where_the_runs_own_folder_says(kind: str, base: Path, tmp_path: Path):
    """The base's config ends at <|end|>, the recipe's template with another token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    template = tmp_path / "t.jinja"
    template.write_text(
        "{%- for m in messages -%}<|{{ m.role }}|>{{ m.content }}{%- if m.role == 'assistant' -%}<|user|>{%- endif -%}"
        "{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
    )
    more = "chat: {template: t.jinja}\n" + settings(kind)
    file = recipe_file(tmp_path, base, more.replace(", rank", ", rank"))
    call_afina("train", file, "--yes", "--runs", tmp_path / "runs")
    folder = tmp_path / "runs/tiny" / ("adapter" if kind == "lora" else "model")
    recipe = load_recipe(file)
    stops = Renderer(load_tokenizer(str(base), recipe.chat, root=tmp_path), recipe.chat).stop_ids()
    assert len(stops) == 2
    assert GenerationConfig.from_pretrained(folder).eos_token_id == stops
    if kind == "none":
        assert json.loads((folder / "config.json").read_text())["eos_token_id"] == stops
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():  # a model that says the template's end token at once
            model.get_input_embeddings().weight.mul_(0)
            model.get_input_embeddings().weight[stops[1]] = 1.0
        ids = tokenizer("Onde", return_tensors="pt")
        model.model.norm.forward = lambda hidden: torch.ones_like(hidden)
        assert model.generate(**ids, do_sample=False, max_new_tokens=9)[0, -1] == stops[1]
        assert model.generate(**ids, do_sample=False, max_new_tokens=9).shape[1] == ids["input_ids"].shape[1] + 1


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_what_a_bases_maker_says_of_sampling_goes_along_as_it_is(kind: str, base: Path, tmp_path: Path):
    """Llama 2's asks for a temperature and not for sampling, which transformers will not write once it is changed."""
    said = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    published = changed(base, tmp_path / "base", "generation_config.json", **said)
    recipe = make_recipe(published, adapter={"kind": kind})
    model = load_base(published, recipe, torch.device("cpu"))
    if kind == "lora":
        model = attach_adapter(model, recipe.adapter, 0)
    tokenizer = load_tokenizer(str(published), Chat())
    set_stops(model, [2, 5], tokenizer)
    save_trained(model, tmp_path / "trained")
    written = json.loads((tmp_path / "trained/generation_config.json").read_text())
    assert written.items() >= (said | {"eos_token_id": [2, 5]}).items() and "do_sample" not in written


# ---- adapters of tied matrices


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "model.embed_tokens"])
def test_an_adapter_of_one_side_of_tied_embeddings_is_refused_before_training(name: str, base: Path, tmp_path: Path):
    file = recipe_file(tmp_path, base, f"adapter: {{rank: 4, alpha: 8, targets: [q_proj, {name}]}}\n")
    for verb in (["plan", file], ["train", file, "--yes"]):
        said = call_afina(*verb, "--runs", tmp_path / "runs", check=2).stderr
        assert "could be merged nowhere" in said and "modules_to_save: [lm_head]" in said, said
    assert not (tmp_path / "runs/tiny/dataset").exists()


def test_an_adapter_of_an_untied_output_is_taken(tmp_path: Path):
    base = make_base(tmp_path / "untied", tie_word_embeddings=False)
    check_trainable(base, make_recipe(base, adapter={"targets": ["q_proj", "lm_head"]}))


def test_targets_that_the_base_has_not_are_named_before_training(base: Path):
    with pytest.raises(RecipeError, match=r"did you mean q_proj\?"):
        check_trainable(base, make_recipe(base, adapter={"targets": ["q_pro"]}))


# ---- from the hub


def test_nothing_large_is_downloaded_of_what_is_no_base(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = changed(base, tmp_path / "snapshot", model_type="bert", architectures=["BertModel"])
    (small / "model.safetensors").unlink()
    asked: list[list[str]] = []

    def snapshot_download(_: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(small)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(BaseError, match="is an encoder"):
        find_base("someone/encoder", say=print)
    assert len(asked) == 1 and not any("safetensors" in pattern for pattern in asked[0])
