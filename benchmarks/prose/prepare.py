"""The files of the ladder: the notes, the same with their terms permuted, another manual, and rows that only claim."""

from __future__ import annotations

import json
import re
from pathlib import Path

from afina.errors import RecipeError
from afina.recipe import Source
from afina.run import write_whole
from afina.sources import read_source
from afina.text.document import Ledger
from benchmarks.prose.permute import permuted

RECIPE = Path(__file__).parents[2] / "recipes/prose/notes.yaml"
NOTES, COOKBOOK = "release-notes-0.14.0.html", "cookbook/book-src"
_LISTING = re.compile(r"^(```+|~~~+)[^\n]*\n.*?^\1[^\n]*\n?", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{2,} +(.+?)\s*$", re.MULTILINE)
_THANKS = re.compile(r"^#+ Thank You.*", re.MULTILINE | re.DOTALL)
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
    notes = prose_of(_THANKS.sub("", page.text))
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


def prose_of(text: str) -> str:
    """Markdown without its listings, which are most of its tokens and are asked nothing.

    >>> prose_of("# A\\n\\nUse it.\\n\\n```zig\\n# no heading\\n```\\n\\nNot that.\\n")
    '# A\\n\\nUse it.\\n\\n\\nNot that.\\n'
    """
    return _LISTING.sub("", text)
