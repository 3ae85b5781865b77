"""The shape of any causal model that transformers can build, from the model itself: no weights, no memory, no table.

The model is built on torch's `meta` device, where tensors have sizes and no values. Its modules say what its matrices
are; a forward pass over tensors without values says what each layer keeps for its backward pass and in its cache.
:mod:`afina.model.shape_apart` does it in a process of its own, which imports less.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from huggingface_hub.errors import StrictDataclassError

from afina.errors import BaseError
from afina.model.adapter_torch import adapter_config
from afina.model.base_kind import A_MODEL
from afina.model.decoder_torch import beside_text, text_decoder
from afina.model.shape import KeptValues, Layer, Linear, Mixer, Role, Shape
from afina.model.shape_table import stretched
from afina.recipe import Adapter
from afina.temporary import temporary_folder

LENGTHS = (64, 256, 1024)
"""Tokens of the rows with which kept values are counted: scans work in chunks of 64 to 256."""
STEPS = 500
"""Tensors that a layer keeps beyond which no longer row is counted: those of a scan that goes token by token."""
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "moe_top_k", "top_k")
"""How configurations call the number of experts that one token goes through."""
UNBUILDABLE: tuple[type[Exception], ...] = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError),
    *(StrictDataclassError, TypeError, ValueError),
)
"""Configurations are checked by each model's own code, which raises whatever comes of its arithmetic."""
MIXING = re.compile(r"attn|attention|mixer|mamba|conv|ssm|recurrent|temporal|linear_attn")
"""In the path of a module that looks at other tokens."""
KINDS = (
    (("SPEECH_SEQ_2_SEQ", "CTC", "TEXT_TO_WAVEFORM", "AUDIO_CLASSIFICATION"), "is a model of speech"),
    (("SEQ_TO_SEQ_CAUSAL_LM",), "is an encoder-decoder, which is trained otherwise"),
    (("MASKED_LM",), "is an encoder: it reads text and writes none"),
    (("IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "DEPTH_ESTIMATION"), "is a model of images"),
)
"""What transformers' tables of classes make of a model that writes no text."""


def walk(config: Mapping[str, Any], folder: Path | None = None) -> Shape:
    """The shape of the model that a ``config.json`` describes.

    Args:
        config: the file's content.
        folder: where the model's own code is, if that may run.

    Raises:
        BaseError: transformers builds no model from it that writes text.
    """
    model = build(config, folder)
    text = model.config.get_text_config(decoder=True)
    decoder, layers = _decoder_layers(model, int(getattr(text, "num_hidden_layers", 0) or 0))
    seen: set[int] = set()
    kinds = [_structure(layer, text, seen) for layer in layers]
    firsts = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    observed, uncertain = _observe(model, decoder, layers, max(firsts) + 1)
    if any(one.role == "expert" for kind in kinds for one in kind.linears) and _active_experts(text) is None:
        uncertain = (*uncertain, "its configuration does not say how many experts one token goes through")
    around = _around(model, text, decoder, layers, uncertain)
    refused = _adapt(model)
    described: dict[Structure, Layer] = {}
    for first in firsts:
        own = text.per_layer_config[first] if hasattr(text, "per_layer_config") else text
        known = _describe(kinds[first], layers[first], own, observed[first])
        described[kinds[first]] = known if refused else replace(known, linears=_ranked(known.linears, layers[first]))
    counts: dict[Layer, int] = {}
    for kind in kinds:
        counts[described[kind]] = counts.get(described[kind], 0) + 1
    grouped = tuple(replace(layer, count=count) for layer, count in counts.items())
    if refused:
        return replace(around, layers=grouped, uncertain=(*uncertain, refused))
    whole = decoder if beside_text(model) else model
    return replace(around, layers=grouped, outer=_ranked(around.outer, whole))


def build(config: Mapping[str, Any], folder: Path | None) -> Any:
    """The model without values, in float32, every weight without a gradient.

    Raises:
        BaseError: transformers knows no model of this kind that writes text, or cannot make sense of the configuration.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging

    kind, values = str(config.get("model_type")), {**config}
    values.pop("quantization_config", None)
    logging.set_verbosity_error()
    try:
        if folder is not None:
            read = AutoConfig.from_pretrained(folder, trust_remote_code=True)
            read.__dict__.pop("quantization_config", None)
        else:
            if kind not in CONFIG_MAPPING:
                own = "; or, if you trust the code that comes with it, trust_remote_code: true"
                raise BaseError(
                    f"transformers {version('transformers')} knows no model of type {kind!r}",
                    f"a newer one may: pip install -U transformers{own if 'auto_map' in config else ''}",
                )
            with temporary_folder("shape") as written:  # infinities are read of a file alone
                (written / "config.json").write_text(json.dumps(values), encoding="utf-8")
                read = AutoConfig.from_pretrained(written)
        auto = _auto_class(read, config, AutoModelForCausalLM, AutoModelForImageTextToText, own_code=folder is not None)
        options = {"trust_remote_code": True} if folder is not None else {}
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = auto.from_config(read, dtype=torch.float32, **options)
    except BaseError:
        raise
    except UNBUILDABLE as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise BaseError(f"transformers cannot build this {kind} model: {said}", "look at config.json") from error
    return model.requires_grad_(False).eval()


def _auto_class(read: Any, config: Mapping[str, Any], causal: Any, multimodal: Any, *, own_code: bool) -> Any:
    """Which of transformers' families of classes writes text with it.

    Raises:
        BaseError: none; with what the model is.
    """
    from transformers.models.auto import modeling_auto

    kind, named = read.model_type, (config.get("architectures") or [""])[0]
    whole = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    if whole is not None and named in (whole, "") and hasattr(read, "vision_config"):
        return multimodal
    encodes = getattr(read, "is_decoder", None) is False and kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    writes = type(read) in causal._model_mapping and not encodes and not getattr(read, "is_encoder_decoder", False)
    if writes or (own_code and "AutoModelForCausalLM" in config.get("auto_map", {})):
        return causal
    for tables, what in KINDS:
        for table in tables:
            if kind in getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", {}):
                raise BaseError(f"{what} ({named or kind})", A_MODEL)
    raise BaseError(f"transformers has no class that writes text for {named or kind}", A_MODEL)


# ---- what modules are there


@dataclass(frozen=True)
class Structure:
    """What one layer's modules say: two layers are of one kind where this is equal."""

    linears: tuple[Linear, ...]
    parameters: int
    settings: tuple[tuple[str, Any], ...]
    """Numbers, words and switches that its modules hold, such as a window or whether it shares another's cache."""


def _decoder_layers(model: Any, depth: int) -> tuple[Any, Any]:
    """The module that holds the layers of text, and the list of them.

    Raises:
        BaseError: there is no list of layers.
    """
    decoder = text_decoder(model)
    if not any(isinstance(part, torch.nn.ModuleList) for part in decoder.modules()):  # a head that is called decoder
        decoder = model.base_model
    lists = [
        (path, part)
        for path, part in decoder.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) and not re.search(r"vis|audio|image", path)
    ]
    if not lists:
        raise BaseError("no list of layers was found in the model that transformers builds", A_MODEL)

    def rank(found: tuple[str, Any]) -> tuple[bool, int, int]:
        path, part = found
        return len(part) != depth, path.count("."), -sum(each.numel() for each in part.parameters())

    return decoder, min(lists, key=rank)[1]


def _structure(layer: Any, text: Any, seen: set[int]) -> Structure:
    """Read one layer; parameters in `seen` belong to an earlier one, and are added to."""
    linears: dict[Linear, int] = {}
    own, settings = 0, []
    active = _active_experts(text)
    for path, part in layer.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, (bool, int, str)) and not re.search(r"layer_(idx|id|number)|^_|^training$", name):
                settings.append((f"{path}.{name}", value))
        for found in _linears_of(path, part, active):
            linears[found] = linears.get(found, 0) + 1
        for parameter in part.parameters(recurse=False):
            own += 0 if id(parameter) in seen else parameter.numel()
            seen.add(id(parameter))
    return Structure(tuple(_together(linears, active)), own, tuple(settings))


