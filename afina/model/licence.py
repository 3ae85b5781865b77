"""Under which licence a base stands, as far as its own folder says so."""

from __future__ import annotations

import re
from pathlib import Path

from afina.model.gguf_folder import read_origin

_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


def licence_of(base: Path, stated: str | None = None) -> tuple[str, str]:
    """A licence's id or title, and who says so.

    Args:
        base: a model's folder: the metadata of its GGUF, the head of its README.md or a licence file may name one.
        stated: on the command line.

    >>> licence_of(Path("nowhere"), "mit")
    ('mit', 'as stated at the export')
    """
    if stated:
        return stated, "as stated at the export"
    if (origin := read_origin(base)) and origin.get("licence"):
        return str(origin["licence"]), "the metadata of its GGUF"
    card = base / "README.md"
    if card.is_file():
        head = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        found = re.search(r"^license:\s*[\"']?([\w.+-]+)", head[1], re.MULTILINE) if head else None
        if found:
            return found[1], "the base's own model card"
    for name in _NAMES:
        if (base / name).is_file():
            lines = (base / name).read_text(encoding="utf-8", errors="replace").splitlines()
            title = next((line.strip(" #*") for line in lines if line.strip(" #*")), "")
            if title:
                return title[:80], f"the base's file {name}"
    return "unknown", "neither the base's folder nor the command names one: ask who made the base and the data"
