"""What a GGUF has to be to serve as a base, and the ``config.json`` that its metadata stands for. No torch.

Of llama.cpp's architectures three are opened: ``llama`` (Llama, Mistral, SmolLM, many more), ``qwen2`` and ``qwen3``.
Each key of the metadata that the model's numbers depend on is either in the configuration afterwards or refused, and
each tensor is either the model's or refused: a file that opens and answers a little wrong is the failure to avoid.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.errors import BaseError, Problem
from afina.model.gguf_file import WHOLE_NUMBERS, GgufFile
from afina.model.gguf_tokenizer import problems_of, special_tokens


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """One of llama.cpp's architectures, as transformers has it."""

    model_type: str
    architecture: str
    qkv_bias: bool = False
    """Queries, keys and values have a bias in every model."""
    qk_norm: bool = False
    """Queries and keys are normalized."""


FAMILIES: Mapping[str, GgufFamily] = {
    "llama": GgufFamily("llama", "LlamaForCausalLM"),
    "qwen2": GgufFamily("qwen2", "Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": GgufFamily("qwen3", "Qwen3ForCausalLM", qk_norm=True),
}
"""``general.architecture`` -> what opens it; each is written and read back by ``tests/test_gguf_base.py``."""

_ENCODERS = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "t5encoder")
_OTHER_TYPES = {
    "adapter": ("is a LoRA adapter as GGUF, not a base", "name the base that it was made for"),
    "mmproj": ("is the part of a model that reads images (mmproj), not the model", "name the GGUF of the model itself"),
    "imatrix": ("is a table for quantizing (imatrix), not a model", "name the GGUF of the model itself"),
    "vocab": ("is a vocabulary, not a model", "name the GGUF of the model itself"),
}
"""``general.type`` -> what it is, and what to give instead."""

_SIZES = ("block_count", "context_length", "embedding_length", "feed_forward_length")
_READ = (
    *_SIZES,
    *(
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
    ),
    *("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scaling.type"),
    *("rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
)
"""Keys below the architecture's name that end up in the configuration, or are compared with it."""
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "pooling_type": (0,),
}
"""Further keys -> values by which they change nothing."""

Shape = tuple[int, ...]


def config_of(opened: GgufFile) -> dict[str, Any]:
    """The ``config.json`` of the model in a file.

    Raises:
        BaseError: it is no such model, with everything that is wrong.
    """
    _check_type(opened)
    problems = list(_unreadable(opened))
    config = _configuration(opened, problems)
    if config is not None:
        problems += _misfits(opened, config)
    if problems or config is None:
        raise BaseError(problems=problems)
    return config


def _check_type(opened: GgufFile) -> None:
    """Refuse what is no language model, or one of another architecture."""
    values, where, architecture = opened.values, str(opened.path), opened.architecture
    kind = "mmproj" if architecture == "clip" else opened.text("general.type")
    if kind in _OTHER_TYPES:
        raise BaseError(*_OTHER_TYPES[kind], where)
    if architecture in _ENCODERS or values.get(f"{architecture}.pooling_type"):
        raise BaseError(
            f"is an embedding model ({architecture}): it writes no text",
            "name a model that writes text, such as Qwen/Qwen3-8B or a GGUF of it",
            where,
        )
    if architecture not in FAMILIES:
        made_of = next((found for key in _ORIGINS if (found := opened.text(key))), "")
        named = made_of.removeprefix("https://huggingface.co/")
        raise BaseError(
            f"is GGUF of the architecture {architecture or '(not named)'}; opened from GGUF are {', '.join(FAMILIES)}",
            f"name the safetensors model that it was made of{': ' if named else ''}{named}",
            where,
        )


_ORIGINS = ("general.source.huggingface.repository", "general.source.repo_url", "general.base_model.0.repo_url")


def _unreadable(opened: GgufFile) -> Iterator[Problem]:
    """What nothing here could read: keys, kinds of numbers, the tokenizer."""
    where, start = str(opened.path), f"{opened.architecture}."
    whole = "name the safetensors model that it was made of"
    for key, value in opened.values.items():
        name = key.removeprefix(start)
        if not key.startswith(start) or name in _READ or value in _WITHOUT_EFFECT.get(name, ()):
            continue
        yield Problem(f"says {key} = {value!r:.60}, which would be lost", whole, where)
    unknown = [kind for kind in opened.quantization if kind not in WHOLE_NUMBERS and not _dequantized(kind)]
    if unknown:
        yield Problem(
            f"holds numbers as {', '.join(unknown)}, which nothing here turns back",
            "name a GGUF of Q4_K_M, Q8_0 or F16, or the safetensors model",
            where,
        )
    for what, fix in problems_of(opened.values):
        yield Problem(what, fix, where)