def _linears_of(path: str, part: Any, active: int | None) -> Iterator[Linear]:
    """The matrices that a module holds itself."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(part, torch.nn.Linear):
        role = _role(path, part.out_features)
        yield Linear(path, part.in_features, part.out_features, part.bias is not None, role)
    elif isinstance(part, Conv1D):
        yield Linear(path, part.nx, part.nf, True, _role(path, part.nf))
    elif isinstance(part, torch.nn.Conv1d):
        inputs = part.in_channels // part.groups * part.kernel_size[0]
        yield Linear(path, inputs, part.out_channels, part.bias is not None, "convolution", module=False)
    else:
        for name, parameter in part.named_parameters(recurse=False):
            sizes = tuple(parameter.shape)
            if len(sizes) == 3 and "expert" in f"{path}.{name} {type(part).__name__}".lower():
                turned = getattr(part, "is_transposed", False)
                inputs, outputs = (sizes[1], sizes[2]) if turned else (sizes[2], sizes[1])
                chosen = min(active or sizes[0], sizes[0])
                yield Linear(f"{path}.{name}".strip("."), inputs, outputs, False, "expert", sizes[0], chosen, False)
            elif len(sizes) == 2 and re.search(r"gate|router", f"{path} {type(part).__name__}".lower()):
                yield Linear(f"{path}.{name}".strip("."), sizes[1], sizes[0], False, "router", module=False)


def _role(path: str, outputs: int) -> Role:
    last = path.rpartition(".")[2]
    if re.search(r"shared_(expert|mlp)|shared_experts|expert_shared", path):
        return "router" if outputs == 1 else "shared expert"
    if re.search(r"experts\.\d+\.", path):
        return "expert"
    if (last in ("router", "gate", "wg", "gate_wg") and not MIXING.search(path)) or ".router." in f".{path}":
        return "router"
    return "linear"


def _together(linears: Mapping[Linear, int], active: int | None) -> Iterator[Linear]:
    """Experts that are modules of their own, as one entry with how many there are."""
    grouped: dict[Linear, int] = {}
    for linear, count in linears.items():
        if linear.role == "expert" and linear.module:
            linear = replace(linear, name=_of_all_experts(linear.name))
        grouped[linear] = grouped.get(linear, 0) + count
    for linear, count in grouped.items():
        if linear.role == "expert" and linear.module:
            yield replace(linear, count=count, active=float(min(active or count, count)))
        else:
            yield linear


def _active_experts(text: Any) -> int | None:
    """How many routed experts one token goes through; None where the configuration does not say."""
    for name in ACTIVE:
        value = getattr(text, name, None)
        if isinstance(value, (list, tuple)) and value:
            value = max(value)
        if isinstance(value, int) and value > 0:
            return value
    return None


# ---- what a forward pass shows


@dataclass
class Observed:
    """Of one layer."""

    counted: list[KeptValues] = field(default_factory=list)
    cache_values: int = 0
    state_values: int = 0
    window: int | None = None
    cached: bool = False
    """Whether its cache was seen at all."""


class _FusedAttention(torch.autograd.Function):  # type: ignore[misc]
    """What fused attention keeps: queries, keys, values, output, and one number of each row of scores."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
        rows, heads, tokens, _ = query.shape  # laid out so that heads are side by side again without a copy
        out = query.new_empty((rows, tokens, heads, value.shape[-1])).transpose(1, 2)
        ctx.save_for_backward(query, key, value, mask, out, query.new_empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError  # never reached: what a forward keeps is counted, and nothing on `meta` goes back


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Make transformers ask tensors for no values: they have none on `meta`.

    The sizes stay those of the fused kernels that run on real devices.
    """
    from transformers import masking_utils
    from transformers.integrations import moe

    unfused = torch.nn.functional.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *more: Any, **options: Any) -> Any:
        if query.shape[-1] != value.shape[-1]:  # the CPU's fused kernel takes one size of heads
            return unfused(query, key, value, attn_mask, *more, **options)
        return _FusedAttention.apply(query, key, value, attn_mask)

    def grouped(values: Any, weight: Any, **_: Any) -> Any:  # every row through the first expert
        return values.to(weight.dtype) @ weight[0]

    with (
        mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention),
        mock.patch.object(masking_utils, "find_packed_sequence_indices", lambda _: None),
        mock.patch.object(masking_utils, "is_tracing", lambda *_: False),
        mock.patch.object(moe, "_grouped_mm", grouped),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _observe(model: Any, decoder: Any, layers: Any, depth: int) -> tuple[dict[int, Observed], tuple[str, ...]]:
    """What the first `depth` layers keep, by a forward pass through them alone; and what could not be seen."""
    found = {place: Observed() for place in range(depth)}
    del layers[depth:]
    text = model.config.get_text_config(decoder=True)
    for config in (model.config, text):  # ids have no values either, to look for padding in
        with contextlib.suppress(StrictDataclassError):  # where its class wants a number
            config.pad_token_id = None
    uncertain: list[str] = []
    try:
        first = _kept(model, decoder, layers, LENGTHS[0], whole=True)
        for length in LENGTHS:
            kept = _kept(model, decoder, layers, length, whole=False)
            if length == LENGTHS[0]:  # norms, mostly: as many more for every token, however long the row is
                more = {place: first.values[place] - kept.values[place] for place in found}
            for place, values in kept.values.items():
                found[place].counted.append(KeptValues(length, values, values + more[place]))
            if kept.saved > STEPS * depth:
                break
    except UNBUILDABLE as error:
        # Its code looks at values, or asks for more than ids: its sizes have to do.
        uncertain.append(f"what its layers keep is estimated from their sizes, not counted ({_first_line(error)})")
        for each in found.values():
            each.counted.clear()
    try:
        _see_cache(decoder, found)
    except UNBUILDABLE as error:
        uncertain.append(f"its cache is estimated from its sizes, not counted ({_first_line(error)})")
    return found, tuple(uncertain)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


@dataclass
class _Seen:
    """Saved tensors of one forward pass: values per token by layer, and how many tensors."""

    values: dict[int, float]
    saved: int


def _kept(model: Any, decoder: Any, layers: Any, length: int, *, whole: bool) -> _Seen:
    """Values that each layer keeps per token, in float32, with every weight trained or with adapters."""
    decoder.requires_grad_(whole)
    if not whole:
        for part in layers.modules():
            if isinstance(part, torch.nn.Linear) or type(part).__name__ == "Conv1D":
                part.weight.requires_grad_(True)
    # By place in memory, and held, so that no other tensor gets the place: XGLM replaces its table of positions.
    held = {_storage(each): each for each in (*model.parameters(), *model.buffers())}
    outside = set(held)
    own, sizes, at = len(held), dict.fromkeys(range(len(layers)), 0), [-1]

    def pack(tensor: Any) -> Any:
        key = _storage(tensor)
        if at[0] >= 0 and key not in outside and key not in held:
            held[key] = tensor
            sizes[at[0]] += tensor.untyped_storage().nbytes()
        return tensor

    def enters(place: int) -> Any:
        def enter(_: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
            at[0] = place
            given = list(_tensors([*arguments[1:], *(v for k, v in options.items() if k != "hidden_states")]))
            outside.update(_storage(tensor) for tensor in given)
            held.update((_storage(tensor), tensor) for tensor in given)

        return enter

    def leave(*_: Any) -> None:
        at[0] = -1

    hooks = [layer.register_forward_pre_hook(enters(place), with_kwargs=True) for place, layer in enumerate(layers)]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    hooks.append(decoder.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_() * 1))
    try:
        ids = torch.ones((1, length), dtype=torch.long, device="meta")
        with _without_values(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            decoder(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        decoder.requires_grad_(False)
    return _Seen({place: size / 4 / length for place, size in sizes.items()}, len(held) - own)


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Any) -> Iterator[Any]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, Mapping):
        for each in values.values():
            yield from _tensors(each)
    elif isinstance(values, (list, tuple)):
        for each in values:
            yield from _tensors(each)


def _see_cache(decoder: Any, found: dict[int, Observed]) -> None:
    """Fill in what each layer's cache holds of two and of four tokens: what grows is of each, the rest a state."""
    held: list[dict[int, tuple[int, int]]] = []
    for length in (2, 4):
        ids = torch.ones((1, length), dtype=torch.long, device="meta")
        with torch.no_grad(), _without_values():
            out = decoder(input_ids=ids, use_cache=True)
        cache = getattr(out, "past_key_values", None) or out.cache_params
        held.append({})
        for place in found:
            layer = cache.layers[place] if place < len(cache.layers) else None
            keys = [getattr(layer, name, None) for name in ("keys", "values")]
            states = [v for name in ("conv_states", "recurrent_states") for v in getattr(layer, name, {}).values()]
            held[-1][place] = (_numbers(keys), _numbers(states))
            window = getattr(layer, "sliding_window", None)
            found[place].window = int(window) if isinstance(window, int) else None
            found[place].cached = True
    for place, each in found.items():
        each.cache_values = (held[1][place][0] - held[0][place][0]) // 2
        each.state_values = held[0][place][0] - 2 * each.cache_values + held[0][place][1]


def _numbers(tensors: Sequence[Any]) -> int:
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, torch.Tensor))


