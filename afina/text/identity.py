"""When two examples are the same, and which must fall on the same side of a split.

White space never matters: every run of it counts as one space.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from afina.text.document import map_message
from afina.text.example import Example


def normal(text: str) -> str:
    """Each run of white space as one space, none at the ends.

    >>> normal(" a\\n b ")
    'a b'
    """
    return " ".join(text.split())


def content_key(example: Example) -> str:
    """The same for two examples that hold the same words in the same roles.

    >>> content_key(Example(text="a  b")) == content_key(Example(text="a\\nb")) != content_key(Example(text="A b"))
    True
    """
    messages = tuple(map_message(message, normal) for message in example.messages)
    rejected = None if example.rejected is None else normal(example.rejected)
    return replace(example, text=normal(example.text), messages=messages, rejected=rejected).id


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
        words = "prompt " + example.prompt
    else:
        words = "text " + (example.text.removeprefix(f"{example.heading}\n\n") if example.heading else example.text)
    return short_hash(normal(words).casefold())


def short_hash(text: str) -> str:
    """64 bits of SHA-256: enough to tell a million rows apart, small enough to keep them all."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
