"""The shapes of the most common families from their ``config.json`` alone, so that they are planned without torch.

Where torch is, tests compare each with the model that transformers builds (:mod:`afina.model.shape_walk_torch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from afina.errors import Problem, RecipeError
from afina.model.shape import KeptValues, Layer, Linear, Shape
from afina.recipe import Scratch

KNOWN = ("gemma", "gemma2", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""The values of ``model_type`` that :func:`table_shape` understands, beside :data:`RECURRENT`."""
RECURRENT = "afina-rnn"
"""``model_type`` of the recurrent models of :mod:`afina.model.rnn_torch`."""
GATES = {"lstm": 4, "gru": 3}
"""Matrices of a recurrent layer, side by side in one tensor: the gates and the new value."""
STATES = {"lstm": 2, "gru": 1}
"""Tensors of a recurrent layer's state: h and c, or h."""
_KEPT = {"lstm": 17, "gru": 8}
"""Values that torch keeps for the backward pass of a recurrent layer, beside its input, in multiples of D (counted)."""

_TIED_BY_DEFAULT = ("gemma", "gemma2", "gpt2")
_HEAD_DIM_BY_DEFAULT = {"gemma": 256, "gemma2": 256, "qwen3": 128}
_BIAS_BY_CONFIG = ("gemma", "gemma2", "llama", "qwen3")
"""Kinds whose code reads ``attention_bias``; the others ignore the key (Qwen2 always has its own)."""
_WINDOW_OFF = ("qwen2", "qwen3")
"""Kinds that use their `sliding_window` only where `use_sliding_window` says so, from `max_window_layers` on."""
PAD_BY_DEFAULT = {"gemma": 0, "gemma2": 0, "phi3": 32_000}
"""``pad_token_id`` where ``config.json`` has no such key; none for the other kinds."""
WITHOUT_PADDING = ("gpt2",)
"""Kinds whose embedding is not told which token fills up rows."""
ROTARY: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
    "proportional": (),
}
"""Kinds of rotary positions that transformers computes -> the numbers that each needs in ``config.json``."""
_ROTARY_OF_PHI3 = {"default": (), **dict.fromkeys(("longrope", "su", "yarn"), ROTARY["longrope"])}
_MIXTURE_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
_GPT2_NAMES = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}


