"""Answers on disk, so that a repeated item or seed costs nothing.

``_answers/answers.jsonl`` lies beside the runs: two runs on one base ask it the same questions once. Append-only, one
answer a line, each written with one call, so that a kill costs at most the answer that was being written; a line that
was cut, or is damaged, is counted and passed over. The key is a hash of everything that the answer follows from: the
weights (base and adapter), the prompt's ids, the settings, the kind of number computed with. An answer that
would be another one every time (sampled without a seed) is never kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afina.run import hash_value, parse_json
from afina.whole import disk_errors

ANSWERS_FOLDER = "_answers"
"""Its name beside the runs."""


ANSWER: Mapping[str, type] = {"text": str, "tokens": int, "stopped": bool, "logprobs": list, "ids": list}
"""What an answer consists of; a list is one of numbers. Lines from before there were `ids` have none."""


def _answer(values: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """
    Raises:
        KeyError, TypeError: it is none.
    """
    answer = {key: values.get(key, []) if key == "ids" else values[key] for key in kinds}
    if wrong := [key for key, kind in kinds.items() if type(answer[key]) is not kind]:
        raise TypeError(f"{wrong[0]} is {answer[wrong[0]]!r:.60}")
    for key in (key for key, kind in kinds.items() if kind is list):
        number = int if key == "ids" else float
        if not all(type(each) is number for each in answer[key]):
            raise TypeError(f"{key} are numbers")
    return answer


class KeptAnswers:
    """The answers of one folder, for one set of weights.

    Args:
        folder: made with the first answer.
        weights: a hash of all that the model is made of: base, adapter, quantization, tokenizer.
        name: of the file.
        kinds: what one of them consists of.
    """

    def __init__(
        self, folder: Path, weights: str, *, name: str = "answers", kinds: Mapping[str, type] = ANSWER
    ) -> None:
        self.file, self.weights, self.kinds = folder / f"{name}.jsonl", weights, kinds
        self.hits = 0
        """Answers given from the disk."""
        self.damaged = 0
        """Lines that cannot be read."""
        self._rows: dict[str, dict[str, Any]] = {}
        self._cut = False
        if self.file.exists():
            self._read()

    def _read(self) -> None:
        with self.file.open("rb") as lines:
            for line in lines:
                self._cut = not line.endswith(b"\n")
                try:
                    row = parse_json(line)
                    if row["weights"] == self.weights:
                        self._rows[str(row["key"])] = _answer(row["answer"], self.kinds)
                except (ValueError, KeyError, TypeError):
                    self.damaged += bool(line.strip())

    def beside(self, name: str, kinds: Mapping[str, type]) -> KeptAnswers:
        """What else of the same weights is kept, in a file of its own."""
        return KeptAnswers(self.file.parent, self.weights, name=name, kinds=kinds)

    def key(self, settings: Mapping[str, Any]) -> str:
        """What an answer of these weights follows from, as a hash."""
        return hash_value(settings)

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer kept under a key."""
        found = self._rows.get(key)
        self.hits += found is not None
        return found

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Append an answer.

        Raises:
            DiskFull: no room.
        """
        line = json.dumps({"weights": self.weights, "key": key, "answer": answer}).encode() + b"\n"
        with disk_errors(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                rest = memoryview(b"\n" + line if self._cut else line)
                while rest:
                    self._cut = True
                    rest = rest[os.write(handle, rest) :]
                self._cut = False
            finally:
                os.close(handle)
        self._rows[key] = answer
