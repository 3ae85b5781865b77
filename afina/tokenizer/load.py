"""Open a base's tokenizer, with the checks that decide whether a model can learn to stop."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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


PROBES = (
    "In 2024, 1234567 people paid 3.14 €; 10% of 99.",
    "Não há ação sem coração; «você» não é vôo nº 1.ª",
    "def f(x: int) -> int:\n    return x ** 2  # ok\n\n\treturn\r\n",
    "  two spaces,   three   \n\n\n and a tab\tbetween ",
    "I'll we're DON'T it's CamelCase snake_case",
    "e\u0301 \u0061\u0303 ﬁ ½ ² ① Ⅳ ٣",
    "日本語 русский العربية 😀👩‍👩‍👧",
    "<|im_start|>user\nHi<|im_end|> <s></s> [INST] <|eot_id|>",
    'const std = @import("std"); /* a/b//c */ {}[]();',
    "a",
    " ",
)
"""Texts by which two tokenizers are compared: digits, accents, spaces, code, other scripts, marks."""


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
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer
    from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

    more = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        with _no_word_of_models():
            opened = AutoTokenizer.from_pretrained(
                place, revision=revision, trust_remote_code=trust_remote_code, **more
            )
            opened = opened if gguf_file else _as_its_file(opened, place, revision)
    except BaseError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower for a damaged file
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, StrictDataclassError):  # of the model's configuration, which AutoTokenizer reads first
            said = " ".join(map(str.strip, str(error).splitlines()))
            raise BaseError(
                f"its config.json cannot be read: {said}", "mend it, or get it again", str(place)
            ) from error
        raise BaseError(f"no tokenizer can be opened there: {said}", fix, str(place)) from error
    opened.clean_up_tokenization_spaces = False  # it takes spaces out of what a model has written
    if not isinstance(opened.model_max_length, int | float):
        opened.model_max_length = VERY_LARGE_INTEGER
    backend = getattr(opened, "backend_tokenizer", None)
    if getattr(opened, "split_special_tokens", False):  # marks in texts are set apart here, and a template's stay marks
        opened.split_special_tokens = False
        if backend is not None:
            backend.encode_special_tokens = False
    if getattr(getattr(backend, "model", None), "dropout", None):
        backend.model.dropout = None  # of BPE while it trained a model: a text would have other tokens each time
    if backend is not None:
        _check_ids(opened, str(place))
    return opened


def _check_ids(opened: Any, where: str) -> None:
    """Refuse a tokenizer that gives its marks other ids than its files: transformers adds a token that the vocabulary
    lacks behind all others, wherever the files say that it stands.

    Raises:
        BaseError: with the first of them.
    """
    declared = {int(number): str(token) for number, token in opened.init_kwargs.get("added_tokens_decoder", {}).items()}
    wrong = [(token, number) for number, token in declared.items() if opened.convert_ids_to_tokens(number) != token]
    if wrong:
        token, number = wrong[0]
        raise BaseError(
            f"{len(wrong)} tokens stand under other ids than its files say ({token}: {number} there, "
            f"{opened.convert_tokens_to_ids(token)} as it is opened)",
            "get tokenizer.json of the model, which holds all of its tokens; or take these out of the other files",
            where,
        )


def _as_its_file(opened: Any, place: str | Path, revision: str | None) -> Any:
    """A tokenizer whose class was built by rules of its own, as its file says where that reads texts otherwise.

    Raises:
        BaseError: it reads them otherwise whatever class opens it.
    """
    from transformers import PreTrainedTokenizerFast

    own_rules = "__init__" in vars(type(opened)) and type(opened) is not PreTrainedTokenizerFast
    ours = type(opened).__module__.startswith("transformers.models.")  # not code that came with the base
    if not (own_rules and ours and isinstance(opened, PreTrainedTokenizerFast)):
        return opened
    file = _own_file(opened, place, revision)
    if file is None:
        return opened
    elsewhere = set(map(str, opened.added_tokens_encoder)) - file.marks  # none to this file
    asked = [*PROBES, *file.words, f"a {opened.eos_token} b{opened.eos_token}c"]
    asked = [text for text in asked if not any(mark in text for mark in elsewhere)]

    def pieces(tokenizer: Any, text: str) -> list[str]:
        found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        return found

    def agreeing(tokenizer: Any) -> int:
        return sum(pieces(tokenizer, text) == file.pieces(text) for text in asked)

    if (agrees := agreeing(opened)) == len(asked):
        return opened
    again = PreTrainedTokenizerFast.from_pretrained(place, revision=revision)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        if getattr(again, name) is None and getattr(opened, name) in again.get_vocab():  # what its class has by default
            setattr(again, name, getattr(opened, name))
    chosen = again if agreeing(again) > agrees else opened
    plain = [text for text in (*PROBES[:2], *file.words) if pieces(chosen, text) != file.pieces(text)]
    if plain:
        raise BaseError(
            f"transformers cuts a text into other pieces than the tokenizer's own file does ({plain[-1][:60]!r}): its "
            f"class {type(opened).__name__} is not of the kind that was trained",
            "take a base with tokenizer.json, or write one by the program that the model was trained with",
            str(place),
        )
    return chosen


@dataclass(frozen=True)
class _OwnFile:
    """What the file of a tokenizer makes of a text."""

    pieces: Callable[[str], list[str]]
    marks: frozenset[str]
    """What it reads as a mark."""
    words: tuple[str, ...] = ()
    """A text of its own longest pieces: where a vocabulary is small, no other text shows how it is cut."""


def _own_file(opened: Any, place: str | Path, revision: str | None) -> _OwnFile | None:
    """Of a tokenizer by ``tokenizer.json``, or else by SentencePiece's ``tokenizer.model``; None where there is
    neither, or its rules are those of the opened one."""
    from transformers.utils import cached_file

    def find(name: str) -> str | None:
        options = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
        found: str | None = cached_file(place, name, revision=revision, **options)
        return found

    if file := find("tokenizer.json"):
        from tokenizers import Tokenizer

        said = json.loads(Path(file).read_text(encoding="utf-8"))
        if _rules_of(opened.backend_tokenizer, said["model"]) == _rules_in(said):
            return None
        whole = Tokenizer.from_file(file)
        whole.no_truncation()
        whole.no_padding()
        marks = frozenset(token.content for token in whole.get_added_tokens_decoder().values())
        return _OwnFile(lambda text: list(whole.encode(text, add_special_tokens=False).tokens), marks)
    if not (file := find("tokenizer.model")):
        return None
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=file)
    except RuntimeError:  # of tiktoken
        return None
    others = (model.is_control, model.is_byte, model.is_unknown)
    plain = [each for each in range(model.get_piece_size()) if not any(is_other(each) for is_other in others)]
    longest = sorted(map(model.id_to_piece, plain), key=len)[-64:]
    words = " ".join(piece.replace("\u2581", " ").strip() for piece in longest)
    return _OwnFile(lambda text: [model.id_to_piece(each) for each in model.encode(text)], frozenset(), (words,))


def _rules_in(said: Mapping[str, Any]) -> dict[str, Any]:
    """By what rules a ``tokenizer.json`` splits and normalizes a text, and merges its pieces."""
    from tokenizers import Tokenizer

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    rules = {name: said.get(name) for name in ("normalizer", "pre_tokenizer")}
    alone = {"version": "1.0", "added_tokens": [], "post_processor": None, "decoder": None}
    written = json.loads(Tokenizer.from_str(json.dumps(alone | rules | {"model": empty})).to_str())
    return {name: written[name] for name in rules} | {"model": _merging(said["model"])}


def _rules_of(tokenizer: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an opened tokenizer, in the words of a file's `model`."""
    from tokenizers import Tokenizer, models

    alone = Tokenizer(models.BPE())
    if tokenizer.normalizer is not None:
        alone.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        alone.pre_tokenizer = tokenizer.pre_tokenizer
    written, own = json.loads(alone.to_str()), tokenizer.model
    merging = {name: getattr(own, name, None) for name in _merging(model)} | {"type": type(own).__name__}
    return {name: written[name] for name in ("normalizer", "pre_tokenizer")} | {"model": merging}


def _merging(model: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model.items() if name not in ("vocab", "merges")}


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
