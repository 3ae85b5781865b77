"""The files of the experiment: the documents, and what the two roads make of them before afina reads anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.base_replay import base_replay, everyday_prompts
from afina.errors import RecipeError
from afina.whole import write_whole

RECIPES = Path(__file__).parents[2] / "recipes/zig"
NOTES, PROMPTS = "release-notes-0.14.0.html", "training-prompts.jsonl"


@dataclass(frozen=True)
class Wanted:
    """How much of it: everything, or what a test needs.

    Args:
        versions: questions about what changed.
        replayed: general questions that the base answers.
    """

    versions: int | None = None
    replayed: int | None = None


def prepare(root: Path, folder: Path, wanted: Wanted) -> None:
    """Write all files but the replay; cheap, and the same each time.

    Args:
        root: where `../shared/data/zig` or a copy of it is.
        folder: the data folder that the recipes read.

    Raises:
        RecipeError: a file is not there.
    """
    if missing := [name for name in (NOTES, NOTES.removesuffix(".html"), PROMPTS) if not (root / name).exists()]:
        raise RecipeError(
            f"the documents are not here: {', '.join(missing)}",
            "name the folder that has them: make zig ROOT=FOLDER (recipes/zig/lines.yaml says where they come from)",
            str(root),
        )
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / NOTES, folder / NOTES)
    shutil.copytree(root / NOTES.removesuffix(".html"), folder / NOTES.removesuffix(".html"), dirs_exist_ok=True)
    page = (root / NOTES).read_text(encoding="utf-8")
    _write_rows(folder / "lines.jsonl", text_rows(as_markdown(page)))
    _write_rows(folder / "prompts.jsonl", text_rows((root / PROMPTS).read_text(encoding="utf-8")))
    versions = (RECIPES / "versions.jsonl").read_text(encoding="utf-8").splitlines()
    write_whole(folder / "versions.jsonl", "".join(f"{line}\n" for line in versions[: wanted.versions]))


def as_markdown(page: str) -> str:
    """The page as the library that the experiment used writes it.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        from html2text import HTML2Text
    except ModuleNotFoundError as error:
        raise RecipeError(
            "html2text, which the published experiment used, is not installed", "pip install html2text"
        ) from error
    converter = HTML2Text()
    converter.body_width = 0
    return str(converter.handle(page))


def text_rows(text: str) -> list[dict[str, str]]:
    """A loader of lines: each line an example, whatever it holds. Blank ones have no tokens, and nothing learns them.

    >>> text_rows('# Zig\\n\\n{"prompt": "a"}\\n')
    [{'text': '# Zig'}, {'text': '{"prompt": "a"}'}]
    """
    return [{"text": line} for line in text.split("\n") if line.strip()]


def prepare_replay(
    base: str, folder: Path, runs: Path, wanted: Wanted, say: Callable[[str], None], more: Path | None = None
) -> None:
    """Write ``replay.jsonl``: what the base itself answers to general questions, where the answer ends by itself.

    Answers are kept beside those of the runs, so that a second start asks nothing.

    Args:
        more: a file with further questions, one on each line.

    Raises:
        BaseError: hardly any of them ends.
    """
    further = more.read_text(encoding="utf-8").splitlines() if more else []
    prompts = [*everyday_prompts("en"), *further][: wanted.replayed]
    found = base_replay(base, prompts, runs, say=say)
    say(f"replay: {found.describe()}")
    found.write(folder / "replay.jsonl")


def _write_rows(file: Path, rows: Sequence[dict[str, str]]) -> None:
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
