"""Examples of a dataset folder as plain text, each with where it came from."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from afina.dataset.build.split import point
from afina.errors import RecipeError
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
    """
    about = [label, f"{example.path}:{example.line}", example.heading]
    about += [f"seen {example.repeat} times an epoch" if example.repeat > 1 else "", "replay" * example.replay]
    about += [f"made ({example.made}, phrasing {example.phrasing})" if example.made else ""]
    about += [] if example.label is None else [f"answer said to be {'good' if example.label else 'bad'}"]
    head = "--- " + " | ".join(part for part in about if part)
    if not example.messages:
        return f"{head}\n{example.text}"
    said = [f"{message['role']}: {message['content']}" for message in example.messages]
    return "\n".join([head, *said, *([] if example.rejected is None else [f"rejected: {example.rejected}"])])


def _words(example: Example) -> str:
    said = [message["content"] for message in example.messages]
    return example.text or "\n".join([*said, example.rejected or ""])