def _dequantized(kind: str) -> bool:
    """Whether the library turns a block of this type into numbers."""
    import gguf
    import numpy as np

    given = gguf.GGMLQuantizationType[kind]
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[given][1]), np.uint8), given)
    except NotImplementedError:
        return False
    return True


def _configuration(opened: GgufFile, problems: list[Problem]) -> dict[str, Any] | None:
    """The configuration; None, and said, where a number is missing."""
    start, where = f"{opened.architecture}.", str(opened.path)

    def number(name: str, missing: Any = None) -> Any:
        value = opened.values.get(start + name, missing)
        kind = float if name.endswith(("epsilon", "freq_base")) else int
        if isinstance(value, bool) or not isinstance(value, kind) or not value > 0:
            problems.append(Problem(f"says {start}{name} = {value!r:.60}", "get the file again", where))
            return None
        return value

    layers, positions, hidden, inner = (number(name) for name in _SIZES)
    heads = number("attention.head_count")
    shared, epsilon = number("attention.head_count_kv", heads), number("attention.layer_norm_rms_epsilon")
    if None in (layers, positions, hidden, inner, heads, shared, epsilon):
        return None
    size, theta = number("attention.key_length", hidden // heads), number("rope.freq_base", 10_000.0)
    tokens = opened.values.get("tokenizer.ggml.tokens")
    if size is None or theta is None or not isinstance(tokens, list):
        return None
    family = FAMILIES[opened.architecture]
    names = {tensor.name for tensor in opened.tensors}
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": len(tokens),
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": size,
        "hidden_act": "silu",
        "rms_norm_eps": _as_written(epsilon),
        "max_position_embeddings": positions,
        "rope_parameters": _positions(opened, _as_written(theta), size, problems),
        "tie_word_embeddings": "output.weight" not in names,
        **{f"{name}_token_id": opened.values.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKENS.items()},
    }
    if family.model_type == "llama":
        config |= {"attention_bias": "blk.0.attn_output.bias" in names, "mlp_bias": False}
    if family.model_type == "qwen3":
        config["attention_bias"] = False
    if family.model_type.startswith("qwen"):
        config["use_sliding_window"] = False
    return config


_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def _as_written(value: float) -> float:
    """The shortest number that is the same in 32 bits, as somebody wrote it once.

    >>> _as_written(struct.unpack("f", struct.pack("f", 1e-5))[0])
    1e-05
    """
    short = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((each for each in short if struct.pack("f", each) == struct.pack("f", value)), value)


def _positions(opened: GgufFile, theta: float, size: int, problems: list[Problem]) -> dict[str, Any]:
    """The rotary positions: plain, divided by one factor, or as Llama 3.1 has them."""
    start, where = f"{opened.architecture}.rope.", str(opened.path)
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    kind, factor = opened.values.get(start + "scaling.type"), opened.values.get(start + "scaling.factor", 1.0)
    found: dict[str, Any] | None = plain
    if opened.rope_factors is not None:
        found = scaling_of(opened.rope_factors, theta, size) if opened.architecture == "llama" else None
    elif kind == "linear" and isinstance(factor, float) and factor > 0 and opened.architecture == "llama":
        found = plain | {"rope_type": "linear", "factor": factor}
    elif kind not in (None, "none", "linear") or (kind == "linear" and factor != 1.0):
        found = None
    turned = opened.values.get(start + "dimension_count", size)
    if turned != size:
        problems.append(Problem(f"turns {turned!r} of each head's {size} numbers by position", _UNSCALED, where))
    if found is None:
        problems.append(Problem(f"scales its positions ({kind or 'rope_freqs'}) in a way not known", _UNSCALED, where))
    return found or plain


_UNSCALED = "name the safetensors model that it was made of"
_LOW, _HIGH = 1.0, 4.0
"""Llama 3.1's own ``low_freq_factor`` and ``high_freq_factor``."""