# ---- what adapters would be on


def _adapt(model: Any) -> str:
    """Put an adapter of rank 1 on everything that ``all-linear`` means for this model; what PEFT says against it."""
    from peft.tuners.lora import LoraModel

    try:
        LoraModel(model, {"default": adapter_config(model, Adapter(kind="lora", rank=1))}, "default")
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        return f"PEFT puts no adapter on all-linear of it ({_first_line(error)})"
    return ""


def _ranked(linears: Sequence[Linear], part: Any) -> tuple[Linear, ...]:
    """The matrices of an adapted part of the model, with how many ranks each was given."""
    given: dict[str, int] = {}
    for path, each in part.named_modules():
        if "default" not in getattr(each, "lora_A", ()):
            continue
        name = path.replace(".base_layer", "").removeprefix("base_layer")
        if parameter := getattr(each, "parameter_name", None):
            name = f"{name}.{parameter}".strip(".")
        name = _of_all_experts(name)
        values = sum(getattr(each, side)["default"].weight.numel() for side in ("lora_A", "lora_B"))
        given[name] = given.get(name, 0) + values
    return tuple(
        replace(one, ranks=round(given.get(one.name, 0) / (one.count * (one.inputs + one.outputs)))) for one in linears
    )


def _of_all_experts(name: str) -> str:
    return re.sub(r"(experts)\.\d+\.", r"\1.", name)


