"""Open a base's tokenizer, with the checks that decide whether a model can learn to stop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.recipe import Chat
from afina.tokenizer.own_file import as_its_file, check_ids

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
    """The tokenizer of a folder or hub id, as its ``tokenizer.json`` or ``tokenizer.model`` says where it has one.

    Some of transformers' classes (GPT-2's, Qwen2's, Llama's) take vocabulary and merges alone out of these files, and
    split and normalize texts by rules of their own. Where theirs are others than the file's, the model would read
    tokens that it never saw in its training; the file is opened as it stands then.

    Args:
        gguf_file: its name in the folder, where it lies in such a file.
        fix: what to do where it does not open.

    Raises:
        BaseError: it cannot be opened, or not as its files say.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

    more = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        with _no_word_of_models():
            opened = AutoTokenizer.from_pretrained(
                place, revision=revision, trust_remote_code=trust_remote_code, **more
            )
            if not gguf_file:
                plain = partial(PreTrainedTokenizerFast.from_pretrained, place, revision=revision)
                opened = as_its_file(opened, place, revision, plain)
    except BaseError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower for a damaged file
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _of_configuration(error):
            said = " ".join(map(str.strip, str(error).splitlines()))
            raise BaseError(
                f"its config.json cannot be read: {said}", "mend it, or get it again", str(place)
            ) from error
        raise BaseError(f"no tokenizer can be opened there: {said}", fix, str(place)) from error
    opened.clean_up_tokenization_spaces = False  # it takes spaces out of what a model has written
    if not isinstance(opened.model_max_length, int | float):
        opened.model_max_length = VERY_LARGE_INTEGER
    backend: Any = getattr(opened, "backend_tokenizer", None)
    if getattr(opened, "split_special_tokens", False):  # marks in texts are set apart here, and a template's stay marks
        opened.split_special_tokens = False
        if backend is not None:
            backend.encode_special_tokens = False
    if getattr(getattr(backend, "model", None), "dropout", None):
        backend.model.dropout = None  # of BPE while it trained a model: a text would have other tokens each time
    if backend is not None:
        check_ids(opened, str(place))
    return opened


def _of_configuration(error: Exception) -> bool:
    """Whether the model's configuration is at fault, which AutoTokenizer reads first: its classes check each value."""
    return any(each.__name__ == "StrictDataclassError" for each in type(error).__mro__)


@contextmanager
def _no_word_of_models() -> Iterator[None]:
    """Without transformers' remarks that it does not know the kind of model that the tokenizer lies beside, as one of
    afina's own, and that another class is opened than the files name: which tokenizer it is stands in the tokenizer's
    file."""
    names = ("transformers.configuration_utils", "transformers.tokenization_utils_base")
    loggers = [logging.getLogger(name) for name in (*names, "transformers.models.auto.tokenization_auto")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def id_bound(tokenizer: Any) -> int:
    """What all token ids are below. It is more than there are tokens where ids between them are free."""
    return 1 + max(tokenizer.get_vocab().values())


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
            tokenizer.chat_template = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise RecipeError(f"not UTF-8 (byte {error.start})", "save the file as UTF-8", str(file)) from None
    if isinstance(tokenizer.chat_template, dict) and [*tokenizer.chat_template] == ["default"]:
        tokenizer.chat_template = tokenizer.chat_template["default"]
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
