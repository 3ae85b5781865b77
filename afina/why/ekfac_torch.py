"""Gradients of single rows over an adapter's matrices, in the coordinates in which the loss is equally curved.

The influence of a training row on the loss of an answer is, to first order, the inner product of their gradients
through the inverse of the curvature (Koh and Liang, arXiv 1703.04730). EK-FAC (George et al., arXiv 1806.03884; as
Grosse et al., arXiv 2308.03296, use it for language models) takes the curvature of each matrix as Kronecker-factored,
in an eigenbasis of its inputs' and its outputs' covariances, with eigenvalues counted in that basis:

    G = sum over tokens of g x'                     gradient of a row for a matrix, O x I
    H = (Q_out' G Q_in) / sqrt(l + d mean(l))       whitened: influence of i on q is the inner product of H_i and H_q
    l = mean over rows of (Q_out' G Q_in)**2        of labels drawn from the model itself: the Fisher matrix

A side of a matrix that is longer than :data:`LONGEST_SIDE` keeps its own coordinates (its Q is 1), as decomposing a
matrix of 4864 x 4864 takes long and a model has dozens. What is left there is the diagonal of the same matrix.

Whitened gradients are as many numbers as the adapter has, so a count sketch of them is kept (Charikar et al., 2002):
each coordinate is added to one of K places with a random sign, which leaves inner products as they are on average, with
a standard error of |H_i| |H_q| / sqrt(K). An adapter of fewer than K numbers is kept whole.

Shapes: N rows of one length, L tokens, I inputs and O outputs of a matrix, T targets, V vocabulary, K of a sketch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from afina.errors import RecipeError
from afina.model.anatomy_torch import own_logits
from afina.model.decoder_torch import text_config
from afina.model.loss_torch import causal_lm
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row

LONGEST_SIDE = 1024
"""Inputs or outputs of a matrix whose covariance is decomposed."""
DAMPING = 0.1
"""Added to each matrix's eigenvalues, as a share of their mean (Grosse et al., 2023)."""
SKETCH = 8192
"""Numbers kept of a row: 16 KB, and a standard error of 1.1 % of the two lengths."""
LOGITS = 1 << 25
"""Numbers of logits that a batch may have: 128 MiB, and as much again for their gradient."""
MOST_TOKENS = 2048
MOST_ROWS = 32

Use = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Is given of one matrix its name, its inputs N x L x I and the loss's gradient at its outputs N x L x O."""


def adapter_matrices(model: Any) -> dict[str, Any]:
    """The low-rank matrices of a PEFT model's active adapter, by name.

    Raises:
        RecipeError: it has none that is a layer of its own, as where experts alone are adapted.
    """
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    found: dict[str, Any] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper):
            for kind in ("lora_A", "lora_B"):
                for adapter, matrix in getattr(layer, kind).items():
                    if adapter in layer.active_adapters and isinstance(matrix, torch.nn.Linear):
                        found[f"{name}.{kind}"] = matrix
    if not found:
        raise RecipeError(
            "this adapter has no low-rank matrix beside a linear layer, whose gradients tell rows apart",
            "train an adapter with adapter.targets: all-linear",
            "adapter.targets",
        )
    return found


