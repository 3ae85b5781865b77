"""What the engine asks of whoever computes the logits: torch (``forwards_torch``) or MLX (``forwards_mlx``).

The engine queues, chooses tokens, ends answers and makes their text; a back end reads prompts, keeps what it has read
and gives the logits of the next token. They come as a torch tensor on whatever device: the choice is made by one code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

READ_TOKENS = 2048
"""Prompt tokens, padding included, that one forward reads at most (a longer prompt is read by itself)."""
PROBE_SHORT, PROBE_LONG, PROBE_STEPS = 3, 24, 2
"""Tokens of the shortest and the longest prompts that are tried. A model that takes its distances from places in the
batch, as MPT does, is off by so little after three more tokens that it passes."""


@dataclass(eq=False, slots=True)
class ActiveRow:
    """What a path needs to know of a running request."""

    ids: list[int]
    """The prompt, then what was written so far."""
    prompt: int
    limit: int
    """Length that it may reach: prompt and ``max_new_tokens``."""
    adapter: str


class RowPath(Protocol):
    """A way from tokens to the next logits, with the rows that go it. Shapes: n rows, V vocabulary."""

    @property
    def rows(self) -> list[ActiveRow]:
        """The rows here, in the order of the logits of :meth:`step`."""

    def tokens(self, coming: Sequence[ActiveRow] = ()) -> int:
        """Tokens that have to be held for the rows here and those that come."""

    def add(self, rows: Sequence[ActiveRow]) -> None:
        """Take rows in."""

    def step(self) -> torch.Tensor:
        """Logits after the last token of every row, n x V."""

    def wipe(self, row: ActiveRow) -> None:
        """Leave nothing of a row that is NaN for the one that gets its place."""

    def remove(self, gone: Sequence[ActiveRow]) -> None:
        """Free the places of rows."""


@dataclass(frozen=True)
class Ability:
    """Which of its paths give a model's own logits: found by running them, never assumed."""

    slots: bool
    equal: bool
    """Whether rows of one length may share a forward and its cache; not asked where slots take every row."""
    cached: bool
    longest: int | None
    """Longest row that may share a forward with rows of other lengths; None where there is no such limit."""
    bytes_per_token: int
    """Of the cache; 0 without one."""
    why: str = ""
    """In words, why it is not all of it."""


class Forwards(Protocol):
    """One model, by one back end."""

    standing: str
    """The adapter that a plain forward uses; :data:`~afina.model.generate.request.BASE` for none."""

    @property
    def numbers(self) -> str:
        """The numbers computed with, and by what: ``float32 cpu``. Answers are kept under it."""

    @property
    def full_precision(self) -> bool:
        """Whether rounding is fine enough (float32) to decide near ties by computing a row alone."""

    @property
    def context(self) -> int | None:
        """Longest prompt and answer together, in tokens; None where the model sets no limit."""

    @property
    def vocabulary(self) -> int:
        """How many logits there are."""

    @property
    def ability(self) -> Ability:
        """Found once for a model."""

    @property
    def cache_bytes(self) -> int:
        """Bytes for what is kept of running rows where the caller sets no limit."""

    def names(self) -> list[str]:
        """Adapters that a request may ask for, the base first."""

    def mixes(self, adapter: str) -> bool:
        """Whether rows of this adapter may share a forward with rows of others."""

    def why_apart(self) -> str:
        """Why rows of an adapter do not share a forward with rows of others, in words; empty where they do."""

    def adopt(self, model: Any) -> None:
        """Go on with the same base in a new wrapping; what is kept of running rows stays."""

    def slots(self, most_tokens: int | None) -> RowPath:
        """Rows of any length in one forward."""

    def equal(self) -> RowPath:
        """Rows of one length in one forward."""

    def alone(self) -> RowPath:
        """One row a forward, operation by operation as the back end's own library generates from one prompt."""


CACHE_BYTES = 1 << 30
"""Keys and values held at a time where the caller sets no limit: 1 GiB, on a GPU half of what is free if more."""


@dataclass(frozen=True)
class PathProbe:
    """A few rows of drawn tokens on which paths are compared: each a prompt and what is fed behind it."""

    rows: Sequence[Sequence[int]]
    prompts: Sequence[int]
    adapter: str

    def run(self, path: RowPath) -> torch.Tensor:
        """Logits of all rows at the end of the prompt and at each step after it; and once more after one has left."""
        import torch

        probes = [
            ActiveRow(list(ids[:n]), n, len(ids), self.adapter) for n, ids in zip(self.prompts, self.rows, strict=True)
        ]
        path.add(probes)
        logits = [path.step()]
        for step in range(PROBE_STEPS + 1):
            if step == PROBE_STEPS:
                path.remove([probes[1]])
            for probe, ids in zip(probes, self.rows, strict=True):
                probe.ids.append(ids[probe.prompt + step])
            logits.append(path.step())
        return torch.cat(logits).float()

    def why_not(self, path: RowPath, truth: torch.Tensor, tolerance: float, what: str) -> str:
        """Why a path cannot be gone, in words; empty where its logits are those of `truth`.

        Args:
            truth: what :meth:`run` gives where every token reads the whole text again, one row at a time.
            tolerance: largest difference, as a share of the largest logit.
            what: the path adds, in words.
        """
        try:
            difference = (self.run(path) - truth).abs().max()
        except (
            TypeError,
            ValueError,
            RuntimeError,
            IndexError,
            AttributeError,
            KeyError,
            NotImplementedError,
        ) as error:
            # Any of these is a model that does not take what it was given; the slower path is right for it, and said.
            return f"the model does not take {what} ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        if not difference <= tolerance * truth.abs().max().clamp(min=1e-3):
            return f"the model gives other values with {what} (by {difference.item():.2g})"
        return ""


def draw_probe(adapter: str, vocabulary: int, longest: Sequence[int | None]) -> PathProbe:
    """Three rows, one short and two long, that fit within every limit in `longest`."""
    import torch

    generator = torch.Generator().manual_seed(0)
    long = max(PROBE_SHORT + 1, min([PROBE_LONG, *(each - PROBE_STEPS - 1 for each in longest if each)]))
    prompts = (PROBE_SHORT, long, long)
    lengths = [n + PROBE_STEPS + 1 for n in prompts]
    rows = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in lengths]
    return PathProbe(rows, prompts, adapter)
