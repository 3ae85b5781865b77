"""Small projects whose advice is followed: a base, files and a recipe, walked as the command line does, untrained."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.cli.opened import walk_of
from afina.errors import AfinaError, Problem
from afina.walk.walk import walk_through

PAIRS = [{"prompt": f"Onde nasceu {a} {b}?", "completion": f"{b} de {a}"} for a in "ABCD" for b in "GHIJ"]
RECIPE = "adapter|base|budget|chat|dataset|device|evaluate|root|safety|scratch|train"
SETTING = re.compile(
    rf"(?<![\w./-])((?:{RECIPE})(?:\.\w+)*|kind|columns|replay|encoding|on_scanned_page|stage)"
    r"(?:: |=| to (?=\d))(\[[^\]]*\]|\{[^}]*\}|[^\s`,;)]+)"
)


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def ways_in(advice: str) -> list[str]:
    """The ways that a piece of advice offers, each as the overrides that it names, with a space between them.

    >>> ways_in("fix it, or set `dataset.on_wrong_code: drop` (left out) or `keep`")
    ['dataset.on_wrong_code=drop', 'dataset.on_wrong_code=keep']
    >>> ways_in("set train.max_length to 64 or less, and dataset.on_too_long: drop; or `replay: true` on a source")
    ['train.max_length=64 dataset.on_too_long=drop', 'sources.0.replay=true']
    """
    written = re.sub(r"`([\w.]+): (\w+)`((?: \([^)]*\))?),? or `(\w+)`", r"`\1: \2`\3; `\1: \4`", advice)
    ways = []
    for way in re.split(r"; |,? or (?!less)", written):
        named = [(key if key.partition(".")[0] in RECIPE.split("|") else f"sources.0.{key}", value)
                 for key, value in SETTING.findall(way)]  # fmt: skip
        ways += [" ".join(f"{key}={value.replace(' ', '')}" for key, value in named)] if named else []
    return ways


@dataclass
class Project:
    """Files below a folder, and the settings of a recipe."""

    folder: Path
    base: Path
    settings: tuple[str, ...] = ()
    files: dict[str, str | bytes] = field(default_factory=dict)

    def write(self) -> Path:
        files = {"rows.jsonl": lines(PAIRS)} | self.files
        for name, content in files.items():
            place = self.folder / "files" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(
            f"name: small\nbase: {self.base}\nroot: files\nsources: [{{path: .}}]\n"
            "dataset: {validation: 0.2}\nadapter: {rank: 2}\n"
            "train: {epochs: 1, max_length: 64, batch_tokens: 128}\nevaluate: {questions: 0}\n",
            encoding="utf-8",
        )
        return recipe

    def walk(self, *more: str) -> None:
        """Everything before the training: recipe, base, dataset, audit, tokens, plan.

        Raises:
            AfinaError: what the person would read.
        """
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        with walk_of(self.write(), [*self.settings, *more], self.folder / "runs") as walk:
            walk_through(walk, until="plan")

    def problems(self, way: str = "") -> list[Problem]:
        """What is said where this is set, too; nothing where all is well."""
        try:
            self.walk(*way.split())
        except AfinaError as error:
            return list(error.problems)
        return []


def same(one: Problem, other: Problem) -> bool:
    """Whether two problems are one message: numbers in it may differ."""

    def words(problem: Problem) -> str:
        return re.sub(r"[\d.]+", "N", problem.what) + problem.fix

    return words(one) == words(other)
