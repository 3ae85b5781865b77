"""Every answer that was paid for, on disk before anything else happens with it.

``answers.jsonl`` is append-only: one answer a line, good or not, each flushed to the disk (fsync). A kill costs at most
the requests in flight. A last line that was cut, or a damaged one, is counted and passed over. Only the hash
of each question and the place of its answers are held in memory.

The key of an answer is a hash of the model, the prompt and the settings, not of the address: the same model
behind another port has the same answers.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.endpoint.client import Reply
from afina.recipe import Endpoint
from afina.run import hash_value
from afina.whole import disk_errors


def answer_key(
    endpoint: Endpoint, messages: Sequence[Mapping[str, str]], temperature: float, seed: int | None = None
) -> str:
    """What an answer depends on, as a hash.

    >>> from afina.recipe import Endpoint
    >>> one = Endpoint(url="http://127.0.0.1:1/v1", model="m")
    >>> moved = one.model_copy(update={"url": "http://127.0.0.1:2/v1", "timeout_seconds": 5.0})
    >>> larger = one.model_copy(update={"max_tokens": 2048})
    >>> ask = [{"role": "user", "content": "?"}]
    >>> answer_key(one, ask, 0.3) == answer_key(moved, ask, 0.3) != answer_key(larger, ask, 0.3)
    True
    """
    settings: dict[str, Any] = {"temperature": temperature, "max_tokens": endpoint.max_tokens, "format": "json"}
    if seed is not None:
        settings["seed"] = seed
    return hash_value({"model": endpoint.model, "messages": list(messages), "settings": settings})


class AnswerCache:
    """The answers of one folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "answers.jsonl"
        self.damaged = 0
        """Lines that cannot be read."""
        self._places: dict[str, list[int]] = {}
        self._tokens: dict[str, int] = {}
        self._lock = threading.Lock()
        self._cut = False
        if self.file.exists():
            self._index()

    def _index(self) -> None:
        place = 0
        with self.file.open("rb") as lines:
            for line in lines:
                self._cut = not line.endswith(b"\n")
                try:
                    row = json.loads(line)
                    self._note(str(row["key"]), place, _reply(row))
                except (ValueError, KeyError, TypeError, RecursionError):
                    self.damaged += bool(line.strip())
                place += len(line)

    def _note(self, key: str, place: int, reply: Reply) -> None:
        self._places.setdefault(key, []).append(place)
        self._tokens[key] = self._tokens.get(key, 0) + reply.read + reply.written

    def put(self, key: str, reply: Reply, where: str, model: str) -> None:
        """Append an answer; when this returns it is on the disk.

        Raises:
            DiskFull: no room.
        """
        row: dict[str, Any] = {"key": key, "model": model, "where": where, "content": reply.content}
        row |= {"read": reply.read, "written": reply.written, "estimated": reply.estimated, "cut": reply.cut}
        line = json.dumps(row).encode() + b"\n"  # ASCII: an answer may hold half a character
        with self._lock, disk_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab", buffering=0) as out:
                rest = memoryview(b"\n" + line if self._cut else line)
                while rest:
                    self._cut = True
                    rest = rest[out.write(rest) :]
                self._cut = False
                os.fsync(out.fileno())
                place = out.tell() - len(line)
            self._note(key, place, reply)

    def replies(self, key: str) -> Iterator[Reply]:
        """The answers to a question, oldest first, read from the disk."""
        places = self._places.get(key, [])
        if places:
            with self.file.open("rb") as opened:
                for place in places:
                    opened.seek(place)
                    yield _reply(json.loads(opened.readline()))

    def tokens(self, key: str) -> int:
        """Tokens paid for a question so far."""
        return self._tokens.get(key, 0)


def _reply(row: Any) -> Reply:
    reply = Reply(row["content"], row["read"], row["written"], row["estimated"], row["cut"])
    if not isinstance(reply.content, str) or not isinstance(reply.read + reply.written, int):
        raise TypeError("not an answer")
    return reply
