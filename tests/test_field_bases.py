"""Bases, tokenizers and adapters as people have them: what would be lost or read otherwise without a word is refused,
or read as its own files say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train import CPU, run_training
from tiny import ROWS, make_base, make_recipe, make_rows
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from afina.errors import BaseError
from afina.evaluate.prompts import read_prompts
from afina.evaluate.safety.known import read_strings
from afina.export.programs import Transformers
from afina.model.adapter_torch import save_trained
from afina.model.base import check_adapter_fits, find_base, identify_base
from afina.model.base_damage import find_damage
from afina.model.base_kind import kind_of_config
from afina.model.load_torch import attach_adapter, load_base, open_adapter
from afina.model.loss_torch import make_batch, target_loss
from afina.recipe import Chat
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import id_bound, load_tokenizer, open_tokenizer

END = "<|endoftext|>"
TEXT = "Em 2024, 1234567 pessoas; I'll pay 3.14 € e 99."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("field") / "base", tie_word_embeddings=False)


def copy_of(base: Path, to: Path, name: str = "config.json", **parts: Any) -> Path:
    folder = shutil.copytree(base, to)
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(content | parts))
    return folder


# ---- tokenizers: the file says how a text is read


def byte_level(add: Callable[[Tokenizer], None]) -> Tokenizer:
    """Trained where numbers and accents are whole, so that other rules give other tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[END], initial_alphabet=letters, show_progress=False)
    made.train_from_iterator([TEXT, *(f"{one} {two} 2024" for one, two in ROWS)] * 3, trainer)
    made.decoder = decoders.ByteLevel()
    add(made)
    return made


def digits(made: Tokenizer) -> None:
    """As SmolLM2 and StarCoder split, whose tokenizers are of GPT-2's class."""
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(parts)


def lower(made: Tokenizer) -> None:
    made.normalizer = normalizers.Lowercase()


def words(made: Tokenizer) -> None:
    """Without Qwen2's rule for digits."""
    split = pre_tokenizers.Split(Regex(r"\s?\S+"), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(use_regex=False)])


def as_its_class(made: Tokenizer) -> None:
    pass


def written(folder: Path, made: Tokenizer, kind: str, **settings: Any) -> Path:
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind} | settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("GPT2Tokenizer", digits),
        ("GPT2Tokenizer", lower),
        ("Qwen2Tokenizer", words),
        ("Qwen2TokenizerFast", digits),
        ("LlamaTokenizer", digits),
        ("GPT2Tokenizer", as_its_class),
    ],
)
def test_a_tokenizer_reads_texts_as_its_file_says_whatever_its_class(
    kind: str, rules: Callable[[Tokenizer], None], tmp_path: Path
):
    made = byte_level(rules)
    folder = written(tmp_path / "tokenizer", made, kind, eos_token=END)
    opened = open_tokenizer(folder)
    assert opened(TEXT)["input_ids"] == made.encode(TEXT).ids
    opened.save_pretrained(tmp_path / "again")
    assert open_tokenizer(tmp_path / "again")(TEXT)["input_ids"] == made.encode(TEXT).ids
    if rules is as_its_class:
        assert type(opened).__name__ == kind, "nothing is opened twice where the class reads as its file"


def test_an_export_is_asked_as_other_programs_cut_texts(tmp_path: Path):
    """transformers gives every Qwen2 its own rules whatever a folder says: asked by ours, it could not be seen."""
    folder = written(tmp_path / "export", byte_level(words), "Qwen2Tokenizer", eos_token=END)
    sizes = {"vocab_size": 500, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2)).save_pretrained(folder)
    theirs = Transformers(folder).tokenizer(TEXT)["input_ids"]
    assert theirs == AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    assert theirs != open_tokenizer(folder)(TEXT)["input_ids"]


