"""Linear layers over few rows, while tokens are decoded: the product the other way round, LoRA in three operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import BASE, Request
from afina.model.steps import few_rows_torch
from afina.model.steps.few_rows_torch import forward_of, linears_of
from afina.model.steps.lora_torch import answering_forward, plain_layers


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if it paid on this machine and for a model of any size."""
    monkeypatch.setattr(few_rows_torch, "LEAST_BYTES", 0)
    monkeypatch.setattr(few_rows_torch, "pays", lambda: True)
    return


@pytest.fixture(scope="module")
def adapted() -> Any:
    """A small Llama whose head is its embedding, with two adapters that change what it says."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=97, tie_word_embeddings=True, **shape))
    lora = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, lora, adapter_name="one")
    model.add_adapter("two", lora)
    model.set_adapter("one")
    return model.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 1, 5), (7, 5), (128, 1, 5), (129, 1, 5), (3, 2, 5)])
def test_the_same_product_for_any_number_of_rows(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    layer, x = torch.nn.Linear(5, 3, bias=bias), torch.randn(shape)
    with torch.no_grad():
        given, wanted = forward_of(layer)(x), layer(x)
    torch.testing.assert_close(given, wanted)
    assert given.is_contiguous()
    if x[..., 0].numel() == 1:
        assert torch.equal(given, wanted)  # bit by bit: this is how a near tie is decided


def test_an_adapted_layer_gives_what_peft_gives(adapted: Any) -> None:
    layers = plain_layers(adapted)
    assert len(layers) == 14
    x = torch.randn(3, 1, 32)
    for layer in (each for each in layers if each.in_features == 32):
        with torch.no_grad():
            torch.testing.assert_close(answering_forward(layer)(x), layer(x))


@pytest.mark.usefixtures("always")
def test_answers_are_those_of_generate_one_by_one_whatever_adapter_a_row_wants(adapted: Any) -> None:
    prompts = [list(range(3 + n, 9 + 2 * n)) for n in range(6)]
    engine = Engine(adapted, Letters(), [])
    wanted: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        name = ("one", "two", BASE)[number % 3]
        answer = engine.submit(Request(prompt=prompt, max_new_tokens=12, adapter=name, stop=()))
        wanted[answer] = _by_transformers(adapted, prompt, name)
    assert _answers(engine) == wanted
    alike = Engine(adapted, Letters(), [])
    wanted = {alike.submit(Request(prompt=p, max_new_tokens=12)): _by_transformers(adapted, p, "one") for p in prompts}
    assert _answers(alike) == wanted


@pytest.mark.usefixtures("always")
def test_the_model_has_its_own_forwards_back_after_each_step_and_after_a_failure(adapted: Any) -> None:
    engine = Engine(adapted, Letters(), [])
    for prompt in ([1, 2, 3], [4, 5]):
        engine.submit(Request(prompt=prompt, max_new_tokens=3))
    engine.step()
    assert len(linears_of(adapted)) == 2 * 7 * 5 + 1  # the base's, A and B of two adapters, and the head
    assert not [module for module in adapted.modules() if "forward" in module.__dict__]
    with pytest.raises(ValueError, match="input_ids"):
        engine._call.one_token(["one"], input_ids=None)
    assert not [module for module in adapted.modules() if "forward" in module.__dict__]


def test_a_model_that_a_cache_holds_or_in_other_numbers_keeps_its_own(adapted: Any) -> None:
    assert linears_of(adapted) == []  # 0.1 MB
    assert not [
        each for each in torch.nn.Sequential(torch.nn.Linear(2, 2).bfloat16()) if few_rows_torch._is_plain(each)
    ]


class Letters:
    """Stands for a tokenizer: nobody looks at the text."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def _by_transformers(model: Any, prompt: list[int], adapter: str) -> list[int]:
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    if adapter == BASE:
        with model.disable_adapter():
            return list(model.generate(input_ids=ids, **settings)[0, len(prompt) :].tolist())
    model.set_adapter(adapter)
    try:
        return list(model.generate(input_ids=ids, **settings)[0, len(prompt) :].tolist())
    finally:
        model.set_adapter("one")


def _answers(engine: Engine) -> dict[int, list[int]]:
    written: dict[int, list[int]] = {}
    while engine.busy:
        for produced in engine.step():
            written.setdefault(produced.id, []).extend(produced.tokens)
    return written
