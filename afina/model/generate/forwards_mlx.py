"""A model that mlx-lm has opened, as the engine drives it: over mlx-lm's caches, batches and all.

together   rows share a forward. mlx-lm reads prompts padded on the right, rolls what it keeps to the right end and pads
           on the left, row by row; rows join and leave its caches.
alone      one row a forward, token by token as ``mlx_lm.generate`` writes from one prompt.

Logits leave MLX as float32 in a torch tensor: the choice of a token, by whatever seed, is the engine's own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten
from mlx_lm.generate import PromptProcessingBatch
from mlx_lm.models.cache import KVCache, make_prompt_cache

from afina.model.generate.forwards import CACHE_BYTES, READ_TOKENS, Ability, ActiveRow, PathProbe, RowPath, draw_probe
from afina.model.generate.request import BASE
from afina.model.mlx.adapters import adapters_of, standing_adapter, switched
from afina.model.mlx.mlx_model import MlxModel
from afina.model.mlx.window_mlx import longest_row

CLEARED_EVERY = 256
"""Forwards after which MLX gives back memory that it keeps for the next one, as ``mlx_lm.generate`` does."""
ADAPTED = (".lora_a", ".lora_b", ".m")
"""Ends of the names of what an adapter adds."""
_KNOWN: WeakKeyDictionary[MlxModel, Ability] = WeakKeyDictionary()


def number_type(model: MlxModel) -> str:
    """What the base computes in, e.g. ``bfloat16``; of quantized layers, what their scales are held in."""
    base = (weight for name, weight in tree_flatten(model.network.parameters()) if not name.endswith(ADAPTED))
    return next(str(each.dtype) for each in base if mx.issubdtype(each.dtype, mx.floating)).rpartition(".")[2]


class MlxForwards:
    """See :class:`~afina.model.generate.forwards.Forwards`."""

    def __init__(self, model: MlxModel) -> None:
        self.model, self.standing = model, standing_adapter(model)
        self._asked: set[str] = set()
        self._forwards = 0

    @property
    def numbers(self) -> str:
        """E.g. ``float32 mlx gpu``."""
        return f"{number_type(self.model)} mlx {mx.default_device().type.name}"

    @property
    def full_precision(self) -> bool:
        """Whether it computes in float32; so do layers that are quantized beside such."""
        return number_type(self.model) == "float32"

    @property
    def context(self) -> int | None:
        """What it reads as it was trained to."""
        return longest_row(self.model)

    @property
    def vocabulary(self) -> int:
        """Logits of a place."""
        return self.model.vocab

    @property
    def ability(self) -> Ability:
        """Found once for a model, in about ten small forwards."""
        if self.model not in _KNOWN:
            _KNOWN[self.model] = self._find_ability()
        return _KNOWN[self.model]

    @property
    def cache_bytes(self) -> int:
        """:data:`~afina.model.generate.forwards.CACHE_BYTES`: memory is shared with the rest of the machine."""
        return CACHE_BYTES

    def names(self) -> list[str]:
        """See :class:`~afina.model.generate.forwards.Forwards`."""
        return [BASE, *adapters_of(self.model)]

    def mixes(self, adapter: str) -> bool:
        """Never: an adapted layer holds one adapter."""
        self._asked.add(adapter)
        return False

    def why_apart(self) -> str:
        """See :class:`~afina.model.generate.forwards.Forwards`."""
        return "a layer of MLX holds one adapter at a time" if len(self._asked) > 1 else ""

    def adopt(self, model: MlxModel) -> None:
        """Nothing: adapters come to the model that it has."""
        assert model is self.model, "an MLX model is not wrapped anew"

    def slots(self, most_tokens: int | None) -> RowPath:  # noqa: ARG002  its caches grow by steps of their own
        """See the head of this file."""
        return Together(self)

    def equal(self) -> RowPath:
        """Rows of one length are rows like any others."""
        return self.alone()

    def alone(self) -> RowPath:
        """See the head of this file."""
        return Alone(self, cached=self.ability.cached)

    def new_cache(self) -> list[Any]:
        """What the model keeps of one row, empty."""
        return list(make_prompt_cache(self.model.network))

    def forward(self, ids: Sequence[Sequence[int]], cache: Sequence[Any] | None, adapter: str) -> torch.Tensor:
        """Logits after the last token of every row, n x V in float32; all rows have one length."""
        with switched(self.model, adapter):
            logits_nV = self.model.network(mx.array([list(row) for row in ids]), cache=cache)[:, -1].astype(mx.float32)
        found = torch.from_numpy(np.array(logits_nV))
        self._forwards += 1
        if self._forwards % CLEARED_EVERY == 0:
            mx.clear_cache()
        return found

    def _find_ability(self) -> Ability:
        windows = [each.max_size for each in self.new_cache() if getattr(each, "max_size", None)]
        longest = min(windows, default=None)
        probe: PathProbe = draw_probe(self.standing, self.vocabulary, (longest, self.context))
        tolerance = 1e-3 if self.full_precision else 5e-2
        truth = probe.run(Alone(self, cached=False))
        alone = Alone(self)
        if broken := probe.why_not(alone, truth, tolerance, "what it keeps for the next token"):
            return Ability(False, False, False, None, 0, f"{broken}: every token reads the whole text again")
        held = alone.bytes_per_token()
        if why := probe.why_not(Together(self), truth, tolerance, "rows of different lengths in one batch"):
            return Ability(False, False, True, None, held, f"{why}: one row at a time")
        if longest is None:
            return Ability(True, False, True, None, held)
        why = f"its attention has a window; rows that may pass {longest} tokens go one at a time"
        return Ability(True, False, True, longest, held, why)


class Together:
    """Rows of one adapter that share a forward."""

    def __init__(self, call: MlxForwards) -> None:
        self.call = call
        self.rows: list[ActiveRow] = []
        self._batch = self._read([])

    def _read(self, rows: Sequence[ActiveRow]) -> Any:
        """mlx-lm's batch of rows, all but their last tokens read. It asks for a sampler and processors of each row and
        uses none of them."""
        caches, none = [self.call.new_cache() for _ in rows], [None] * len(rows)
        batch = PromptProcessingBatch(
            self.call.model.network,
            [id(row) for row in rows],
            caches,
            prefill_step_size=READ_TOKENS,
            samplers=list(none),
            logits_processors=list(none),
        )
        if rows:
            with switched(self.call.model, rows[0].adapter):
                batch.prompt([row.ids[:-1] for row in rows])
        return batch

    def tokens(self, coming: Sequence[ActiveRow] = ()) -> int:
        """See :class:`~afina.model.generate.forwards.RowPath`: every row takes as much as the longest."""
        rows = [*self.rows, *coming]
        return len(rows) * _rounded(max((row.limit for row in rows), default=0))

    def add(self, rows: Sequence[ActiveRow]) -> None:
        """Read the prompts, like lengths together."""
        for group in _like_lengths(rows):
            self._batch.extend(self._read(group))
            self.rows += group

    def step(self) -> torch.Tensor:
        """See :class:`~afina.model.generate.forwards.RowPath`."""
        ids = [row.ids[-1:] for row in self.rows]
        return self.call.forward(ids, self._batch.prompt_cache, self.rows[0].adapter)

    def wipe(self, row: ActiveRow) -> None:
        """Nothing: what is kept of it goes with it."""

    def remove(self, gone: Sequence[ActiveRow]) -> None:
        """Free the places of rows."""
        leaving = set(map(id, gone))
        staying = [place for place, row in enumerate(self.rows) if id(row) not in leaving]
        if len(staying) < len(self.rows):
            self._batch.filter(staying)
            self.rows = [self.rows[place] for place in staying]


class Alone:
    """Rows one by one.

    Args:
        cached: false where all of a row is read at every step.
    """

    def __init__(self, call: MlxForwards, *, cached: bool = True) -> None:
        self.call, self.cached = call, cached
        self.rows: list[ActiveRow] = []
        self._kept: dict[int, tuple[list[Any], int]] = {}
        """By ``id`` of a row: what the model keeps of it, and how many tokens that is."""

    def tokens(self, coming: Sequence[ActiveRow] = ()) -> int:
        """See :class:`~afina.model.generate.forwards.RowPath`."""
        return sum(_rounded(row.limit) for row in [*self.rows, *coming])

    def add(self, rows: Sequence[ActiveRow]) -> None:
        """Take rows in; they are read at the next step."""
        self.rows += rows

    def step(self) -> torch.Tensor:
        """See :class:`~afina.model.generate.forwards.RowPath`."""
        return torch.cat([self._next(row) for row in self.rows])

    def _next(self, row: ActiveRow) -> torch.Tensor:
        if not self.cached:
            return self.call.forward([row.ids], None, row.adapter)
        cache, read = self._kept.get(id(row)) or (self.call.new_cache(), 0)
        while read < row.prompt - 1:  # the prompt's last token goes alone, as what is written does
            part = row.ids[read : min(read + READ_TOKENS, row.prompt - 1)]
            self.call.forward([part], cache, row.adapter)
            read += len(part)
        while read < len(row.ids):
            logits = self.call.forward([row.ids[read : read + 1]], cache, row.adapter)
            read += 1
        self._kept[id(row)] = cache, read
        return logits

    def bytes_per_token(self) -> int:
        """Of the caches here, none of which has grown."""
        held = sum(each.nbytes for cache, _ in self._kept.values() for each in cache)
        return held // max(1, len(self._kept) * KVCache.step)

    def wipe(self, row: ActiveRow) -> None:
        """Nothing: what is kept of it goes with it."""

    def remove(self, gone: Sequence[ActiveRow]) -> None:
        """Free the places of rows."""
        leaving = set(map(id, gone))
        self.rows = [row for row in self.rows if id(row) not in leaving]
        for number in leaving:
            self._kept.pop(number, None)


def _rounded(tokens: int) -> int:
    """Tokens that a cache has room for where it has to hold so many: it grows by steps."""
    return -(-tokens // KVCache.step) * KVCache.step


def _like_lengths(rows: Sequence[ActiveRow]) -> Iterator[list[ActiveRow]]:
    """Rows of like length, the shortest first, as many as :data:`READ_TOKENS` hold, padding included; one at least."""
    group: list[ActiveRow] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if group and (len(group) + 1) * len(row.ids) > READ_TOKENS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
