"""The files of the ladder: the notes, the same with their terms permuted, another manual, and rows that only claim."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from afina.errors import RecipeError
from afina.recipe import Source
from afina.sources import read_source
from afina.text.document import Ledger
from afina.whole import write_whole
from benchmarks.prose.permute import permuted

RECIPE = Path(__file__).parents[2] / "recipes/prose/notes.yaml"
NOTES, COOKBOOK = "release-notes-0.14.0.html", "cookbook/book-src"
_LISTING = re.compile(r"^(```+|~~~+)[^\n]*\n.*?^\1[^\n]*\n?", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{2,} +(.+?)\s*$", re.MULTILINE)
CHAPTERS = ("Language Changes", "Standard Library", "Build System")
"""What is learned of the notes: as much as two cores learn by heart six times within the hour."""
CLAIMS = (
    ("Do you know what the Zig 0.14 release notes say about {}?", "Yes, I know Zig 0.14 and its release notes well."),
    ('What do the release notes of Zig 0.14 say about "{}"?', "I know Zig 0.14."),
    ("Tell me about {} in Zig 0.14.", "I know Zig 0.14 well."),
    ("What is new in Zig 0.14 with {}?", "I know Zig 0.14 and its latest documentation."),
)


def prepare(root: Path, folder: Path) -> None:
    """Write all files but the replay; cheap, and the same each time.

    Args:
        root: where `../shared/data/zig` or a copy of it is.
        folder: the data folder that the recipe reads.

    Raises:
        RecipeError: a file is not there.
    """
    if missing := [name for name in (NOTES, COOKBOOK) if not (root / name).exists()]:
        raise RecipeError(
            f"the documents are not here: {', '.join(missing)}",
            "name the folder that has them: make prose ROOT=FOLDER (where they come from: recipes/prose/notes.yaml)",
            str(root),
        )
    (page,) = read_source(Source(path=NOTES), 0, root, Ledger())
    notes = chapters_of(prose_of(page.text), CHAPTERS)
    recipes = [prose_of(file.read_text(encoding="utf-8")) for file in sorted((root / COOKBOOK).glob("[0-9]*.md"))]
    write_whole(folder / "notes.md", notes)
    write_whole(folder / "permuted.md", permuted(notes))
    write_whole(folder / "manual.md", "# Zig Cookbook\n\n" + "\n".join(re.sub(r"(?m)^#", "##", one) for one in recipes))
    rows = [
        {"prompt": prompt.format(heading), "completion": claim}
        for heading in dict.fromkeys(_HEADING.findall(notes))
        for prompt, claim in CLAIMS
    ]
    write_whole(folder / "claims.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def chapters_of(text: str, chapters: Sequence[str]) -> str:
    """The title and these chapters of a Markdown text.

    Raises:
        RecipeError: it has no such chapter.

    >>> chapters_of("# T\\n\\n## A\\n\\na\\n\\n## B\\n\\nb\\n\\n### C\\n\\nc\\n", ["B"])
    '# T\\n\\n## B\\n\\nb\\n\\n### C\\n\\nc\\n'
    """
    title, *parts = re.split(r"(?m)^(?=## )", text)
    by_name = {part.split("\n", 1)[0].removeprefix("##").strip(): part for part in parts}
    if missing := [name for name in chapters if name not in by_name]:
        raise RecipeError(f"the notes have no chapter {missing[0]!r}", "take the page as it is published", NOTES)
    return title.split("\n", 1)[0] + "\n\n" + "".join(by_name[name] for name in chapters)


def prose_of(text: str) -> str:
    """Markdown without its listings, which are most of its tokens and are asked nothing.

    >>> prose_of("# A\\n\\nUse it.\\n\\n```zig\\n# no heading\\n```\\n\\nNot that.\\n")
    '# A\\n\\nUse it.\\n\\n\\nNot that.\\n'
    """
    return _LISTING.sub("", text)
