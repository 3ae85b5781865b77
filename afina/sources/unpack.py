"""Packed texts (gzip, bzip2, xz, zstd) as streams of bytes: bounded, and each damage an error that names the file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from afina.errors import DataError
from afina.text.formats import compression_of, format_as

LARGEST_UNPACKED_BYTES = 256 << 20
"""A packed file may unpack to this much text at once; a megabyte of zip may claim to hold terabytes."""
LARGEST_FACTOR = 200
"""Beyond that size, a stream may hold this many times the bytes of its file. Texts are packed to a tenth or so."""


def open_unpacked(full: Path, path: str) -> BinaryIO:
    """The bytes of a text file, unpacked where its name says that it is packed; nothing is held whole.

    Args:
        path: as errors show it.

    Raises:
        DataError: while it is read: it is damaged, cut off, or unpacks to more than any text does.
        OSError: it cannot be opened.
    """
    packing = compression_of(full.name)
    if packing is None:
        return full.open("rb")
    return cast(BinaryIO, io.BufferedReader(_Unpacking(_opened(full, path, packing), full.stat().st_size, path)))


def unpacked_bytes(full: Path, path: str) -> bytes:
    """All bytes of a packed file.

    Raises:
        DataError: as :func:`open_unpacked`; or it holds more than :data:`LARGEST_UNPACKED_BYTES`.
    """
    with open_unpacked(full, path) as opened:
        found = opened.read(LARGEST_UNPACKED_BYTES + 1)
    if len(found) > LARGEST_UNPACKED_BYTES:
        raise too_large(path)
    return found


def too_large(path: str) -> DataError:
    """The error of a file, or a line, that unpacks to more than is held at once."""
    size = LARGEST_UNPACKED_BYTES >> 20
    return DataError(f"unpacks to more than {size} MiB at once", "unpack it, and see what it holds", path)


def _opened(full: Path, path: str, packing: str) -> Any:
    if packing == "gzip":
        return gzip.open(full)
    if packing == "bzip2":
        return bz2.open(full)
    if packing == "xz":
        return lzma.open(full)
    try:
        import pyarrow
    except ModuleNotFoundError:
        fix = f"pip install 'afina[{format_as('a.parquet', 'rows').extra}]', or unpack the file"
        raise DataError("reading .zst needs pyarrow", fix, path) from None
    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(full)), packing)


class _Unpacking(io.RawIOBase):
    """Reads what a packed stream holds, counts it, and says whose fault an error is."""

    def __init__(self, packed: Any, size: int, path: str) -> None:
        self._packed, self._path, self._given = packed, path, 0
        self._most = max(LARGEST_UNPACKED_BYTES, LARGEST_FACTOR * size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            found = self._packed.read(len(buffer))
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            what = f"damaged or cut off after {self._given} unpacked bytes: {str(error).splitlines()[0][:120]}"
            raise DataError(what, "fetch or pack the file again", self._path) from error
        self._given += len(found)
        if self._given > self._most:
            raise DataError(
                f"unpacks to more than {LARGEST_FACTOR} times its size", "unpack it, and see what it holds", self._path
            )
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._packed.close()
        super().close()
