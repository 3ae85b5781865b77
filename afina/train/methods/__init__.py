"""The methods of training, a file each: its loss and its held-out score, as an :class:`Objective`.

What else is to be known of a method (which rows it learns, whether it needs a reference) is an entry of the table
in :mod:`afina.recipe.methods`, which needs no torch. The table names the file; the file's ``OBJECTIVE`` is the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from afina.recipe import Train, method_facts
from afina.tokenizer.encode import Row
from afina.train.backend import Score

if TYPE_CHECKING:
    import torch

    from afina.model.loss_torch import Batch, Totals


class Objective(Protocol):
    """What a training makes small."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that come with a loss."""

    @property
    def before(self) -> tuple[str, ...]:
        """Names of what :meth:`sums_before` gives; empty for a method that needs nothing before the first gradient."""

    def sums_before(self, model: Any, batch: Batch) -> tuple[float, ...]:
        """What a loss has to know of all rows of a step before its first gradient, of one micro-batch. Summed over
        the step's, whoever computes them, it comes back as ``totals.before``."""

    def loss(self, model: Any, batch: Batch, totals: Totals) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of a step's loss that a micro-batch adds, and of figures to log with it."""

    def held_out(
        self, model: Any, rows: Sequence[Row], *, pad_id: int, device: torch.device, batch_tokens: int
    ) -> Score:
        """Measure rows that are not learned."""


class ReferenceObjective(Protocol):
    """An objective whose method needs a reference: what the model before training says of each row."""

    judgements: tuple[str, ...]
    """Names of the log-probabilities of a row, as ``reference.jsonl`` calls them."""

    def judge(self, model: Any, batch: Batch) -> torch.Tensor:
        """Those log-probabilities in nats, J x rows."""


def objective_of(settings: Train) -> Objective:
    """The objective of a recipe's method.

    Raises:
        RecipeError: there is no such method; none is taken in its place.
    """
    module = import_module(f"{__name__}.{method_facts(settings.method).file}_torch")
    return cast(Objective, module.OBJECTIVE(settings))
