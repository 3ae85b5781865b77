"""The shape of a causal language model and what follows from it by counting. No torch.

    h hidden    V vocab    r adapter rank    q heads*head_dim    k kv_heads*head_dim

A shape is a list of kinds of layers, each with how many there are of it, its matrices and what it keeps of the tokens
before. Two sources give one: the table of common families (:mod:`afina.model.shape_table`) and the model itself, built
without memory (:mod:`afina.model.shape_walk_torch`); :func:`afina.model.shape_read.read_shape` asks one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from afina.errors import Problem, RecipeError
from afina.recipe import nearest

Role = Literal["linear", "expert", "shared expert", "router", "convolution", "head"]
Mixer = Literal["full attention", "sliding window", "linear attention", "hybrid", "recurrent", "none"]
"""How a layer looks at the tokens before: all, the last ones, through a state (recurrent: of an LSTM or a GRU), both
ways at once, or not at all."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Matrices of a layer under their published name, each ``inputs x outputs`` and perhaps with a bias."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    role: Role = "linear"
    count: int = 1
    """How many there are: the experts of a mixture."""
    active: float = 1.0
    """How many of them one token goes through."""
    module: bool = True
    """Whether each is a linear module, which 4-bit loading quantizes and adapters are named by. Experts in one tensor,
    most routers and convolutions are not."""
    ranks: int = 1
    """How many times the adapter's rank ``all-linear`` gives it: none, one, or one for each matrix that was fused."""

    @property
    def matrix_parameters(self) -> int:
        """count * inputs * outputs: without biases."""
        return self.count * self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """count * (inputs * outputs (+ outputs))."""
        return self.matrix_parameters + self.count * self.outputs * self.bias

    def times(self, layers: int) -> Linear:
        """The same matrices of several layers together."""
        return replace(self, count=self.count * layers, active=self.active * layers)


@dataclass(frozen=True, slots=True)
class KeptValues:
    """What one layer was seen to keep for its backward pass in float32, in values per token of a row of `length`."""

    length: int
    adapter: float
    """With adapters on every linear module, without what the adapters themselves keep."""
    whole: float
    """With every weight trained."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of layer, and how many of the model's layers are of it."""

    count: int
    linears: tuple[Linear, ...]
    other_parameters: int
    """Of one layer beside its matrices: biases, norms, convolutions' kernels, decays."""
    hidden: int = 0
    mixer: Mixer = "full attention"
    query: int = 0
    """q = heads * head_dim, which need not be h."""
    key: int = 0
    """k = kv_heads * head_dim."""
    heads: int = 0
    intermediate: int = 0
    """Width of the MLP that one token goes through, all of its experts together."""
    gated: bool = True
    """Whether the MLP multiplies a gate: three matrices instead of two."""
    norms: int = 2
    qk_norm: bool = False
    capped: bool = False
    """Whether attention's scores go through a tanh, which fused kernels mostly cannot."""
    window: int | None = None
    """Tokens that are seen, where the mixer has a window."""
    cache_values: int = 0
    """Kept of each token before, as transformers does."""
    compressed_values: int | None = None
    """The same in engines that keep what multi-head latent attention compresses it to."""
    state_values: int = 0
    """Kept of a sequence, however long it is."""
    counted: tuple[KeptValues, ...] = ()
    """By growing length; empty where the sizes alone say what is kept."""

    @property
    def matrix_parameters(self) -> int:
        """Of one layer."""
        return sum(linear.matrix_parameters for linear in self.linears)

    @property
    def parameters(self) -> int:
        """Of one layer."""
        return self.matrix_parameters + self.other_parameters

    @property
    def routed(self) -> bool:
        """Whether a router chooses the experts of each token."""
        return any(linear.role == "expert" for linear in self.linears)

    def seen(self, tokens: float) -> float:
        """Tokens before that it still keeps keys and values of."""
        return min(tokens, self.window or tokens)

    def kept(self, length: float, *, whole: bool) -> float | None:
        """Values per token that were counted, between and beyond the counted lengths in a straight line; None where
        nothing was counted.

        >>> counted = (KeptValues(64, 40, 50), KeptValues(128, 20, 30), KeptValues(256, 22, 32))
        >>> chunked = Layer(1, (), 0, counted=counted)
        >>> [chunked.kept(length, whole=False) for length in (32, 96, 256, 512)]
        [40, 30.0, 22.0, 26.0]
        """
        points = [(one.length, one.whole if whole else one.adapter) for one in self.counted]
        if not points:
            return None
        if len(points) == 1 or length <= points[0][0]:
            return points[0][1]
        upper = next((place for place, (at, _) in enumerate(points) if at >= length), len(points) - 1)
        (left, low), (right, high) = points[max(upper, 1) - 1], points[max(upper, 1)]
        return max(0.0, low + (high - low) * (length - left) / (right - left))