def test_what_a_class_has_by_default_is_kept(tmp_path: Path):
    folder = written(tmp_path / "tokenizer", byte_level(digits), "GPT2Tokenizer")
    opened = open_tokenizer(folder)
    assert opened.eos_token == END and opened("2024")["input_ids"] == opened.convert_tokens_to_ids([*"2024"])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_of_sentencepiece_is_read_by_its_own_rule_or_refused(kind: str, tmp_path: Path):
    """A Unigram beside a class that builds a BPE of its pieces: nothing of transformers reads it as it was trained."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    (tmp_path / "text.txt").write_text("\n".join([TEXT, *(f"{one} {two}" for one, two in ROWS)] * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=330, byte_fallback=True,
        model_type=kind, hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    folder = tmp_path / "base"
    folder.mkdir()
    shutil.copy(tmp_path / "tokenizer.model", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    if kind == "unigram":
        with pytest.raises(BaseError, match="other pieces than the tokenizer's own file"):
            open_tokenizer(folder)
        return
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    opened, texts = open_tokenizer(folder), [one for one, _ in ROWS]
    right = [model.encode(text) for text in texts]
    assert [opened(text, add_special_tokens=False)["input_ids"] for text in texts] == right


def test_a_text_has_the_same_tokens_each_time(tmp_path: Path):
    """BPE-dropout, left in the file of a tokenizer that it regularized."""
    made = byte_level(as_its_class)
    right = made.encode(TEXT).ids
    made.model.dropout = 0.9
    opened = open_tokenizer(written(tmp_path / "tokenizer", made, "PreTrainedTokenizerFast"))
    assert [opened(TEXT)["input_ids"] for _ in range(3)] == [right] * 3


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "GPT2Tokenizer"])
def test_a_mark_whose_id_is_another_than_its_files_say_is_refused(kind: str, tmp_path: Path):
    """The rows between are empty in a base whose embedding was made larger."""
    made = byte_level(as_its_class)
    free = made.get_vocab_size()
    for number in (free, free + 9):
        mark = {"content": "<|im_end|>", "special": True}
        folder = written(tmp_path / str(number), made, kind, eos_token=END, added_tokens_decoder={str(number): mark})
        if number == free:
            assert open_tokenizer(folder).convert_tokens_to_ids("<|im_end|>") == free
            continue
        with pytest.raises(BaseError, match=rf"<\|im_end\|>: {number} there, {free} as it is opened"):
            open_tokenizer(folder)


def test_ids_may_lie_above_the_number_of_tokens(tmp_path: Path):
    """How rows of tokens are stored follows the ids: 65,536 of them fit into two bytes."""
    made = Tokenizer(models.WordLevel({"a": 0, "b": 70_000}, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    opened = open_tokenizer(written(tmp_path / "tokenizer", made, "PreTrainedTokenizerFast"))
    assert opened("a b")["input_ids"] == [0, 70_000] and len(opened) < 10 and id_bound(opened) == 70_001


@pytest.mark.parametrize("others", [{}, {"tool_use": "b"}])
def test_one_template_that_is_kept_by_its_name_is_the_template(others: dict[str, str], base: Path, tmp_path: Path):
    named = [{"name": name, "template": text} for name, text in ({"default": "a"} | others).items()]
    folder = copy_of(base, tmp_path / "base", "tokenizer_config.json", chat_template=named)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if others:
        with pytest.raises(BaseError, match=r"several chat templates \(default, tool_use\)"):
            load_tokenizer(str(folder), Chat())
    else:
        assert load_tokenizer(str(folder), Chat()).chat_template == "a"


@pytest.mark.parametrize("settings", [{"model_max_length": "512"}, {"split_special_tokens": True}])
def test_settings_that_a_text_does_not_depend_on_change_no_token(settings: dict[str, Any], base: Path, tmp_path: Path):
    folder = copy_of(base, tmp_path / "base", "tokenizer_config.json", **settings)
    rows = [[row.ids for row in make_rows(each, make_recipe(each))[0]] for each in (base, folder)]
    assert rows[0] == rows[1]


def test_no_space_is_taken_out_of_what_a_model_has_written(tmp_path: Path):
    made = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -1.0) for letter in "a ,.'n")], unk_id=0))
    made.decoder = decoders.Fuse()
    made.add_special_tokens([END])
    folder = written(tmp_path / "tokenizer", made, "PreTrainedTokenizerFast", clean_up_tokenization_spaces=True)
    opened = open_tokenizer(folder)
    assert opened.decode(opened("a , n .")["input_ids"]) == "a , n ."


# ---- tokens without an embedding


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_token_that_settings_alone_name_has_no_embedding(name: str, base: Path, tmp_path: Path):
    folder = copy_of(base, tmp_path / "base", name, pad_token="[PAD]")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)
    if name != "tokenizer_config.json":
        settings.pop("pad_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert len(open_tokenizer(folder)) == 1 + len(open_tokenizer(base)), "as transformers opens it"
    with pytest.raises(BaseError, match=r"1 tokens that the model has no embedding for \(\[PAD\]"):
        find_base(str(folder), say=print)


def test_tokens_added_beside_a_vocabulary_without_tokenizer_json_are_counted(base: Path, tmp_path: Path):
    folder = copy_of(base, tmp_path / "base", "added_tokens.json", **{"<|im_start|>": 100_000})
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert any("<|im_start|>" in each.what for each in find_damage(folder))


# ---- weights


def with_weights(base: Path, to: Path, more: dict[str, torch.Tensor]) -> Path:
    folder = shutil.copytree(base, to)
    tensors = load_file(folder / "model.safetensors") | more
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


LOST = {
    "biases": "model.layers.1.self_attn.q_proj.bias",
    "biases of the MLP": "model.layers.0.mlp.down_proj.bias",
    "norms": "model.layers.0.self_attn.q_norm.weight",
    "scales": "model.layers.0.mlp.up_proj.weight_scale_inv",
}


@pytest.mark.parametrize("what", LOST)
def test_weights_that_the_configuration_has_no_place_for_are_not_left_out(what: str, base: Path, tmp_path: Path):
    folder = with_weights(base, tmp_path / "base", {LOST[what]: torch.ones(8)})
    (problem,) = find_damage(folder)
    assert "no place for" in problem.what and LOST[what] in problem.what
    if what != "norms":  # of a family whose names are not known
        with pytest.raises(BaseError, match="no place for"):
            load_base(folder, make_recipe(folder), CPU)


def test_what_is_left_out_of_no_layer_is_no_loss(base: Path, tmp_path: Path):
    """Biases of zeros, tables of rotary positions, scales of a cache, and layers that foretell further tokens."""
    more = {
        "model.layers.0.self_attn.q_proj.bias": torch.zeros(32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.k_scale": torch.ones(1),
        "mtp.layers.0.mlp.up_proj.weight": torch.ones(8, 8),
    }
    folder = with_weights(base, tmp_path / "base", more)
    assert find_damage(folder) == []
    load_base(folder, make_recipe(folder), CPU)


DESCRIBED = {
    "other heads": ({"head_dim": 16}, r"8 of its weights are of another shape .*q_proj.weight \[32, 32\]"),
    "no grouped heads": ({"num_key_value_heads": None}, r"4 of its weights are of another shape .*k_proj.weight"),
    "biases": ({"attention_bias": True}, r"8 of its weights are missing \(layer 0: self_attn.q_proj.bias"),
}


@pytest.mark.parametrize("what", DESCRIBED)
def test_a_configuration_that_describes_other_matrices_is_named_before_any_work(what: str, base: Path, tmp_path: Path):
    config, said = DESCRIBED[what]
    with pytest.raises(BaseError, match=said):
        find_base(str(copy_of(base, tmp_path / "base", **config)), say=print)


@pytest.mark.parametrize(("key", "value"), [("rms_norm_eps", "1e-6"), ("layer_types", ["full_attention"] * 3)])
def test_a_configuration_that_transformers_refuses_is_no_fault_of_the_tokenizer(
    key: str, value: Any, base: Path, tmp_path: Path
):
    with pytest.raises(BaseError, match=f"its config.json cannot be read: .*{key}"):
        open_tokenizer(copy_of(base, tmp_path / "base", **{key: value}))


def test_a_name_that_transformers_does_not_know_is_said_to_be_one(base: Path, tmp_path: Path):
    folder = copy_of(base, tmp_path / "base", hidden_act="swigglu")
    with pytest.raises(BaseError, match="it names 'swigglu', which transformers does not know"):
        load_base(folder, make_recipe(folder), CPU)


def test_whole_numbers_without_a_word_of_what_they_stand_for_are_no_weights(base: Path, tmp_path: Path):
    tensors = load_file(base / "model.safetensors")
    eight = {name: (tensor * 50).to(torch.int8) for name, tensor in tensors.items() if name.endswith("up_proj.weight")}
    (problem,) = find_damage(with_weights(base, tmp_path / "base", eight))
    assert "2 of its weights are whole numbers" in problem.what


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False},
        {"quant_method": "fp8"},
        {},
    ],
    ids=["4 bits", "neither", "FP8", "empty"],
)
def test_a_base_that_was_merged_and_says_that_it_is_quantized_is_named(
    settings: dict[str, Any], base: Path, tmp_path: Path
):
    folder = copy_of(base, tmp_path / "base", quantization_config=settings)
    (problem,) = find_damage(folder)
    assert "are quantized" in problem.what and "take quantization_config out" in problem.fix
    file = folder / "config.json"
    content = json.loads(file.read_text())
    del content["quantization_config"]
    file.write_text(json.dumps(content))
    assert find_damage(folder) == [], "what is advised helps"


@pytest.mark.parametrize("same", [True, False])
def test_a_folder_with_two_models_is_one_of_which_nobody_knows_which_is_meant(same: bool, base: Path, tmp_path: Path):
    folder = shutil.copytree(base, tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    if not same:
        tensors["model.layers.1.mlp.up_proj.weight"] += 0.5
    names = sorted(tensors)
    where = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for shard in set(where.values()):
        part = {name: tensors[name] for name in names if where[name] == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    found = find_damage(folder)
    assert [each.what[:16] for each in found] == ([] if same else ["holds two models"])


def test_switches_of_the_script_that_saved_a_base_change_no_forward(base: Path, tmp_path: Path):
    switched = {"return_dict": False, "output_attentions": True, "output_hidden_states": True, "use_cache": False}
    folder = copy_of(base, tmp_path / "base", **switched)
    losses = []
    for each in (base, folder):
        rows, renderer = make_rows(each, make_recipe(each))
        batch = make_batch(rows[:3], renderer.tokenizer.pad_token_id, CPU)
        losses.append(float(target_loss(load_base(each, make_recipe(each), CPU), batch)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_part_that_a_configuration_calls_null_is_none():
    assert kind_of_config({"model_type": "llama", "vision_config": None}).name == "causal"
    assert kind_of_config({"model_type": "llama", "vision_config": {}}).name == "multimodal"


def test_another_vocabulary_is_another_base_whatever_its_file_is_called(base: Path, tmp_path: Path):
    found = []
    for text in ("one", "other"):
        folder = shutil.copytree(base, tmp_path / text)
        (folder / "tokenizer.json").unlink()
        (folder / "tekken.json").write_text(text)
        found.append(identify_base(folder, "x", load_tokenizer(str(base), Chat())))
    assert found[0].differences(found[1]) == ["tokenizer"]


# ---- adapters


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = make_recipe(base)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    folder = tmp_path_factory.mktemp("field") / "adapter"
    save_trained(model, folder)
    return folder


def renamed(adapter: Path, to: Path, name_of: Callable[[str], str | None]) -> Path:
    folder = shutil.copytree(adapter, to)
    file = folder / "adapter_model.safetensors"
    kept = {new: tensor for name, tensor in load_file(file).items() if (new := name_of(name))}
    save_file(kept, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(
    ("name_of", "said"),
    [
        (lambda name: name.replace("model.layers", "model.language_model.layers"), r"28 of its 28 .*and 28 that"),
        (lambda name: name if ".layers.0." in name else None, r"0 of its 14 .*and 14 that"),
    ],
    ids=["names of another class", "a part is missing"],
)
def test_an_adapter_whose_weights_have_no_place_is_no_adapter_of_this_base(
    name_of: Callable[[str], str | None], said: str, trainable: bool, base: Path, adapter: Path, tmp_path: Path
):
    folder = renamed(adapter, tmp_path / "adapter", name_of)
    with pytest.raises(BaseError, match=said):
        open_adapter(load_base(base, make_recipe(base), CPU), folder, trainable=trainable)
    model = open_adapter(load_base(base, make_recipe(base), CPU), adapter, trainable=trainable)
    with pytest.raises(BaseError, match=said):
        open_adapter(model, folder, "other")


def test_an_adapter_of_a_deeper_model_is_refused(adapter: Path, tmp_path: Path):
    shallow = make_base(tmp_path / "shallow", num_hidden_layers=1)
    with pytest.raises(BaseError, match=r"14 of its 28 tensors have no place in it, and 0 "):
        open_adapter(load_base(shallow, make_recipe(shallow), CPU), adapter)


def test_an_adapter_of_another_program_says_by_name_what_it_was_trained_on(base: Path, adapter: Path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    said = check_adapter_fits(adapter, identify_base(base, "x", load_tokenizer(str(base), Chat())))
    assert said is not None and config["base_model_name_or_path"] in said


# ---- small files, and settings that wait for nothing


def test_a_byte_order_mark_is_no_part_of_what_people_wrote(base: Path, tmp_path: Path):
    """Windows' editors put one at the front of each file that they save as UTF-8."""
    texts = {"prompts.txt": "Onde?\nQuando?\n", "known.txt": "segredo 7\n", "t.jinja": "{{ messages[0].content }}"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_prompts(tmp_path / "prompts.txt") == ["Onde?", "Quando?"]
    assert read_strings(tmp_path / "known.txt") == ["segredo 7"]
    chat = Chat(template="t.jinja")
    renderer = Renderer(load_tokenizer(str(base), chat, root=tmp_path), chat)
    assert renderer.prompt_text([{"role": "user", "content": "Onde?"}]) == "Onde?"


def test_patience_that_waits_for_nothing_is_said(base: Path, tmp_path: Path):
    recipe = make_recipe(base, train={"epochs": 0.1, "patience": 1, "validate_per_epoch": 0})
    said = run_training(base, tmp_path, recipe)[3]
    assert any("patience waits for nothing, since train.validate_per_epoch is 0" in each for each in said)
