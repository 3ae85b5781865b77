"""Open a base's tokenizer, with the checks that decide whether a model can learn to stop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.recipe import Chat

IM_END = "<|im_end|>"
CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def chatml_for(tokenizer: Any) -> str:
    """ChatML as a model of this tokenizer can learn to end it: where ``<|im_end|>`` is no token of it (GPT-2, Llama),
    its own end token closes each turn, and what opens a turn is text."""
    if any(token.special and token.content == IM_END for token in tokenizer.added_tokens_decoder.values()):
        return CHATML
    own = str(tokenizer.eos_token).replace("\\", "\\\\").replace("'", "\\'")
    return CHATML.replace(IM_END, own)


def open_tokenizer(
    place: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
    fix: str = "a folder must hold tokenizer.json or tokenizer.model; a hub id needs the network or the cache",
) -> Any:
    """The tokenizer of a folder or hub id, as transformers opens it: its files may be damaged.

    Args:
        gguf_file: its name in the folder, where it lies in such a file.
        fix: what to do where it does not open.

    Raises:
        BaseError: it cannot be opened.
    """
    from transformers import AutoTokenizer

    more = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        with _no_word_of_models():
            return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=trust_remote_code, **more)
    except Exception as error:  # the tokenizers library raises nothing narrower for a damaged file
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BaseError(f"no tokenizer can be opened there: {said}", fix, str(place)) from error


@contextmanager
def _no_word_of_models() -> Iterator[None]:
    """Without transformers' remark that it does not know the kind of model that the tokenizer lies beside, as one of
    afina's own: which tokenizer it is stands in the tokenizer's files."""
    remarks = logging.getLogger("transformers.configuration_utils")
    before = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        yield
    finally:
        remarks.setLevel(before)


def load_tokenizer(
    base: str, chat: Chat, *, revision: str | None = None, root: Path | None = None, trust_remote_code: bool = False
) -> Any:
    """The tokenizer of a folder or hub id, with the recipe's chat template where one is given.

    Raises:
        BaseError: it cannot be opened, or has no end token.
        RecipeError: the template file is missing, or no text.
    """
    tokenizer = open_tokenizer(base, revision=revision, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise BaseError(
            "the tokenizer has no end token, so that a model could never learn to stop",
            "set eos_token in the base's tokenizer_config.json",
            base,
        )
    if chat.template == "chatml":
        tokenizer.chat_template = chatml_for(tokenizer)
    elif chat.template is not None:
        file = (root or Path()) / chat.template
        if not file.is_file():
            raise RecipeError(f"there is no template {file}", "name a Jinja file, or `chatml`", "chat.template")
        try:
            tokenizer.chat_template = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"not UTF-8 (byte {error.start})", "save the file as UTF-8", str(file)) from None
    if not isinstance(tokenizer.chat_template, str | None):
        several = isinstance(tokenizer.chat_template, dict)
        raise BaseError(
            f"holds several chat templates ({', '.join(map(str, tokenizer.chat_template))})"
            if several
            else f"its chat template is no text: {tokenizer.chat_template!r:.60}",
            "write the one that is meant into a file and name it in `chat.template`",
            base,
        )
    return tokenizer
