"""Open a base with transformers, attach an adapter with PEFT, or make a small model from nothing."""

from __future__ import annotations

import contextlib
import copy
import io
import logging as log
import os
import shutil
import warnings
from collections.abc import Collection, Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from afina.errors import BaseError, RecipeError
from afina.machine import has_amx
from afina.model.base import TRAIN_AGAIN, read_adapter_config
from afina.model.base_damage import is_zero, lost_weights, read_config, read_shapes
from afina.model.base_kind import kind_of, reads_images
from afina.model.choices import Machine, Precision, choose_precision
from afina.model.decoder_torch import text_config
from afina.recipe import Adapter, BackEndName, Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(wanted: str) -> torch.device:
    """The device that the recipe asks for, or the best that is there.

    Raises:
        RecipeError: it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device("cuda" if there["cuda"] else "mps" if there["mps"] else "cpu")
    if not there[wanted]:
        raise RecipeError(
            f"there is no {wanted} here", "use one of: " + ", ".join(name for name in there if there[name]), "device"
        )
    return torch.device(wanted)


def this_machine(device: torch.device) -> Machine:
    """What a training can use on a device of this machine."""
    cuda = device.type == "cuda"
    # Without `including_emulation` torch says yes for a T4 too, which computes bf16 in software.
    bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "cl")
    return Machine(
        kind=device.type,
        bf16=bf16,
        liger=find_spec("liger_kernel") is not None,
        bitsandbytes=find_spec("bitsandbytes") is not None,
        compiler=find_spec("triton") is not None if cuda else any(shutil.which(name) for name in compilers if name),
        amx=not cuda and has_amx(),
    )


def machine_of(recipe: Recipe, back_end: BackEndName) -> Machine:
    """What a recipe's training can use here: MLX computes in bf16 on every Apple chip."""
    machine = this_machine(pick_device(recipe.device))
    return replace(machine, bf16=machine.kind == "mps") if back_end == "mlx" else machine


def load_base(
    folder: Path,
    recipe: Recipe,
    device: torch.device,
    *,
    four_bit: bool = False,
    precision: Precision | None = None,
    dequantized: bool = False,
) -> Any:
    """A causal language model with every weight frozen, in evaluation mode.

    Args:
        folder: checked by :func:`afina.model.base.find_base`.
        four_bit: NF4 with double quantization through bitsandbytes. A base that is in 4 or 8 bits already stays as it
            is.
        precision: of the weights; what the recipe asks for on this device where not given.
        dequantized: a base that is in 4 bits already, with the values that those bits stand for.

    Raises:
        BaseError: transformers cannot open it, or a weight is missing or not finite.
    """
    from transformers.utils import logging

    dtype = DTYPES[precision or choose_precision(recipe, this_machine(device))]
    arguments: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    arguments |= {"trust_remote_code": recipe.trust_remote_code}
    kind = kind_of(folder).name
    held = kind in ("bnb-4bit", "bnb-8bit")
    if kind == "rounded":
        arguments |= undone(folder)
    if held:
        arguments["config"] = _computing_in(folder, dtype, trust_remote_code=recipe.trust_remote_code)
    elif four_bit:
        arguments["quantization_config"] = _nf4(dtype, str(read_config(folder).get("model_type")))
    if held or four_bit:
        arguments["device_map"] = {"": device}
    logging.disable_progress_bar()
    model, info = open_by(opening_class(folder), folder, output_loading_info=True, **arguments)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())  # by its config, not those that its class could tie
    missing = sorted(name for name in info["missing_keys"] if name not in tied)
    if missing or info.get("mismatched_keys"):
        wrong = [*missing, *map(str, info.get("mismatched_keys") or ())]
        raise BaseError(
            f"{len(wrong)} weights are missing or of another shape ({', '.join(map(str, wrong[:3]))})",
            "they would be random numbers: copy the whole model folder",
            str(folder),
        )
    if kind in ("causal", "sees") and (lost := _without_place(model, info["unexpected_keys"], folder)):
        raise BaseError(problems=[lost_weights(lost, str(folder))])
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise BaseError(f"weight {name} holds values that are not finite", "this copy is damaged", str(folder))
    if held and dequantized:
        model = _dequantized(model, dtype).to(device)
    elif held or four_bit:
        if not held:
            _quantize_experts(model)
        _keep_differentiable(model)
    else:
        if kind == "rounded":
            from transformers.conversion_mapping import get_model_conversion_mapping

            # It would be saved under the names of blocks and scales that it no longer has.
            model._weight_conversions = get_model_conversion_mapping(model, add_legacy=False)
            model = model.to(dtype)
        model = model.to(device)
    for config in (model.config, text_config(model)):  # what the script that saved it had switched stays in its file
        config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False
    return model.requires_grad_(False).eval()


