"""Shortcuts on the families that broke them: the loss and the gradients of plain rows one by one, whatever is shared,
padded, shortened or fused.

The reference is the model's own forward of one row with labels, on a copy that has read nothing before.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import make_recipe

from afina.model.anatomy_torch import anatomy_of
from afina.model.loss_torch import check_loss, make_batch, remarks, target_loss
from afina.model.steps.lora_torch import short_lora
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