@contextmanager
def tapped(model: Any, matrices: dict[str, Any], use: Use) -> Iterator[None]:
    """Within the block each backward pass gives `use` what reaches the adapter's matrices.

    Gradients flow from the logits to the embeddings; no weight has one.
    """

    def listen(name: str) -> Callable[..., None]:
        def seen(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x_NLI = inputs[0].detach()
            if x_NLI.ndim == 3 and output.requires_grad:  # DoRA also puts an identity through, for its norms
                output.register_hook(lambda g_NLO: use(name, x_NLI, g_NLO.detach()))

        return seen

    def wanted(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output.detach().requires_grad_(True)

    hooks = [causal_lm(model).get_input_embeddings().register_forward_hook(wanted)]
    hooks += [matrix.register_forward_hook(listen(name)) for name, matrix in matrices.items()]
    try:
        with torch.enable_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def equal_lengths(rows: Sequence[Row], vocabulary: int) -> Iterator[list[int]]:
    """Numbers of rows of one length, as many at a time as memory for their logits has room for.

    Without padding there is nothing that an architecture could see of it.

    >>> rows = [Row([1] * n, [False] * n, None) for n in (3, 2, 3, 3)]
    >>> list(equal_lengths(rows, 10))
    [[1], [0, 2, 3]]
    """
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
    start = 0
    while start < len(order):
        length = len(rows[order[start]].ids)
        most = max(1, min(MOST_ROWS, min(MOST_TOKENS, LOGITS // vocabulary) // length))
        end = start + 1
        while end < len(order) and end - start < most and len(rows[order[end]].ids) == length:
            end += 1
        yield order[start:end]
        start = end


def backward(model: Any, rows: Sequence[Row], drawn: torch.Generator | None = None) -> None:
    """The backward pass of the rows' summed losses, all of one length, within :func:`tapped`.

    Args:
        drawn: the targets are drawn from what the model says, instead of those of the rows.
    """
    inner = causal_lm(model)
    device = inner.get_input_embeddings().weight.device
    ids_NL = torch.tensor([row.ids for row in rows], device=device)
    mask_NL = torch.tensor([row.mask for row in rows], device=device)[:, 1:]
    logits_TV = own_logits(inner, ids_NL)[:, :-1][mask_NL].float()
    targets_T = ids_NL[:, 1:][mask_NL]
    if drawn is not None:
        chances_TV = logits_TV.detach().softmax(1).cpu()
        targets_T = torch.multinomial(chances_TV, 1, generator=drawn).flatten().to(device)
    F.cross_entropy(logits_TV, targets_T, reduction="sum").backward()


def row_gradients(x_NLI: torch.Tensor, g_NLO: torch.Tensor) -> torch.Tensor:
    """Of each row the gradient of a matrix, N x O x I in float32."""
    return torch.einsum("nlo,nli->noi", g_NLO.float(), x_NLI.float())


@dataclass
class Curvature:
    """What EK-FAC knows of each matrix."""

    q_in: dict[str, torch.Tensor] = field(default_factory=dict)
    """Eigenvectors of the inputs' covariance, I x I, in columns; none of a side that is too long."""
    q_out: dict[str, torch.Tensor] = field(default_factory=dict)
    """Of the covariance of the gradients at the outputs, O x O."""
    eigenvalues: dict[str, torch.Tensor] = field(default_factory=dict)
    """O x I: the mean square of a row's gradient at each place of that basis."""

    def rotated(self, name: str, gradients_NOI: torch.Tensor) -> torch.Tensor:
        """Gradients of a matrix in its eigenbasis, N x O x I."""
        if (q_in := self.q_in.get(name)) is not None:
            gradients_NOI = gradients_NOI @ q_in
        if (q_out := self.q_out.get(name)) is not None:
            gradients_NOI = torch.einsum("op,noi->npi", q_out, gradients_NOI)
        return gradients_NOI

    def whitened(self, name: str, gradients_NOI: torch.Tensor) -> torch.Tensor:
        """The same, each place divided by the root of its damped eigenvalue; nothing of a matrix that no row of the
        curvature reached: nothing says how much its numbers weigh."""
        eigenvalues = self.eigenvalues.get(name)
        if eigenvalues is None:
            return torch.zeros_like(gradients_NOI)
        damped = eigenvalues + DAMPING * eigenvalues.mean()
        # A matrix through which no gradient flowed (B of a fresh adapter makes A's 0) says nothing of any row.
        return self.rotated(name, gradients_NOI) * torch.where(damped > 0, damped, torch.inf).rsqrt()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it by flat names, to be saved."""
        parts = {"in": self.q_in, "out": self.q_out, "eigenvalues": self.eigenvalues}
        return {f"{part}/{name}": value.contiguous() for part, held in parts.items() for name, value in held.items()}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> Curvature:
        """The opposite of :meth:`tensors`."""
        found = cls()
        parts = {"in": found.q_in, "out": found.q_out, "eigenvalues": found.eigenvalues}
        for name, value in tensors.items():
            part, _, matrix = name.partition("/")
            parts[part][matrix] = value
        return found


def fit_curvature(
    model: Any,
    rows: Sequence[Row],
    *,
    seed: int = 0,
    draw: bool = True,
    longest_side: int = LONGEST_SIDE,
    progress: Progress = no_progress,
) -> Curvature:
    """EK-FAC's factors and eigenvalues over some training rows: two backward passes of each.

    Args:
        model: with its adapter, in evaluation mode.
        seed: of the labels that are drawn; both passes see the same.
        draw: labels from the model (the Fisher matrix); false: those of the rows (the empirical one).
    """
    matrices = adapter_matrices(model)
    found, covariances = Curvature(), (dict[str, torch.Tensor](), dict[str, torch.Tensor]())
    sums: dict[str, torch.Tensor] = {}

    def covariance(name: str, x_NLI: torch.Tensor, g_NLO: torch.Tensor) -> None:
        for held, values in zip(covariances, (x_NLI, g_NLO), strict=True):
            if values.shape[-1] <= longest_side:
                flat = values[:, :-1].flatten(0, 1).float()  # nothing is predicted from a row's last token
                held[name] = held.get(name, 0) + flat.T @ flat

    def square(name: str, x_NLI: torch.Tensor, g_NLO: torch.Tensor) -> None:
        sums[name] = sums.get(name, 0) + found.rotated(name, row_gradients(x_NLI, g_NLO)).square().sum(0)

    vocabulary, done = int(text_config(causal_lm(model)).vocab_size), 0
    for what, use in (("covariances", covariance), ("eigenvalues", square)):
        drawn = torch.Generator().manual_seed(seed) if draw else None
        with tapped(model, matrices, use):
            for numbers in equal_lengths(rows, vocabulary):
                backward(model, [rows[number] for number in numbers], drawn)
                done += len(numbers)
                progress(done, 2 * len(rows), f"rows of the curvature, {what}")
        if what == "covariances":
            for held, bases in zip(covariances, (found.q_in, found.q_out), strict=True):
                bases |= {name: _eigenvectors(held.pop(name)) for name in list(held)}
    found.eigenvalues = {name: value / len(rows) for name, value in sums.items()}
    return found


def _eigenvectors(covariance: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigh(covariance.double())[1].float()


class Sketcher:
    """Count sketches of the whitened gradients of an adapter's matrices."""

    def __init__(self, shapes: dict[str, tuple[int, int]], size: int = SKETCH, device: Any = "cpu") -> None:
        """
        Args:
            shapes: O and I of each matrix.
        """
        numbers = sum(math.prod(shape) for shape in shapes.values())
        self.size = min(size, numbers)
        self._places: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}
        start = 0
        for name, shape in shapes.items():
            count = math.prod(shape)
            if numbers <= size:
                self._places[name] = torch.arange(start, start + count, device=device), None
            else:
                seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
                random = torch.Generator().manual_seed(seed)
                places = torch.randint(self.size, (count,), generator=random)
                signs = torch.randint(2, (count,), generator=random) * 2.0 - 1.0
                self._places[name] = places.to(device), signs.to(device)
            start += count

    def add(self, sketch_NK: torch.Tensor, name: str, values_NOI: torch.Tensor) -> None:
        """Add what one matrix says of each row."""
        places, signs = self._places[name]
        values_NP = values_NOI.flatten(1)
        sketch_NK.index_add_(1, places, values_NP if signs is None else values_NP * signs)


def sketch_rows(
    model: Any,
    rows: Sequence[Row],
    curvature: Curvature | None,
    sketcher: Sketcher,
    owners: Sequence[int] | None = None,
) -> torch.Tensor:
    """Of each row the sketch of its whitened gradient, N x K.

    Args:
        curvature: none for plain gradients.
        owners: which of N each row belongs to, where several are one example; their gradients are added up.
    """
    matrices = adapter_matrices(model)
    device = causal_lm(model).get_input_embeddings().weight.device
    owners = range(len(rows)) if owners is None else owners
    sketches_NK = torch.zeros(max(owners, default=-1) + 1, sketcher.size, device=device)
    now: list[int] = []

    def take(name: str, x_NLI: torch.Tensor, g_NLO: torch.Tensor) -> None:
        gradients_NOI = row_gradients(x_NLI, g_NLO)
        if curvature is not None:
            gradients_NOI = curvature.whitened(name, gradients_NOI)
        part_NK = torch.zeros(len(now), sketcher.size, device=device)
        sketcher.add(part_NK, name, gradients_NOI)
        sketches_NK.index_add_(0, torch.tensor(now, device=device), part_NK)

    with tapped(model, matrices, take):
        for numbers in equal_lengths(rows, int(text_config(causal_lm(model)).vocab_size)):
            now[:] = [owners[number] for number in numbers]
            backward(model, [rows[number] for number in numbers])
    return sketches_NK


def shapes_of(model: Any) -> dict[str, tuple[int, int]]:
    """O and I of each of the adapter's matrices, in their order."""
    return {name: (matrix.out_features, matrix.in_features) for name, matrix in adapter_matrices(model).items()}
