"""Near duplicates by MinHash: texts that share most of their runs of five words.

The similarity of two texts is the Jaccard index of their shingles, ``|A & B| / |A | B|``, where a
shingle is five words in a row (letters and digits, any case). It is not computed but estimated:
128 permutations order all possible shingles, and the share of permutations in which two texts have
the same smallest one is an unbiased estimate with a standard error of ``sqrt(J (1 - J) / 128)``,
0.035 at 0.8 (Broder 1997, "On the resemblance and containment of documents").

Pairs worth comparing are those whose signatures agree in a whole **band** of rows
(locality-sensitive hashing): the bands are cut so that a pair exactly at the threshold is met with
a probability of at least 0.99.

What is compared is an example: a whole document where documents stay whole, a section where they are cut, so that
of two versions of a page the sections that differ both stay.

Everything depends on the contents alone: no random state, no order.

Not datasketch: its index is held in memory, ours on disk; its signatures take three times as long (LOG.md).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import IO, TYPE_CHECKING, Any
from zlib import crc32

from afina.text.example import Example

if TYPE_CHECKING:
    import numpy as np

SHINGLE_WORDS = 5
PERMUTATIONS = 128
BYTES = 4 * PERMUTATIONS
"""A signature on disk."""
MET = 0.99
"""Least probability that a pair at the threshold is compared."""
NEIGHBOURS = 50
"""In a band that more texts than this agree in, each is compared with this many others, not with all."""

_WORD = re.compile(r"\w+")


class _WordHashes(dict[str, int]):
    """Word -> 32 bits; texts say the same words again and again."""

    def __missing__(self, word: str) -> int:
        if len(self) >= 1 << 18:
            self.clear()
        value = self[word] = crc32(word.encode("utf-8", "surrogatepass"))
        return value


_HASHES = _WordHashes()


@cache
def _permutations() -> tuple[Any, Any]:
    """Factors (odd, so that each is a permutation of 32 bits) and summands of ``x -> a x + b mod 2^32``."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(5))
    factors = random.integers(0, 1 << 31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors[:, None], random.integers(0, 1 << 32, PERMUTATIONS, dtype=np.uint32)[:, None]


def shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """32-bit hashes of each text's runs of five words, one text after the other; of all its words where it has fewer.

    Returns:
        The hashes, and for each of them the number of its text.

    >>> shingles(["one two three four five six", "...", "One, two!"])[1].tolist()
    [0, 0, 2]
    """
    import numpy as np

    words = [_WORD.findall(text.casefold()) for text in texts]
    # Where fewer stand, empty words go before them: their hash is 0, which changes no hash of a run.
    words = [[""] * (SHINGLE_WORDS - len(each)) + each if each else each for each in words]
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    total = int(lengths.sum())
    if not total:
        return np.zeros(0, np.uint32), np.zeros(0, np.int64)
    hashes = np.fromiter(map(_HASHES.__getitem__, chain.from_iterable(words)), np.uint64, total)
    starts = total - SHINGLE_WORDS + 1
    mixed: Any = np.zeros(starts, np.uint64)
    for place in range(SHINGLE_WORDS):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + starts]
    # The last steps of splitmix64: every bit of the words reaches every bit that is kept.
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    text_of: Any = np.repeat(np.arange(len(words)), lengths)
    inside = text_of[:starts] == text_of[SHINGLE_WORDS - 1 :]  # not a run across two texts
    return (mixed[inside] >> np.uint64(32)).astype(np.uint32), text_of[:starts][inside]


def signatures(texts: Sequence[str]) -> np.ndarray:
    """A row for each text: the smallest value of each permutation over its shingles, 128 numbers of 32 bits; the
    largest number for a text without a word.

    >>> one, other = signatures(["a b c d e f", "A b, c d e F!"])
    >>> bool((one == other).all())
    True
    """
    import numpy as np

    factors, summands = _permutations()
    smallest: Any = np.full((len(texts), PERMUTATIONS), 0xFFFFFFFF, np.uint32)
    every, text_of = shingles(texts)
    for start in range(0, len(every), 4096):  # pieces that stay in the processor's cache
        values = every[None, start : start + 4096] * factors
        values += summands
        owner = text_of[start : start + 4096]
        (first,) = np.nonzero(np.diff(owner, prepend=-1))
        rows = owner[first]
        smallest[rows] = np.minimum(smallest[rows], np.minimum.reduceat(values, first, axis=1).T)
    return smallest


