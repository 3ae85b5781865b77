"""Which language an HTML page says a code block is in."""

from __future__ import annotations

import re
from typing import Any

from afina.text.formats import LANGUAGES, language_of

_LANGUAGE_CLASS = re.compile(r"(?:language|lang|highlight-source|highlight|brush:?)[-\s]?([\w+#]+)$")
_SAME = {"shell": "sh", "console": "console", "c++": "cpp", "text": "", "none": "", "default": "", "plaintext": ""}
_KNOWN = frozenset(LANGUAGES.values()) | {"shell", "json", "html", "console", "diff"}


def language_of_caption(caption: Any) -> str:
    """The language that a code block's caption gives away: by its class, or the file name in it."""
    for name in (caption.get("class") or "").split():
        if name.endswith("-cap"):
            return _spelling(name.removesuffix("-cap"))
    for node in caption.iter("cite", "code", "span"):
        if found := language_of("".join(node.itertext()).strip()):
            return found
    return language_of("".join(caption.itertext()).strip().split(" ")[-1]) or ""


def language_of_block(pre: Any) -> str:
    """The language of a code block: from its class, its ``code``'s, or those of the two elements around it."""
    around = [pre, *pre.iter("code", "samp"), *list(pre.iterancestors())[:2]]
    for place, element in enumerate(around):
        for name in (element.get("class") or "").split():
            if found := _LANGUAGE_CLASS.match(name.lower()):
                return _spelling(found[1])
            if place == 0 and name.lower() in _KNOWN:
                return _spelling(name.lower())
    return ""


def _spelling(name: str) -> str:
    """The name that a Markdown fence uses.

    >>> _spelling("shell"), _spelling("zig"), _spelling("text")
    ('sh', 'zig', '')
    """
    return _SAME.get(name, name)