# ---- together


def _describe(structure: Structure, layer: Any, text: Any, seen: Observed) -> Layer:
    """One kind of layer; its count is still to be filled in."""
    hidden = _hidden(text)
    mixing = [one for one in structure.linears if MIXING.search(one.name) and one.role == "linear"]
    mlp = [one for one in structure.linears if one not in mixing and one.role in ("linear", "expert", "shared expert")]
    mixer = _mixer(mixing, seen)
    query, key = _attention_sizes(text, mixing, seen, mixer)
    intermediate = round(sum(one.active * one.inputs for one in mlp if one.outputs == hidden))
    entering = sum(one.active * one.outputs for one in mlp if one.outputs != hidden)
    norms = [part.weight.numel() for part in layer.modules() if _is_norm(part)]
    return Layer(
        count=1,
        linears=structure.linears,
        other_parameters=structure.parameters - sum(one.matrix_parameters for one in structure.linears),
        hidden=hidden,
        mixer=mixer,
        query=query,
        key=key,
        heads=int(getattr(text, "num_attention_heads", 0) or 0) if query else 0,
        intermediate=intermediate,
        gated=entering >= 2 * intermediate,
        norms=sum(size == hidden for size in norms),
        qk_norm=any(size != hidden for size in norms),
        window=seen.window if mixer in ("sliding window", "hybrid") else None,
        cache_values=seen.cache_values if seen.cached else 2 * key,
        compressed_values=_compressed(text) if query else None,
        state_values=seen.state_values,
        counted=tuple(seen.counted),
    )


