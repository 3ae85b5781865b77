"""Rows side by side as plain arrays, which every back end takes: ids, and where the targets stand.

Shapes: B rows, L the longest of them, N targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from afina.tokenizer.encode import Row

if TYPE_CHECKING:
    import numpy as np


class PaddedRows(NamedTuple):
    """Rows padded on the right to the longest of them; all numbers are 64 bits wide."""

    ids_BL: np.ndarray[Any, Any]
    positions_N: np.ndarray[Any, Any]
    """Flat positions in B x L whose next token is a target."""
    targets_N: np.ndarray[Any, Any]
    lengths: tuple[int, ...]
    """Real tokens of each row."""


def pad_rows(rows: Sequence[Row], pad_id: int) -> PaddedRows:
    """Put rows side by side.

    >>> from afina.text.example import Example
    >>> short, long = (Row(ids, mask, Example(text="")) for ids, mask in
    ...                (([7, 8], [False, True]), ([4, 5, 6], [False, True, True])))
    >>> padded = pad_rows([short, long], pad_id=0)
    >>> padded.ids_BL.tolist(), padded.positions_N.tolist(), padded.targets_N.tolist()
    ([[7, 8, 0], [4, 5, 6]], [0, 3, 4], [8, 5, 6])
    """
    import numpy as np

    lengths = tuple(len(row.ids) for row in rows)
    ids: np.ndarray[Any, Any] = np.full((len(rows), max(lengths)), pad_id, dtype=np.int64)
    mask: np.ndarray[Any, Any] = np.zeros(ids.shape, dtype=bool)
    for number, row in enumerate(rows):
        ids[number, : lengths[number]] = row.ids
        mask[number, : lengths[number]] = row.mask
    mask = mask[:, 1:]
    row_N, column_N = mask.nonzero()
    return PaddedRows(ids, row_N * ids.shape[1] + column_N, ids[:, 1:][mask], lengths)