@dataclass(frozen=True)
class Dense:
    """What distinguishes the layers of these families."""

    model_type: str
    hidden: int
    intermediate: int
    query: int
    key: int
    mlp_matrices: Literal[2, 3] = 3
    """3: gate, up, down. 2: up, down."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Whether the attention's output matrix has a bias."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each head of queries and keys (Qwen3)."""
    fused: bool = False
    """Query, key and value in one matrix, and gate and up in one (Phi-3, GPT-2)."""
    norms: int = 2
    """Normalizing layers per block (Gemma 2 has four)."""
    norm_bias: bool = False
    learned_positions: bool = False
    sliding_window: int | None = None
    sliding_layers: int = 0
    """How many layers see `sliding_window` tokens only."""
    capped_attention: bool = False
    """Whether scores go through a tanh (Gemma 2), which fused attention kernels mostly cannot."""

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices of one layer."""
        h, m, q, k = self.hidden, self.intermediate, self.query, self.key
        if self.model_type == "gpt2":
            return (
                Linear("attn.c_attn", h, q + 2 * k, self.qkv_bias),
                Linear("attn.c_proj", q, h, self.output_bias),
                Linear("mlp.c_fc", h, m, self.mlp_bias),
                Linear("mlp.c_proj", m, h, self.mlp_bias),
            )
        if self.fused:
            return (
                Linear("self_attn.qkv_proj", h, q + 2 * k, self.qkv_bias),
                Linear("self_attn.o_proj", q, h, self.output_bias),
                Linear("mlp.gate_up_proj", h, 2 * m, self.mlp_bias),
                Linear("mlp.down_proj", m, h, self.mlp_bias),
            )
        attention = (
            Linear("self_attn.q_proj", h, q, self.qkv_bias),
            Linear("self_attn.k_proj", h, k, self.qkv_bias),
            Linear("self_attn.v_proj", h, k, self.qkv_bias),
            Linear("self_attn.o_proj", q, h, self.output_bias),
        )
        gate = (Linear("mlp.gate_proj", h, m, self.mlp_bias),) if self.mlp_matrices == 3 else ()
        return (
            *attention,
            *gate,
            Linear("mlp.up_proj", h, m, self.mlp_bias),
            Linear("mlp.down_proj", m, h, self.mlp_bias),
        )


def dense_shape(
    model_type: str,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    *,
    tied_embeddings: bool,
    max_positions: int,
    **options: Any,
) -> Shape:
    """A decoder whose layers are all alike: attention and one MLP.

    Args:
        heads, kv_heads, head_dim: of attention.
        options: see :class:`Dense`.
    """
    dense = Dense(model_type, hidden, intermediate, heads * head_dim, kv_heads * head_dim, **options)
    linears = dense.linears
    biases = sum(linear.outputs for linear in linears if linear.bias)
    norm = hidden * (1 + dense.norm_bias)
    kind = Layer(
        count=layers - dense.sliding_layers,
        linears=linears,
        other_parameters=biases + dense.norms * norm + 2 * head_dim * dense.qk_norm,
        hidden=hidden,
        query=dense.query,
        key=dense.key,
        heads=heads,
        intermediate=intermediate,
        gated=dense.mlp_matrices == 3,
        norms=dense.norms,
        qk_norm=dense.qk_norm,
        capped=dense.capped_attention,
        cache_values=2 * dense.key,
    )
    sliding = replace(kind, count=dense.sliding_layers, mixer="sliding window", window=dense.sliding_window)
    tables = 1 if tied_embeddings else 2
    return Shape(
        model_type=model_type,
        hidden=hidden,
        vocab=vocab,
        layers=tuple(each for each in (kind, sliding) if each.count),
        head=Linear("lm_head", hidden, vocab, role="head"),
        tied_embeddings=tied_embeddings,
        max_positions=max_positions,
        embedding_parameters=(tables * vocab + max_positions * dense.learned_positions) * hidden,
        other_parameters=norm,
    )


def recurrent_shape(cell: str, layers: int, embedding: int, hidden: int, vocab: int) -> Shape:
    """An embedding, LSTM or GRU layers with both of torch's biases, and an output layer with a bias.

    >>> recurrent_shape("gru", 2, 512, 512, 3200).parameters == 3200*512 + 2*3*(2*512*512 + 2*512) + 513*3200
    True
    """
    gates, states = GATES[cell], STATES[cell]

    def layer(count: int, inputs: int) -> Layer:
        linears = [
            Linear(f"rnn.{name}", size, gates * hidden, bias=True, module=False, ranks=0)
            for name, size in (("weight_ih", inputs), ("weight_hh", hidden))
        ]
        kept = float(inputs + _KEPT[cell] * hidden)
        return Layer(
            count=count,
            linears=tuple(linears),
            other_parameters=2 * gates * hidden,
            hidden=hidden,
            mixer="recurrent",
            norms=0,
            state_values=states * hidden,
            counted=(KeptValues(1, kept, kept),),
        )

    return Shape(
        model_type=RECURRENT,
        hidden=hidden,
        vocab=vocab,
        layers=tuple(each for each in (layer(1, embedding), layer(layers - 1, hidden)) if each.count),
        head=Linear("lm_head", hidden, vocab, bias=True, role="head"),
        tied_embeddings=False,
        max_positions=0,
        embedding_parameters=vocab * (embedding + hidden),
        other_parameters=vocab,
    )


def scratch_shape(scratch: Scratch, max_length: int) -> Shape:
    """The model that `train.method: scratch` starts: a Llama with tied embeddings and no biases, or a recurrent one.

    >>> scratch_shape(Scratch(), 256).parameters
    2206656
    """
    if scratch.recurrent:
        sizes = (scratch.layers, scratch.embedding or scratch.hidden, scratch.hidden, scratch.vocab)
        return recurrent_shape(scratch.kind, *sizes)
    return dense_shape(
        model_type="llama",
        layers=scratch.layers,
        hidden=scratch.hidden,
        intermediate=scratch.intermediate or 3 * scratch.hidden,
        heads=scratch.heads,
        kv_heads=scratch.kv_heads or scratch.heads,
        head_dim=scratch.hidden // scratch.heads,
        vocab=scratch.vocab,
        tied_embeddings=True,
        max_positions=max_length,
    )


def in_table(config: Mapping[str, Any]) -> bool:
    """Whether :func:`table_shape` reads it: one of these families, as their own code builds them.

    >>> in_table({"model_type": "llama"}), in_table({"model_type": "llama", "num_local_experts": 8}), in_table({})
    (True, False, False)
    """
    if config.get("model_type") == RECURRENT:
        return True
    mixture = any(config.get(key) for key in _MIXTURE_KEYS)
    plain = set(config.get("layer_types") or ()) <= _PLAIN_LAYERS
    return config.get("model_type") in KNOWN and plain and not mixture


def table_shape(config: Mapping[str, Any], where: str) -> Shape:
    """The shape that the ``config.json`` of one of these families describes.

    Args:
        config: the file's content.
        where: the file or hub id, for errors.

    Raises:
        RecipeError: for every number that is missing or does not fit the others.
    """
    kind = config["model_type"]
    problems: list[Problem] = []

    def number(key: str, otherwise: int | None = None) -> int:
        name = _GPT2_NAMES.get(key, key) if kind == "gpt2" else key
        value = config.get(name)
        if value is None and otherwise is not None:
            return otherwise
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            said = "is missing" if value is None else f"is {value!r}"
            problems.append(Problem(f"`{name}` {said}", "it must be a whole number of at least 1", where))
            return 1
        return value

    if kind == RECURRENT:
        cell = str(config.get("cell"))
        if cell not in GATES:
            problems.append(Problem(f"`cell` is {cell!r}", "it must be " + " or ".join(GATES), where))
        names = ("num_hidden_layers", "embedding_size", "hidden_size", "vocab_size")
        depth, embedding, width, rows = map(number, names)
        if problems:
            raise RecipeError(problems=problems)
        return recurrent_shape(cell, depth, embedding, width, rows)
    hidden, heads = number("hidden_size"), number("num_attention_heads")
    layers, vocab, positions = number("num_hidden_layers"), number("vocab_size"), number("max_position_embeddings")
    intermediate = number("intermediate_size", 4 * hidden if kind == "gpt2" else None)
    kv_heads = heads if kind == "gpt2" else number("num_key_value_heads", heads if kind in ("llama", "phi3") else None)
    head_dim = number("head_dim", _HEAD_DIM_BY_DEFAULT.get(kind, max(hidden // heads, 1)))
    if heads % kv_heads:
        problems.append(Problem(f"{heads} heads cannot share {kv_heads} key-value heads", "fix the config", where))
    if problems:
        raise RecipeError(problems=problems)

    bias = kind == "gpt2" or (kind in _BIAS_BY_CONFIG and bool(config.get("attention_bias", False)))
    window = _used_window(config)
    return dense_shape(
        model_type=kind,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        tied_embeddings=ties(config),
        max_positions=stretched(config, positions),
        mlp_matrices=2 if kind == "gpt2" else 3,
        qkv_bias=bias or kind == "qwen2",
        output_bias=bias,
        mlp_bias=kind == "gpt2" or (kind == "llama" and bool(config.get("mlp_bias", False))),
        qk_norm=kind == "qwen3",
        fused=kind in ("phi3", "gpt2"),
        norms=4 if kind == "gemma2" else 2,
        norm_bias=kind == "gpt2",
        learned_positions=kind == "gpt2",
        sliding_window=window,
        sliding_layers=_sliding_layers(config, kind, layers) if window else 0,
        capped_attention=kind == "gemma2" and config.get("attn_logit_softcapping", 50.0) is not None,
    )


def ties(config: Mapping[str, Any]) -> bool:
    """Whether embedding and output are one matrix; of a kind that is not :data:`KNOWN`, whether its file says so.

    >>> ties({"model_type": "gemma"}), ties({"model_type": "llama"}), ties({"tie_word_embeddings": True})
    (True, False, True)
    """
    return bool(config.get("tie_word_embeddings", config.get("model_type") in _TIED_BY_DEFAULT))


def positions_of(text: Mapping[str, Any]) -> int | None:
    """Tokens that a text model sees, by its configuration; None where that sets no limit.

    >>> positions_of({"n_positions": 1024}), positions_of({})
    (1024, None)
    """
    limit = text.get("max_position_embeddings") or text.get("n_positions")
    return stretched(text, limit) if isinstance(limit, int) else None


def stretched(config: Mapping[str, Any], positions: int) -> int:
    """Tokens that a model sees whose rotary positions are scaled beyond what ``max_position_embeddings`` says: by YaRN,
    as Qwen2.5's page has it written into ``config.json``. Of linear scaling files say either length.

    >>> yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    >>> stretched({"rope_scaling": yarn}, 32768), stretched({"rope_scaling": yarn}, 131072), stretched({}, 2048)
    (131072, 131072, 2048)
    """
    said = rotary(config)[1]
    rope = said if isinstance(said, Mapping) else {}
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if rotary_kind(rope) != "yarn" or not isinstance(factor, int | float):
        return positions
    return max(positions, int(original * factor)) if isinstance(original, int) else positions


def rotary(config: Mapping[str, Any]) -> tuple[str, Any]:
    """What a configuration says of its rotary positions, and under which key: transformers takes the older one first.

    >>> rotary({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "yarn"}})
    ('rope_scaling', {'type': 'yarn'})
    """
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    return key, config.get(key)


def rotary_kind(rope: Mapping[str, Any]) -> Any:
    """The kind that such a part names."""
    return rope.get("rope_type", rope.get("type", "default"))


def rotary_kinds(model_type: str) -> Mapping[str, tuple[str, ...]]:
    """Of one of :data:`KNOWN`: kinds of rotary positions -> what each needs; empty for one that has none.

    >>> [*rotary_kinds("phi3")], [*rotary_kinds("gpt2")]
    (['default', 'longrope', 'su', 'yarn'], [])
    """
    return {} if model_type == "gpt2" else _ROTARY_OF_PHI3 if model_type == "phi3" else ROTARY


def attention_window(config: Mapping[str, Any]) -> int | None:
    """Tokens that layers with a window see; None where no layer has one.

    >>> attention_window({"model_type": "mistral", "sliding_window": 4096})
    4096
    >>> attention_window({"model_type": "qwen2", "sliding_window": 4096})
    >>> attention_window({"model_type": "qwen3", "sliding_window": 4096, "layer_types": ["full_attention"]})
    """
    listed = config.get("layer_types")
    return None if listed and "sliding_attention" not in listed else _used_window(config)


def _used_window(config: Mapping[str, Any]) -> int | None:
    used = config.get("use_sliding_window", config.get("model_type") not in _WINDOW_OFF)
    return config.get("sliding_window") if used else None


def _sliding_layers(config: Mapping[str, Any], kind: str, layers: int) -> int:
    """How many layers use the window: what the config lists, or else what the kind's own code does."""
    if listed := config.get("layer_types"):
        return sum(each == "sliding_attention" for each in listed)
    if kind == "gemma2":
        return (layers + 1) // 2  # every other one, from the first
    if kind in _WINDOW_OFF:
        return max(0, layers - int(config.get("max_window_layers", 28)))
    return layers
