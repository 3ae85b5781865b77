"""Shortcuts on the families that broke them: the loss and the gradients of plain rows one by one, whatever is shared,
padded, shortened or fused.

The reference is the model's own forward of one row with labels, on a copy that has read nothing before.
"""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import make_recipe

from afina.errors import RecipeError
from afina.model.anatomy_torch import anatomy_of
from afina.model.generate.call_torch import Caller
from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import BASE, Request
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import check_loss, make_batch, remarks, target_loss
from afina.model.steps.lora_torch import short_lora
from afina.model.targets_torch import (
    COEFFICIENTS,
    CONVOLUTION,
    EXPERTS_FORM,
    EXPERTS_NAMED,
    NOT_NAMED,
    OTHER_FORM,
    OUTPUT,
    ROUTER,
    STATE_SPACE,
    adapted,
    all_linear,
    share_in_4_bits,
    without_gradient,
)
from afina.recipe import Adapter
from afina.text.example import Example
from afina.tokenizer.encode import Row
from afina.train.sharing_torch import may_share

CPU = torch.device("cpu")
VOCABULARY = 300
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
ORIGINAL = 32
"""The length at which Phi-3 and dynamic positions change, in these tests."""


def phi3(**more: Any) -> Any:
    from transformers import Phi3Config

    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 5.0, 6.0, 7.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": ORIGINAL, **factors}
    return Phi3Config(**SMALL | more, rope_parameters=rope, original_max_position_embeddings=ORIGINAL)


def dynamic() -> Any:
    from transformers import LlamaConfig

    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    return LlamaConfig(**SMALL | {"max_position_embeddings": ORIGINAL}, rope_parameters=rope)


def model_of(config: Any, seed: int = 0) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    model.fresh = [copy.deepcopy(model)]  # in a list, so that it is no part of the model
    return model


def row(length: int, seed: int, *, prefix: int = 0, learned: int = 9) -> Row:
    """A row of random tokens that learns its last ones; rows with a prefix begin alike."""
    generator = torch.Generator().manual_seed(seed)
    system = torch.randint(5, VOCABULARY, (prefix,), generator=torch.Generator().manual_seed(99)).tolist()
    ids = [*system, *torch.randint(5, VOCABULARY, (length - prefix,), generator=generator).tolist()]
    return Row(ids, [False] * (length - learned) + [True] * learned, Example(text=""))


