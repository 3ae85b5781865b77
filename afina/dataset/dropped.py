"""What a build left out: one entry of ``dropped.jsonl``, made by questions and by the build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from afina.text.document import Message, Tool, map_message
from afina.text.personal_data import mask


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was left out, whole, so that it can be read back."""

    reason: str
    where: str
    """``file:line``."""
    source: int
    text: str = ""
    messages: tuple[Message, ...] = ()
    rejected: str | None = None
    label: bool | None = None
    same_as: str = ""
    """For a duplicate: where the one that stays stands."""
    chars: int = 0
    """Visible characters, without the path of headings put before a section."""
    cut: tuple[tuple[int, str], ...] = ()
    """Where only parts of a document went: line of the file and what stood there, for each part."""
    lines: str = ""
    """For wrong code: what its compiler said."""
    about: Mapping[str, str] = field(default_factory=dict)
    """More to read back: for a teacher's answer its quote, its section and what was wrong; for a row what is wrong."""
    tools: tuple[Tool, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The row of ``dropped.jsonl``."""
        row: dict[str, Any] = {"reason": self.reason, "where": self.where, "source": self.source}
        if self.same_as:
            row["same_as"] = self.same_as
        if self.lines:
            row["lines"] = self.lines
        if self.cut:
            return row | {"cut": [list(piece) for piece in self.cut]}
        row |= {"messages": list(self.messages)} if self.messages else {"text": self.text}
        row |= {} if self.rejected is None else {"rejected": self.rejected}
        row |= {} if self.label is None else {"label": self.label}
        row |= {"tools": list(self.tools)} if self.tools else {}
        return row | dict(self.about)

    def masked(self) -> Dropped:
        """The same without personal data; `chars` stay those of the source."""
        return replace(
            self,
            text=mask(self.text).text,
            messages=tuple(map_message(message, lambda text: mask(text).text) for message in self.messages),
            rejected=None if self.rejected is None else mask(self.rejected).text,
            cut=tuple((line, mask(words).text) for line, words in self.cut),
            lines=mask(self.lines).text,
            about={name: mask(words).text for name, words in self.about.items()},
        )
