"""Examples on disk, one a line, while memory holds some numbers of each: what later decisions need.

About 55 bytes an example stay in memory, and none of its text.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from afina.dataset.dropped import Dropped
from afina.text.example import Example, example_chars
from afina.text.identity import content_key, group_key, opening_keys
from afina.text.near_duplicates import Signatures


@dataclass
class ExampleColumns:
    """The numbers of many examples, a column for each."""

    content: array[int] = field(default_factory=partial(array, "Q"))
    """:func:`~afina.text.identity.content_key` as a number."""
    group: array[int] = field(default_factory=partial(array, "Q"))
    """:func:`~afina.text.identity.group_key` as a number."""
    opening: array[int] = field(default_factory=partial(array, "Q"))
    """The first of :func:`~afina.text.identity.opening_keys`, and the second."""
    longer_opening: array[int] = field(default_factory=partial(array, "Q"))
    chars: array[int] = field(default_factory=partial(array, "Q"))
    """Visible characters."""
    context: array[int] = field(default_factory=partial(array, "I"))
    """How many of them are the path of headings put before a section."""
    source: array[int] = field(default_factory=partial(array, "H"))
    conversation: array[int] = field(default_factory=partial(array, "B"))
    path: array[int] = field(default_factory=partial(array, "I"))
    """Position in `paths`."""
    line: array[int] = field(default_factory=partial(array, "I"))
    paths: list[str] = field(default_factory=list)
    made: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Row of a made question -> its kind and its group; sparse, as most datasets hold none."""

    def __len__(self) -> int:
        return len(self.content)

    def add(self, example: Example, context_chars: int) -> None:
        """Add the numbers of one example."""
        if not self.paths or self.paths[-1] != example.path:
            self.paths.append(example.path)
        if example.made:
            self.made[len(self)] = example.made, example.group
        self.content.append(int(content_key(example), 16))
        self.group.append(int(group_key(example), 16))
        opening, longer = opening_keys(example, self.group[-1])
        self.opening.append(opening)
        self.longer_opening.append(longer)
        self.chars.append(example_chars(example))
        self.context.append(context_chars)
        self.source.append(example.source)
        self.conversation.append(bool(example.messages))
        self.path.append(len(self.paths) - 1)
        self.line.append(example.line)

    def extend(self, other: ExampleColumns) -> None:
        """Add those of another spool below."""
        before, rows = len(self.paths), len(self)
        self.path.extend(before + place for place in other.path)
        self.paths += other.paths
        self.made |= {rows + row: made for row, made in other.made.items()}
        for name in (
            "content",
            "group",
            "opening",
            "longer_opening",
            "chars",
            "context",
            "source",
            "conversation",
            "line",
        ):
            getattr(self, name).extend(getattr(other, name))

    def where(self, row: int) -> str:
        """``file:line`` of an example."""
        return f"{self.paths[self.path[row]]}:{self.line[row]}"


class Spool:
    """Takes examples: writes each as it comes, keeps its numbers.

    Args:
        file: gets the examples, as in ``train.jsonl``.
        signatures: gets a MinHash signature of each; None where nobody asks for near duplicates.
    """

    def __init__(self, file: Path, signatures: Path | None = None) -> None:
        self.file, self.columns, self.signatures = file, ExampleColumns(), signatures
        self._out: IO[bytes] | None = file.open("wb")
        self._signatures = Signatures(signatures.open("w+b")) if signatures else None

    def append(self, example: Example, context_chars: int = 0, /) -> None:
        """Add one."""
        assert self._out is not None, "closed"
        self.columns.add(example, context_chars)
        self._out.write(example.as_line())
        if self._signatures:
            self._signatures.append(example)

    def close(self) -> None:
        """Finish the files; what is left can be sent to another process."""
        if self._out:
            self._out.close()
        if self._signatures:
            self._signatures.close()
        self._out = self._signatures = None


class DropSpool:
    """Takes what was left out: writes it as in ``dropped.jsonl``, counts it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: Counter[str] = Counter()
        """Reason -> whole examples or documents."""
        self.parts: Counter[str] = Counter()
        """Reason -> lines or words of documents that stay."""
        self.chars: Counter[str] = Counter()
        self._out: IO[str] | None = file.open("w", encoding="utf-8")

    def append(self, item: Dropped, /) -> None:
        """Add one."""
        assert self._out is not None, "closed"
        self._out.write(json.dumps(item.as_json(), ensure_ascii=False) + "\n")
        if item.cut:
            self.parts[item.reason] += len(item.cut)
        else:
            self.rows[item.reason] += 1
        self.chars[item.reason] += item.chars

    def absorb(self, other: DropSpool) -> None:
        """Add what a closed spool holds, its lines included."""
        assert self._out is not None, "closed"
        with other.file.open(encoding="utf-8") as lines:
            for line in lines:
                self._out.write(line)
        self.rows.update(other.rows)
        self.parts.update(other.parts)
        self.chars.update(other.chars)

    def close(self) -> None:
        """Finish the file; the counts stay."""
        if self._out:
            self._out.close()
        self._out = None
