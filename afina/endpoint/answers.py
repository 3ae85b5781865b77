"""What a reply's text holds: JSON, and what the asker makes of it.

A fence of Markdown around the JSON and the thoughts of a reasoning model before it (``<think>``) are tolerated,
nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from afina.endpoint.cache import AnswerCache
from afina.endpoint.client import Failure, Reply

T = TypeVar("T")

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL | re.IGNORECASE)


class WrongContent(ValueError):
    """The answer is not what was asked for; says why."""


def read_json_answer(content: str) -> Any:
    """The JSON of an answer, without the thoughts before it and the fence around it.

    >>> read_json_answer('<think>hm</think>```json\\n{"better": "A"}\\n```')
    {'better': 'A'}

    Raises:
        WrongContent: no JSON.
    """
    content = _THOUGHTS.sub("", content)
    fenced = _FENCE.match(content)
    try:
        return json.loads(fenced[1] if fenced else content)
    except (ValueError, RecursionError) as error:
        raise WrongContent(f"not JSON: {error}") from None


def read_reply(reply: Reply, read: Callable[[str], T]) -> T:
    """What `read` makes of a reply's text.

    Args:
        read: from the text to what was asked for; raises :class:`WrongContent` where it is something else.

    Raises:
        Failure: there is no text, it was cut (a second try would be cut too), or `read` refuses it.
    """
    if not reply.content.strip():
        raise Failure("cut_off" if reply.cut else "empty_answer", "no text", again=not reply.cut)
    try:
        return read(reply.content)
    except WrongContent as error:
        if reply.cut:
            raise Failure("cut_off", f"after {reply.written} tokens; raise `max_tokens`", again=False) from None
        raise Failure("wrong_content", str(error)) from None


def first_usable(cache: AnswerCache, key: str, read: Callable[[str], T]) -> T | None:
    """What `read` makes of the oldest answer in the cache that it takes; None where there is none."""
    for reply in cache.replies(key):
        try:
            return read_reply(reply, read)
        except Failure:
            continue
    return None
