"""The shape of a decoder-only transformer and what follows from it by counting. No torch.

    h hidden    M intermediate    L layers    V vocab
    H heads     K kv_heads        d head_dim  q = H*d    k = K*d    r adapter rank

Shapes come from a Hugging Face ``config.json``. A kind of model that is not known here is
refused: a count that is nearly right is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from afina.errors import Problem, RecipeError
from afina.recipe import Scratch, nearest

KNOWN = ("gemma", "gemma2", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""The values of ``model_type`` that :func:`read_shape` understands."""

_TIED_BY_DEFAULT = ("gemma", "gemma2", "gpt2")
_HEAD_DIM_BY_DEFAULT = {"gemma": 256, "gemma2": 256, "qwen3": 128}
_BIAS_BY_CONFIG = ("gemma", "gemma2", "llama", "qwen3")
"""Kinds whose code reads ``attention_bias``; the others ignore the key (Qwen2 always has its own)."""
_WINDOW_OFF = ("qwen2", "qwen3")
"""Kinds that use their `sliding_window` only where `use_sliding_window` says so, from `max_window_layers` on."""
_MIXTURE_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
_GPT2_NAMES = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix of a layer, under its published name: ``inputs x outputs`` and perhaps a bias."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """inputs * outputs (+ outputs)."""
        return self.inputs * self.outputs + self.outputs * self.bias


@dataclass(frozen=True)
class Shape:
    """All that memory and time depend on.

    >>> tiny = Shape("llama", layers=2, hidden=8, intermediate=24, heads=2, kv_heads=1, head_dim=4, vocab=10,
    ...              tied_embeddings=True, max_positions=32)
    >>> tiny.parameters == 2 * (8*8 + 2*8*4 + 8*8 + 3*8*24 + 2*8) + 10*8 + 8
    True
    >>> tiny.lora_parameters(2, ["q_proj"]), tiny.kv_bytes_per_token(2)
    (64, 32)
    """

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied_embeddings: bool
    max_positions: int
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
    def query_size(self) -> int:
        """q = H*d, which need not be h."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """k = K*d."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices of one layer: what ``all-linear`` adapts and what 4-bit loading quantizes."""
        h, m, q, k = self.hidden, self.intermediate, self.query_size, self.kv_size
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

    @property
    def linear_parameters(self) -> int:
        """L * sum of inputs * outputs: the matrices alone, without biases, embeddings and lm_head."""
        return self.layers * sum(linear.inputs * linear.outputs for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """V*h, twice where lm_head has its own, and positions * h where those are learned."""
        tables = 1 if self.tied_embeddings else 2
        return (tables * self.vocab + self.max_positions * self.learned_positions) * self.hidden

    @property
    def head_parameters(self) -> int:
        """V*h: what one token costs at the output, tied or not."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Every number of the model, exactly: matrices, biases, norms, embeddings; a tied head counts once."""
        biases = sum(linear.outputs for linear in self.linears if linear.bias)
        norm = self.hidden * (1 + self.norm_bias)
        per_layer = biases + self.norms * norm + 2 * self.head_dim * self.qk_norm
        return self.linear_parameters + self.layers * per_layer + norm + self.embedding_parameters

    def adapted(self, targets: str | Sequence[str]) -> tuple[Linear, ...]:
        """The matrices of one layer that `targets` names, by the rule of PEFT: the name or its end.

        Raises:
            RecipeError: for each target that names no matrix of this model.
        """
        if isinstance(targets, str):
            targets = [linear.name for linear in self.linears] if targets == "all-linear" else [targets]
        found = {
            target: [one for one in self.linears if one.name == target or one.name.endswith("." + target)]
            for target in targets
            if target != "lm_head"
        }
        known = [linear.name.rpartition(".")[2] for linear in self.linears] + ["lm_head"]
        problems = [
            Problem(
                f"{self.model_type} has no linear layer {target!r}",
                f"did you mean {guess}?" if (guess := nearest(target, known)) else "it has " + ", ".join(known),
                "adapter.targets",
            )
            for target, matching in found.items()
            if not matching
        ]
        if problems:
            raise RecipeError(problems=problems)
        chosen = {linear.name for matching in found.values() for linear in matching}
        return tuple(linear for linear in self.linears if linear.name in chosen)

    def lora_parameters(self, rank: int, targets: str | Sequence[str] = "all-linear") -> int:
        """r * L * sum of (inputs + outputs) over the adapted matrices (+ r * (h + V) for lm_head).

        Raises:
            RecipeError: for a target that names no matrix of this model.
        """
        per_rank = self.layers * sum(linear.inputs + linear.outputs for linear in self.adapted(targets))
        if not isinstance(targets, str) and "lm_head" in targets:
            per_rank += self.hidden + self.vocab
        return rank * per_rank

    def kv_bytes_per_token(self, bytes_per_value: float = 2) -> int:
        """2 * L * K * d * bytes: keys and values of one token, all layers, without a sliding window's saving."""
        return int(2 * self.layers * self.kv_size * bytes_per_value)

    def kv_bytes(self, tokens: float, bytes_per_value: float = 2) -> float:
        """Keys and values of one sequence; layers with a sliding window keep no more than the window.

        >>> tiny = Shape("gemma2", layers=4, hidden=8, intermediate=24, heads=2, kv_heads=1, head_dim=4, vocab=10,
        ...              tied_embeddings=True, max_positions=64, sliding_window=16, sliding_layers=2)
        >>> tiny.kv_bytes(10) == 10 * tiny.kv_bytes_per_token(), tiny.kv_bytes(64) == 2 * 4 * 2 * (2 * 64 + 2 * 16)
        (True, True)
        """
        within = min(tokens, self.sliding_window or tokens)
        seen = (self.layers - self.sliding_layers) * tokens + self.sliding_layers * within
        return 2 * self.kv_size * bytes_per_value * seen


def scratch_shape(scratch: Scratch, max_length: int) -> Shape:
    """The Llama that `train.method: scratch` starts: tied embeddings, no biases.

    >>> scratch_shape(Scratch(), 256).parameters
    2206656
    """
    return Shape(
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


def read_shape(config: Mapping[str, Any], where: str) -> Shape:
    """The shape that a Hugging Face ``config.json`` describes.

    Args:
        config: the file's content.
        where: the file or hub id, for errors.

    Raises:
        RecipeError: for a kind of model that is not known here (mixtures of experts and hybrids
            among them) and for every number that is missing or does not fit the others.
    """
    kind = config.get("model_type")
    if kind not in KNOWN:
        raise RecipeError(f"the shape of a {kind!r} model is not known", _known_text(), where)
    mixture = [key for key in _MIXTURE_KEYS if config.get(key)]
    if mixture:
        raise RecipeError(f"a mixture of experts ({mixture[0]}) is not known", _known_text(), where)
    strange = sorted(set(config.get("layer_types") or ()) - _PLAIN_LAYERS)
    if strange:
        raise RecipeError(f"a hybrid with layers of type {', '.join(strange)} is not known", _known_text(), where)

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
    window = config.get("sliding_window") if config.get("use_sliding_window", kind not in _WINDOW_OFF) else None
    return Shape(
        model_type=kind,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        tied_embeddings=bool(config.get("tie_word_embeddings", kind in _TIED_BY_DEFAULT)),
        max_positions=positions,
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


def _sliding_layers(config: Mapping[str, Any], kind: str, layers: int) -> int:
    """How many layers use the window: what the config lists, or else what the kind's own code does."""
    if listed := config.get("layer_types"):
        return sum(each == "sliding_attention" for each in listed)
    if kind == "gemma2":
        return (layers + 1) // 2  # every other one, from the first
    if kind in _WINDOW_OFF:
        return max(0, layers - int(config.get("max_window_layers", 28)))
    return layers


def _known_text() -> str:
    return "known are " + ", ".join(KNOWN) + "; nothing is guessed for others"
