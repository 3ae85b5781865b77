"""What is switched on only while training: noise, activations computed again, compiling, 16-bit products, short
forms of LoRA and RMSNorm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from afina.errors import RecipeError
from afina.model.loss_torch import causal_lm
from afina.model.steps.last_layer_torch import again_there, layers
from afina.model.steps.lora_torch import short_lora
from afina.model.steps.norm_torch import short_norms
from afina.recipe import Train


@contextmanager
def training_mode(model: Any, settings: Train) -> Iterator[None]:
    """The model in training mode, with what the recipe switches on; in evaluation mode afterwards.

    Raises:
        RecipeError: this architecture cannot compute its activations again.
    """
    inner = causal_lm(model)
    hook, stack = None, ExitStack()
    if settings.checkpoint_activations:
        if not getattr(inner, "supports_gradient_checkpointing", False):
            raise RecipeError(
                f"{type(inner).__name__} cannot compute its activations again",
                "remove train.checkpoint_activations",
                "train.checkpoint_activations",
            )
        options = {"use_reentrant": False, "context_fn": stack.enter_context(again_there(inner))}
        if hasattr(inner, "activation_checkpointing_enable"):
            inner.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:  # the name in earlier versions of transformers
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    if settings.neftune_alpha:
        hook = inner.get_input_embeddings().register_forward_hook(_noise(settings.neftune_alpha))
    compiled = list(layers(inner)) if settings.compile == "on" else []  # one by one they share their code
    lengths_differ = settings.method != "scratch"  # there all rows but a last batch's are alike, which is 4 % faster
    for layer in compiled:
        layer.compile(dynamic=lengths_differ or None)
    model.train()
    try:
        with stack, short_lora(inner), short_norms(inner):
            yield
    finally:
        for layer in compiled:
            layer._compiled_call_impl = None
        if hook:
            hook.remove()
        if settings.checkpoint_activations:
            getattr(inner, "activation_checkpointing_disable", inner.gradient_checkpointing_disable)()
        model.eval()


def switch_kernels(model: Any, settings: Train, say: Callable[[str], None]) -> None:
    """Put Liger's kernels in place where the recipe asks for them; for good, as they stay when training ends."""
    if settings.kernels != "liger":
        return
    from afina.model.steps.liger_torch import use_liger

    if remark := use_liger(causal_lm(model)):
        say(f"train: {remark}")


def uncompiled(settings: Train) -> AbstractContextManager[Any]:
    """Run the layers as they are: measuring is another mode, for which they would be compiled once more."""
    return torch.compiler.set_stance("force_eager") if settings.compile == "on" else nullcontext()


def products_in(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass: products in 16 bits, of fp32 adapters and of a model from scratch too.

    Without it PEFT brings the input of each adapted matrix to the adapter's 32 bits and keeps that copy.
    """
    if precision not in ("bf16", "fp16"):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def _noise(alpha: float) -> Any:
    """NEFTune (arXiv 2310.05914): uniform noise of alpha / sqrt(L * D) on embeddings B x L x D."""

    def add(module: torch.nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        size = alpha / (embedded.size(1) * embedded.size(2)) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-size, size)

    return add
