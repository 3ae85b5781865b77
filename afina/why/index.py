"""The index of a run's rows, in its folder ``why/``: what a second question needs, so that it waits for no row.

    key.json                 hashes of all that the index was made from; another key: everything else is made anew
    ekfac.safetensors        the curvature (:class:`afina.why.ekfac_torch.Curvature`)
    block-00000.npz          of some rows ``numbers``, ``sketches`` (float16, of length 1) and ``norms`` (float32)
    rows.json                what is told of each row, and hashes of the above; written last: with it the index is whole
    effects.json             what each source did to the losses, with a key of its own
    misses.json              what ``afina why --misses`` found last
    training/                states of the training done again (:mod:`afina.why.through_training_torch`), with a key of
                             their own

Each file is written beside its place and renamed. A build that was stopped goes on behind its last whole block.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import AfinaError
from afina.record import Record
from afina.run import hash_file, hash_value, parse_json, read_mapping
from afina.whole import remove, write_json, write_whole
from afina.why.rows import TrainedRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDER, KEY, CURVATURE, ROWS, EFFECTS = "why", "key.json", "ekfac.safetensors", "rows.json", "effects.json"
TRAINING = "training"
OWN_KEYS = (EFFECTS, TRAINING)
"""What is not made anew with the index."""
BUILD_AGAIN = "remove the folder why/ of the run and ask again: the index is made anew"


@dataclass(frozen=True)
class IndexBlock:
    """Some rows of the index."""

    numbers: NDArray[np.int64]
    sketches: NDArray[np.float16]
    """B x K, each of length 1 (0 for a row without a gradient)."""
    norms: NDArray[np.float32]
    """The sketches' own lengths."""


@dataclass(frozen=True)
class IndexFolder:
    """One run's index, whole or being made."""

    folder: Path

    def begin(self, key: Mapping[str, Any]) -> bool:
        """Make the folder ready for what is made from `key`; whether something of another key was removed."""
        file = self.folder / KEY
        if file.is_file():
            try:
                if parse_json(file.read_bytes()) == key:
                    return False
            except ValueError:
                pass  # of a damaged key nothing is known: the same as another one
        old = [each for each in self.folder.iterdir() if each.name not in OWN_KEYS] if self.folder.is_dir() else []
        for each in old:
            remove(each)
        write_json(file, key)
        return bool(old)

    @property
    def whole(self) -> bool:
        """Whether every row is in it."""
        return (self.folder / ROWS).is_file()

    def block_file(self, number: int) -> Path:
        return self.folder / f"block-{number:05}.npz"

    def write_block(self, number: int, block: IndexBlock) -> None:
        """Write one block."""
        import numpy as np

        held = io.BytesIO()
        np.savez(held, numbers=block.numbers, sketches=block.sketches, norms=block.norms)
        write_whole(self.block_file(number), held.getvalue())

    def finish(self, rows: list[TrainedRow], left_out: int, blocks: int) -> None:
        """Say that the index is whole."""
        made = [self.folder / CURVATURE, *map(self.block_file, range(blocks))]
        values = {
            "blocks": blocks,
            "left_out": left_out,
            "rows": [row.as_json() for row in rows],
            "files": {file.name: hash_file(file) for file in made},
        }
        write_json(self.folder / ROWS, values | {"check": hash_value(values)})

    def rows(self) -> tuple[list[TrainedRow], int, int]:
        """What is told of each row, how many of the run are not in the index, and how many blocks there are.

        Raises:
            AfinaError: a file of the index is not what was written. Numbers that are wrong would name wrong rows.
        """
        file = self.folder / ROWS
        try:
            known = read_mapping(file)
        except AfinaError as error:
            raise AfinaError(problems=[replace(each, fix=BUILD_AGAIN) for each in error.problems]) from error
        if known.pop("check", None) != hash_value(known):
            raise damaged(file, "it is not what was written")
        values = Record(known, str(file), fix=BUILD_AGAIN)
        for name, written in values.required_record("files").values.items():
            made = self.folder / name
            if not made.is_file() or hash_file(made) != written:
                raise damaged(made, "it is not what the index was made of")
        rows = [_read_row(row) for row in values.records("rows")]
        return rows, values.required_whole("left_out"), values.required_whole("blocks")

    def blocks(self, count: int) -> Iterator[IndexBlock]:
        """The blocks in their order, of an index whose :meth:`rows` were read.

        Raises:
            AfinaError: one was damaged already when the index was finished, of a build that had been stopped.
        """
        import zipfile

        import numpy as np

        for number in range(count):
            file = self.block_file(number)
            try:
                with np.load(file, allow_pickle=False) as held:
                    yield IndexBlock(held["numbers"], held["sketches"], held["norms"])
            except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
                raise damaged(file, error) from error


def damaged(file: Path, why: object) -> AfinaError:
    """That a file of the index is not what was written."""
    return AfinaError(f"damaged: {why}", BUILD_AGAIN, str(file))


def _read_row(row: Record) -> TrainedRow:
    return TrainedRow(
        path=row.required_text("path"),
        line=row.required_whole("line"),
        source=row.required_whole("source"),
        kind=row.required_text("kind"),
        repeat=row.required_whole("repeat"),
        replay=row.required_flag("replay"),
        text=row.required_text("text"),
    )
