"""What the places of text on the pages of a PDF say: the order of columns, running headers and footers, split words.

A PDF says where each piece of text stands, not what it is. Where pieces stand as columns of prose do, and the file
writes them line across line, they are put in order; where they may be a table, that is said and nothing is moved.
Places are in points, as the page has them: y grows upwards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

_SAME_PLACE = 4.0
"""Points within which two pieces start at the same place."""
_NARROWEST_COLUMN = 100.0
_LETTER_WIDTH = 0.5
"""Of the font's size; on average, in the usual fonts."""
_FEWEST = 3
"""Lines that make a column; pages that make a running header."""
_APART = 1.3
"""How much farther than the next line of the text."""
_DEEPEST = 3
"""Lines from the edge of a page among which a running header is looked for."""
_ROMAN = re.compile(r"[ivxlc]{1,6}", re.I)
_SPLIT = re.compile(r"([^\W\d_]+)([-\u2010\u00ad])\n[ \t]*([^\W\d_]+)([^\s]*)([ \t]*)")
_BULLET = re.compile(r"\W{0,2}|\(?(?:\d{1,3}|[a-zA-Z])[.)]?")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is written at one place."""

    text: str
    x: float
    y: float
    size: float

    @property
    def end(self) -> float:
        """Where it ends, about."""
        return self.x + len(self.text.strip()) * self.size * _LETTER_WIDTH


Line = list[Piece]


def read_lines(page: Any) -> list[Line]:
    """The lines of a page of pypdf, in the order of the file; the texts of all, joined, are its ``extract_text()``."""
    lines: list[Line] = [[]]

    def take(text: str, matrix: list[float], place: list[float], _font: object, size: float) -> None:
        x = place[4] * matrix[0] + place[5] * matrix[2] + matrix[4]
        y = place[4] * matrix[1] + place[5] * matrix[3] + matrix[5]
        scale = abs(place[3] * matrix[3]) or abs(place[0] * matrix[0]) or 1.0
        # A lone surrogate is no character; it could not be written anywhere.
        text = text.encode("utf-8", errors="replace").decode()
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            if part:
                lines[-1].append(Piece(part, x, y, size * scale))

    text = page.extract_text(visitor_text=take).encode("utf-8", errors="replace").decode()
    if line_texts(lines) != text.split("\n"):  # a place for each piece is all that is asked of it
        return [[Piece(line, 0.0, 0.0, 0.0)] if line else [] for line in text.split("\n")]
    return lines


def line_texts(lines: Sequence[Line]) -> list[str]:
    """The text of each line."""
    return ["".join(piece.text for piece in line) for line in lines]


def in_reading_order(lines: list[Line]) -> tuple[list[Line], bool]:
    """The lines with columns one after the other, and whether the order is certain.

    Not certain is what stands side by side and is no prose: a table, or columns too narrow to tell.
    """
    starts = _columns(lines)
    if len(starts) < 2:
        return lines, True
    parts = [part for line in lines for part in _at_columns(line, starts)]
    places = [_column(part, starts) for part in parts]
    returns = sum(
        1 for before, after in pairwise(places) if before is not None and after is not None and after < before
    )
    if returns < 2:
        return lines, True  # the file itself has column after column
    if not _are_prose(parts, places, starts):
        return lines, False
    out: list[Line] = []
    band: list[tuple[int, Line]] = []
    for part, place in zip(parts, places, strict=True):
        if place is None:  # across all columns: what is above it comes first
            out += [each for _, each in sorted(band, key=lambda one: one[0])]
            band = []
            out.append(part)
        else:
            band.append((place, part))
    return out + [each for _, each in sorted(band, key=lambda one: one[0])], True


def _columns(lines: Sequence[Line]) -> list[float]:
    """Where columns start, from left to right: places at which several lines start, or go on after a gap."""
    counts: Counter[int] = Counter()
    for line in lines:
        for number, piece in enumerate(line):
            if piece.text.strip() and (not number or _gap(line[:number], piece)):
                counts[round(piece.x / _SAME_PLACE)] += 1
    starts: list[float] = []
    for place, count in counts.most_common():
        x = place * _SAME_PLACE
        if count >= _FEWEST and all(abs(x - start) >= _NARROWEST_COLUMN for start in starts):
            starts.append(x)
    return sorted(starts)


def _gap(before: Sequence[Piece], piece: Piece) -> bool:
    """Whether a piece of a line stands apart from those before it, which are more than a bullet."""
    text = "".join(each.text for each in before).strip()
    last = next((each for each in reversed(before) if each.text.strip()), None)
    return last is not None and not _BULLET.fullmatch(text) and piece.x - last.x > _NARROWEST_COLUMN / 2


def _at_columns(line: Line, starts: Sequence[float]) -> Iterator[Line]:
    """A line, cut where a piece starts a column."""
    part: Line = []
    for piece in line:
        if any(p.text.strip() for p in part) and any(abs(piece.x - x) <= _SAME_PLACE for x in starts[1:]):
            yield part
            part = []
        part.append(piece)
    yield part


def _column(part: Line, starts: Sequence[float]) -> int | None:
    """The column that a part of a line stands in; None where it goes across, or stands before all."""
    shown = [piece for piece in part if piece.text.strip()]
    if not shown:
        return None
    column = max((at for at, x in enumerate(starts) if shown[0].x >= x - _SAME_PLACE), default=None)
    if column is None or (column + 1 < len(starts) and shown[-1].end > starts[column + 1] + 2 * _NARROWEST_COLUMN / 5):
        return None
    return column


def _are_prose(parts: Sequence[Line], places: Sequence[int | None], starts: Sequence[float]) -> bool:
    """Whether each column holds lines of prose: most go through its width, and have several words."""
    widths = [after - before for before, after in pairwise(starts)]
    widths.append(min(widths))
    for column, width in enumerate(widths):
        own = [part for part, place in zip(parts, places, strict=True) if place == column]
        texts = [text for text in line_texts(own) if text.strip()]
        if len(texts) < _FEWEST:
            return False
        ends = median(max(piece.end for piece in part if piece.text.strip()) - starts[column] for part in own)
        if median(len(text.split()) for text in texts) < 3 or ends < 0.4 * width:
            return False
    return True


def running_lines(pages: Sequence[Sequence[Line]]) -> list[set[int]]:
    """Per page the places of its running headers, footers and page numbers among its lines.

    They stand outermost, apart from the text by more than the distance of its lines, and the same words stand at the
    same place of at least three pages; numbers in them may differ, and one alone has to count with the pages. A page
    that holds nothing else keeps them.
    """
    shown = [[(at, line) for at, line in enumerate(page) if "".join(p.text for p in line).strip()] for page in pages]
    found: list[set[int]] = [set() for _ in pages]
    for top in (True, False):
        sorted_lines = [sorted(lines, key=lambda one: _height(one[1]), reverse=top) for lines in shown]
        edges = [lines[:_DEEPEST] if len(lines) > 1 else [] for lines in sorted_lines]
        keys = [[_key(line, number) for _, line in edge] for number, edge in enumerate(edges)]
        counts = Counter(key for page_keys in keys for key in set(page_keys))
        for lines, page_keys, page_found in zip(sorted_lines, keys, found, strict=True):
            heights = [_height(line) for _, line in lines]
            steps = [abs(above - below) for above, below in pairwise(heights)]
            distances = sorted(step for step in steps if step > 1) or [0.0]
            usual = distances[len(distances) // 4]
            repeated = next((at for at, key in enumerate(page_keys) if counts[key] < _FEWEST), len(page_keys))
            apart = [at for at in range(1, repeated + 1) if at <= len(steps) and steps[at - 1] > _APART * usual > 0]
            page_found |= {at for at, _ in lines[: max(apart, default=0)]}
    return [own if len(own) < len(lines) else set() for own, lines in zip(found, shown, strict=True)]


def _height(line: Line) -> float:
    return max(piece.y for piece in line if piece.text.strip())


def _key(line: Line, page: int) -> tuple[str, int, int]:
    """What running lines share: their text but for its numbers, their height, and, of numbers alone, how they count."""
    text = " ".join("".join(piece.text for piece in line).split())
    alone = re.fullmatch(r"\W*(\d+)\W*", text)
    if _ROMAN.fullmatch(text):
        text = "#"
    counting = int(alone[1]) - page if alone and len(alone[1]) < 9 else 0
    return re.sub(r"\d+", "#", text), counting, round(_height(line) / _SAME_PLACE)


def join_split_words(text: str, words: Counter[str], drop: Callable[[str], None]) -> str:
    """Words that a line end splits, made whole; the rest of the word goes to the first line.

    A hyphen that is the word's own stays: where the whole document writes the word with it, or both parts are words
    there and the whole is not.

    Args:
        words: those of the document, in lower case, as :func:`document_words` counts them.
        drop: gets each hyphen that is left out.
    """

    def join(found: re.Match[str]) -> str:
        start, hyphen, end, rest, space = found.groups()
        if not end[0].islower():
            return found[0]
        whole, both = (start + end).lower(), f"{start}-{end}".lower()
        own = hyphen != "\u00ad" and not words[whole]
        own = own and bool(words[both] or (len(start) > 2 and words[start.lower()] and words[end.lower()]))
        if not own:
            drop(hyphen)
        after = "\n" if space or (found.end() < len(text) and text[found.end()] != "\n") else ""
        return start + hyphen * own + end + rest + after

    return _SPLIT.sub(join, text)


def document_words(texts: Sequence[str]) -> Counter[str]:
    """The words of a document in lower case, those with hyphens too; what a line end splits is none."""
    return Counter(
        word.lower() for text in texts for word in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", _SPLIT.sub(" ", text))
    )