def _hidden(text: Any) -> int:
    return int(getattr(text, "hidden_size", None) or text.d_model)


def _is_norm(part: Any) -> bool:
    return "Norm" in type(part).__name__ and getattr(part, "weight", None) is not None and part.weight.dim() == 1


def _mixer(mixing: Sequence[Linear], seen: Observed) -> Mixer:
    if seen.cached:
        if seen.state_values:
            return "hybrid" if seen.cache_values else "linear attention"
        if seen.cache_values:
            return "sliding window" if seen.window else "full attention"
    if mixing and not any(re.search(r"attn|attention", one.name) for one in mixing):
        return "linear attention"
    return "full attention" if mixing else "none"  # a layer that looks at another's keys and values has no own


def _attention_sizes(text: Any, mixing: Sequence[Linear], seen: Observed, mixer: Mixer) -> tuple[int, int]:
    """q and k of a layer that has attention, 0 of one that has none."""
    if mixer in ("none", "linear attention"):
        return 0, 0
    heads = int(getattr(text, "num_attention_heads", 0) or 0)
    attention = [one for one in mixing if re.search(r"attn|attention", one.name)] or mixing
    out = [one.inputs for one in attention if one.outputs == _hidden(text) and not re.search(r"q_|k_|v_|qkv", one.name)]
    size = getattr(text, "head_dim", None) or _hidden(text) // max(heads, 1)
    query = out[-1] if out else heads * int(size)
    return query, seen.cache_values // 2 if seen.cached else int(getattr(text, "num_key_value_heads", heads)) * int(
        size
    )


