"""What evaluation, chat and server ask of an opened model, whichever back end holds it: torch (``reader_torch``) or MLX
(``reader_mlx``).

    what it writes       forwards: the engine drives them (:mod:`afina.model.generate.engine_torch`)
    what it expects      summed_loss, log_probs, target_scores: of rows that fit into one batch; values leave as plain
                         numbers, so that whoever adds them up knows no library of tensors
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from afina.tokenizer.encode import Row

if TYPE_CHECKING:
    from afina.model.generate.forwards import Forwards


class AnswerLogProb(NamedTuple):
    """Of one row."""

    nats: float
    """Log-probability of all its targets."""
    targets: int


class TargetScores(NamedTuple):
    """Of one row's targets, in their order."""

    nats: list[float]
    """Cross-entropy."""
    hits: list[bool]
    """Whether it is the likeliest token at its place."""


class Reader(Protocol):
    """One model in evaluation mode, its adapter as it stands. Rows are padded with `pad_id` to the longest of them."""

    @property
    def dtype(self) -> str:
        """The numbers computed with, and by what: ``torch.float32``, ``mlx.bfloat16``."""

    @property
    def context(self) -> int | None:
        """The longest row in tokens; None where the model sets no limit."""

    def tokens_at_once(self, least: int) -> int:
        """Padded tokens that a batch of rows may have here.

        Args:
            least: as many as a batch of the training has.
        """

    def forwards(self) -> Forwards:
        """What writes answers."""

    def summed_loss(self, rows: Sequence[Row], pad_id: int) -> float:
        """Cross-entropy of all targets, in nats."""

    def log_probs(self, rows: Sequence[Row], pad_id: int, *, share: bool = False) -> list[AnswerLogProb]:
        """Of each row; of preferences all the better answers, then all the worse ones.

        Args:
            share: what all rows begin with may be computed once.
        """

    def target_scores(self, rows: Sequence[Row], pad_id: int) -> list[TargetScores]:
        """Of each row, target by target."""
