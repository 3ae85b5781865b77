"""A Hugging Face tokenizer as GGUF holds it: tokens, kinds, merges or scores, and the name of the splitting rule.

llama.cpp knows its rules for splitting text (pre-tokenizers) by name and never reads the regular expression. It is
looked up here by the expression itself; a tokenizer that splits otherwise is refused, since a nearly right rule gives
other tokens than the model was trained on, and answers that are a little worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afina.errors import BaseError
from afina.model.gguf_tokenizer import BYTE, CONTROL, NORMAL, SPLITS, UNKNOWN, UNUSED, USER_DEFINED
from afina.recipe.methods import in_words
from afina.tokenizer.fallback import SPACE_BEGINS
from afina.tokenizer.folding import folds_of
from afina.tokenizer.pieces import SPACE, byte_of

RULES: Mapping[str, str] = {expression: name for name, expression in SPLITS.items()}
"""Regular expression of a byte-level tokenizer -> llama.cpp's name of it."""


@dataclass
class Vocabulary:
    """What goes into a GGUF's ``tokenizer.ggml.*``."""

    model: str
    """``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece)."""
    tokens: list[str]
    types: list[int]
    pre: str = "default"
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_prefix: bool = False
    notes: list[str] = field(default_factory=list)
    """What the user has to know."""


def read_vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """The vocabulary of a fast tokenizer, filled up to the `rows` of the model's embedding.

    Raises:
        BaseError: llama.cpp has no such tokenizer, or the model has fewer rows than the tokenizer tokens.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise _refuse("it has no tokenizer.json")
    check_keeps_text(tokenizer)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise _refuse(f"it is of the kind {model['type']}, not BPE")
    vocabulary = _sentencepiece(content) if model.get("byte_fallback") else _byte_level(content)
    _add_added(vocabulary, content["added_tokens"])
    if len(vocabulary.tokens) > rows:
        raise _refuse(f"it has {len(vocabulary.tokens)} tokens, the model {rows} rows of embeddings")
    padding = rows - len(vocabulary.tokens)
    vocabulary.tokens += [f"[PAD{number}]" for number in range(len(vocabulary.tokens), rows)]
    vocabulary.types += [UNUSED] * padding
    if vocabulary.scores:
        vocabulary.scores += [-1e4] * (rows - len(vocabulary.scores))
    return vocabulary


def check_keeps_text(tokenizer: Any) -> None:
    """Refuse a tokenizer that folds: llama.cpp has no normalizers, and would give the model what it never saw.

    Raises:
        BaseError: it folds.
    """
    if folds := folds_of(tokenizer):
        raise BaseError(
            f"the tokenizer folds {in_words(folds, 'and')} before it cuts a text, and llama.cpp has nothing that does: "
            "it would read other tokens than the model learned",
            "use --to merged, or serve it by afina, vLLM or MLX, which fold as the tokenizer says",
        )


def _refuse(what: str) -> BaseError:
    return BaseError(
        f"the tokenizer cannot be written as GGUF: {what}",
        "a llama.cpp checkout may know it (--llama-cpp PATH), or use --to merged",
    )


def _byte_level(content: Mapping[str, Any]) -> Vocabulary:
    vocabulary = Vocabulary("gpt2", *_in_order(content["model"]["vocab"]), pre=_rule_of(content["pre_tokenizer"]))
    vocabulary.merges = [" ".join(_pair(merge)) for merge in content["model"]["merges"]]
    if normalizer := content["normalizer"]:
        if normalizer["type"] != "NFC":
            raise _refuse(f"it normalizes text by {normalizer['type']}")
        vocabulary.notes.append(
            "the tokenizer composes letters and accents (NFC) first, llama.cpp does not: text in decomposed "
            "letters (macOS file names) gets other tokens there"
        )
    return vocabulary


def _rule_of(pre: Mapping[str, Any] | None) -> str:
    """llama.cpp's name for a pre-tokenizer.

    >>> _rule_of({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True})
    'gpt-2'
    """
    steps = [] if pre is None else pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise _refuse("its pieces are not bytes, or it writes a space before a text")
    own = steps[-1].get("use_regex", True)
    others = steps[:-1]
    if own and not others:
        return "gpt-2"
    if own and [each["type"] for each in others] == ["Digits"] and others[0].get("individual_digits"):
        return "smollm"
    if not own and len(others) == 1 and others[0]["type"] == "Split" and others[0].get("behavior") == "Isolated":
        pattern = others[0]["pattern"].get("Regex", "")
        if pattern in RULES:
            return RULES[pattern]
    raise _refuse("llama.cpp has no such rule for splitting a text, as far as we know")


def _sentencepiece(content: Mapping[str, Any]) -> Vocabulary:
    """Llama 2 and Mistral 7B: pieces with a score each. tokenizer.json keeps merges instead, sorted by the score of the
    piece that they make, so that a piece's rank among them serves as its score."""
    tokens, types = _in_order(content["model"]["vocab"])
    scores = [0.0] * len(tokens)
    number = {token: position for position, token in enumerate(tokens)}
    for rank, merge in enumerate(content["model"]["merges"]):
        made = number["".join(_pair(merge))]
        if scores[made] == 0.0:
            scores[made] = -float(rank + 1)
    for position, token in enumerate(tokens):
        if byte_of(token) is not None:
            types[position] = BYTE
        elif token == content["model"].get("unk_token"):
            types[position] = UNKNOWN
    vocabulary = Vocabulary("llama", tokens, types, scores=scores, space_prefix=_writes_space(content))
    if content["pre_tokenizer"] == SPACE_BEGINS:
        vocabulary.tokens = [token.replace(" ", SPACE) for token in tokens]
        vocabulary.notes.append("the tokenizer tells ▁ (U+2581) from a space, llama.cpp does not")
    return vocabulary