def _compressed(text: Any) -> int | None:
    """What multi-head latent attention compresses keys and values of one token to."""
    rank, rotary = getattr(text, "kv_lora_rank", None), getattr(text, "qk_rope_head_dim", None)
    return int(rank) + int(rotary) if rank and rotary else None


def _around(model: Any, text: Any, decoder: Any, layers: Any, uncertain: tuple[str, ...]) -> Shape:
    """The model without its layers.

    Raises:
        BaseError: it has no output matrix.
    """
    outer = []
    in_layers, of_layers = {id(part) for part in layers.modules()}, {id(each) for each in layers.parameters()}
    head, table = model.get_output_embeddings(), decoder.get_input_embeddings()
    if head is None:
        raise BaseError("has no output head, as embedding models: it writes no text", A_MODEL)
    whole = decoder if beside_text(model) else model
    for path, part in whole.named_modules():
        if part is not head and id(part) not in in_layers:
            outer += [found for found in _linears_of(path, part, None) if found.module]
    embeddings = [part.weight for part in decoder.modules() if isinstance(part, torch.nn.Embedding)]
    tables = {id(each): each for each in embeddings if id(each) not in of_layers}
    tied = id(head.weight) in tables
    tables[id(head.weight)] = head.weight
    around = {id(each): each for each in model.parameters() if id(each) not in of_layers}
    read = {id(each) for each in (*decoder.parameters(), *tables.values())}
    unread = sum(each.numel() for key, each in around.items() if key not in read)
    embedding = sum(each.numel() for each in tables.values())
    hidden, vocab = _hidden(text), int(table.weight.shape[0])
    positions = next((int(value) for name in POSITIONS if isinstance(value := getattr(text, name, None), int)), 0)
    return Shape(
        model_type=str(model.config.model_type),
        hidden=hidden,
        vocab=vocab,
        layers=(),
        head=Linear(_head_name(model, head), head.weight.shape[1], head.weight.shape[0], role="head"),
        tied_embeddings=tied,
        max_positions=stretched(text.to_dict(), max(0, positions)),
        embedding_parameters=embedding,
        other_parameters=sum(each.numel() for each in around.values()) - embedding,
        outer=tuple(outer),
        unread_parameters=unread,
        uncertain=uncertain,
    )


def _head_name(model: Any, head: Any) -> str:
    return next((path.rpartition(".")[2] for path, part in model.named_modules() if part is head), "lm_head")
