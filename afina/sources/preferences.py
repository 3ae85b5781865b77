"""Rows of preferences: a better and a worse answer to the same conversation, in the forms that people keep them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from afina.sources.row_fields import BadRow, RowTally, text_of
from afina.sources.turns import read_turns
from afina.text.document import Message, conversation_chars

_AGAIN = "said again in a preference"
_SPEAKER = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")


def transcript(text: str, tally: RowTally) -> tuple[Message, ...] | None:
    """The turns of a text in which ``Human:`` and ``Assistant:`` begin paragraphs; None where it is no such text. A
    last ``Assistant:`` with nothing behind it is left out.

    >>> transcript("\\n\\nHuman: Why?\\n\\nAssistant: Because.", RowTally())[1]
    {'role': 'assistant', 'content': 'Because.'}
    """
    found = list(_SPEAKER.finditer(text))
    if not found or found[0][1] != "Human" or text[: found[0].start()].strip():
        return None
    ends = [each.start() for each in found[1:]] + [len(text)]
    messages: list[Message] = []
    for each, end in zip(found, ends, strict=True):
        content = text[each.end() : end].strip()
        messages.append({"role": "user" if each[1] == "Human" else "assistant", "content": content})
    if len(messages) > 1 and messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
        messages.pop()
    tally.rewrite("role names", text, [message["content"] for message in messages])
    return tuple(messages)


def side_turns(
    value: Any, name: str, tally: RowTally, leave_out: frozenset[str], *, alone: bool
) -> tuple[Message, ...]:
    """One side of a preference: an answer, or a conversation that ends with it.

    Args:
        value: a text, one message, or a list of messages.
        name: of its column.
        alone: the row has no question beside it, so that a text has to be a transcript.

    Raises:
        BadRow: it is none of these, or ends with something else.
    """
    if isinstance(value, str):
        turns = transcript(value, tally) if alone or value.startswith("\n\nHuman:") else None
        return turns or ({"role": "assistant", "content": value},)
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        text_of(list(value), name)
    turns, tools = read_turns(value, name, tally, leave_out)
    if tools:
        raise BadRow(f"`{name}` brings functions along", "name them in the row's `tools`")
    if turns[-1]["role"] != "assistant":
        raise BadRow(f"`{name}` ends with the {turns[-1]['role']}", "end it with an assistant message")
    return turns


def _words(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    """Who says what, white space at the ends aside."""
    return [(turn["role"], turn["content"].strip()) for turn in turns]


def join_preference(
    asked: tuple[Message, ...],
    first: tuple[Message, ...],
    sides: Mapping[str, tuple[Message, ...]],
    asked_name: str,
    tally: RowTally,
) -> tuple[tuple[Message, ...], str]:
    """A conversation that ends with the better answer, and the worse answer to the same.

    Args:
        asked: the question beside the answers; empty where both conversations hold it.
        first: a system turn and turns before the question, from columns of their own.
        sides: the better and the worse one under their columns' names.
        asked_name: the question's column.

    Raises:
        BadRow: they do not fit together.
    """
    said = conversation_chars(asked) + sum(conversation_chars(turns) for turns in sides.values())
    whole = []
    for name, turns in sides.items():
        if len(turns) == 1:
            turns = (*asked, *turns)
        elif asked and _words(turns[-1 - len(asked) : -1]) != _words(asked):
            raise BadRow(f"`{name}` is a conversation that does not ask `{asked_name}`", "make them agree")
        if turns[0]["role"] == "system" and first and first[0]["role"] == "system":
            raise BadRow(f"`{name}` has a system turn, and the row a system text beside it", "keep one of them")
        whole.append((*first, *turns))
    (chosen, rejected), (better, worse) = whole, sides
    if chosen[:-1] != rejected[:-1]:
        what = f"`{better}` and `{worse}` differ before their last answers"
        raise BadRow(what, "give pairs that differ in the last answer alone")
    if len(chosen) == 1:
        raise BadRow(f"`{better}` is an answer to no prompt", "give the question in `prompt`")
    last = rejected[-1]
    if extra := sorted(last.keys() & {"reasoning_content", "tool_calls", "learned"}):
        what = f"the worse answer has `{extra[0]}`, which a preference does not learn"
        raise BadRow(what, "leave such rows out", finding="unlearned_field")
    if chosen[-1].get("learned") is False:
        what = "the better answer is marked as not to learn"
        raise BadRow(what, "leave such rows out", finding="unlearned_field")
    tally.dropped[_AGAIN] += said + conversation_chars(first) - conversation_chars((*chosen, last))
    return chosen, last["content"]


_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)


def scores_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row's scores say against its order; empty where they agree with it, or there are none.

    >>> scores_of({"score_chosen": 2, "score_rejected": 8.5})
    {'scores_inverted': '`score_chosen` 2 is below `score_rejected` 8.5'}
    >>> scores_of({"score_chosen": 8.5, "score_rejected": 2})
    {}
    """
    for better, worse in _SCORES:
        high, low = row.get(better), row.get(worse)
        if isinstance(high, int | float) and isinstance(low, int | float) and high < low:
            return {"scores_inverted": f"`{better}` {high} is below `{worse}` {low}"}
    return {}