@dataclass(frozen=True)
class Shape:
    """All that memory and time depend on.

    >>> from afina.model.shape_table import dense_shape
    >>> tiny = dense_shape("llama", layers=2, hidden=8, intermediate=24, heads=2, kv_heads=1, head_dim=4, vocab=10,
    ...                    tied_embeddings=True, max_positions=32)
    >>> tiny.parameters == 2 * (8*8 + 2*8*4 + 8*8 + 3*8*24 + 2*8) + 10*8 + 8
    True
    >>> tiny.lora_parameters(2, ["q_proj"]), tiny.kv_bytes_per_token(2)
    (64, 32)
    """

    model_type: str
    hidden: int
    vocab: int
    """Rows of the embedding."""
    layers: tuple[Layer, ...]
    """Kinds of layers in the order in which they first stand in the model."""
    head: Linear
    """The output matrix: what one token costs there, tied or not."""
    tied_embeddings: bool
    max_positions: int
    """0 where nothing bounds the length."""
    embedding_parameters: int
    """Tables of tokens and learned positions, and the output's matrix where it is not one of them."""
    other_parameters: int
    """Outside of layers and tables: the last norm, and what stands under `outer`."""
    outer: tuple[Linear, ...] = ()
    """Matrices outside of the layers, but the output's."""
    unread_parameters: int = 0
    """Of `other_parameters`, those that no text goes through: the vision half of a multimodal model."""
    uncertain: tuple[str, ...] = ()
    """What could not be counted, in words; a plan's intervals are wider for each."""

    @property
    def recurrent(self) -> bool:
        """Whether its layers are those of an LSTM or a GRU: one token after the other, whatever the device is."""
        return any(layer.mixer == "recurrent" for layer in self.layers)

    @property
    def depth(self) -> int:
        """How many layers it has."""
        return sum(layer.count for layer in self.layers)

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """Every matrix of the model but embedding and output: those alike are one, with how many there are of them."""
        found: dict[Linear, Linear] = {}
        for linear, times in [(each, kind.count) for kind in self.layers for each in kind.linears] + [
            (each, 1) for each in self.outer
        ]:
            before = found.get(linear)
            more = linear.times(times)
            if before is not None:
                more = replace(more, count=before.count + more.count, active=before.active + more.active)
            found[linear] = more
        return tuple(found.values())

    @property
    def linear_parameters(self) -> int:
        """The matrices alone, experts of a mixture all of them, without biases, embeddings and output."""
        return sum(linear.matrix_parameters for linear in self.linears)

    @property
    def active_parameters(self) -> float:
        """Of :attr:`linear_parameters`, those that one token goes through."""
        return sum(linear.active * linear.inputs * linear.outputs for linear in self.linears)

    @property
    def module_parameters(self) -> int:
        """Of :attr:`linear_parameters`, those in linear modules: what 4-bit loading quantizes."""
        return sum(linear.matrix_parameters for linear in self.linears if linear.module)

    @property
    def expert_parameters(self) -> int:
        """Of :attr:`linear_parameters`, those of experts that a router chooses among."""
        return sum(linear.matrix_parameters for linear in self.linears if linear.role == "expert")

    @property
    def hidden_matrices(self) -> tuple[Linear, ...]:
        """Matrices of two dimensions between hidden states: no experts in one tensor, no convolutions."""
        stacked = ("expert", "convolution")
        return tuple(linear for linear in self.linears if linear.module or linear.role not in stacked)

    @property
    def largest_matrix(self) -> int:
        """Numbers in the largest linear module of a layer."""
        return max((linear.inputs * linear.outputs for linear in self.linears if linear.module), default=0)

    @property
    def head_parameters(self) -> int:
        """V*h."""
        return self.head.matrix_parameters

    @property
    def parameters(self) -> int:
        """Every number of the model, exactly; what is tied counts once."""
        in_layers = sum(layer.count * layer.parameters for layer in self.layers)
        return in_layers + self.embedding_parameters + self.other_parameters

    @property
    def trainable_parameters(self) -> int:
        """Those that get a gradient from text."""
        return self.parameters - self.unread_parameters

    def adapted(self, targets: str | Sequence[str]) -> tuple[Linear, ...]:
        """The matrices that `targets` names, by the rule of PEFT: the name or its end; ``all-linear``: what PEFT makes
        of it for this model, which mostly is every linear module but the output.

        Raises:
            RecipeError: for each target that names no matrix of this model.
        """
        if targets == "all-linear":
            return tuple(linear for linear in self.linears if linear.ranks)
        linears = tuple(replace(each, ranks=1) for each in self.linears if each.module or each.role == "expert")
        wanted = [targets] if isinstance(targets, str) else targets
        named = {target: named_by(linears, target) for target in wanted if target != self.head.name}
        known = [*dict.fromkeys(linear.name.rpartition(".")[2] for linear in linears), self.head.name]
        problems = [
            Problem(
                f"{self.model_type} has no linear layer {target!r}",
                f"did you mean {guess}?" if (guess := nearest(target, known)) else "it has " + ", ".join(known),
                "adapter.targets",
            )
            for target, matching in named.items()
            if not matching
        ]
        if problems:
            raise RecipeError(problems=problems)
        chosen = {linear for matching in named.values() for linear in matching}
        return tuple(linear for linear in linears if linear in chosen)

    def lora_parameters(self, rank: int, targets: str | Sequence[str] = "all-linear", *, experts: bool = True) -> int:
        """r * sum of (inputs + outputs) over the adapted matrices (the output among them where it is named).

        Args:
            experts: whether those that are one parameter are among them
                (:attr:`afina.recipe.parts.Adapter.adapts_experts`).

        Raises:
            RecipeError: for a target that names no matrix of this model.
        """
        matrices = [each for each in self.adapted(targets) if experts or each.module or each.role != "expert"]
        per_rank = sum(each.ranks * each.count * (each.inputs + each.outputs) for each in matrices)
        if not isinstance(targets, str) and self.head.name in targets:
            per_rank += self.head.inputs + self.head.outputs
        return rank * per_rank

    def kv_bytes_per_token(self, bytes_per_value: float = 2, *, compressed: bool = False) -> int:
        """Keys and values of one token, all layers, without a sliding window's saving.

        Args:
            compressed: whether latent attention is kept as it is compressed, which transformers does not.
        """
        return int(bytes_per_value * sum(layer.count * _cached(layer, compressed) for layer in self.layers))

    def kv_bytes(self, tokens: float, bytes_per_value: float = 2, *, compressed: bool = False) -> float:
        """Kept of one sequence: its keys and values, of a layer with a sliding window no more than the window, and
        the states of layers that have one, in 16 bits at least.

        >>> from afina.model.shape_table import dense_shape
        >>> tiny = dense_shape("gemma2", layers=4, hidden=8, intermediate=24, heads=2, kv_heads=1, head_dim=4, vocab=10,
        ...                    tied_embeddings=True, max_positions=64, sliding_window=16, sliding_layers=2)
        >>> tiny.kv_bytes(10) == 10 * tiny.kv_bytes_per_token(), tiny.kv_bytes(64) == 2 * 4 * 2 * (2 * 64 + 2 * 16)
        (True, True)
        """
        kept = sum(layer.count * _cached(layer, compressed) * layer.seen(tokens) for layer in self.layers)
        states = sum(layer.count * layer.state_values for layer in self.layers)
        return kept * bytes_per_value + states * max(2.0, bytes_per_value)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for :func:`shape_from`."""
        return asdict(self)


def named_by(linears: Iterable[Linear], target: str) -> tuple[Linear, ...]:
    """Those whose name is `target` or ends with it; of experts in one tensor also by the name of what holds them."""

    def named(one: Linear) -> bool:
        holder = one.name.rpartition(".")[0] if one.role == "expert" and not one.module else ""
        return any(f".{name}".endswith(f".{target}") for name in (one.name, holder) if name)

    return tuple(filter(named, linears))


def shape_from(values: Mapping[str, Any]) -> Shape:
    """What :meth:`Shape.as_json` wrote.

    Raises:
        KeyError, TypeError: it is something else.
    """
    layers = [
        Layer(
            **layer
            | {
                "linears": tuple(Linear(**linear) for linear in layer["linears"]),
                "counted": tuple(KeptValues(**counted) for counted in layer["counted"]),
            }
        )
        for layer in values["layers"]
    ]
    parts = {"head": Linear(**values["head"]), "outer": tuple(Linear(**linear) for linear in values["outer"])}
    return Shape(**{**values, **parts, "layers": tuple(layers), "uncertain": tuple(values["uncertain"])})


def _cached(layer: Layer, compressed: bool) -> int:
    if compressed and layer.compressed_values is not None:
        return layer.compressed_values
    return layer.cache_values