def trained(model: Any) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def one_by_one(model: Any, rows: list[Row]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss summed over targets, and its gradients, by transformers alone."""
    total, gradients = 0.0, dict[str, torch.Tensor]()
    for each in rows:
        fresh = copy.deepcopy(model.fresh[0])
        ids = torch.tensor([each.ids])
        labels = torch.where(torch.tensor([each.mask]), ids, -100)
        loss = fresh(input_ids=ids, labels=labels, use_cache=False).loss * each.targets
        loss.backward()
        total += loss.item()
        for name, gradient in trained(fresh).items():
            gradients[name] = gradients.get(name, torch.zeros(())) + gradient
    return total, gradients


def assert_like_plain_rows(model: Any, rows: list[Row], *, share: bool = False) -> None:
    expected, gradients = one_by_one(model, rows)
    loss = target_loss(model, make_batch(rows, 0, CPU, share=share))
    loss.backward()
    found = trained(model)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        difference = (found.get(name, torch.zeros(())) - gradient).norm()
        assert difference <= 2e-3 * max(float(gradient.norm()), 1e-3 * expected), name


def shares(model: Any, rows: list[Row], groups: list[list[int]]) -> tuple[bool, list[str]]:
    said: list[str] = []
    settings = make_recipe().train
    return may_share(model, rows, groups, settings, pad_id=0, device=CPU, say=said.append), said


# ---- 1: a proof on one sample, trusted for all


@pytest.mark.parametrize("config", [phi3(), dynamic()], ids=["longrope", "dynamic"])
def test_rows_on_both_sides_of_the_original_length_are_what_they_are_alone(config: Any) -> None:
    """In transformers the longest row of a batch chooses the frequencies of all."""
    model = model_of(config)
    for lengths in ([30, 90], [90, 30, 32, 33], [90, 40], [30, 20]):
        assert_like_plain_rows(model, [row(length, seed) for seed, length in enumerate(lengths)])


@pytest.mark.parametrize("config", [phi3(), dynamic()], ids=["longrope", "dynamic"])
def test_what_was_read_before_changes_no_row(config: Any) -> None:
    model = model_of(config)
    rows = [row(length, length) for length in (32, 60, 90)]
    before = [target_loss(model, make_batch([each], 0, CPU)).item() for each in rows]
    after = [target_loss(model, make_batch([each], 0, CPU)).item() for each in reversed(rows)]
    assert before == after[::-1]


@pytest.mark.parametrize("config", [phi3(), dynamic()], ids=["longrope", "dynamic"])
def test_a_beginning_is_shared_only_where_it_turns_as_in_whole_rows(config: Any) -> None:
    """A short group allowed it; the next, which begins within the original length and ends beyond, was wrong."""
    model = model_of(config)
    short = [row(length, seed, prefix=20) for seed, length in enumerate((30, 31, 32))]
    across = [row(length, seed, prefix=24) for seed, length in enumerate((60, 62, 64))]
    beyond = [row(length, seed, prefix=50) for seed, length in enumerate((70, 72, 74))]
    assert shares(model, [*short, *across], [[0, 1, 2], [3, 4, 5]])[0], "the short ones"
    for rows in (short, across, beyond):
        assert_like_plain_rows(model, rows, share=True)


def test_sharing_is_tried_on_each_kind_of_group() -> None:
    """With a window of 16 a short group says nothing of one that is longer."""
    from transformers import Gemma2Config

    model = model_of(Gemma2Config(**SMALL, head_dim=8, sliding_window=40))
    short = [row(length, seed, prefix=18) for seed, length in enumerate((30, 31))]
    long = [row(length, seed, prefix=60) for seed, length in enumerate((100, 80))]
    own, seen = model.model.forward, []
    model.model.forward = lambda *arguments, **options: (
        seen.append(options["input_ids"].shape[1]) or own(*arguments, **options)
    )
    allowed, said = shares(model, [*short, *long], [[0, 1], [2, 3]])
    assert allowed and "are computed once" in said[-1]
    assert {18, 60} <= set(seen)
    del model.model.forward
    assert_like_plain_rows(model, long, share=True)


def test_layers_that_keep_a_state_share_nothing() -> None:
    from transformers import Mamba2Config

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "state_size": 8, "head_dim": 8}
    model = model_of(Mamba2Config(**sizes, num_heads=8, n_groups=2, expand=2, chunk_size=8))
    rows = [row(length, seed, prefix=30) for seed, length in enumerate((44, 45))]
    allowed, said = shares(model, rows, [[0, 1]])
    assert not allowed and "more than keys and values" in said[-1]


def test_a_model_that_reads_padding_reads_rows_apart() -> None:
    """One that looks at all positions before it answers: padding is tried, not believed."""
    from transformers import LlamaConfig

    model = model_of(LlamaConfig(**SMALL))
    own = model.model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        found = own(*arguments, **options)
        found.last_hidden_state = found.last_hidden_state + found.last_hidden_state.mean(1, keepdim=True)
        return found

    model.model.forward = forward
    rows = [row(length, length) for length in (20, 40, 40)]
    alone = sum(target_loss(model, make_batch([each], 0, CPU)).item() for each in rows)
    batch = make_batch(rows, 0, CPU)
    assert target_loss(model, batch).item() == pytest.approx(alone, rel=1e-5)
    assert any("do not share a forward" in said for said in remarks(model, batch))


def test_answers_that_cross_the_original_length_are_those_of_generate() -> None:
    """Each prompt answered by a model that has read nothing before; here they are asked together. With dynamic
    positions the original length is all that a model sees, and more is refused."""
    model = model_of(phi3())
    prompts = [row(length, length).ids for length in (12, 28, 40, 60)]
    tokenizer = SimpleNamespace(decode=lambda *_, **__: "")
    engine = Engine(model, tokenizer, [], keep_special=True)
    numbers = [engine.submit(Request(prompt=ids, max_new_tokens=10)) for ids in prompts]
    done = {piece.id: piece.done for _ in range(30) for piece in engine.step() if piece.done}
    for number, ids in zip(numbers, prompts, strict=True):
        prompt = torch.tensor([ids])
        options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        fresh = copy.deepcopy(model.fresh[0])
        expected = fresh.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
        assert done[number].tokens == expected[0, len(ids) :].tolist()


# ---- 2: recognised by class name


def families() -> list[Any]:
    from transformers import (
        BloomConfig,
        FalconH1Config,
        Gemma4TextConfig,
        GptOssConfig,
        GraniteConfig,
        MiniCPM3Config,
    )
    from transformers import Cohere2Config as Cohere

    mamba = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 2}
    return [
        GptOssConfig(**SMALL, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=16),
        BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, pad_token_id=0),
        GraniteConfig(**SMALL, logits_scaling=6.0, embedding_multiplier=3.0),
        Cohere(**SMALL, logit_scale=0.25, sliding_window=16),
        FalconH1Config(**SMALL, **mamba, mamba_chunk_size=8, lm_head_multiplier=0.3, embedding_multiplier=2.0),
        Gemma4TextConfig(**SMALL, head_dim=8, global_head_dim=8, final_logit_softcapping=3.0, sliding_window=16,
                         hidden_size_per_layer_input=0, num_kv_shared_layers=0),
        MiniCPM3Config(**SMALL | {"num_key_value_heads": 4}, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8,
                       qk_rope_head_dim=8, dim_model_base=8, v_head_dim=8),
    ]  # fmt: skip


@pytest.mark.parametrize("config", families(), ids=lambda config: config.model_type)
def test_loss_and_gradients_are_those_of_plain_rows(config: Any) -> None:
    model = model_of(config)
    rows = [row(length, length, learned=6) for length in (20, 33, 48)]
    assert check_loss(model, make_batch(rows[:1], 0, CPU)) < 1e-4
    assert not anatomy_of(model, torch.tensor([rows[0].ids])).slower
    assert_like_plain_rows(model, rows)


def rolled(model: Any) -> None:
    """Logits in another order than the head's."""

    class Rolled(type(model)):  # type: ignore[misc]
        def forward(self, labels: Any = None, **options: Any) -> Any:
            found = super().forward(**options)
            found.logits = found.logits.roll(1, -1)
            found.loss = None if labels is None else self.loss_function(found.logits, labels, VOCABULARY)
            return found

    model.__class__ = Rolled


def normed(model: Any) -> None:
    """A layer between the model's last one and its head."""

    class Normed(type(model)):  # type: ignore[misc]
        def get_output_embeddings(self) -> Any:
            return self.lm_head[1]

    model.lm_head = torch.nn.Sequential(torch.nn.LayerNorm(32), model.lm_head)
    model.__class__ = Normed


def unnamed(model: Any) -> None:
    """A head that only the model's own forward knows of."""

    class Unnamed(type(model)):  # type: ignore[misc]
        def get_output_embeddings(self) -> None:
            return None

    model.__class__ = Unnamed


@pytest.mark.parametrize(
    ("change", "said"),
    [(rolled, "more to its logits"), (normed, "not what its layers give"), (unnamed, "no output layer")],
)
def test_a_head_that_is_not_known_is_read_as_a_whole_and_said(change: Any, said: str) -> None:
    from transformers import LlamaConfig

    model = model_of(LlamaConfig(**SMALL, tie_word_embeddings=False))
    for each in (model, model.fresh[0]):
        change(each)
    rows = [row(length, length) for length in (20, 33, 48)]
    batch = make_batch(rows, 0, CPU)
    assert check_loss(model, batch) < 1e-4
    (remark,) = remarks(model, batch)
    assert "slower because" in remark and said in remark
    assert_like_plain_rows(model, rows)
    each = target_loss(model, batch, reduction="none")
    assert each.sum().item() == pytest.approx(target_loss(model, batch).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["gemma3n_text", "llama4_text"])
def test_a_layer_may_write_into_what_an_adapted_one_gave_it(kind: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = model_of(writing(kind))
    options = LoraConfig(r=2, target_modules=["q_proj", "up_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, options).train()
    batch = make_batch([row(length, length) for length in (20, 33)], 0, CPU)
    results = []
    for shortened in (False, True):
        with short_lora(adapted) if shortened else nullcontext() as layers:
            loss = target_loss(adapted, batch)
        loss.backward()
        results.append((loss.item(), trained(adapted)))
    assert layers and results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


def writing(kind: str) -> Any:
    from transformers import Gemma3nTextConfig, Llama4TextConfig

    if kind == "llama4_text":
        return Llama4TextConfig(**SMALL, head_dim=8, num_local_experts=2, intermediate_size_mlp=64,
                                interleave_moe_layer_step=2, attention_chunk_size=64, use_qk_norm=True)  # fmt: skip
    return Gemma3nTextConfig(
        **SMALL | {"num_hidden_layers": 4}, head_dim=8, vocab_size_per_layer_input=VOCABULARY, sliding_window=16,
        hidden_size_per_layer_input=8, num_kv_shared_layers=0, laurel_rank=8, altup_num_inputs=2,
        layer_types=["sliding_attention", "full_attention"] * 2, activation_sparsity_pattern=[0.0] * 4,
    )  # fmt: skip


# ---- 5: what `all-linear` adapts


def small(kind: str) -> Any:
    """Mixtures and state spaces, by the name of their configuration."""
    import transformers

    few = SMALL | {"initializer_range": 0.02}
    mixture = few | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    states = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "state_size": 8}
    more: dict[str, dict[str, Any]] = {
        "LlamaConfig": few,
        "MixtralConfig": few | {"num_local_experts": 4},
        "Qwen2MoeConfig": mixture | {"shared_expert_intermediate_size": 16},
        "Qwen3MoeConfig": mixture | {"head_dim": 8},
        "PhimoeConfig": few | {"num_local_experts": 4},
        "MambaConfig": states,
        "Mamba2Config": states | {"head_dim": 8, "num_heads": 8, "n_groups": 2, "chunk_size": 8},
    }
    if kind in ("Llama4TextConfig", "Gemma3nTextConfig"):
        return writing(getattr(transformers, kind).model_type)
    return getattr(transformers, kind)(**more[kind])


ADAPTED = [
    ("LlamaConfig", 14, 0, {OUTPUT: 1}),
    ("MixtralConfig", 8, 4, {OUTPUT: 1, ROUTER: 2}),
    ("Qwen2MoeConfig", 14, 4, {OUTPUT: 1, ROUTER: 4}),
    ("Qwen3MoeConfig", 8, 4, {OUTPUT: 1, ROUTER: 2}),
    ("PhimoeConfig", 8, 4, {OUTPUT: 1, OTHER_FORM: 2}),
    ("Llama4TextConfig", 14, 2, {OUTPUT: 1, OTHER_FORM: 1}),
    ("Gemma3nTextConfig", 51, 0, {OUTPUT: 1, COEFFICIENTS: 8}),
    ("MambaConfig", 4, 0, {OUTPUT: 1, STATE_SPACE: 4, CONVOLUTION: 2}),
    ("Mamba2Config", 2, 0, {OUTPUT: 1, STATE_SPACE: 2, CONVOLUTION: 2}),
]


@pytest.mark.parametrize(("kind", "matrices", "stacks", "left_out"), ADAPTED, ids=[each[0] for each in ADAPTED])
def test_all_linear_adapts_what_learns_and_says_the_rest(
    kind: str, matrices: int, stacks: int, left_out: Any, tmp_path: Path
) -> None:
    """Every tensor of the adapter has a gradient, and plain PEFT opens what was saved."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config, adapter = small(kind), Adapter(rank=2, alpha=4)
    model = model_of(config)
    found = all_linear(model, adapter)
    assert found.as_json() == {"matrices": matrices, "expert_stacks": stacks, "left_out": left_out}
    with torch.device("meta"):
        assert all_linear(AutoModelForCausalLM.from_config(config), adapter) == found
    adapted_model = attach_adapter(copy.deepcopy(model), adapter, 0)
    assert adapted(adapted_model) == found
    rows = [row(length, length) for length in (20, 33)]
    assert without_gradient(adapted_model, target_loss(adapted_model, make_batch(rows, 0, CPU))) == []
    for name, weight in adapted_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted_model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(model, tmp_path).eval()
    ids = torch.tensor([rows[1].ids])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, adapted_model.eval()(ids).logits)


def test_experts_and_routers_are_adapted_when_they_are_named() -> None:
    model = model_of(small("MixtralConfig"))
    named = attach_adapter(model, Adapter(rank=2, targets=["q_proj", "experts"]), 0)
    assert adapted(named).as_json() == {
        "matrices": 2, "expert_stacks": 4, "left_out": {NOT_NAMED: 6, OUTPUT: 1, ROUTER: 2},
    }  # fmt: skip
    only = attach_adapter(model_of(small("MixtralConfig")), Adapter(rank=2, targets=["q_proj"]), 0)
    assert adapted(only).left_out[EXPERTS_NAMED]
    dropped = all_linear(model_of(small("MixtralConfig")), Adapter(rank=2, dropout=0.1))
    assert not dropped.parameters and len(dropped.left_out[EXPERTS_FORM]) == 4
    with pytest.raises(RecipeError, match="Llama4Router"):
        attach_adapter(model_of(small("Llama4TextConfig")), Adapter(rank=2, targets=["router"]), 0)


def test_the_experts_of_a_4_bit_base_are_in_4_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import MixtralConfig

    wide = SMALL | {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.02}
    whole = model_of(MixtralConfig(**wide, num_local_experts=4))
    del whole.fresh
    whole.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    recipe = make_recipe(tmp_path, adapter={"kind": "qlora"})
    model = load_base(tmp_path, recipe, CPU, four_bit=True)
    numbers = sum(weight.numel() for weight in whole.parameters())
    kept = sum(weight.numel() for name, weight in whole.named_parameters() if not re.search("proj", name))
    assert share_in_4_bits(model) == pytest.approx(1 - kept / numbers)
    rows = [row(length, length) for length in (20, 33)]
    batch = make_batch(rows, 0, CPU)
    assert target_loss(model, batch).item() == pytest.approx(target_loss(whole, batch).item(), rel=0.05)
    learning = attach_adapter(model, recipe.adapter, 0)
    assert adapted(learning).as_json()["left_out"][EXPERTS_FORM] == 4
    assert share_in_4_bits(learning) == pytest.approx(1 - kept / numbers)
    assert without_gradient(learning, target_loss(learning.train(), batch)) == []


# ---- 8: rows of the base and of adapters in one batch


@pytest.mark.parametrize("kind", ["LlamaConfig", "MixtralConfig", "Qwen2MoeConfig"])
def test_rows_of_base_and_adapter_are_answered_as_alone(kind: str) -> None:
    """On mixtures PEFT's own mixing fails, and leaves its hooks."""
    targets: Any = "all-linear" if kind != "Qwen2MoeConfig" else ["q_proj", "up_proj"]
    model = attach_adapter(model_of(small(kind)), Adapter(rank=2, alpha=16, targets=targets), 0).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    said: list[str] = []
    prompts = [row(length, length).ids for length in (4, 9, 14)]
    asked = [(prompt, adapter) for prompt in prompts for adapter in (BASE, "default")]
    tokenizer = SimpleNamespace(decode=lambda *_, **__: "")
    engine = Engine(model, tokenizer, [], keep_special=True, say=said.append)
    numbers = [engine.submit(Request(prompt=ids, max_new_tokens=6, adapter=adapter)) for ids, adapter in asked]
    done = {piece.id: piece.done for _ in range(20) for piece in engine.step() if piece.done}
    for number, (ids, adapter) in zip(numbers, asked, strict=True):
        with model.disable_adapter() if adapter == BASE else nullcontext():
            prompt = torch.tensor([ids])
            options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            expected = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
        assert done[number].tokens == expected[0, len(ids) :].tolist()
    assert any("answered apart" in each for each in said) == (kind != "LlamaConfig")
    assert not _peft_hooks(model)


def _peft_hooks(model: Any) -> list[Any]:
    return [
        hook
        for part in model.modules()
        for hook in part._forward_pre_hooks.values()
        if "adapter_names" in getattr(hook, "keywords", {})
    ]


def test_a_forward_that_fails_leaves_no_hooks_of_peft() -> None:
    model = attach_adapter(model_of(small("LlamaConfig")), Adapter(rank=2), 0).eval()
    call = Caller(model)
    assert call.mixes("default") and not _peft_hooks(model)
    with pytest.raises(IndexError):
        call([BASE, "default"], input_ids=torch.tensor([[1], [10**6]]), use_cache=False)
    assert not _peft_hooks(model)
    model(input_ids=torch.tensor([[1, 2, 3]]))
