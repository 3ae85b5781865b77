"""A model as one GGUF file, written with the ``gguf`` package: llama.cpp's own names, kinds and rounding.

Llama, Mistral (both llama.cpp's ``llama``), Qwen 2 and Qwen 3. Whatever a configuration holds beyond what is
written here is refused: a file that opens and answers a little wrong is the failure to avoid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import BaseError, RecipeError
from afina.llamacpp.gguf_vocab import read_vocabulary
from afina.run import Progress, no_progress
from afina.tokenizer.chat import Renderer

if TYPE_CHECKING:
    import numpy as np

GET_CONVERTER = "--llama-cpp PATH: a checkout of llama.cpp"
ARCHITECTURES: Mapping[str, str] = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""``model_type`` -> llama.cpp's architecture."""
ROUNDED_HERE = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""What the gguf package rounds to; others (``q4_k_m``) are rounded by llama.cpp."""
BLOCK = 32
"""Weights of a row that share a scale."""


@dataclass
class Written:
    """What is worth saying of a written file."""

    tensors: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """GGML's type -> tensors held in it."""
    notes: list[str] = field(default_factory=list)


def check_architecture(config: Mapping[str, Any], longest: int = 0) -> None:
    """Refuse before any weights are read what the file could not say.

    Args:
        config: the content of ``config.json``.
        longest: tokens of the longest row that it will be compared by.

    Raises:
        BaseError: every reason at once.
    """
    kind = str(config.get("model_type"))
    reasons = []
    if kind not in ARCHITECTURES:
        reasons.append(f"models of type {kind} (known: {', '.join(ARCHITECTURES)})")
    if config.get("hidden_act", "silu") != "silu":
        reasons.append(f"the activation {config['hidden_act']}")
    if kind in ("qwen2", "qwen3") and config.get("use_sliding_window"):
        reasons.append("a sliding window in some layers")
    window = unsaid_window(config)
    if window and window < longest:
        reasons.append(f"a window of {window} tokens, where rows have up to {longest} and llama.cpp sees all of them")
    scaling = _rope(config).get("rope_type", "default")
    if scaling not in ("default", "linear", "llama3") or (scaling != "default" and kind.startswith("qwen")):
        reasons.append(f"positions scaled by {scaling}")
    if reasons:
        raise BaseError(
            f"cannot be written as GGUF here: {'; '.join(reasons)}",
            f"llama.cpp's own converter may know it: {GET_CONVERTER}",
            "--to gguf",
        )


def unsaid_window(config: Mapping[str, Any]) -> int | None:
    """Tokens that a layer sees, where the file cannot say it and llama.cpp lets it see all; None where it sees all.

    >>> unsaid_window({"model_type": "mistral", "sliding_window": 4096}), unsaid_window({"model_type": "llama"})
    (4096, None)
    """
    return (config.get("sliding_window") or None) if config.get("model_type") == "mistral" else None


def write_gguf(
    model: Any,
    tokenizer: Any,
    renderer: Renderer,
    file: Path,
    kind: str,
    *,
    name: str,
    progress: Progress = no_progress,
) -> Written:
    """Write a model, one tensor at a time.

    Args:
        model: merged, or a base as it is.
        tokenizer: with the template that is to travel.
        renderer: as the model was trained.
        kind: one of :data:`ROUNDED_HERE`.

    Raises:
        BaseError: tokenizer, configuration or a weight has no place in the file.
        RecipeError: `kind` is not known.
    """
    import gguf

    if kind not in ROUNDED_HERE:
        raise RecipeError(f"{kind} is rounded by llama.cpp alone", f"use one of: {', '.join(ROUNDED_HERE)}")
    check_architecture(model.config.to_dict())
    found = Written()
    architecture = ARCHITECTURES[model.config.model_type]
    writer = gguf.GGUFWriter(file, architecture)
    qtype = gguf.GGMLQuantizationType[kind.upper()]
    file_type = "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, model.config, found)
    _add_tokenizer(writer, tokenizer, renderer, model.get_input_embeddings().weight.shape[0], found)
    tensors = list(_tensors(model, architecture))
    types = [_type_of(tensor.shape, qtype) for _, tensor in tensors]
    for (label, tensor), given in zip(tensors, types, strict=True):
        _, size, shape = _stored(tensor.shape, given)
        writer.add_tensor_info(label, shape, *size, raw_dtype=given)
        found.kinds[given.name] = found.kinds.get(given.name, 0) + 1
    found.tensors = len(tensors)
    odd = sum(len(tensor.shape) > 1 and given is not qtype for (_, tensor), given in zip(tensors, types, strict=True))
    if odd:
        found.notes.append(f"{odd} matrices stay in f16: their rows are no multiple of {BLOCK}, which {kind} needs")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, ((label, tensor), given) in enumerate(zip(tensors, types, strict=True), start=1):
        writer.write_tensor_data(_rounded(label, tensor, given))
        progress(number, len(tensors), "tensors")
    writer.close()
    return found


def _add_shape(writer: Any, config: Any, found: Written) -> None:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(_rope(config.to_dict()).get("rope_theta", 10_000.0)))
    writer.add_vocab_size(config.vocab_size)
    window = getattr(config, "sliding_window", None)
    if config.model_type == "mistral" and window and window < config.max_position_embeddings:
        found.notes.append(
            f"the base looks back {window} tokens, llama.cpp over the whole text: longer conversations differ"
        )


