"""The tokenizer that a GGUF describes, as a Hugging Face folder holds it. No torch.

A GGUF names its rule for splitting a text (``tokenizer.ggml.pre``) and holds tokens, kinds and merges. transformers
builds a tokenizer of these too, but knows fewer rules and falls back to GPT-2's, so that SmolLM2 gets other tokens than
it was trained on where spaces stand before a number. A rule that is not known here is refused: a nearly right one makes
a model that answers a little worse, and nobody sees why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
SPLITS: Mapping[str, str] = {
    "llama-bpe": _ENDINGS + _LETTERS + r"|\p{N}{1,3}" + _REST,
    "qwen2": _ENDINGS + _LETTERS + r"|\p{N}" + _REST,
    "tekken": f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*"
    + r"|\p{N}"
    + _REST.replace(r"[\r\n]*", r"[\r\n/]*", 1),
}
"""llama.cpp's name of a rule -> the regular expression of its byte-level tokenizer (src/llama-vocab.cpp)."""


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How a byte-level tokenizer splits a text before its merges."""

    split: str = ""
    """A name of :data:`SPLITS`; empty for GPT-2's own expression."""
    digits: bool = False
    """Every digit is a piece of its own, before GPT-2's expression."""
    composes: bool = False
    """Letters and accents are composed first (NFC)."""
    whole_pieces: bool = False
    """A piece that is a token stays whole, though no merges lead to it."""
    begins: bool = False
    """A text begins with the begin token where the file does not say."""


_LLAMA_3 = SplitRule("llama-bpe", whole_pieces=True, begins=True)
RULES: Mapping[str, SplitRule] = {
    "gpt-2": SplitRule(),
    "smollm": SplitRule(digits=True),
    "starcoder": SplitRule(digits=True),
    "llama-bpe": _LLAMA_3,
    "llama3": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "qwen2": SplitRule("qwen2", composes=True),
    "deepseek-r1-qwen": SplitRule("qwen2"),
    "tekken": SplitRule("tekken", whole_pieces=True, begins=True),
}
"""``tokenizer.ggml.pre`` -> the rule, of those that are built here."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""GGUF's kinds of tokens."""
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
"""``tokenizer.ggml.model`` of the two that are built here."""


def problems_of(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What keeps a GGUF's tokenizer from being built: (what, the next step), all of it.

    Args:
        values: the file's metadata, key -> value.
    """
    model, pre = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre")
    newer = "get the file from somebody who made it with a newer llama.cpp, or name the safetensors model"
    if model not in (BYTE_LEVEL, SENTENCEPIECE):
        return [(f"its tokenizer is of the kind {model!r} (built here: {BYTE_LEVEL}, {SENTENCEPIECE})", newer)]
    tokens: Any = values.get("tokenizer.ggml.tokens")
    types: Any = values.get("tokenizer.ggml.token_type")
    if not _all(tokens, str) or not _all(types, int) or len(tokens) != len(types):
        return [("its tokens or their kinds are missing", newer)]
    found: list[tuple[str, str]] = []
    if model == BYTE_LEVEL and pre not in RULES:
        said = "does not say by which rule its tokenizer splits a text" if pre in (None, "default") else ""
        known = ", ".join(RULES)
        found.append((said or f"its tokenizer splits a text by the rule {pre!r} (built here: {known})", newer))
    if model == BYTE_LEVEL and not _all(values.get("tokenizer.ggml.merges"), str):
        found.append(("its tokenizer has no merges", newer))
    scores: Any = values.get("tokenizer.ggml.scores")
    if model == SENTENCEPIECE and (not _all(scores, float) or len(scores) != len(tokens)):
        found.append(("its tokenizer has no scores", newer))
    used = [token for token, kind in zip(tokens, types, strict=True) if kind != UNUSED]
    if len(set(used)) != len(used):
        found.append((f"{len(used) - len(set(used))} of its tokens are there twice", newer))
    for name in ("bos", "eos", "unknown", "padding"):
        number = values.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
            found.append((f"its {name} token {number!r} is none of its {len(tokens)} tokens", newer))
    if values.get("tokenizer.ggml.eos_token_id") is None:
        found.append(("it names no end token, so that a model could never learn to stop", newer))
    if values.get("tokenizer.ggml.add_eos_token"):
        found.append(("it wants an end token behind every text, prompts too (add_eos_token)", newer))
    return found


def build_tokenizer(values: Mapping[str, Any]) -> Any:
    """The tokenizer, of the ``tokenizers`` library; :func:`problems_of` has found nothing.

    Args:
        values: the file's metadata, key -> value.
    """
    from tokenizers import AddedToken, processors

    tokens: Sequence[str] = values["tokenizer.ggml.tokens"]
    types: Sequence[int] = values["tokenizer.ggml.token_type"]
    used = max(number for number, kind in enumerate(types) if kind != UNUSED) + 1  # what follows only fills up rows
    vocab = {token: number for number, token in enumerate(tokens[:used])}
    byte_level = values["tokenizer.ggml.model"] == BYTE_LEVEL
    made = _byte_level(values, vocab) if byte_level else _sentencepiece(values, vocab, types)
    added = [
        AddedToken(token, normalized=False, special=kind != USER_DEFINED)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (CONTROL, USER_DEFINED) or (kind == UNKNOWN and not byte_level)
    ]
    made.add_tokens(added)
    bos = values.get("tokenizer.ggml.bos_token_id")
    if bos is not None and begins_with_bos(values):
        first = tokens[bos]
        made.post_processor = processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", f"{first}:1", "$B:1"], special_tokens=[(first, bos)]
        )
    return made


def begins_with_bos(values: Mapping[str, Any]) -> bool:
    """Whether a text begins with the begin token: as the file says, or as llama.cpp takes it where it does not."""
    said = values.get("tokenizer.ggml.add_bos_token")
    if said is not None:
        return bool(said)
    if values["tokenizer.ggml.model"] == SENTENCEPIECE:
        return True
    return RULES[values["tokenizer.ggml.pre"]].begins


def special_tokens(values: Mapping[str, Any]) -> dict[str, str]:
    """Begin, end, unknown and padding token under transformers' names, of those that the file names."""
    tokens = values["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    numbers = {name: values.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {name: tokens[number] for name, number in numbers.items() if number is not None}


def _byte_level(values: Mapping[str, Any], vocab: dict[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    rule = RULES[values["tokenizer.ggml.pre"]]
    merges = [(left, right) for left, _, right in (each.partition(" ") for each in values["tokenizer.ggml.merges"])]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=rule.whole_pieces))
    if rule.composes:
        made.normalizer = normalizers.NFC()
    steps: list[Any] = []
    if rule.split:
        steps.append(pre_tokenizers.Split(Regex(SPLITS[rule.split]), behavior="isolated"))
    if rule.digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not rule.split))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(values: Mapping[str, Any], vocab: dict[str, int], types: Sequence[int]) -> Any:
    """Pieces with scores, as merges: a piece is made of any two others, the best score first."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers.tokenization_utils_base import generate_merges

    tokens, scores = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.scores"]
    skipped = {token for token, kind in zip(tokens, types, strict=True) if kind not in (NORMAL, USER_DEFINED)}
    merges = generate_merges(vocab, {token: scores[number] for token, number in vocab.items()}, skipped)
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    space = values.get("tokenizer.ggml.add_space_prefix", True)
    before = [normalizers.Prepend("▁")] if space else []
    made.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    after = [decoders.Strip(" ", 1, 0)] if space else []
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after])
    return made


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(each, kind) for each in values)
