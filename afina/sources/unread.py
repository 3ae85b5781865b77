"""How many files of a source were not read, in one line that nobody can pass over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from afina.text.formats import ending

_SHOWN = 6
_SAID_BY_ENDING = ("binary", "unknown ending")


def describe_unread(skipped: Mapping[str, str], read: int) -> str:
    """What was not read, the most frequent first: by its ending where that is why, else by the reason.

    >>> binary = "binary by its ending .png"
    >>> describe_unread({"a.png": binary, "b.png": binary, ".git/": "hidden folder"}, 7)
    '3 of 10 files and folders were not read: 2 .png, 1 x hidden folder'

    Args:
        skipped: path -> reason, as in :attr:`~afina.text.document.Ledger.skipped`.
        read: how many files were read.
    """
    counts = Counter(_kind(path, reason) for path, reason in skipped.items())
    shown = [f"{count} {name}" if name[0] == "." else f"{count} x {name}" for name, count in counts.most_common(_SHOWN)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(_SHOWN))
    shown += [f"{rest} more"] if rest else []
    folders = " and folders" if any(path.endswith("/") for path in skipped) else ""
    return f"{len(skipped)} of {len(skipped) + read} files{folders} were not read: {', '.join(shown)}"


def _kind(path: str, reason: str) -> str:
    return ending(path) or reason if reason.startswith(_SAID_BY_ENDING) else reason