def _without_place(model: Any, names: Iterable[str], folder: Path) -> list[str]:
    """Of the weights that a model did not take, those of layers that it has: biases, scales. Other parts of a
    checkpoint, such as layers that foretell further tokens, are no loss; nor are biases of zeros."""
    parts = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."
    lost = []
    for name in sorted(names):
        holder = name.rpartition(".")[0]
        part = parts.get(holder, parts.get(prefix + holder))
        if part is not None and any(True for _ in part.parameters(recurse=False)):
            lost += [] if name.endswith(".bias") and is_zero(folder, name) else [name]
    return lost


def open_by(opener: Any, folder: Path, **arguments: Any) -> Any:
    """What a class of transformers (of models or configurations) opens of a folder, which may be damaged.

    Raises:
        BaseError: it cannot be opened.
    """
    from afina.model.rnn_torch import register_recurrent

    register_recurrent()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return opener.from_pretrained(folder, **arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # each architecture computes with its configuration's values before it looks at them
        fix = "see config.json"
        if "FlashAttention" in str(error):
            fix = "take `_attn_implementation` out of its config.json: torch's own is used then"
        raise BaseError(f"cannot be opened: {_said(error)}", fix, str(folder)) from error


def opening_class(folder: Path) -> Any:
    """transformers' class that opens a base as people serve it: of a model that also reads images, with its eyes."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if reads_images(read_config(folder)) else AutoModelForCausalLM


def undone(folder: Path) -> dict[str, Any]:
    """The arguments by which transformers opens a base of the kind ``rounded`` as the numbers that its bits stand for.

    Always in bf16, whatever is computed in later, so that every verb sees the same numbers.
    """
    from transformers import FineGrainedFP8Config, Mxfp4Config

    settings = dict(read_config(folder)["quantization_config"])
    made = Mxfp4Config if settings.pop("quant_method") == "mxfp4" else FineGrainedFP8Config
    return {"quantization_config": made.from_dict(settings | {"dequantize": True}), "dtype": torch.bfloat16}


def _said(error: Exception) -> str:
    """What a library said, in one line."""
    if isinstance(error, KeyError):
        return f"it names {error}, which transformers does not know"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _computing_in(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
    """The config of a base that is quantized already, which computes in our precision and not in its maker's."""
    from transformers import AutoConfig

    _need_bitsandbytes("base")
    config = open_by(AutoConfig, folder, trust_remote_code=trust_remote_code)
    config.quantization_config = dict(config.quantization_config) | {"bnb_4bit_compute_dtype": str(dtype)[6:]}
    return config


def _dequantized(model: Any, dtype: torch.dtype) -> Any:
    """A plain model of the same values. transformers' own `dequantize` leaves one that cannot be saved."""
    whole = model.dequantize(dtype)
    config = copy.deepcopy(whole.config)
    plain = type(whole)._from_config(config, dtype=dtype)
    plain.load_state_dict(whole.state_dict())
    plain.generation_config = whole.generation_config
    plain.name_or_path = whole.name_or_path
    return plain


def _quantize_experts(model: Any) -> None:
    """Bring experts to 4 bits too: transformers leaves them, as they are no linear layers."""
    from afina.model.targets_torch import expert_stacks

    stacks = list(expert_stacks(model))
    if not stacks:
        return
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    for _, part, own in stacks:
        replace_parameter_4bit(part, own, compress_statistics=True, quant_type="nf4")


def _keep_differentiable(model: Any) -> None:
    """Keep bitsandbytes' 4-bit layers in the layout that has a gradient.

    On CPUs with AVX512-BF16 the first forward in evaluation mode repacks the weights for good; every
    later training step then runs through a kernel without a gradient, and the layers below learn
    nothing, with only a warning of torch. The repacked kernel also rounds to bf16, so that measuring
    would not be of the model that was trained.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _need_bitsandbytes(where: str) -> None:
    if find_spec("bitsandbytes") is None:
        raise RecipeError("4 and 8 bits need bitsandbytes, which is not installed", "pip install 'afina[qlora]'", where)


READ_AS_NUMBERS = {
    "gemma3n_text": ["lm_head", "prediction_coefs", "correction_coefs"],
    "mamba": ["lm_head", "dt_proj"],
}
"""Of a family, the layers whose weights its own code reads: they stay out of 4 bits, beside the head."""


def _nf4(dtype: torch.dtype, model_type: str) -> Any:
    _need_bitsandbytes("adapter.kind")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=READ_AS_NUMBERS.get(model_type),
    )


def attach_adapter(model: Any, adapter: Adapter, seed: int) -> Any:
    """A PEFT model with a fresh adapter; at this moment it changes nothing but what rounding does.

    B is zero, or (`pissa`) what A and B hold was taken from the base; `loftq` brings the 4-bit base nearer
    to what it was in full precision.

    Raises:
        RecipeError: no layer has the names in ``adapter.targets`` or ``adapter.modules_to_save``, or the
            rank is larger than a matrix.
    """
    _quiet_libraries()
    from peft import get_peft_model

    from afina.model.adapter_torch import adapter_config, start_variant

    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, adapter_config(model, adapter))
    except ValueError as error:
        layers = sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if _is_linear(part)})
        raise RecipeError(
            f"{str(error).splitlines()[0]}", "layers here: " + ", ".join(layers), "adapter.targets"
        ) from error
    _name_targets(adapted)
    start_variant(adapted, adapter)
    return adapted


def _name_targets(adapted: Any) -> None:
    """Leave in the adapter's configuration only names of layers that it adapts, none of those that it leaves alone."""
    config, found = adapted.peft_config["default"], adapted.base_model.targeted_module_names
    if config.exclude_modules and not isinstance(config.target_modules, str):
        ends = [f".{name}" for name in found]
        config.target_modules = {each for each in config.target_modules if any(e.endswith(f".{each}") for e in ends)}


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


def open_adapter(model: Any, folder: Path, name: str = "default", *, trainable: bool = False) -> Any:
    """A PEFT model with a trained adapter, called `name` in it, ready to answer, or to be trained further.

    Raises:
        BaseError: its weights are a pickle or are missing, it is damaged, or they do not fit this model.
    """
    _quiet_libraries()
    from peft import PeftModel

    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        raise BaseError("has no adapter_model.safetensors", "only safetensors are opened", str(folder))
    read_adapter_config(folder)
    try:
        held = read_shapes(weights)
    except (ValueError, OSError) as error:
        raise BaseError(str(error), TRAIN_AGAIN, str(weights)) from error
    try:
        if hasattr(model, "peft_config"):  # beside those that it has
            model.load_adapter(folder, name, is_trainable=trainable)
            opened = model
        else:
            opened = PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # PEFT looks at no value of its configuration before it computes with it
        raise BaseError(f"is damaged, or of another base: {_said(error)}", TRAIN_AGAIN, str(folder)) from error
    _check_all_taken(opened, folder, name, held, trainable=trainable)
    return opened if trainable else opened.eval()


def _check_all_taken(opened: Any, folder: Path, name: str, held: Collection[str], *, trainable: bool) -> None:
    """Refuse an adapter of which a part has no place in the model, or that leaves a part of itself as it began. PEFT
    passes over both: an adapter whose matrices have other names changes nothing at all.

    Args:
        held: names of the tensors in its file.

    Raises:
        BaseError: with how many, and which.
    """
    from peft import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(opened, adapter_name=name, save_embedding_layers=False)
    if {*held} == wanted.keys():
        return
    # Files of earlier versions have other names, which PEFT converts: what it takes it tells when it loads them.
    told = opened.load_adapter(folder, name, is_trainable=trainable)
    lost = told.unexpected_keys
    missing = [key for key in told.missing_keys if f".{name}." in f"{key}."]  # others' are missing in this file too
    if lost or missing:
        raise BaseError(
            f"does not fit this model: {len(lost)} of its {len(held)} tensors have no place in it, and {len(missing)} "
            f"that it should have are missing ({', '.join([*lost, *missing][:3])})",
            "name the base that it was trained on, as it was then: another size, or another class of the same model, "
            "has its layers under other names",
            str(folder),
        )


def _quiet_libraries() -> None:
    """Silence remarks that say nothing to the user: bitsandbytes looks for an optional CPU kernel that the hub would
    have to give, peft calls a transformers function under its old name, and of a tied layer that is trained in full it
    names an option of its own; that it stands apart then is said by :mod:`afina.model.targets_torch`. What an adapter
    lacks is an error here."""
    log.getLogger("bitsandbytes").setLevel(log.ERROR)
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*Found missing adapter keys.*", category=UserWarning)


def make_model(recipe: Recipe, vocab: int, tokenizer: Any, device: torch.device) -> Any:
    """A Llama-shaped or a recurrent model with random weights that follow from the seed alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    scratch = recipe.scratch
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if scratch.recurrent:
        from afina.model.rnn_torch import make_recurrent

        torch.manual_seed(recipe.seed)
        return make_recurrent(scratch, vocab, **special).to(device)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=scratch.hidden,
        intermediate_size=scratch.intermediate or 3 * scratch.hidden,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.kv_heads or scratch.heads,
        max_position_embeddings=max(recipe.train.max_length, 128),
        tie_word_embeddings=True,
        attention_dropout=0.0,
        **special,
    )
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(config).to(device)
