"""Examples with their personal data masked (:mod:`afina.text.personal_data` finds it)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from afina.text.document import Message, visible
from afina.text.example import Example
from afina.text.personal_data import mask


@dataclass(frozen=True, slots=True)
class MaskedExample:
    """An example whose personal data is masked, and how much that was."""

    example: Example
    kinds: Counter[str]
    taken: int
    """Visible characters that were masked."""
    written: int
    """Visible characters that stand in their places."""


def mask_example(example: Example, context: str = "") -> MaskedExample | None:
    """The example masked; None where nothing in it is personal.

    Args:
        context: what the example's text begins with: the path of headings put before a section.

    >>> mask_example(Example(text="Ligue (11) 98765-4321.")).example.text
    'Ligue [PHONE].'
    """
    # The path of headings and the text apart, so that each is still the beginning of the other.
    parts = [mask(context), mask(example.text.removeprefix(context))]
    parts += [mask(message["content"]) for message in example.messages]
    parts += [] if example.rejected is None else [mask(example.rejected)]
    kinds = Counter[str]()
    for part in parts:
        kinds.update(part.kinds)
    heading = mask(example.heading).text
    if not kinds and heading == example.heading:
        return None
    messages = tuple(
        Message(role=message["role"], content=part.text)
        for message, part in zip(example.messages, parts[2:], strict=False)
    )
    rejected = None if example.rejected is None else parts[-1].text
    return MaskedExample(
        replace(example, text=parts[0].text + parts[1].text, heading=heading, messages=messages, rejected=rejected),
        kinds,
        sum(visible(part.taken) for part in parts),
        sum(visible(part.written) for part in parts),
    )