def _writes_space(content: Mapping[str, Any]) -> bool:
    """Whether a space is written before a text."""
    normalizer, pre = content["normalizer"], content["pre_tokenizer"]
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if other := [step["type"] for step in steps if step["type"] != "Prepend" and not _writes_spaces(step)]:
        raise _refuse(f"it normalizes text by {', '.join(other)}")
    if pre == SPACE_BEGINS:
        return False
    if pre is not None and pre["type"] != "Metaspace":
        raise _refuse(f"it splits text by {pre['type']}")
    return any(step["type"] == "Prepend" for step in steps) or bool(pre and pre.get("prepend_scheme") != "never")


def _writes_spaces(step: Mapping[str, Any]) -> bool:
    """Whether a step of a normalizer writes spaces as SentencePiece does, and replaces nothing else."""
    return bool(step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == SPACE)


def _in_order(vocab: Mapping[str, int]) -> tuple[list[str], list[int]]:
    """Tokens by their ids, all of them normal; gaps stay unused."""
    tokens = [f"[UNUSED{number}]" for number in range(max(vocab.values(), default=-1) + 1)]
    types = [UNUSED] * len(tokens)
    for token, number in vocab.items():
        tokens[number], types[number] = token, NORMAL
    return tokens, types


def _add_added(vocabulary: Vocabulary, added: list[Mapping[str, Any]]) -> None:
    for token in sorted(added, key=lambda each: each["id"]):
        number, missing = token["id"], token["id"] + 1 - len(vocabulary.tokens)
        vocabulary.tokens += [f"[UNUSED{len(vocabulary.tokens) + more}]" for more in range(missing)]
        vocabulary.types += [UNUSED] * missing
        vocabulary.tokens[number] = token["content"]
        if vocabulary.types[number] != UNKNOWN:
            vocabulary.types[number] = CONTROL if token["special"] else USER_DEFINED


def _pair(merge: str | list[str]) -> list[str]:
    return merge if isinstance(merge, list) else merge.split(" ")