def similar_text(example: Example) -> str:
    """What is compared: a text without the path of headings before it, or all that a conversation says."""
    if example.messages:
        said = [message["content"] for message in example.messages]
        return "\n".join(said if example.rejected is None else [*said, example.rejected])
    return example.text.removeprefix(f"{example.heading}\n\n") if example.heading else example.text


class Signatures:
    """Signatures in a file, so that memory does not grow with their number (512 bytes each)."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file: IO[bytes] = file or tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is forgotten

    def append(self, example: Example) -> None:
        """Add the signature of an example."""
        self.extend(signatures([similar_text(example)]))

    def extend(self, rows: np.ndarray) -> None:
        """Add signatures, a row each."""
        self._file.write(rows.tobytes())

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def table(self) -> np.ndarray:
        """All of them, a row each, read from the disk as needed."""
        import numpy as np

        self._file.flush()
        count = self._file.seek(0, 2) // BYTES
        if not count:
            return np.zeros((0, PERMUTATIONS), np.uint32)
        return np.memmap(self._file, np.uint32, "r", shape=(count, PERMUTATIONS))


@cache
def bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many rows: the longest bands that still meet a pair at the threshold, 99 times in 100.

    >>> bands(0.8), bands(1.0)
    ((21, 6), (1, 128))
    """
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= MET:
            return count, rows
    return PERMUTATIONS, 1


def similar_pairs(
    table: np.ndarray,
    keys: np.ndarray,
    threshold: float,
    wanted: Callable[[Any, Any], Any],
    among: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of rows of a table of signatures whose similarity reaches the threshold.

    Args:
        table: a signature a row.
        keys: a number for each row that follows from its content: the order within a band.
        threshold: least similarity.
        wanted: is asked, for two arrays of rows, which pairs are worth comparing.
        among: for each row, whether it is looked at; all where not given.

    Yields:
        Two arrays of rows and one of similarities. A pair may come again from another band.
    """
    import numpy as np

    count, rows = bands(threshold)
    looked_at = np.asarray(table[:, 0] != 0xFFFFFFFF) | np.asarray(table[:, 1] != 0xFFFFFFFF)  # not without words
    if among is not None:
        looked_at &= among
    for band in range(count):
        part = np.asarray(table[:, band * rows : (band + 1) * rows])
        mixed: Any = np.zeros(len(part), np.uint64)
        for column in part.T:
            mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        order = np.lexsort((keys, mixed))
        order = order[looked_at[order]]
        mixed = mixed[order]
        for distance in range(1, NEIGHBOURS):
            (together,) = np.nonzero(mixed[distance:] == mixed[:-distance])
            if not len(together):
                break
            one, other = order[together], order[together + distance]
            chosen = wanted(one, other)
            one, other = one[chosen], other[chosen]
            for start in range(0, len(one), 8192):
                left, right = one[start : start + 8192], other[start : start + 8192]
                similarity = (table[left] == table[right]).mean(axis=1)
                near = similarity >= threshold
                if near.any():
                    yield left[near], right[near], similarity[near]


def clusters(table: np.ndarray, keys: np.ndarray, threshold: float, among: np.ndarray | None = None) -> np.ndarray:
    """For each row the first row of its cluster; a row alone is its own.

    Two rows are in one cluster when a chain of similar pairs leads from one to the other.
    """
    import numpy as np

    label = np.arange(len(table))
    apart = similar_pairs(table, keys, threshold, lambda one, other: label[one] != label[other], among)
    for one, other, _ in apart:
        for left, right in zip(one.tolist(), other.tolist(), strict=True):
            left, right = _first(label, left), _first(label, right)
            label[max(left, right)] = min(left, right)
        while (label != label[label]).any():
            label[:] = label[label]
    return label


def _first(label: Any, row: int) -> int:
    while label[row] != row:
        row = label[row]
    return int(row)
