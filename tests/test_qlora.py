"""QLoRA on real Canarim rows: what four bits cost, and that plain PEFT opens what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import CPU, Recorder

from afina.evaluate.loss import held_out_loss
from afina.model.adapter_torch import save_trained
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import make_batch
from afina.model.reader_torch import TorchReader
from afina.recipe import Adapter, Chat, Recipe, Source, Train
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import encode_examples
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.train import train_tokenizer
from afina.train.backend_torch import TorchBackend
from afina.train.loop import TrainingJob, train

SHARED = Path(__file__).resolve().parent.parent.parent / "shared/data/ptbr/canarim"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
BEFORE, ROWS, HELD_OUT = 400, 200, 60


def read(name: str) -> list[Example]:
    """Short rows, so that the test is fast."""
    rows = [json.loads(line) for line in (SHARED / name).open(encoding="utf-8")]
    return [
        Example(
            messages=({"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]})
        )
        for row in rows
        if row["instruction"].strip() and row["output"].strip() and not row["input"] and len(row["output"]) < 200
    ]


def fit(model: Any, rows: Any, folder: Path, **settings: Any) -> None:
    settings = {"batch_tokens": 1024, "epochs": 1, "validate_per_epoch": 0} | settings
    chosen = Train(**settings)
    backend = TorchBackend(model, chosen, pad_id=0, device=CPU, say=lambda _: None)
    train(backend, rows, [], chosen, TrainingJob(folder, "same"), log=Recorder(), say=lambda _: None)


@pytest.fixture(scope="module")
def canarim(tmp_path_factory):
    """A small base that has learned some rows, and the encoded rows that it has not: (base, rows, held out)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = tmp_path_factory.mktemp("base")
    made = read("train.jsonl")[: BEFORE + ROWS]
    train_tokenizer("byte-bpe", [" ".join(part["content"] for part in each.messages) for each in made], 1200, base, 256)
    renderer = Renderer(load_tokenizer(str(base), Chat()), Chat())
    recipe = Recipe(
        name="q",
        base=str(base),
        sources=[Source(path="x")],
        train=Train(max_length=256),
        dataset={"on_too_long": "drop"},
    )
    before, rows, held_out = (
        encode_examples(each, renderer, recipe).rows
        for each in (made[:BEFORE], made[BEFORE:], read("val.jsonl")[:HELD_OUT])
    )
    assert len(rows) >= 190
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(renderer.tokenizer), max_position_embeddings=256, pad_token_id=0, **shape)
    model = LlamaForCausalLM(config)
    fit(model, before, tmp_path_factory.mktemp("before"), learning_rate=3e-3, epochs=2)
    model.save_pretrained(base)
    return base, recipe, rows, held_out


@pytest.mark.long
def test_qlora_learns_what_lora_learns_and_plain_peft_opens_it(canarim, tmp_path):
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base, recipe, rows, held_out = canarim
    measured, options = {}, {"pad_id": 0, "batch_tokens": 2048}
    for kind in ("lora", "qlora"):
        model = load_base(base, recipe, CPU, four_bit=kind == "qlora")
        before = held_out_loss(TorchReader(model), held_out, **options).loss
        model = attach_adapter(model, Adapter(kind=kind, rank=8, alpha=16), 0)
        fit(model, rows, tmp_path / kind, learning_rate=5e-3, epochs=3)
        measured[kind] = (before, held_out_loss(TorchReader(model), held_out, **options).loss)
    lora, qlora = measured["lora"][1], measured["qlora"][1]
    assert lora < measured["lora"][0] - 0.05 and qlora < measured["qlora"][0] - 0.05, measured
    assert abs(qlora - lora) <= 0.02, measured

    save_trained(model, tmp_path / "adapter")
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    plain = AutoModelForCausalLM.from_pretrained(base, quantization_config=four, dtype=torch.float32)
    for layer in plain.modules():  # the same kernel as ours, which has a gradient
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    plain = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    ids = make_batch(held_out[:4], 0, CPU).ids_BL
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model.eval()(ids).logits)
        with plain.disable_adapter():
            assert not torch.allclose(plain(ids).logits, model(ids).logits, atol=0.1)
