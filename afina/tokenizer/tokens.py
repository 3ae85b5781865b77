"""The tokens folder: the rows that training reads, written once, read by memory map.

    index.json               counts of each set, and hashes of all that the tokens were made from
    train/, validation/      a set of rows; of the first of two trainings first/train/ and first/validation/
        ids.npy              token ids of all rows, one after the other (uint16, or uint32 with a larger vocabulary)
        mask.npy             which of them are targets, a bit each, the first token in the highest bit
        rows.npy             a row each: where its tokens start, how many they are, see :data:`ROW`

The arrays are ordinary .npy files, which NumPy, JAX, MLX and others open without this module. A row holds no text: its
example is a line of the dataset folder. A :class:`Row` is made when it is asked for and forgotten after its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from afina.errors import AfinaError
from afina.record import Record
from afina.run import read_mapping
from afina.text.example import ExamplePlace
from afina.tokenizer.encode import EncodedCounts, EncodedSet, ExampleRows, Row
from afina.whole import write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX, VERSION = "index.json", 1
ROW = [
    ("start", "<i8"),
    ("length", "<i4"),
    ("targets", "<i4"),
    ("rejected_length", "<i4"),
    ("rejected_targets", "<i4"),
    ("example", "<i8"),
    ("learned_bytes", "<f8"),
]
"""Fields of ``rows.npy``: the place of the first token in ``ids.npy``, tokens and targets; those of the worse answer,
which stands behind (-1 where there is none); bytes before the example's line in the dataset; UTF-8 bytes that the
targets stand for."""
PENDING_TOKENS = 1 << 18
"""Tokens that wait in memory before they are written."""
REMOVE = "remove the folder and start the same command again: it encodes anew"


class _Column:
    """An .npy file of one dimension that grows."""

    def __init__(self, file: Path, dtype: Any) -> None:
        import numpy as np

        self.file, self.dtype, self.length = file.open("wb"), np.dtype(dtype), 0
        self._begin()
        self.start = self.file.tell()

    def _begin(self) -> None:
        from numpy.lib import format as npy

        shown = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        npy.write_array_header_1_0(self.file, shown)

    def append(self, values: NDArray[Any]) -> None:
        self.file.write(values.astype(self.dtype, copy=False).data)  # tofile() loses why it failed
        self.length += len(values)

    def close(self) -> None:
        """Write the length, for which NumPy leaves room in the header."""
        try:
            self.file.seek(0)
            self._begin()
            assert self.file.tell() == self.start, "the header of a longer array is longer"
        finally:
            self.file.close()


class TokenWriter:
    """Writes one set of rows; a context manager. Few of them are in memory at a time."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        folder.mkdir(parents=True)
        self._ids = _Column(folder / "ids.npy", "<u2" if vocabulary <= 1 << 16 else "<u4")
        self._bits, self._rows = _Column(folder / "mask.npy", "u1"), _Column(folder / "rows.npy", ROW)
        self._pending_ids: list[int] = []
        self._pending_mask: list[bool] = []
        self._pending_rows: list[tuple[int | float, ...]] = []
        self._start = 0

    def add(self, encoded: ExampleRows) -> None:
        """The rows of one example; those that are seen several times stand in ``ids.npy`` once."""
        made = []
        for row in encoded.rows:
            assert isinstance(row.origin, ExamplePlace), "a row on the disk refers to a line of the dataset"
            rejected = row.rejected
            worse = (len(rejected.ids), sum(rejected.mask)) if rejected else (-1, -1)
            made.append((self._start, len(row.ids), sum(row.mask), *worse, row.origin.offset, row.learned_bytes))
            for half in (row, rejected) if rejected else (row,):
                self._pending_ids += half.ids
                self._pending_mask += half.mask
                self._start += len(half.ids)
        self._pending_rows += made * encoded.repeat
        if max(len(self._pending_ids), len(self._pending_rows)) >= PENDING_TOKENS:
            self._write(len(self._pending_mask) // 8 * 8)

    @property
    def rows(self) -> int:
        """How many it has taken."""
        return self._rows.length + len(self._pending_rows)

    def _write(self, bits: int) -> None:
        """Write what is pending; of the mask so many bits."""
        import numpy as np

        self._ids.append(np.array(self._pending_ids, self._ids.dtype))
        self._bits.append(np.packbits(np.array(self._pending_mask[:bits], bool)))
        self._rows.append(np.array(self._pending_rows, self._rows.dtype))
        self._pending_ids, self._pending_mask, self._pending_rows = [], self._pending_mask[bits:], []

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        with ExitStack() as closed:
            for column in (self._ids, self._bits, self._rows):
                closed.callback(column.close if kind is None else column.file.close)
            if kind is None:
                self._write(len(self._pending_mask))


class TokenRows(Sequence[Row]):
    """The rows of a set, read when they are asked for."""

    def __init__(self, folder: Path, examples: Path) -> None:
        """Open a set's folder, with the file of the dataset that its rows were made from."""
        import numpy as np

        self.examples = examples
        self.ids, self.bits, self.rows = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in ("ids", "mask", "rows")
        )
        kinds = (self.ids.dtype.kind, self.bits.dtype.name, self.rows.dtype)
        if kinds != ("u", "uint8", np.dtype(ROW)) or {self.ids.ndim, self.bits.ndim, self.rows.ndim} != {1}:
            raise ValueError("the arrays are not those of a set of rows")

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> list[Row]: ...
    def __getitem__(self, number: int | slice) -> Row | list[Row]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        start, length, _, rejected_length, _, offset, learned_bytes = self.rows[number].item()
        place, rejected = ExamplePlace(self.examples, offset), None
        if rejected_length >= 0:
            rejected = Row(*self._tokens(start + length, rejected_length), place)
        return Row(*self._tokens(start, length), place, learned_bytes, rejected)

    def _tokens(self, start: int, length: int) -> tuple[list[int], list[bool]]:
        import numpy as np

        skipped, end = start % 8, start + length
        bits = np.unpackbits(self.bits[start // 8 : (end + 7) // 8], count=skipped + length)[skipped:]
        return self.ids[start:end].tolist(), bits.astype(bool).tolist()


@dataclass(frozen=True, slots=True)
class RowSizes:
    """Of every row, in their order: places in a batch, real tokens, targets; and how many are preferences."""

    places: list[int]
    tokens: list[int]
    targets: list[int]
    pairs: int


def row_sizes(rows: Sequence[Row]) -> RowSizes:
    """The sizes of rows; of a tokens folder without reading its tokens."""
    if not isinstance(rows, TokenRows):
        return RowSizes(
            [len(row) for row in rows],
            [row.tokens for row in rows],
            [row.targets for row in rows],
            sum(row.rejected is not None for row in rows),
        )
    import numpy as np

    own, worse = rows.rows["length"], rows.rows["rejected_length"]
    pair = worse >= 0
    places = np.where(pair, 2 * np.maximum(own, worse), own)
    tokens = own + np.where(pair, worse, 0)
    targets = rows.rows["targets"] + np.where(pair, rows.rows["rejected_targets"], 0)
    return RowSizes(places.tolist(), tokens.tolist(), targets.tolist(), int(pair.sum()))


def write_set(folder: Path, encoded: Iterable[ExampleRows], counts: EncodedCounts, vocabulary: int) -> dict[str, Any]:
    """Write a set as it is encoded; what the index says of it.

    Args:
        counts: what the encoding counts, whole after the last example.
        vocabulary: no id is as large.
    """
    with TokenWriter(folder, vocabulary) as writer:
        for each in encoded:
            writer.add(each)
            del each  # a whole book's rows would be kept while the next book is encoded
    return {"rows": writer.rows, "counts": asdict(counts)}


def write_index(folder: Path, made_from: Mapping[str, object], sets: Mapping[str, Mapping[str, object]]) -> None:
    """Write ``index.json``: what the tokens were made from, as plain values, and what :func:`write_set` returned."""
    write_json(folder / INDEX, {"version": VERSION, "made_from": made_from, "sets": sets})


def open_set(folder: Path, name: str, examples: Path) -> EncodedSet:
    """A set of a tokens folder.

    Args:
        examples: the file of the dataset that it was made from.

    Raises:
        AfinaError: the folder is damaged, or of another version.
    """
    index = Record(read_mapping(folder / INDEX), str(folder / INDEX))
    if index.required_whole("version") != VERSION:
        raise AfinaError(f"its format is {index['version']}, this afina reads {VERSION}", REMOVE, str(folder))
    described = index.record("sets").record(name)
    try:
        rows = TokenRows(folder / name, examples)
    except (OSError, ValueError) as error:
        raise AfinaError(f"damaged: {error}", REMOVE, str(folder / name)) from error
    if len(rows) != described.required_whole("rows"):
        raise AfinaError(f"holds {len(rows)} rows of {described['rows']}", REMOVE, str(folder / name))
    counts = described.record("counts")
    wholes = ("tokens", "targets", "thoughts", "lost_thoughts", "repeated", "boundary_merges")
    numbers: dict[str, Any] = {key: counts.required_whole(key) for key in wholes}
    dropped = {reason: int(tokens) for reason, tokens in counts.record("dropped").numbers()}
    places = counts.record("dropped_examples")
    return EncodedSet(
        **numbers,
        dropped=dropped,
        dropped_examples={reason: places.texts(reason) for reason in dropped},
        rows=rows,
    )
