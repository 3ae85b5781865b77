"""Models that read images beside text: their text is trained under its full name, the rest goes along bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import make_run
from eyes import make_seeing
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import make_recipe
from transformers import AutoModelForImageTextToText

from afina.export.export import ExportOptions, export
from afina.export.merge_torch import merge, open_unmerged, save_merged
from afina.export.origin import open_origin
from afina.model.adapter_torch import save_trained
from afina.model.base_kind import KINDS, TRAINED_ON_TEXT, kind_of
from afina.model.decoder_torch import beside_text, text_decoder, train_text
from afina.model.kept_torch import KEPT_FILE
from afina.model.load_torch import attach_adapter, load_base
from afina.recipe import Adapter

FAST = ("qwen3_5",)
"""Its checkpoint holds tensors that no class opens, too."""
IDS = [[5, 9, 17, 33, 8, 21]]
MTP = "mtp.layers.0.proj.weight"


def as_published(folder: Path, kind: str) -> Path:
    """A checkpoint with what published ones have: some of the tower in another precision, tensors that no class opens,
    and the settings by which pictures are read."""
    make_seeing(folder, kind)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    beside = beside_text(model)
    for name, weight in model.named_parameters():
        if name in beside and weight.dim() == 1:
            weight.data = weight.data.to(torch.bfloat16)
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(load_file(file) | {MTP: torch.randn(3, 4).half()}, file, metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text('{"size": 32}')
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(IDS)).logits[0].float()


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one.view(torch.uint8), two.view(torch.uint8))


def adapted(adapter: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the layers that an adapter changes; of experts, ``base_layer`` is a second adapter on the same."""
    return {name.removeprefix("base_model.model.").split(".lora_")[0].replace(".base_layer", "") for name in adapter}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in FAST else pytest.mark.long) for kind in TRAINED_ON_TEXT]
)
def test_a_seeing_model_is_trained_on_text_and_merged_with_its_eyes(kind: str, tmp_path: Path):
    """Before, Qwen3.5's export left 33 of 88 tensors out, and its adapter changed nothing in the class people serve."""
    base = as_published(tmp_path / "base", kind)
    origin = open_origin(make_run(tmp_path / "run", base, steps=3, asked=0))
    save_merged(merge(origin), origin, tmp_path / "out")
    before, after = tensors(base), tensors(tmp_path / "out")
    changed = {name for name in before if name not in after or not same_bits(before[name], after[name])}
    adapter = load_file(origin.run / "adapter/adapter_model.safetensors")
    assert after.keys() == before.keys()
    assert changed
    assert not any(word in name for name in [*changed, *adapter] for word in ("vision", "visual", "projector", "mtp"))
    assert (tmp_path / "out/preprocessor_config.json").is_file()

    run_model = open_unmerged(origin, torch.device("cpu"))
    full = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32)
    untrained = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    assert type(full).__name__.endswith("ForConditionalGeneration")
    torch.testing.assert_close(logits(full), logits(run_model), rtol=1e-4, atol=1e-5)
    assert (logits(full) - logits(untrained)).abs().max() > 1e-2, "three steps were seen"

    served = PeftModel.from_pretrained(
        untrained, origin.run / "adapter"
    )  # as people serve an adapter: plain PEFT, full class
    torch.testing.assert_close(logits(served), logits(run_model), rtol=1e-4, atol=1e-5)
    assert adapted(adapter) <= {name for name, _ in full.named_modules()}
    settings = json.loads((origin.run / "adapter/adapter_config.json").read_text())
    named = [*settings["target_modules"], *(settings["target_parameters"] or ())]
    assert not [each for each in named if "vision" in each or each.startswith(("fc", "qkv", "linear_"))]


def test_an_exported_seeing_model_answers_as_the_run_and_names_what_was_kept(tmp_path: Path):
    run = make_run(tmp_path / "run", as_published(tmp_path / "base", "qwen3_5"), steps=40, asked=4)
    found = export(run, ExportOptions("merged", tmp_path / "out"), say=lambda _: None)
    assert found["comparison"]["same_answers"] == found["comparison"]["asked"] > 0
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert [name for name, file in index["weight_map"].items() if file == KEPT_FILE] == [MTP]
    assert index["weight_map"].keys() == tensors(tmp_path / "base").keys()
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert 'AutoModelForImageTextToText.from_pretrained("THIS_FOLDER")' in card and "ForCausalLM" not in card


def test_a_seeing_model_trained_whole_keeps_its_eyes(tmp_path: Path):
    base = as_published(tmp_path / "base", "gemma3")
    model = train_text(load_base(base, make_recipe(base), torch.device("cpu")))
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == set(beside_text(model)) and any("vision_tower" in name for name in frozen)
    assert all(weight.requires_grad for weight in text_decoder(model).parameters())
    save_trained(model, tmp_path / "model")
    assert tensors(tmp_path / "model").keys() == tensors(base).keys()
    assert same_bits(tensors(tmp_path / "model")[MTP], tensors(base)[MTP])


def test_named_targets_of_a_seeing_model_are_layers_of_its_text(tmp_path: Path):
    """Gemma 3's tower has layers of the same names, which no gradient would ever reach."""
    base = make_seeing(tmp_path, "gemma3")
    model = load_base(base, make_recipe(base), torch.device("cpu"))
    adapted = attach_adapter(model, Adapter(rank=2, alpha=4, targets=["q_proj", "v_proj"]), 0)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert len(trained) == 8 and all("language_model" in name for name in trained)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "gemma3", "vision_config": {}}, "sees"),
        ({"model_type": "gemma3", "vision_config": {}, "quantization_config": {"load_in_4bit": True}}, "bnb-4bit"),
        ({"model_type": "qwen2_audio", "audio_config": {}}, "multimodal"),
        ({"model_type": "qwen3_omni_moe", "thinker_config": {}}, "multimodal"),
        ({"model_type": "paligemma", "vision_config": {}}, "multimodal"),  # reads its prompt in both directions
        ({"model_type": "whisper", "quantization_config": {"load_in_4bit": True}}, "speech"),
    ],
)
def test_what_reads_images_or_sound_is_trained_or_refused_by_what_it_is(
    config: dict[str, Any], name: str, tmp_path: Path
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    kind = kind_of(tmp_path)
    assert kind.name == name and bool(kind.trains) == bool(KINDS[name].trains)
    assert "{" not in kind.what + kind.instead