def _add_tokenizer(writer: Any, tokenizer: Any, renderer: Renderer, rows: int, found: Written) -> None:
    vocabulary = read_vocabulary(tokenizer, rows)
    found.notes += vocabulary.notes
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "gpt2":
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space_prefix)
    stops = renderer.stop_ids()
    writer.add_eos_token_id(stops[0])
    if len(stops) > 1:
        writer.add_eot_token_id(stops[-1])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    begins = begins_with_bos(tokenizer, renderer)
    writer.add_add_bos_token(begins)
    if begins != renderer.begins_with_bos and tokenizer.chat_template:
        has, other = ("has", "without") if begins else ("has no", "with")
        found.notes.append(f"a conversation {has} begin token, as in training; plain text was trained {other} one")
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.get_chat_template())


def begins_with_bos(tokenizer: Any, renderer: Renderer) -> bool:
    """Whether a server has to begin with the begin token: as the chat template does, or a text where there is none.

    llama.cpp and Ollama begin every conversation with it where the file says so, whatever the template
    writes; they do not write it twice.
    """
    if not tokenizer.chat_template:
        return renderer.begins_with_bos
    begin = tokenizer.bos_token
    return bool(begin) and renderer.prompt_text([{"role": "user", "content": "a"}]).startswith(begin)


def _tensors(model: Any, architecture: str) -> Iterator[tuple[str, Any]]:
    """GGUF's name and the tensor, in the order of the model; the tensors share the model's memory."""
    config = model.config
    names = names_of(architecture, config.num_hidden_layers)
    heads = turned_heads(architecture, config.to_dict())
    tied = bool(getattr(config, "tie_word_embeddings", False))
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue  # llama.cpp takes the embedding where there is no output matrix
        label = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if label is None:
            raise BaseError(f"llama.cpp's {architecture} has no place for {name}", "use --to merged", "--to gguf")
        if found := TURNED.search(name):
            tensor = in_ggml_order(tensor, heads[found[1]])
        yield label, tensor
    if (factors := _rope_factors(model)) is not None:
        yield "rope_freqs.weight", factors


def names_of(architecture: str, layers: int) -> Any:
    """gguf's table from transformers' names to llama.cpp's."""
    import gguf

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    return gguf.get_tensor_name_map(arch, layers)


TURNED = re.compile(r"\.([qk])_proj\.(?:weight|bias|lora_B\.weight)$")
"""Tensors whose rows have a place in the rotary positions."""


def turned_heads(architecture: str, config: Mapping[str, Any]) -> Mapping[str, int | None]:
    """Heads of q and of k whose rows llama.cpp turns in another order than transformers; None where in the same."""
    if architecture != "llama":
        return {"q": None, "k": None}
    heads = int(config["num_attention_heads"])
    return {"q": heads, "k": int(config.get("num_key_value_heads") or heads)}


def in_ggml_order(tensor: Any, heads: int | None) -> Any:
    """Rows of q or k in the order in which llama.cpp's ``llama`` turns them: neighbours (0, 1), (2, 3) where
    transformers turns the halves (0, d/2), (1, d/2 + 1). As they are where it turns them alike (`heads` is None)."""
    if heads is None:
        return tensor
    half = tensor.shape[0] // heads // 2
    return tensor.reshape(heads, 2, half, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of the rotary positions, under their names of transformers 5 or of older files."""
    old = dict(config.get("rope_scaling") or {})
    if "type" in old:
        old.setdefault("rope_type", old["type"])
    if config.get("rope_theta"):
        old.setdefault("rope_theta", config["rope_theta"])
    return dict(config.get("rope_parameters") or old)


def _rope_factors(model: Any) -> Any:
    """By how much each frequency is divided (Llama 3.1, linear scaling); None for plain positions."""
    import torch

    rope = _rope(model.config.to_dict())
    if rope.get("rope_type", "default") == "default":
        return None
    scaled = model.model.rotary_emb.inv_freq.double().cpu()
    exponents = torch.arange(len(scaled), dtype=torch.float64) / len(scaled)
    return (float(rope["rope_theta"]) ** -exponents / scaled).float()


def _type_of(shape: Any, wanted: Any) -> Any:
    """Norms and biases stay in 32 bits, as llama.cpp keeps them; rows that are no multiple of a block in f16."""
    import gguf

    types = gguf.GGMLQuantizationType
    if len(shape) == 1:
        return types.F32
    blocks = wanted not in (types.F32, types.F16, types.BF16)
    return types.F16 if blocks and shape[-1] % BLOCK else wanted


def _stored(shape: Any, given: Any) -> tuple[Any, tuple[Any, int], Any]:
    """How a tensor lies in the file: (numpy's type, that type and its bytes, the shape in that type)."""
    import gguf
    import numpy as np

    types = gguf.GGMLQuantizationType
    plain = {types.F32: np.dtype(np.float32), types.F16: np.dtype(np.float16)}
    if given in plain:
        dtype = plain[given]
        return dtype, (dtype, int(np.prod(shape)) * dtype.itemsize), tuple(shape)
    lies = gguf.quant_shape_to_byte_shape(tuple(shape), given)
    dtype = np.dtype(np.uint8)
    return dtype, (dtype, int(np.prod(lies))), lies


def _rounded(label: str, tensor: Any, given: Any) -> np.ndarray[Any, Any]:
    import gguf
    import numpy as np

    values = tensor.detach().float().cpu().contiguous().numpy()
    if given is gguf.GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > 65504:
        raise BaseError(f"{label} holds values too large for f16", "use --quantize bf16 or f32", "--quantize")
    return np.ascontiguousarray(gguf.quants.quantize(values, given))
