"""Front matter: settings between ``---`` (or ``+++``) lines at the top of a text."""

from __future__ import annotations

import re

_FRONT = re.compile(r"\A(---|\+\+\+)[ \t]*\n(?=[^\n]*[^\s])(.*?)^(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.S | re.M)
_FRONT_KEY = re.compile(r"^[\w-]+\s*[:=]", re.M)


def front_matter(text: str) -> str:
    """The front matter that a text begins with; empty where there is none.

    >>> front_matter("---\\ntitle: A\\n---\\nText")
    '---\\ntitle: A\\n---\\n'
    >>> front_matter("---\\n\\nA rule, then text.\\n")
    ''
    """
    found = _FRONT.match(text)
    return found[0] if found and _FRONT_KEY.search(found[2]) else ""
