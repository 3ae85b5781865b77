"""A training differentiated: what each row's weight in it does to a loss at its end, to first order and exactly.

Influence at the final weights (:mod:`afina.why.ekfac_torch`) takes the training for one that has converged. Here every
step that was taken counts instead, in its own order (unrolled differentiation; Ilyas and Engstrom, "MAGIC", arXiv
2504.16430; approximated by Bae et al., arXiv 2405.12186). A step t with the rows i of its batch, each of weight 1:

    g = sum of w_i grad l_i(x) / sum of w_i T_i      l_i in nats, T_i targets; clipped to a norm
    x', m', v' = AdamW(x, m, v, g)

Backwards from the loss's gradient at the end, with a for the adjoints (the loss's derivatives):

    a_g, and a part of a_x, a_m, a_v                 AdamW's own derivative, clipping included
    a_x += H a_g                                     H: the Hessian of the batch's mean loss
    dL/dw_i += (a_g . grad l_i - T_i a_g . g) / T    over the steps that the row stands in; T = sum of T_i

The second part of the last line is the row's in the denominator: leaving a row out makes the others weigh more.
H a_g and all a_g . grad l_i are one backward pass through the gradient. Of the states of N steps every sqrt(N)-th is
kept, and the steps between two are taken again when their turn comes.

Shapes: P trained numbers in a flat vector, Q losses that are asked about, N targets of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from afina.errors import AfinaError, RecipeError
from afina.model.loss_torch import make_batch, target_loss
from afina.recipe import Train
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row
from afina.train.backend_torch import TorchBackend
from afina.train.checkpoint import LoopState
from afina.train.feed import Step, feed_rows
from afina.train.guard import does_not_fit
from afina.train.loop import plan_training
from afina.train.schedule import learning_rate
from afina.train.snapshot_torch import Snapshot, set_random_states

SAME_GRADIENT = 1e-3
"""How far, as a share of its length, a step's gradient may be from that of the training's own kernels."""
SAME_PRODUCT = 0.1
"""The same of a product with the Hessian and a difference of two gradients."""
STEP = 3e-4
"""How far apart these are, as a share of the weights' length."""


