"""Text of tokens as they come, and what a stop string holds back. Loaded without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TextStream:
    """Text of tokens as they come: whole characters only, and nothing that may still become a stop string.

    Args:
        tokenizer: with ``decode``.
        stop: strings that end the text; neither they nor anything after them is ever given out.
        keep_special: whether special tokens that the model writes appear in the text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], *, keep_special: bool) -> None:
        self.tokenizer, self.stop, self.keep_special = tokenizer, tuple(stop), keep_special
        self.ids: list[int] = []
        self.text = ""
        """What was given out."""
        self._held = ""
        self._start = self._read = 0

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not self.keep_special))

    def add(self, token: int) -> tuple[str, bool]:
        """Text that this token makes ready, and whether a stop string was met."""
        self.ids.append(token)
        # A token's text depends on its neighbour (a space, half a character): decode from the piece before.
        before, now = self._decode(self.ids[self._start : self._read]), self._decode(self.ids[self._start :])
        if now.endswith("\N{REPLACEMENT CHARACTER}"):
            return "", False
        self._start, self._read = self._read, len(self.ids)
        self._held += now[len(before) :]
        found = [place for stop in self.stop if (place := self._held.find(stop)) >= 0]
        if found:
            return self._give(min(found)), True
        return self._give(len(self._held) - held_back(self._held, self.stop)), False

    def finish(self) -> str:
        """What was held back, once the last token is there."""
        whole = self._decode(self.ids)
        self._held = whole[len(self.text) :] if whole.startswith(self.text) else self._held
        return self._give(len(self._held))

    def _give(self, length: int) -> str:
        given, self._held = self._held[:length], self._held[length:]
        self.text += given
        return given


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that a stop string could begin with.

    >>> held_back("one\\nQ", ["\\nQ:", "END"]), held_back("one", ["\\nQ:"])
    (2, 0)
    """
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