def scaling_of(factors: Sequence[float], theta: float, size: int) -> dict[str, Any] | None:
    """The ``rope_parameters`` that give these factors; None where none do.

    Llama 3.1 leaves frequencies of a short wave as they are and divides those of a long one by `factor`. Between the
    two, ``1 / f = (1 - s) / factor + s`` with ``s = (original / wave - 1) / 3``, from which `original` follows.

    Args:
        factors: by how much each frequency ``theta ** (-2 i / size)`` is divided.

    >>> scaling_of([1.0] * 4, 10000.0, 8)["rope_type"], scaling_of([2.0] * 4, 10000.0, 8)["rope_type"]
    ('default', 'linear')
    """
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    largest = max(factors)
    if len(factors) != size // 2 or not 0 < min(factors) <= largest < math.inf:
        return None
    if largest - min(factors) < 1e-4 * largest:
        return plain if abs(largest - 1) < 1e-4 else plain | {"rope_type": "linear", "factor": _as_written(largest)}
    factor = float(f"{largest:.5g}")
    waves = [2 * math.pi * theta ** (2 * number / size) for number in range(size // 2)]

    def between(given: float) -> float:
        return (1 / given - 1 / factor) / (1 - 1 / factor)

    found = [
        round(wave * (_LOW + (_HIGH - _LOW) * between(given)))
        for wave, given in zip(waves, factors, strict=True)
        if 1.001 < given < 0.999 * factor
    ]
    # Without a wave between the two, any length with all waves on their sides gives the same numbers.
    highest_plain = max((wave for wave, given in zip(waves, factors, strict=True) if given <= 1.001), default=0.0)
    original = found[0] if found else math.ceil(highest_plain * _HIGH)
    for wave, given in zip(waves, factors, strict=True):
        smooth = min(max((original / wave - _LOW) / (_HIGH - _LOW), 0.0), 1.0)
        if abs(1 / ((1 - smooth) / factor + smooth) - given) > 1e-4 * given:
            return None
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": original,
    }


def _misfits(opened: GgufFile, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Tensors that the model has not, or whose shape is another one's, and those that are missing."""
    where, whole = str(opened.path), "get the file again, or name the safetensors model that it was made of"
    expected = dict(_expected(opened.architecture, config))
    shapes = {tensor.name: tensor.shape for tensor in opened.tensors if tensor.name != "rope_freqs.weight"}
    if more := [name for name in shapes if name not in expected]:
        yield Problem(f"holds {len(more)} tensors that would be lost: {', '.join(more[:3])}", whole, where)
    if less := [name for name in expected if name not in shapes]:
        yield Problem(f"lacks {len(less)} tensors: {', '.join(less[:3])}", whole, where)
    for name, shape in shapes.items():
        if name in expected and shape != expected[name]:
            yield Problem(f"{name} has the shape {shape}, and should have {expected[name]}", whole, where)
            return
    said = opened.values.get(f"{opened.architecture}.vocab_size", config["vocab_size"])
    if said != config["vocab_size"]:
        yield Problem(f"says a vocabulary of {said!r} and lists {config['vocab_size']} tokens", whole, where)
    length = opened.values.get(f"{opened.architecture}.attention.value_length", config["head_dim"])
    if length != config["head_dim"]:
        yield Problem(f"has heads of {config['head_dim']} numbers for keys and {length!r} for values", whole, where)


def _expected(architecture: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Every tensor of the model under llama.cpp's name, with its shape."""
    family, hidden, inner = FAMILIES[architecture], config["hidden_size"], config["intermediate_size"]
    size = config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    outside: dict[str, Shape] = {"token_embd.weight": (config["vocab_size"], hidden), "output_norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        outside["output.weight"] = (config["vocab_size"], hidden)
    layer: dict[str, Shape] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (queries, hidden),
        "attn_k.weight": (keys, hidden),
        "attn_v.weight": (keys, hidden),
        "attn_output.weight": (hidden, queries),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    if family.qkv_bias or config.get("attention_bias"):
        layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
    if config.get("attention_bias"):
        layer["attn_output.bias"] = (hidden,)
    if family.qk_norm:
        layer |= {"attn_q_norm.weight": (size,), "attn_k_norm.weight": (size,)}
    yield from outside.items()
    for number in range(config["num_hidden_layers"]):
        yield from ((f"blk.{number}.{name}", shape) for name, shape in layer.items())


def tokenizer_config(opened: GgufFile, positions: int) -> dict[str, Any]:
    """The ``tokenizer_config.json`` beside the tokenizer's own file."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        **special_tokens(opened.values),
    }
