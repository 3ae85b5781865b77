"""When two examples are the same, and which must fall on the same side of a split.

White space never matters: every run of it counts as one space. Nor does how an accent is stored (Unicode NFC and NFD
look the same), nor what has no width. The joiners inside emoji and scripts do: they are part of what is seen.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from afina.text.document import Message, map_message
from afina.text.example import Example, content_hash

_NO_WIDTH = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
"""Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark."""


@lru_cache(maxsize=16)  # what reads a row asks for its texts again and again
def normal(text: str) -> str:
    """Each run of white space as one space, none at the ends; composed letters, nothing without width.

    >>> normal(" a\\n b "), normal("Sa\\u0303o\\u200b") == normal("S\\u00e3o")
    ('a b', True)
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _NO_WIDTH.sub("", text))
    return " ".join(text.split())


def content_key(example: Example) -> str:
    """The same for two examples that hold the same words in the same roles.

    >>> content_key(Example(text="a  b")) == content_key(Example(text="a\\nb")) != content_key(Example(text="A b"))
    True
    """
    messages = [map_message(message, normal) for message in example.messages]
    rejected = None if example.rejected is None else normal(example.rejected)
    return content_hash(normal(example.text), messages, rejected, example.label, example.tools)


def group_key(example: Example) -> str:
    """The same for examples that must not be told apart by training on one and measuring the other.

    For a conversation that is its prompt in any case and spacing: one question with two answers
    stays together. For a text it is its words, without the path of headings put before them.

    >>> ask = lambda prompt, answer: Example(messages=({"role": "user", "content": prompt},
    ...                                                {"role": "assistant", "content": answer}))
    >>> group_key(ask("Who?", "Ana.")) == group_key(ask("who? ", "Rui."))
    True
    """
    if example.messages:
        return _prompt_key(example.messages[:-1])
    words = example.text.removeprefix(f"{example.heading}\n\n") if example.heading else example.text
    return short_hash(normal("text " + words).casefold())


def opening_keys(example: Example, whole: int | None = None) -> tuple[int, int]:
    """Two beginnings of a conversation as numbers: through its first question, and through its second.

    A row of one question has both the same, and equal to its :func:`group_key`; so has a text.

    Args:
        whole: the number of its group key, where it is known.

    >>> first = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ana."}]
    >>> longer = [*first, {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Faro."}]
    >>> opening_keys(Example(messages=tuple(longer)))[0] == int(group_key(Example(messages=tuple(first))), 16)
    True
    """
    whole = int(group_key(example), 16) if whole is None else whole
    asked = [place for place, message in enumerate(example.messages[:-1], start=1) if message["role"] == "user"]
    if not asked or asked[0] == len(example.messages) - 1:
        return whole, whole
    second = asked[1] if len(asked) > 1 else len(example.messages) - 1
    return int(_prompt_key(example.messages[: asked[0]]), 16), int(_prompt_key(example.messages[:second]), 16)


def _prompt_key(messages: Sequence[Message]) -> str:
    said = "\n".join(message["content"] for message in messages)
    return short_hash(normal("prompt " + said).casefold())


def short_hash(text: str) -> str:
    """64 bits of SHA-256: enough to tell a million rows apart, small enough to keep them all."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
