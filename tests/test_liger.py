"""Liger's fused kernels beside transformers' own layers and our own loss.

On a GPU as they are; without one through Triton's interpreter, which runs the kernels' own source on the CPU.
Needs `pip install 'afina[liger]'`.
"""

from __future__ import annotations

import os

import pytest
import torch

from afina.errors import RecipeError

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is loaded
pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")

from afina.model.choices import LIGER_TYPES
from afina.model.loss_torch import Batch, check_loss, target_loss
from afina.model.steps.liger_torch import use_liger

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    """What Triton's interpreter lacks: plain floats as arguments, and CUDA's rsqrt and tanh."""
    if DEVICE.type == "cuda":
        return
    import numpy
    import triton.language as tl
    import triton.runtime.interpreter as interpreter
    from triton.language.extra import libdevice

    own = interpreter._implicit_cvt

    def convert(value):
        if not isinstance(value, float):
            return own(value)
        return tl.tensor(interpreter.TensorHandle(numpy.array([value], dtype=numpy.float32), tl.float32), tl.float32)

    interpreter._implicit_cvt = convert
    libdevice.rsqrt = lambda x: 1 / tl.sqrt(x)
    libdevice.tanh = lambda x: 2 * tl.sigmoid(2 * x) - 1


def make_model(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": 400, "max_position_embeddings": 64, "pad_token_id": 0}
    small |= {"head_dim": 8} if kind.startswith("gemma") or kind == "qwen3" else {}
    small |= {"logits_scaling": 8.0} if kind == "granite" else {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small)).to(DEVICE).eval()
    model.get_output_embeddings().weight.data.mul_(20)  # so that a factor or a bound of the logits is seen
    return model


def make_batch():
    torch.manual_seed(1)
    ids = torch.randint(1, 400, (3, 12), device=DEVICE)
    positions = torch.tensor([2, 3, 4, 14, 15, 20, 30, 31, 32, 33], device=DEVICE)
    return Batch(ids, positions, ids.flatten()[positions + 1], 36)


def gradients(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", LIGER_TYPES)
@pytest.mark.parametrize("frozen_head", [False, True])
def test_loss_and_gradients_are_those_of_the_models_own_layers(kind, frozen_head):
    model, batch = make_model(kind), make_batch()
    model.get_output_embeddings().requires_grad_(not frozen_head)
    own = target_loss(model, batch)
    (own / batch.targets).backward()
    expected = gradients(model)
    with torch.no_grad():
        each = target_loss(model, batch, reduction="none")
    assert use_liger(model) == ""
    fused = target_loss(model, batch)
    (fused / batch.targets).backward()
    assert fused.item() == pytest.approx(own.item(), rel=1e-5)
    assert fused.item() == pytest.approx(each.sum().item(), rel=1e-5)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * max(1.0, gradient.abs().max()))


def test_the_check_at_the_start_compares_with_the_models_own_kernels():
    model = make_model("llama")
    assert check_loss(model, make_batch(), lambda: use_liger(model)) < 1e-4
    assert model.fused_loss


def test_wrong_kernels_are_caught(monkeypatch):
    from afina.errors import AfinaError
    from afina.model.steps import liger_torch

    own = liger_torch.fused_loss
    monkeypatch.setattr(liger_torch, "fused_loss", lambda head, hidden, *rest: own(head, hidden * 1.1, *rest))
    model = make_model("llama")
    with pytest.raises(AfinaError, match="not the model's own"):
        check_loss(model, make_batch(), lambda: use_liger(model))


def test_an_adapted_output_layer_keeps_torchs_loss():
    from peft import LoraConfig, get_peft_model

    model = make_model("qwen2")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"))
    assert "output layer is adapted" in use_liger(adapted.get_base_model())
    assert torch.isfinite(target_loss(adapted, make_batch()))


def test_an_adapter_learns_the_same():
    from peft import LoraConfig, get_peft_model

    found = []
    for liger in (False, True):
        model = make_model("llama")
        torch.manual_seed(2)
        adapted = get_peft_model(
            model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        )
        if liger:
            use_liger(adapted.get_base_model())
        target_loss(adapted, make_batch()).backward()
        found.append(gradients(adapted))
    assert found[0].keys() == found[1].keys() and any("down_proj.lora_B" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max())


def test_a_kind_without_kernels_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(RecipeError, match="gpt2"):
        use_liger(GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40)))
