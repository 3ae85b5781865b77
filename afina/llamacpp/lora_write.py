"""A LoRA adapter of PEFT as a GGUF file, which llama.cpp applies to a base without merging.

    W x + scale * B (A x)      A  rank x inputs      B  outputs x rank

llama.cpp takes ``adapter.lora.alpha / rank`` of each pair for `scale`, with one alpha a file. Where PEFT scales a
module otherwise (``alpha_pattern``, or rank-stabilized with several ranks), its B is multiplied by what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import BaseError, Problem
from afina.llamacpp.gguf_write import ARCHITECTURES, TURNED, in_ggml_order, names_of, turned_heads
from afina.model.base import read_adapter_config

if TYPE_CHECKING:
    import torch

PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""``init_lora_weights`` by name that leave the base as it is; PiSSA's, OLoRA's and LoftQ's do not."""


@dataclass(frozen=True)
class WrittenLora:
    """What is in a file."""

    pairs: int
    """Matrices that are changed."""
    alpha: float
    rescaled: int
    """Pairs whose B holds a part of the scale."""


def unusual_adapter(config: Mapping[str, Any]) -> list[str]:
    """In what an adapter differs from plain LoRA on linear modules, in words that follow a name.

    >>> unusual_adapter({"r": 8, "bias": "none"}), unusual_adapter({"use_dora": True, "bias": "all"})
    ([], ['is a DoRA adapter', 'trains biases'])
    """
    start = config.get("init_lora_weights", True)
    found = {
        "is a DoRA adapter": config.get("use_dora"),
        f"trains {', '.join(config.get('modules_to_save') or [])} whole": config.get("modules_to_save"),
        "trains biases": config.get("lora_bias") or config.get("bias", "none") != "none",
        f"starts from a changed base ({start})": isinstance(start, str) and start.lower() not in PLAIN_STARTS,
        "waits for invocation tokens (aLoRA)": config.get("alora_invocation_tokens"),
        "repeats layers": config.get("layer_replication"),
        "is a QALoRA adapter": config.get("use_qalora"),
        "is a block-diagonal LoRA adapter": config.get("use_bdlora"),
    }
    return [what for what, there in found.items() if there]


def refused_by_llama_cpp(config: Mapping[str, Any], name: str) -> list[Problem]:
    """What a GGUF adapter cannot hold, before any weights are read."""
    kind = str(config.get("peft_type", "LORA")).upper()
    reasons = [f"is of PEFT's kind {kind}"] if kind != "LORA" else unusual_adapter(config)
    if config.get("target_parameters"):
        reasons.append("changes tensors that are no linear module's")
    if config.get("trainable_token_indices"):
        reasons.append("trains rows of the embedding")
    fix = f"merge it: afina export {name} --to gguf, and serve that file"
    return [Problem(f"{name} {each}, which llama.cpp's adapters do not hold", fix) for each in reasons]


def write_lora(adapter: Path, base_config: Mapping[str, Any], file: Path, *, name: str) -> WrittenLora:
    """Write an adapter's folder as one file, in float32.

    Args:
        adapter: PEFT's folder.
        base_config: the content of the base's ``config.json``.
        name: stands in the file.

    Raises:
        BaseError: it is no plain LoRA, changes what is no linear module of llama.cpp's, or is damaged.
    """
    import gguf

    config = read_adapter_config(adapter)
    if problems := refused_by_llama_cpp(config, name):
        raise BaseError(problems=problems)
    architecture = ARCHITECTURES[str(base_config["model_type"])]
    pairs = _pairs(adapter)
    scales = {module: _scale(config, module, a_rI.shape[0]) * a_rI.shape[0] for module, (a_rI, _) in pairs.items()}
    alpha = next(iter(scales.values()))
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type("adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(name)
    names = names_of(architecture, int(base_config["num_hidden_layers"]))
    heads = turned_heads(architecture, base_config)
    for module, (a_rI, b_Or) in pairs.items():
        label = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if label is None:
            raise BaseError(f"llama.cpp's {architecture} has no place for {module}", "use --to gguf", str(adapter))
        if label == "token_embd.weight" or (label == "output.weight" and base_config.get("tie_word_embeddings")):
            raise BaseError(
                f"the adapter changes {module}, which llama.cpp's adapters do not hold here",
                "merge it: use --to gguf",
                str(adapter),
            )
        if found := TURNED.search(f"{module}.lora_B.weight"):
            b_Or = in_ggml_order(b_Or, heads[found[1]])
        b_Or = b_Or * (scales[module] / alpha)
        for side, tensor in (("a", a_rI), ("b", b_Or)):
            writer.add_tensor(f"{label}.lora_{side}", tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return WrittenLora(len(pairs), alpha, sum(each != alpha for each in scales.values()))


def _pairs(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B by the name of the base's module, in the file's order of names.

    Raises:
        BaseError: a tensor is no side of a linear pair, or a side is missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = adapter / "adapter_model.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BaseError(f"cannot be read: {error}", "copy the whole folder, or train again", str(file)) from error
    found: dict[str, dict[str, torch.Tensor]] = {}
    odd = []
    for name, tensor in sorted(tensors.items()):
        module, _, side = name.removesuffix(".weight").rpartition(".lora_")
        if side in ("A", "B") and name.endswith(".weight") and tensor.dim() == 2:
            found.setdefault(module.removeprefix("base_model.model."), {})[side] = tensor
        else:
            odd.append(name)
    odd += [module for module, sides in found.items() if len(sides) != 2]
    if odd or not found:
        what = f"{len(odd)} tensors are no side of a linear pair ({odd[0]})" if odd else "there is no tensor"
        raise BaseError(what, "merge it: use --to gguf", str(file))
    return {module: (sides["A"], sides["B"]) for module, sides in found.items()}


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies B A by, in one module."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha") or 8))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
