"""The four ways from tokens to the next logits.

Shapes: n rows in one forward, L tokens, H heads of keys, C columns, D head size, V vocabulary.

slots   n rows share a forward. Row r keeps its keys and values in ``keys[r, :, :length_r]``: a token's column is its
        position, and nothing is ever padded on the left. A prompt is read with plain causal attention, and a step
        masks the columns behind each row's own end. Rows leave by moving the last row into their place.
states  the same for a recurrent model, whose state of a row has one size whatever was read: rows of one length read
        their prompts together, and then all share a forward.
equal   rows of one length share a forward and the cache that the model makes by itself. Alone, a row goes operation by
        operation through what ``model.generate`` does with one prompt.
whole   one row a forward, all of its tokens again at every step, no cache. Slow, and right for any causal model.

``ability_torch`` runs them on a few tokens and compares their logits. An architecture whose masks or
positions work in a way that the slots do not know falls back to the next one, and the reason is told; it is never
silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from afina.model.generate.call_torch import Caller
from afina.model.generate.forwards import READ_TOKENS, ActiveRow
from afina.model.shape_table import RECURRENT

COLUMNS = 64
"""The columns of the slots grow by so many at a time."""


# ---- slots


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: rows x H x C x D."""

    def __init__(self, slots: SlotCache) -> None:
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Zeros, since what stands behind a row's end is multiplied with a weight of 0, and 0 x NaN is NaN."""
        self.keys, self.values = (
            state.new_zeros(self.slots.capacity_rows, state.shape[1], self.slots.capacity_columns, state.shape[3])
            for state in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        slots = self.slots
        if slots.positions_n is None:
            rows, length = slice(slots.first, slots.first + key_states.shape[0]), key_states.shape[2]
            self.keys[rows, :, :length], self.values[rows, :, :length] = key_states, value_states
            return key_states, value_states
        self.keys[slots.rows_n, :, slots.positions_n] = key_states[:, :, 0]
        self.values[slots.rows_n, :, slots.positions_n] = value_states[:, :, 0]
        n = key_states.shape[0]
        return self.keys[:n, :, : slots.columns], self.values[:n, :, : slots.columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (query_length if self.slots.positions_n is None else self.slots.columns), 0

    def get_seq_length(self) -> int:
        return 0 if self.slots.positions_n is None else self.slots.columns - 1

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):  # type: ignore[misc]
    """The slots of all layers, in the form that a transformers model takes as ``past_key_values``."""

    def __init__(self, layers: int) -> None:
        self.capacity_rows = self.capacity_columns = 0
        self.first = self.columns = 0
        self.rows_n: torch.Tensor | None = None
        self.positions_n: torch.Tensor | None = None
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])

    def begin_reading(self, first: int) -> None:
        """The next forward reads prompts into the rows from `first` on."""
        self.first, self.positions_n = first, None

    def begin_step(self, positions: Sequence[int], device: torch.device) -> None:
        """The next forward adds one token to each row, at its position."""
        self.rows_n = torch.arange(len(positions), device=device)
        self.positions_n = torch.tensor(positions, device=device)
        self.columns = max(positions) + 1

    def _filled(self) -> Iterator[Any]:
        return (layer for layer in self.layers if layer.is_initialized)

    def reserve(self, rows: int, columns: int, used: int, most_tokens: int | None) -> None:
        """Make room for `rows` x `columns`, keeping the first `used` rows."""
        columns = round_up(columns)
        if rows <= self.capacity_rows and columns <= self.capacity_columns:
            return
        doubled = 1 << (rows - 1).bit_length()  # so that rows that come one by one are not copied each time
        kept = max(doubled, self.capacity_rows), max(columns, self.capacity_columns)
        if most_tokens is not None and kept[0] * kept[1] > most_tokens:
            kept = rows, columns
        old = min(self.capacity_columns, kept[1])
        self.capacity_rows, self.capacity_columns = kept
        for layer in self._filled():
            before = layer.keys, layer.values
            layer.lazy_initialization(*before)
            layer.keys[:used, :, :old], layer.values[:used, :, :old] = (state[:used, :, :old] for state in before)

    def move(self, source: int, target: int, length: int) -> None:
        """Put the row at `source` into the place `target`."""
        for layer in self._filled():
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def wipe(self, place: int) -> None:
        """Zeros instead of what is NaN; see ``lazy_initialization``."""
        for layer in self._filled():
            layer.keys[place], layer.values[place] = 0, 0

    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        cells = max(1, self.capacity_rows * self.capacity_columns)
        return sum((layer.keys.nbytes + layer.values.nbytes) // cells for layer in self._filled())


def round_up(columns: int) -> int:
    """
    >>> round_up(1), round_up(64), round_up(65)
    (64, 64, 128)
    """
    return -(-columns // COLUMNS) * COLUMNS


class Slots:
    """Rows that share a forward."""

    def __init__(self, call: Caller, most_tokens: int | None = None) -> None:
        self.call, self.most_tokens = call, most_tokens
        self.rows: list[ActiveRow] = []
        self.cache = SlotCache(call.config.get_text_config(decoder=True).num_hidden_layers)

    def tokens(self, coming: Sequence[ActiveRow] = ()) -> int:
        """Tokens that the cache has to hold for the rows here and those that come."""
        rows = [*self.rows, *coming]
        return len(rows) * round_up(max((row.limit for row in rows), default=0))

    def add(self, rows: Sequence[ActiveRow]) -> None:
        """Read the prompts, all but their last tokens, which go with the next step; like lengths together."""
        longest = max(row.limit for row in [*self.rows, *rows])
        self.cache.reserve(len(self.rows) + len(rows), longest, len(self.rows), self.most_tokens)
        for group in _groups(sorted(rows, key=lambda row: len(row.ids))):
            length = len(group[-1].ids) - 1
            if length:
                ids = torch.zeros(len(group), length, dtype=torch.long)
                for number, row in enumerate(group):
                    ids[number, : len(row.ids) - 1] = torch.tensor(row.ids[:-1])
                self.cache.begin_reading(len(self.rows))
                self.call(
                    [row.adapter for row in group],
                    input_ids=ids.to(self.call.device),
                    position_ids=torch.arange(length, device=self.call.device).expand(len(group), -1),
                    past_key_values=self.cache,
                    use_cache=True,
                )
            self.rows += group

    def step(self) -> torch.Tensor:
        """Logits after the last token of every row, n x V."""
        device = self.call.device
        positions = [len(row.ids) - 1 for row in self.rows]
        self.cache.begin_step(positions, device)
        position_n = self.cache.positions_n
        assert position_n is not None
        # An additive mask of four dimensions is what every attention of transformers takes as it is.
        hidden_nC = torch.arange(self.cache.columns, device=device) > position_n[:, None]
        mask = torch.zeros(hidden_nC.shape, dtype=self.call.dtype, device=device).masked_fill_(hidden_nC, -torch.inf)
        return self.call.one_token(
            [row.adapter for row in self.rows],
            input_ids=torch.tensor([row.ids[-1:] for row in self.rows], device=device),
            position_ids=position_n[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=self.cache,
            use_cache=True,
        )

    def bytes_per_token(self) -> int:
        """Of the cache."""
        return self.cache.bytes_per_token()

    def wipe(self, row: ActiveRow) -> None:
        """Leave nothing of a row that is NaN for the one that gets its place."""
        self.cache.wipe(next(place for place, each in enumerate(self.rows) if each is row))

    def remove(self, gone: Sequence[ActiveRow]) -> None:
        """Free the places of rows; those behind move up."""
        leaving = set(map(id, gone))
        staying = sum(id(row) not in leaving for row in self.rows)
        tail = [place for place in range(staying, len(self.rows)) if id(self.rows[place]) not in leaving]
        for place in range(staying):
            if id(self.rows[place]) in leaving:
                source = tail.pop()
                self.cache.move(source, place, len(self.rows[source].ids))
                self.rows[place] = self.rows[source]
        del self.rows[staying:]


def _groups(rows: Sequence[ActiveRow]) -> Iterator[list[ActiveRow]]:
    """Consecutive rows, shortest first: a rectangle within READ_TOKENS, less than a quarter of it padding."""
    group: list[ActiveRow] = []
    real = 0
    for row in rows:
        rectangle = (len(group) + 1) * len(row.ids)
        if group and (rectangle > READ_TOKENS or real + len(row.ids) < 0.75 * rectangle):
            yield group
            group, real = [], 0
        group.append(row)
        real += len(row.ids)
    if group:
        yield group


# ---- states


class States:
    """Rows of any length that share a forward, as a state has no places: nothing is padded or masked."""

    def __init__(self, call: Caller) -> None:
        self.call = call
        self._read: list[ActiveRow] = []
        self._coming: list[ActiveRow] = []
        self._kept: Any = None
        """The model's cache of the rows that were read."""

    @property
    def rows(self) -> list[ActiveRow]:
        """All rows here; after a :meth:`step`, in the order of its logits."""
        return [*self._read, *self._coming]

    def tokens(self, coming: Sequence[ActiveRow] = ()) -> int:
        """Tokens of the rows here and those that come: a state counts as if it grew with them."""
        return sum(row.limit for row in [*self.rows, *coming])

    def bytes_per_token(self) -> int:
        """The same of what is kept."""
        return _tensor_bytes(self._kept) // max(1, self.tokens())

    def add(self, rows: Sequence[ActiveRow]) -> None:
        """Take rows in; they are read at the next step."""
        self._coming += rows

    def step(self) -> torch.Tensor:
        """Logits after the last token of every row, n x V."""
        logits = []
        if self._read:
            logits_nV, self._kept = self._forward(self._read, self._kept, 1)
            logits.append(logits_nV)
        for group in _alike(self._coming, lambda row: len(row.ids)):
            logits_nV, kept = self._forward(group, None, len(group[0].ids))
            self._kept = kept if self._kept is None else self._kept.joined_by(kept)
            self._read += group
            logits.append(logits_nV)
        self._coming = []
        return torch.cat(logits)

    def _forward(self, rows: Sequence[ActiveRow], kept: Any, last: int) -> tuple[torch.Tensor, Any]:
        """Logits after the last tokens of rows, so many of each, and what is kept of all."""
        ids = torch.tensor([row.ids[-last:] for row in rows], device=self.call.device)
        return self.call.with_cache([row.adapter for row in rows], kept, input_ids=ids)

    def wipe(self, row: ActiveRow) -> None:
        """Nothing: its state goes with it."""

    def remove(self, gone: Sequence[ActiveRow]) -> None:
        """Drop the states of rows."""
        leaving = set(map(id, gone))
        staying = [place for place, row in enumerate(self._read) if id(row) not in leaving]
        if len(staying) < len(self._read):
            self._kept = self._kept if staying else None
            if staying:
                self._kept.reorder_cache(torch.tensor(staying, device=self.call.device))
        self._read = [self._read[place] for place in staying]
        self._coming = [row for row in self._coming if id(row) not in leaving]


def slots_of(call: Caller, most_tokens: int | None = None) -> Slots | States:
    """Where rows of any length share a forward."""
    return States(call) if call.config.model_type == RECURRENT else Slots(call, most_tokens)


def _alike(
    rows: Sequence[ActiveRow], key: Callable[[ActiveRow], Any], most: int | None = None
) -> Iterator[list[ActiveRow]]:
    """Rows with one key, of one length then, at most so many at a time, or as READ_TOKENS take."""
    alike: dict[Any, list[ActiveRow]] = {}
    for row in rows:
        alike.setdefault(key(row), []).append(row)
    for group in alike.values():
        size = most or max(1, READ_TOKENS // len(group[0].ids))
        yield from (group[at : at + size] for at in range(0, len(group), size))


# ---- rows of one length


@dataclass(eq=False, slots=True)
class _Group:
    """Rows of one length, and what the model keeps of them."""

    rows: list[ActiveRow]
    cache: Any = None
    read: int = 0
    """Tokens of each row that are in the cache."""


class Equal:
    """Rows of one length share a forward and the cache that the model itself makes for them: nothing is padded.

    Args:
        cached: false where the model has no cache that gives its own values; all of a row is read at every step.
        most: rows in a forward; one is operation by operation what ``model.generate`` does with one prompt.
    """

    def __init__(self, call: Caller, *, cached: bool = True, most: int | None = None) -> None:
        self.call, self.cached, self.most = call, cached, most
        self._groups: list[_Group] = []
        self._switches = switching_lengths(call.config)

    @property
    def rows(self) -> list[ActiveRow]:
        """All rows here, in the order of the logits of :meth:`step`."""
        return [row for group in self._groups for row in group.rows]

    def tokens(self, coming: Sequence[ActiveRow] = ()) -> int:
        """Tokens that the caches have to hold for the rows here and those that come."""
        return sum(row.limit for row in [*self.rows, *coming])

    def add(self, rows: Sequence[ActiveRow]) -> None:
        """Take rows in; they are read at the next step."""

        def key(row: ActiveRow) -> tuple[int, int, str]:
            return len(row.ids), row.prompt, "" if self.call.mixes(row.adapter) else row.adapter

        self._groups += [_Group(group) for group in _alike(rows, key, self.most)]

    def step(self) -> torch.Tensor:
        """Logits after the last token of every row, n x V."""
        return torch.cat([self._next(group) for group in self._groups])

    def _next(self, group: _Group) -> torch.Tensor:
        length = len(group.rows[0].ids)
        if not self.cached:
            return self._forward(group, 0, length)
        if any(group.read <= switch < length for switch in self._switches):
            group.cache, group.read = None, 0  # the frequencies of all positions change here: keys are made anew
        if group.cache is None:
            prompt = length if any(switch < length for switch in self._switches) else group.rows[0].prompt
            logits = self._forward(group, 0, prompt)
        while group.read < length:  # more than once where it was written before the rows came here
            logits = self._forward(group, group.read, group.read + 1)
        return logits

    def _forward(self, group: _Group, start: int, end: int) -> torch.Tensor:
        """Logits after the tokens from `start` to `end`, which go into the cache."""
        device = self.call.device
        inputs = {"input_ids": torch.tensor([row.ids[start:end] for row in group.rows], device=device)}
        if self.call.takes_positions:
            inputs["position_ids"] = torch.arange(start, end, device=device).expand(len(group.rows), -1)
        adapters = [row.adapter for row in group.rows]
        if not self.cached:
            return self.call(adapters, **inputs, use_cache=False)
        logits, group.cache = self.call.with_cache(adapters, group.cache, **inputs)
        group.read = end
        return logits

    def bytes_per_token(self) -> int:
        """Of all caches here; states that do not grow with the text count as if they did."""
        held = sum(_tensor_bytes(group.cache) for group in self._groups)
        return held // max(1, self.tokens())

    def wipe(self, row: ActiveRow) -> None:
        """Nothing: what is kept of it goes with it."""

    def remove(self, gone: Sequence[ActiveRow]) -> None:
        """Free the places of rows."""
        leaving = set(map(id, gone))
        for group in self._groups:
            staying = [place for place, row in enumerate(group.rows) if id(row) not in leaving]
            if staying and len(staying) < len(group.rows) and group.cache is not None:
                group.cache.reorder_cache(torch.tensor(staying, device=self.call.device))
            group.rows = [group.rows[place] for place in staying]
        self._groups = [group for group in self._groups if group.rows]


def switching_lengths(config: Any) -> list[int]:
    """Lengths beyond which all positions turn by other frequencies (longrope), in tokens.

    >>> from types import SimpleNamespace
    >>> phi = SimpleNamespace(rope_parameters={"rope_type": "longrope", "original_max_position_embeddings": 4096})
    >>> switching_lengths(SimpleNamespace(get_text_config=lambda decoder: phi))
    [4096]
    """
    return [int(each["original_max_position_embeddings"]) for each in ropes(config) if each["rope_type"] == "longrope"]


def ropes(config: Any) -> list[dict[str, Any]]:
    """The settings of a model's rotary positions, one for each kind of layer that has its own."""
    text = config.get_text_config(decoder=True)
    found = getattr(text, "rope_parameters", None) or {}
    each = [found, *(part for part in found.values() if isinstance(part, dict))]
    original = getattr(text, "original_max_position_embeddings", None) or getattr(text, "max_position_embeddings", None)
    return [{"original_max_position_embeddings": original} | part for part in each if part.get("rope_type")]


def _tensor_bytes(kept: Any) -> int:
    """Bytes of all tensors in a cache: in its layers, their attributes, lists and tables."""
    if isinstance(kept, torch.Tensor):
        return kept.nbytes
    if isinstance(kept, dict):
        return sum(map(_tensor_bytes, kept.values()))
    if isinstance(kept, list | tuple):
        return sum(map(_tensor_bytes, kept))
    return (
        _tensor_bytes(vars(kept))
        if isinstance(kept, Cache | CacheLayerMixin) or hasattr(kept, "recurrent_states")
        else 0
    )
