"""A tokenizer that transformers has opened, beside the files that it was opened from: where the two read a text
otherwise, the files are right, since a model was trained by them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import BaseError
from afina.run import parse_json

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


def check_ids(opened: Any, where: str) -> None:
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


def as_its_file(opened: Any, place: str | Path, revision: str | None, open_plain: Callable[[], Any]) -> Any:
    """A tokenizer whose class was built by rules of its own, as its file says where that reads texts otherwise.

    Args:
        open_plain: opens it by the class without any rules of its own.

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
    again = open_plain()
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

        said = parse_json(Path(file).read_bytes())
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
    alone: dict[str, Any] = {"version": "1.0", "added_tokens": [], "post_processor": None, "decoder": None}
    written = parse_json(Tokenizer.from_str(json.dumps(alone | rules | {"model": empty})).to_str())
    return {name: written[name] for name in rules} | {"model": _merging(said["model"])}


def _rules_of(tokenizer: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an opened tokenizer, in the words of a file's `model`."""
    from tokenizers import Tokenizer, models

    alone: Any = Tokenizer(models.BPE())
    if tokenizer.normalizer is not None:
        alone.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        alone.pre_tokenizer = tokenizer.pre_tokenizer
    written, own = parse_json(alone.to_str()), tokenizer.model
    merging = {name: getattr(own, name, None) for name in _merging(model)} | {"type": type(own).__name__}
    return {name: written[name] for name in ("normalizer", "pre_tokenizer")} | {"model": merging}


def _merging(model: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model.items() if name not in ("vocab", "merges")}