@dataclass(frozen=True)
class Update:
    """What AdamW makes of weights, moments and gradient in one step, as a function that can be differentiated."""

    number: int
    """Of the step, from 1."""
    rate: Any
    """The learning rate, of all numbers or of each of P."""
    clip: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.0

    def __call__(self, x: torch.Tensor, m: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Weights and both moments afterwards, as ``clip_grad_norm_`` and ``torch.optim.AdamW`` compute them."""
        g = g * (self.clip / (g.norm() + 1e-6)).clamp(max=1.0)
        m = self.beta1 * m + (1 - self.beta1) * g
        v = self.beta2 * v + (1 - self.beta2) * g.square()
        # Where no gradient ever was, m is 0 as well and the root's infinite slope is multiplied by it.
        seen = v > 0
        root = torch.where(seen, torch.where(seen, v, 1.0).sqrt(), 0.0)
        scale = root / math.sqrt(1 - self.beta2**self.number) + self.epsilon
        x = x * (1 - self.rate * self.decay) - self.rate / (1 - self.beta1**self.number) * m / scale
        return x, m, v

    def before(self, taken: Sequence[torch.Tensor], after_QP: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The adjoints of what went in (weights, first and second moment, gradient), each Q x P in float64, from those
        of the three that came out."""
        given = [each.to(torch.float64, copy=True).requires_grad_() for each in taken]
        made = self(*given)
        each_Q = [
            torch.autograd.grad(made, given, [of_QP[number] for of_QP in after_QP], retain_graph=True)
            for number in range(len(after_QP[0]))
        ]
        return [torch.stack(part) for part in zip(*each_Q, strict=True)]


def second_order(
    nll_N: torch.Tensor, parameters: Sequence[torch.Tensor], of_gradient_QP: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of a sum of losses; the products of its Hessian with Q vectors; and those of each loss's gradient
    with them.

    Args:
        nll_N: losses, with their graph.

    Returns:
        P; Q x P and Q x N in float64.
    """
    weights_N = torch.ones_like(nll_N, requires_grad=True)
    gradients = torch.autograd.grad((weights_N * nll_N).sum(), parameters, create_graph=True, materialize_grads=True)
    flat_P = torch.cat([each.detach().flatten() for each in gradients])
    products, of_targets = [], []
    for number, of_P in enumerate(of_gradient_QP):
        along = in_shapes(of_P, parameters)
        pairs = [pair for pair in zip(gradients, along, strict=True) if pair[0].requires_grad]
        *of_weights, of_N = torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            [*parameters, weights_N],
            [vector for _, vector in pairs],
            retain_graph=number < len(of_gradient_QP) - 1,
            materialize_grads=True,
        )
        products.append(torch.cat([each.flatten() for each in of_weights]).double())
        of_targets.append(of_N.double())
    return flat_P, torch.stack(products), torch.stack(of_targets)


def in_shapes(flat_P: torch.Tensor, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A flat vector as the parameters that it stands for."""
    parts = flat_P.split([weight.numel() for weight in parameters])
    return [part.view_as(weight).to(weight.dtype) for part, weight in zip(parts, parameters, strict=True)]


@dataclass(frozen=True)
class TakenStep:
    """All that a step depended on."""

    values: tuple[torch.Tensor, ...]
    """Weights, first and second moment, and the gradient before it was clipped; P each."""
    random: dict[str, torch.Tensor]


class UnrolledTraining:
    """A training that is taken again from its start, and gone through backwards.

    Args:
        backend: with the model as it begins; its optimizer is AdamW.
        rows, settings, seed: those of the training.
    """

    def __init__(
        self, backend: TorchBackend, rows: Sequence[Row], settings: Train, seed: int, progress: Progress = no_progress
    ) -> None:
        self.backend, self.rows, self.settings, self.progress = backend, rows, settings, progress
        self.plan, self.steps, _ = plan_training(feed_rows(rows, settings, seed), settings)
        self.every = math.isqrt(self.steps - 1) + 1
        first = self.plan[0][1][0][0]
        if short := backend.begin(rows[first]):
            raise does_not_fit("the first row", short)
        backend.seed(seed)
        backend.share_beginnings(rows, [numbers for epoch, step in self.plan if not epoch for numbers in step])
        ratios = {weight: group["ratio"] for group in backend.optimizer.param_groups for weight in group["params"]}
        self.ratio_P = torch.cat(
            [torch.full((each.numel(),), ratios[each], device=each.device).double() for each in backend.parameters]
        )

    @property
    def numbers(self) -> int:
        """P."""
        return len(self.ratio_P)

    @property
    def kept(self) -> list[int]:
        """Numbers of the steps before which a state is kept, and the number of all of them for the one at the end."""
        return [*range(0, self.steps, self.every), self.steps]

    def micro_batches(self, number: int) -> Step:
        """Those of a step, as row numbers."""
        return self.plan[number][1]

    def again(self, keep: Callable[[int, Snapshot], object]) -> None:
        """Train, and give `keep` the states at :attr:`kept`.

        Raises:
            RecipeError: a tensor that is trained had no gradient in some steps.
        """
        backend = self.backend
        with backend.training():
            for number in range(self.steps):
                if number % self.every == 0:
                    keep(number, backend.snapshot(LoopState(number), backend.random()))
                self._step(number)
                self.progress(number + 1, self.steps, "steps of the training again")
        state = backend.optimizer.state
        passed = [weight for weight in backend.parameters if state.get(weight, {}).get("step", 0) != self.steps]
        if passed:
            raise RecipeError(
                f"{len(passed)} of {len(backend.parameters)} trained tensors had no gradient in some steps, which "
                "AdamW then leaves out",
                "leave layers that are not always used out of adapter.targets, or ask without --through-training",
                "--through-training",
            )
        keep(self.steps, backend.snapshot(LoopState(self.steps), backend.random()))

    def _step(self, number: int) -> TakenStep:
        """One step, as the loop takes it."""
        backend = self.backend
        parts = [[self.rows[each] for each in numbers] for numbers in self.micro_batches(number)]
        random = backend.random()
        sums = backend.gradients([row for part in parts for row in part], parts)
        if sums.short:
            raise does_not_fit("a micro-batch", sums.short)
        state = backend.optimizer.state
        none = [torch.zeros_like(weight) for weight in backend.parameters]
        values = (
            [weight.detach() for weight in backend.parameters],
            *(
                [state.get(weight, {}).get(name, zero) for weight, zero in zip(backend.parameters, none, strict=True)]
                for name in ("exp_avg", "exp_avg_sq")
            ),
            [
                zero if weight.grad is None else weight.grad
                for weight, zero in zip(backend.parameters, none, strict=True)
            ],
        )
        taken = TakenStep(tuple(torch.cat([each.flatten() for each in part]) for part in values), random)
        backend.clip()
        if short := backend.update(learning_rate(number, self.steps, self.settings)):
            raise does_not_fit("the optimizer's state", short)
        return taken

    def effects(self, asked: Sequence[Row], kept: Callable[[int], Snapshot]) -> torch.Tensor:
        """The derivative of each asked answer's loss (nats per token, after the training) by each row's weight in the
        training, Q x rows in float64. Leaving a row out takes its weight from 1 to 0: minus that, to first order.

        Args:
            kept: gives the states that :meth:`again` gave.

        Raises:
            AfinaError: this model's second derivatives are not those of its gradients.
        """
        backend = self.backend
        backend.restore(kept(self.steps))
        backend.model.eval()
        weights_QP = torch.stack([self._gradient_of(row) for row in asked])
        after = [weights_QP, torch.zeros_like(weights_QP), torch.zeros_like(weights_QP)]
        effects_QR = torch.zeros(len(asked), len(self.rows), dtype=torch.float64, device=weights_QP.device)
        for start in reversed(self.kept[:-1]):
            backend.restore(kept(start))
            numbers = range(start, min(start + self.every, self.steps))
            with backend.training():
                taken = [self._step(number) for number in numbers]
            for number in reversed(numbers):
                step = taken.pop()
                *after, of_gradient_QP = self._update(number).before(step.values, after)
                products_QP = self._through(number, step, of_gradient_QP, effects_QR)
                if number == self.steps - 1:
                    self._check(number, step, of_gradient_QP[0])
                after[0] = after[0] + products_QP
                self.progress(self.steps - number, self.steps, "steps, backwards")
        return effects_QR.cpu()

    def _update(self, number: int) -> Update:
        group = self.backend.optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        rate_P = learning_rate(number, self.steps, self.settings) * self.ratio_P
        return Update(number + 1, rate_P, self.settings.clip, beta1, beta2, group["eps"], group["weight_decay"])

    def _gradient_of(self, row: Row) -> torch.Tensor:
        """Of a row's mean loss, as it is asked: P in float64."""
        backend = self.backend
        batch = make_batch([row], backend.pad_id, backend.device)
        loss = target_loss(backend.model, batch) / batch.targets
        found = torch.autograd.grad(loss, backend.parameters, materialize_grads=True)
        return torch.cat([each.flatten() for each in found]).double()

    def _losses(self, number: int, weights_P: torch.Tensor, random: dict[str, torch.Tensor], use: Any) -> None:
        """Give `use` each micro-batch of a step with its part of the step's loss by target, at these weights, in
        operations that can be differentiated twice."""
        backend, parts = self.backend, self.micro_batches(number)
        with torch.no_grad():
            for weight, value in zip(backend.parameters, in_shapes(weights_P, backend.parameters), strict=True):
                weight.copy_(value)
        set_random_states(random)
        total = sum(self.rows[each].targets for numbers in parts for each in numbers)
        backend.model.train()
        try:
            for numbers in parts:
                batch = make_batch([self.rows[each] for each in numbers], backend.pad_id, backend.device)
                with sdpa_kernel(SDPBackend.MATH):  # the fused kernels' backward has no derivative
                    nll_N = target_loss(backend.model, batch, reduction="none") / total
                use(numbers, batch.positions_N // batch.ids_BL.shape[1], nll_N)
        finally:
            backend.model.eval()

    def _through(
        self, number: int, step: TakenStep, of_gradient_QP: torch.Tensor, effects_QR: torch.Tensor
    ) -> torch.Tensor:
        """The adjoint of the weights through a step's gradient, Q x P; what the rows of the step do is added."""
        products_QP = torch.zeros_like(of_gradient_QP)
        gradient_P = torch.zeros_like(step.values[3])

        def use(numbers: Sequence[int], row_N: torch.Tensor, nll_N: torch.Tensor) -> None:
            part_P, part_QP, of_QN = second_order(nll_N, self.backend.parameters, of_gradient_QP)
            gradient_P.add_(part_P)
            products_QP.add_(part_QP)
            rows_N = torch.tensor(numbers, device=row_N.device)[row_N]
            effects_QR.index_add_(1, rows_N, of_QN)

        self._losses(number, step.values[0], step.random, use)
        apart = float((gradient_P - step.values[3]).norm() / step.values[3].norm().clamp(min=1e-30))
        if not apart <= SAME_GRADIENT:
            raise _another(f"the gradient of step {number + 1} is another than the training's own, by {apart:.2g}")
        rows = [each for numbers in self.micro_batches(number) for each in numbers]
        targets_R = torch.tensor([self.rows[each].targets for each in rows], device=effects_QR.device).double()
        along_Q = of_gradient_QP @ gradient_P.double()
        shares_QR = -along_Q[:, None] * (targets_R / targets_R.sum())
        effects_QR.index_add_(1, torch.tensor(rows, device=effects_QR.device), shares_QR)
        return products_QP

    def _check(self, number: int, step: TakenStep, of_gradient_P: torch.Tensor) -> None:
        """Hold a product with the Hessian against the difference of two gradients: an operation with a backward of its
        own may have none that can be differentiated, and nothing says so."""
        # What has no gradient (a token that stands in no row) is steep beyond all measure, and reached by nothing.
        along_P = of_gradient_P * (step.values[3] != 0)
        if not along_P.any():  # at a rate of 0
            return
        x_P, product_P, difference_P = step.values[0].double(), *(torch.zeros_like(along_P) for _ in range(2))
        size = STEP * x_P.norm() / along_P.norm()

        def multiply(_: Any, __: Any, nll_N: torch.Tensor) -> None:
            product_P.add_(second_order(nll_N, self.backend.parameters, along_P[None])[1][0])

        def subtract(nll_N: torch.Tensor, sign: int) -> None:
            parts = torch.autograd.grad(nll_N.sum(), self.backend.parameters, materialize_grads=True)
            difference_P.add_(sign * torch.cat([each.flatten() for each in parts]).double() / (2 * size))

        self._losses(number, x_P, step.random, multiply)
        self._losses(number, x_P + size * along_P, step.random, lambda _, __, nll_N: subtract(nll_N, 1))
        self._losses(number, x_P - size * along_P, step.random, lambda _, __, nll_N: subtract(nll_N, -1))
        apart = float((difference_P - product_P).norm() / product_P.norm().clamp(min=1e-300))
        if not apart <= SAME_PRODUCT:
            raise _another(f"a second derivative differs from the difference of two gradients by {apart:.2g}")


def _another(what: str) -> AfinaError:
    fix = "ask without --through-training; and please report this with the base's config.json"
    return AfinaError(what, fix, "--through-training")
