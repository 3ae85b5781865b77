"""What an audit keeps of each row while it reads on: hashes, on the disk, so that memory does not grow with the rows.

A row is 96 bytes of numbers and at most 320 characters of what it says, in temporary files without a name; its MinHash
signature lies in a third. What is wrong between rows (:mod:`~afina.dataset.audit.between_examples`) is computed
from the columns when all have been read.
"""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from afina.dataset.audit.one_example import EXCERPT_CHARS, excerpt
from afina.text.example import Example
from afina.text.identity import content_key, group_key, normal, opening_keys, short_hash
from afina.text.near_duplicates import Signatures, signatures, similar_text

if TYPE_CHECKING:
    import numpy as np

KEYS = (
    "content",  # the whole row, by role
    "said",  # a text, and a row that says the same without a prompt, have one
    "group",  # its question
    "opening",  # its first question, and its beginning through the second
    "longer_opening",
    "asked",  # what may have one answer only; 0: nothing
    "answered",
    "long_answer",  # an answer that could be boilerplate; 0: too short, or made
    "short_answer",  # an answer of a word or two, as classes are; 0: longer
    "start",  # an answer's first words; 0: it has few
    "without_numbers",  # all that it says, each number as 0; 0: it has none
)
"""64 bits each: the columns of hashes."""
MADE, ASKS = 1, 2
"""Flags: made by a template; a conversation with a question."""
BOILERPLATE_CHARS = 20
SERIES_CHARS = 60
CLASS_CHARS, CLASS_WORDS = 24, 2
START_WORDS, FEWEST_WORDS = 3, 6
_RECORD = struct.Struct(f"<{len(KEYS)}QQIIHH")
_PART = 2 * EXCERPT_CHARS


class RowBlock:
    """Some rows one after the other, in memory: what a :class:`RowTable` takes."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.records, self.texts = bytearray(), bytearray()
        self.paths: list[str] = []
        self.signatures = signatures([similar_text(example) for example in examples])
        for example in examples:
            self._add(example)

    def _add(self, example: Example) -> None:
        if not self.paths or self.paths[-1] != example.path:
            self.paths.append(example.path)
        prompt, answer = example.prompt, _answer(example)
        words_of_it = normal(answer)
        said, answer_key = f"{normal(prompt)}\0{words_of_it}", words_of_it.casefold()
        group = int(group_key(example), 16)
        asked, answered = _asked(example, group, answer_key)
        words = answer_key.split(None, FEWEST_WORDS) if example.messages else []
        # One call is right for many questions; it is neither a phrase nor a class.
        in_words = example.messages and not example.messages[-1].get("tool_calls")
        short = in_words and len(answer_key) <= CLASS_CHARS and 0 < len(words) <= CLASS_WORDS
        numbers = _without_numbers(said) if not example.made else ""
        long = in_words and prompt and not example.made and len(answer_key) >= BOILERPLATE_CHARS and prompt.strip()
        opening, longer = opening_keys(example, group)
        keys = (
            int(content_key(example), 16),
            _key(said),
            group,
            opening,
            longer,
            asked,
            answered,
            _key(answer_key) if long else 0,
            _key(answer_key) if short else 0,
            _key(" ".join(words[:START_WORDS])) if len(words) > FEWEST_WORDS and not example.made else 0,
            _key(numbers) if numbers else 0,
        )
        flags = MADE * bool(example.made) | ASKS * bool(example.messages and prompt.strip())
        self.records += _RECORD.pack(*keys, len(self.texts), len(self.paths) - 1, example.line, flags, 0)
        shown = (f"{_short(prompt)} -> {answer[:_PART]}" if example.messages else answer[: 2 * _PART]).encode(
            "utf-8", "surrogatepass"
        )
        self.texts += len(shown).to_bytes(2, "little") + shown


class RowTable:
    """Rows of both splits, numbered as they come; those of train first."""

    def __init__(self) -> None:
        self._records: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is forgotten
        self._texts: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._signatures = Signatures()
        self._paths: list[str] = []
        self._written = 0

    def append(self, block: RowBlock) -> None:
        """Add the rows that follow."""
        import numpy as np

        if not block.paths:
            return
        paths = block.paths[1:] if self._paths[-1:] == block.paths[:1] else block.paths
        first = len(self._paths) - (len(block.paths) - len(paths))
        self._paths += paths
        records = np.frombuffer(block.records, _dtype())
        records["text"] += self._written
        records["path"] += first
        self._records.write(records.tobytes())
        self._texts.write(block.texts)
        self._written += len(block.texts)
        self._signatures.extend(block.signatures)

    def columns(self) -> Any:
        """All rows as a table of numpy: :data:`KEYS`, ``text``, ``path``, ``line``, ``flags``; read from the disk."""
        import numpy as np

        self._records.flush()
        if not self._records.seek(0, 2):
            return np.zeros(0, _dtype())
        return np.memmap(self._records, _dtype(), "r")

    def signatures(self) -> np.ndarray:
        """Their signatures, a row each."""
        return self._signatures.table()

    def where(self, row: Any) -> str:
        """``file:line`` of a row of :meth:`columns`."""
        return f"{self._paths[int(row['path'])]}:{int(row['line'])}"

    def excerpt(self, row: Any) -> str:
        """What it says, shortened, personal data masked."""
        self._texts.flush()
        self._texts.seek(int(row["text"]))
        length = int.from_bytes(self._texts.read(2), "little")
        text = self._texts.read(length).decode("utf-8", "surrogatepass")
        self._texts.seek(0, 2)
        return excerpt(text)


def _dtype() -> Any:
    """A record, to numpy."""
    import numpy as np

    numbers = [("text", "<u8"), ("path", "<u4"), ("line", "<u4"), ("flags", "<u2"), ("spare", "<u2")]
    return np.dtype([*((name, "<u8") for name in KEYS), *numbers])


def _answer(example: Example) -> str:
    """What the last turn says and calls, without what it thinks; or the text."""
    if not example.messages:
        return example.text
    calls = example.messages[-1].get("tool_calls")
    return example.answer + (json.dumps([call["function"] for call in calls], sort_keys=True) if calls else "")


def _asked(example: Example, group: int, answer: str) -> tuple[int, int]:
    """What can have one answer only, and its answer: of a question its answer; of two answers to one question which is
    the better; of a rated answer whether it is good. Zero for a text, and for an answer to nothing."""
    if not example.messages or not example.prompt.strip():
        return 0, 0
    said = short_hash(answer)
    if example.rejected is not None:
        worse = short_hash(normal(example.rejected).casefold())
        if worse == said:
            return 0, 0
        return _key(f"{group:016x} {min(said, worse)} {max(said, worse)}"), int(said, 16)
    if example.label is not None:
        return _key(f"{group:016x} {said}"), 1 + example.label
    return group, int(said, 16)


def _key(text: str) -> int:
    return int(short_hash(text), 16) or 1


def _short(prompt: str) -> str:
    """A prompt with the middle left out, so that the answer after it is seen."""
    return prompt if len(prompt) <= EXCERPT_CHARS // 2 else normal(prompt[: EXCERPT_CHARS // 2 - 1]) + "…"


_NUMBER = re.compile(r"\d+")


def _without_numbers(said: str) -> str:
    """Every number as one 0; empty where there is none, or too little else.

    >>> _without_numbers("In 1910 the club of Faro had 12 members, who had 3 boats and a house.")
    'In 0 the club of Faro had 0 members, who had 0 boats and a house.'
    """
    zeros, numbers = _NUMBER.subn("0", said)
    return zeros if numbers and len(zeros) >= SERIES_CHARS else ""
