"""What a source yields: a :class:`Document`; and the :class:`Ledger` that adds up its characters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation; results of tools come from a server's clients, not yet from data."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """One thing read from a source, with where it came from.

    A document is either **text** (prose as Markdown, or code) or **messages** (one row of a
    table, one problem with its solution). `sha256` is that of the file's bytes (of a dataset of the
    hub: its commit), `line` the first line of this document in the file, counted from 1 (the row of
    a table that has no lines, the page of a PDF).
    """

    path: str
    """POSIX path relative to the recipe's `root`. What lies in a packed file is behind ``!/``: ``a.zip!/b.html``."""
    sha256: str
    line: int = 1
    kind: Literal["markdown", "text", "code", "messages"] = "text"
    title: str = ""
    text: str = ""
    messages: tuple[Message, ...] = ()
    rejected: str | None = None
    """For a row of preferences: the worse answer, where `messages` end with the better one."""
    label: bool | None = None
    """For a rated row: whether its last answer is a good one."""
    meta: Mapping[str, str] = field(default_factory=dict)
    source: int = 0
    """Position in the recipe's `sources`."""


@dataclass(slots=True)
class FileLedger:
    """What became of one file's characters (visible characters, white space not counted).

    >>> ledger = FileLedger("a.html", "0" * 64, chars_in=10, chars_out=7, dropped={"script": 3})
    >>> ledger.balanced
    True
    """

    path: str
    sha256: str
    chars_in: int = 0
    chars_out: int = 0
    documents: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> visible characters left out for it."""
    added: dict[str, int] = field(default_factory=dict)
    """Reason -> visible characters that the conversion wrote itself (Markdown marks, included files)."""

    def drop(self, reason: str, text: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + visible(text)

    def add(self, reason: str, text: str) -> None:
        self.added[reason] = self.added.get(reason, 0) + visible(text)

    @property
    def balanced(self) -> bool:
        """Whether what came in equals what went out plus what was dropped minus what was added."""
        return self.chars_in + sum(self.added.values()) == self.chars_out + sum(self.dropped.values())


@dataclass(slots=True)
class Ledger:
    """One :class:`FileLedger` per file read, and the files left out with the reason."""

    files: list[FileLedger] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Path -> why the file was not read."""


def visible(text: str) -> int:
    """Characters that can be seen: white space does not count.

    >>> visible("a b\\n c")
    3
    """
    return len("".join(text.split()))
