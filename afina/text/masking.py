"""Examples with their personal data masked (:mod:`afina.text.personal_data` finds it)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from afina.text.document import map_message, visible
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
    written = [part.text for part in parts]

    def masked(text: str) -> str:
        parts.append(mask(text))
        return parts[-1].text

    messages = tuple(map_message(message, masked) for message in example.messages)
    rejected = None if example.rejected is None else masked(example.rejected)
    kinds = Counter[str]()
    for part in parts:
        kinds.update(part.kinds)
    heading = mask(example.heading).text
    if not kinds and heading == example.heading:
        return None
    return MaskedExample(
        replace(example, text=written[0] + written[1], heading=heading, messages=messages, rejected=rejected),
        kinds,
        sum(visible(part.taken) for part in parts),
        sum(visible(part.written) for part in parts),
    )
