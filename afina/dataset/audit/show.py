"""Examples of a dataset folder as plain text, each with where it came from."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from afina.dataset.build.split import point
from afina.errors import RecipeError
from afina.text.document import Message, message_texts
from afina.text.example import Example, read_examples


def show_examples(
    folder: Path,
    count: int,
    *,
    split: Literal["train", "validation"] = "train",
    seed: int | None = None,
    source: int | None = None,
    find: str = "",
) -> Iterator[str]:
    """Render `count` examples of a split, one string each.

    Args:
        folder: of the dataset.
        count: how many at most.
        split: which file.
        seed: a choice by this seed, in the order of the file; None takes the first ones.
        source: only those of this position in the recipe's `sources`.
        find: only those that hold this text, in any case.

    Raises:
        RecipeError: when the folder has no such file.
        DataError: for a damaged row.
    """
    file = folder / f"{split}.jsonl"
    if not file.exists():
        raise RecipeError(f"there is no {file.name}", "`afina data build` writes it", str(folder))
    wanted = (
        (number, example)
        for number, example in enumerate(read_examples(file), start=1)
        if source in (None, example.source) and find.casefold() in _words(example).casefold()
    )
    if seed is not None:
        # The smallest points are a fair choice, and only `count` examples are held at a time.
        chosen = heapq.nsmallest(count, wanted, key=lambda item: (point(seed, item[1].id), item[0]))
        wanted = (item for item in sorted(chosen, key=lambda item: item[0]))
    for _, (number, example) in zip(range(count), wanted, strict=False):
        yield render(example, f"{split} {number}")


def render(example: Example, label: str = "") -> str:
    """One example as text.

    >>> print(render(Example(text="# A\\n\\nOne.", path="a.md", line=3, heading="A"), "train 1"))
    --- train 1 | a.md:3 | A
    # A
    <BLANKLINE>
    One.
    >>> row = ({"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ana."})
    >>> print(render(Example(messages=row, path="q.jsonl", line=7, repeat=2)))
    --- q.jsonl:7 | seen 2 times an epoch
    user: Who?
    assistant: Ana.
    >>> call = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Faro"}}}
    >>> row = ({"role": "assistant", "content": "", "reasoning_content": "Look it up.", "tool_calls": [call]},
    ...        {"role": "tool", "content": "14:20", "name": "tide"},
    ...        {"role": "assistant", "content": "Soon.", "learned": False})
    >>> tide = {"type": "function", "function": {"name": "tide"}}
    >>> print(render(Example(messages=row, tools=(tide,), path="q.jsonl")))
    --- q.jsonl:1 | may call tide
    assistant thinks: Look it up.
    assistant calls: tide({"port": "Faro"})
    tool tide: 14:20
    assistant, not learned: Soon.
    """
    about = [label, f"{example.path}:{example.line}", example.heading]
    about += [f"seen {example.repeat} times an epoch" if example.repeat > 1 else "", "replay" * example.replay]
    about += [f"made ({example.made}, phrasing {example.phrasing})" if example.made else ""]
    about += [] if example.label is None else [f"answer said to be {'good' if example.label else 'bad'}"]
    about += [f"may call {', '.join(tool['function']['name'] for tool in example.tools)}"] if example.tools else []
    head = "--- " + " | ".join(part for part in about if part)
    if not example.messages:
        return f"{head}\n{example.text}"
    said = [line for message in example.messages for line in _turn(message)]
    said += [] if example.rejected is None else [f"rejected: {example.rejected}"]
    said += [f"marked by: {example.reference}"] if example.reference else []
    return "\n".join([head, *said])


def _turn(message: Message) -> Iterator[str]:
    """What a turn says, thinks and calls, and whether it is learned."""
    not_learned = "" if message.get("learned", True) else ", not learned"
    if thought := message.get("reasoning_content"):
        yield f"{message['role']} thinks{not_learned}: {thought}"
    if message["content"] or not message.keys() & {"reasoning_content", "tool_calls"}:
        named = f" {message['name']}" if message.get("name") else ""
        yield f"{message['role']}{named}{not_learned}: {message['content']}"
    for call in message.get("tool_calls", ()):
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        yield f"{message['role']} calls{not_learned}: {call['function']['name']}({arguments})"


def _words(example: Example) -> str:
    said = [text for message in example.messages for text in message_texts(message)]
    return example.text or "\n".join([*said, example.rejected or ""])
