"""What every tokenizer that is trained here has: special tokens, a chat template, and the folder it is saved in.

The format is that of transformers (``tokenizer.json`` with its chat template), so that every tool of the ecosystem
reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (PAD, BEGIN, END, *ROLES)
"""They have the first ids, in this order."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

Say = Callable[[str], None]
"""Told what of the text a training leaves out."""


def silent(_: str) -> None:
    """Nobody listens."""


def save_tokenizer(
    tokenizer: Any, wanted: int, folder: Path, max_length: int, say: Say, normalizer: Any | None = None
) -> int:
    """Save a trained tokenizer of the library ``tokenizers``; its vocabulary holds :data:`SPECIAL`.

    Args:
        wanted: entries; where the text gave fewer, `say` is told.
        normalizer: what it was trained behind (:func:`~afina.tokenizer.folding.normalizer_of`); it goes along.

    Returns:
        The entries of its vocabulary.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    reached = int(tokenizer.get_vocab_size())
    if reached < wanted:
        say(f"the text gives a vocabulary of {reached} entries, {wanted} were wanted")
    return reached
