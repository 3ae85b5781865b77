"""A file of rows without what a recipe's policies drop, its personal data masked where they say so; else byte for byte.

The policies are the build's own: the file is built as a dataset would be, and what the build kept is copied.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from afina.dataset.build.build import build_dataset
from afina.dataset.build.intake import document_kind
from afina.errors import RecipeError
from afina.recipe import Recipe, Source, recipe_of
from afina.run import Progress, no_progress, parse_json
from afina.sources import read_sources
from afina.temporary import temporary_folder
from afina.text.document import Ledger
from afina.text.example import read_examples
from afina.text.formats import format_of
from afina.text.personal_data import mask
from afina.whole import disk_errors

DROPS = {"on_empty_prompt": "drop", "on_empty_answer": "drop"}
"""Policies that stop a build where nothing else is said; a copy leaves such rows out."""
MASKED = "personal_data_masked"


@dataclass(frozen=True, slots=True)
class CleanCopy:
    """What was written."""

    file: Path
    list: Path
    """One line for each row that was left out or masked: its place, the reason, what it said."""
    rows: int
    kept: int
    reasons: dict[str, int]

    def describe(self) -> str:
        """In words.

        >>> print(CleanCopy(Path("b.jsonl"), Path("b.dropped.jsonl"), 9, 7, {"duplicate": 2}).describe())
        b.jsonl: 7 of 9 rows
          2 x duplicate
        each of them is in b.dropped.jsonl
        """
        reasons = [f"  {count} x {reason}" for reason, count in self.reasons.items()]
        last = f"each of them is in {self.list}" if reasons else "nothing was to be left out or masked"
        return "\n".join([f"{self.file}: {self.kept} of {self.rows} rows", *reasons, last])


def write_clean(file: Path, out: Path, settings: Sequence[str] = (), progress: Progress = no_progress) -> CleanCopy:
    """Copy a JSONL file's rows but those that the policies drop; beside it a list of them.

    Args:
        out: of the copy, never the file itself; the list is ``OUT.dropped.jsonl``, without the copy's own ending.
        settings: of a recipe, such as ``dataset.personal_data=mask``. Where they say nothing else, rows without prompt
            or answer are left out, and rows that stand there again.

    Raises:
        RecipeError: the file is no JSONL, or `out` is the file.
        DataError: a row cannot be read, or a policy is ``error``.
    """
    listed = out.with_name(out.name.removesuffix(out.suffix) + ".dropped.jsonl")
    known = format_of(file.name)
    if known is None or not known.rows.endswith(":open_jsonl") or not file.is_file():
        raise RecipeError(
            "a clean copy is made of one JSONL file, a row a line",
            "name one; of other files a recipe's dataset is the clean copy: `afina data build`",
            str(file),
        )
    for target in (out, listed):
        if target.exists() and target.samefile(file):
            raise RecipeError("would be overwritten by its own clean copy", "name another file to write to", str(file))
    recipe = _recipe(file, settings)
    with temporary_folder("clean") as temporary:
        folder = temporary / "dataset"
        build_dataset(recipe, folder, progress, workers=1)
        kept = {example.line for example in read_examples(folder / "train.jsonl")}
        masked: set[int] = set()
        reasons: Counter[str] = Counter()
        with _whole_file(out) as copy, _whole_file(listed) as left_out:
            with (folder / "dropped.jsonl").open("rb") as lines:
                for line in lines:
                    row = parse_json(line)
                    reasons[row["reason"]] += 1
                    if row["reason"] == MASKED:
                        masked.add(int(row["where"].rpartition(":")[2]))
                    left_out.write(line)
            rows = _copy(file, copy, kept, masked)
    return CleanCopy(out, listed, rows, len(kept), dict(reasons))


def _recipe(file: Path, settings: Sequence[str]) -> Recipe:
    """The recipe that builds a dataset of the file, nothing held out; its method learns what the first row is."""
    given = {setting.partition("=")[0] for setting in settings}
    policies = [f"dataset.{name}={value}" for name, value in DROPS.items() if f"dataset.{name}" not in given]
    recipe = recipe_of([*policies, *settings, "dataset.validation=0"])
    recipe = recipe.model_copy(
        update={"root": str(file.parent.resolve()), "sources": [Source(path=file.name, splits="ignore")]}
    )
    first = next(read_sources(recipe, Ledger()), None)
    method = {"preference": "dpo", "rated": "kto"}.get(document_kind(first) if first else "", "sft")
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"method": method})})


def _copy(file: Path, out: IO[bytes], kept: set[int], masked: set[int]) -> int:
    """Copy the lines that are kept; how many rows there were."""
    rows = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            rows += bool(line.strip())
            if number in masked:
                row = _masked(parse_json(line.removeprefix(b"\xef\xbb\xbf")))
                out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            elif number in kept:
                out.write(line if line.endswith(b"\n") else line + b"\n")
    return rows


def _masked(value: Any) -> Any:
    """A value of JSON with the personal data in all its texts masked."""
    if isinstance(value, str):
        return mask(value).text
    if isinstance(value, dict):
        return {name: _masked(each) for name, each in value.items()}
    return [_masked(each) for each in value] if isinstance(value, list) else value


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when all of it is there."""
    beside = path.with_name(path.name + ".partial")
    with disk_errors(path):
        try:
            with beside.open("wb") as out:
                yield out
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
