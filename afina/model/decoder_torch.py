"""Where the text model stands inside a transformers model: the one place that looks for it.

A model that reads images beside text holds its text model under a longer name (``model.language_model``), beside
towers and projectors that a text never passes. Loss, generation, sharing, targets and export ask here, so that
what is trained is the text model under its full name and the rest stays what it is.
"""

from __future__ import annotations

import re
from typing import Any


def text_decoder(inner: Any) -> Any:
    """The module that makes last hidden states of token ids: all of a causal language model but its output layer.

    transformers' own ``get_decoder``, asked again as long as it gives a model with a head of its own (Llama 4's
    text model inside is a ``...ForCausalLM``), and the model inside where it gives itself.

    Args:
        inner: a transformers model, not PEFT's around it.
    """
    while hasattr(inner, "get_decoder"):
        found = inner.get_decoder()
        if found is inner and inner.get_output_embeddings() is not None:
            found = next((part for part in inner.children() if hasattr(part, "get_decoder")), inner)
        if found is inner:
            break
        inner = found
    return inner


def text_config(inner: Any) -> Any:
    """The configuration of the text model: vocabulary, layers, what is done to logits."""
    return inner.config.get_text_config(decoder=True)


def name_in(inner: Any, part: Any) -> str:
    """The dotted name of a module inside another one; empty for itself."""
    return next(name for name, each in inner.named_modules() if each is part)


def beside_text(inner: Any) -> list[str]:
    """Names of the parameters that a text never passes: towers, projectors, everything but decoder and output layer.

    Empty for a model that reads text only: its configuration has no part for the text.
    """
    if text_config(inner) is inner.config:
        return []
    head = inner.get_output_embeddings()
    inside = {id(weight) for part in (text_decoder(inner), head) if part is not None for weight in part.parameters()}
    return [name for name, weight in inner.named_parameters(remove_duplicate=False) if id(weight) not in inside]


def not_text(inner: Any) -> str | None:
    """A regular expression, matched in full, of the modules that are no part of the text model, for PEFT's
    ``exclude_modules``; None where there are none."""
    if not beside_text(inner):
        return None
    parts = [text_decoder(inner), inner.get_output_embeddings()]
    names = "|".join(re.escape(name_in(inner, part)) for part in parts if part is not None)
    return rf"(?!(?:{names})(?:\.|$)).*"


def train_text(model: Any) -> Any:
    """Let every weight of the text model have a gradient, and none beside it; gives the model."""
    model.requires_grad_(True)
    kept = set(beside_text(model))
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in kept)
    return model
