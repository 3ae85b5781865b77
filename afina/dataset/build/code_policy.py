"""What becomes of examples whose code its compiler refuses: ``dataset.on_wrong_code``.

``keep`` trains them and reports; ``drop`` leaves out the row, the section or all sections of the code file, with
the compiler's lines in ``dropped.jsonl``; ``error`` stops. Code that only lacks a dependency, and fragments, are
always kept and reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.errors import DataError, Problem
from afina.recipe import Recipe
from afina.run import Progress, no_progress
from afina.sandbox.code_check import Checked, check_blocks
from afina.text.code_blocks import CodeBlock, example_blocks
from afina.text.example import Example
from afina.text.formats import language_of
from afina.whole import write_whole

SHOWN = 20


@dataclass(frozen=True)
class CodeReport:
    """Every block that was looked at."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """As in ``code.jsonl``: where, language, result, the compiler's lines, compiler."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Language -> result -> blocks."""
        counted: dict[str, Counter[str]] = {}
        for row in self.rows:
            counted.setdefault(row["language"], Counter())[row["result"]] += 1
        return {language: dict(counter) for language, counter in counted.items()}

    def write(self, file: Path) -> None:
        """Write ``code.jsonl``."""
        write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


def check_code(
    recipe: Recipe, rows: Iterable[tuple[int, Example]], progress: Progress = no_progress
) -> tuple[CodeReport, dict[int, str]]:
    """Check the code of numbered examples by the recipe's policy.

    Returns:
        The report, and for the number of each example to be left out what its compiler said.

    Raises:
        DataError: under ``on_wrong_code: error``, with every wrong block and its compiler's first lines.
        RecipeError: a compiler is not here.
    """
    wanted = recipe.dataset.check_code
    if not wanted:
        return CodeReport(), {}
    owners: list[set[int]] = []
    checked = list(check_blocks(_blocks(recipe, rows, owners), wanted, progress))
    wrong = [(item, places) for item, places in zip(checked, owners, strict=True) if item.result == "wrong"]
    if wrong and recipe.dataset.on_wrong_code == "error":
        raise DataError(problems=_problems([item for item, _ in wrong], len(checked)))
    refused: dict[int, str] = {}
    if recipe.dataset.on_wrong_code == "drop":
        for item, places in wrong:
            for place in places:
                refused.setdefault(place, item.lines)
    return CodeReport([item.as_json() for item in checked]), refused


def _blocks(recipe: Recipe, rows: Iterable[tuple[int, Example]], owners: list[set[int]]) -> Iterator[CodeBlock]:
    """The blocks of every example, in order; `owners` gets, for each, the examples that stand and fall with it.

    A code file is one block however many sections it was cut into: a part of it builds nowhere.
    """
    wanted = recipe.dataset.check_code
    files: dict[tuple[int, str], set[int]] = {}
    for number, example in rows:
        language = language_of(example.path) if example.text else None
        if language in wanted:
            key = (example.source, example.path)
            if key in files:
                files[key].add(number)
                continue
            files[key] = {number}
            owners.append(files[key])
            encoding = recipe.sources[example.source].encoding
            code = (Path(recipe.root) / example.path).read_text(encoding=encoding)
            yield CodeBlock(str(language), code, example.path, 1, True)
            continue
        for block in example_blocks(example):
            if block.language in wanted:
                owners.append({number})
                yield block


def _problems(wrong: Sequence[Checked], blocks: int) -> list[Problem]:
    fix = "fix the code, or set `dataset.on_wrong_code: drop` (left out, counted) or `keep`"
    shown = [
        Problem(f"{item.compiler} refuses this code:\n    " + item.lines.replace("\n", "\n    "), fix, item.block.where)
        for item in wrong[:SHOWN]
    ]
    if len(wrong) > SHOWN:
        shown.append(Problem(f"and {len(wrong) - SHOWN} more of {blocks} blocks", fix))
    return shown
