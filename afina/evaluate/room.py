"""Whether an answer that reached the limit would have ended: asked once more, with more room.

A base that answers in whole paragraphs reaches a short limit and still knows how to stop. What runs on in
:data:`CEILING` tokens, or goes in circles, does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from afina.evaluate.scores import RoomToEnd
from afina.model.generate.generate_torch import Answer
from afina.text.answer_flaws import after_thinking, loops

TIMES, CEILING = 4, 512
"""So many times the tokens the second time, and so many at most: asking again costs at most :data:`TIMES` times what
the answers that reached the limit had cost, and is kept on disk like every answer."""
SPARE = 16
"""An answer had room where twice its reference and so many tokens more would have fitted."""


def ceiling_of(max_new_tokens: int) -> int:
    """The room that an answer is given the second time.

    >>> ceiling_of(32), ceiling_of(160), ceiling_of(1024)
    (128, 512, 1024)
    """
    return max(max_new_tokens, min(TIMES * max_new_tokens, CEILING))


def find_endless(
    answers: Sequence[Answer],
    references: Sequence[tuple[str, int | None]],
    max_new_tokens: int,
    ask_again: Callable[[Sequence[int], int], Sequence[Answer]],
) -> tuple[list[bool], RoomToEnd]:
    """Which answers never end, of all that reached the limit.

    Args:
        references: of each question the reference, and how many tokens that is; None where it says nothing of an
            answer's length: then only one that goes in circles never ends.
        ask_again: answers to the questions of these numbers, with this limit.
    """
    ceiling = ceiling_of(max_new_tokens)
    reached = [number for number, answer in enumerate(answers) if not answer.stopped]
    circling = {number for number in reached if circles(answers[number].text, references[number][0])}
    last = dict(enumerate(answers))
    judged = [number for number in reached if number not in circling and references[number][1] is not None]
    open_ones = judged if ceiling > max_new_tokens else []
    if open_ones:
        last |= zip(open_ones, ask_again(open_ones, ceiling), strict=True)
    endless = [number in circling for number in range(len(answers))]
    for number in judged:
        had_room = last[number].tokens >= 2 * (references[number][1] or 0) + SPARE
        endless[number] = had_room and not last[number].stopped
    ended = sum(last[number].stopped for number in open_ones)
    return endless, RoomToEnd(max_new_tokens, ceiling, len(reached), len(circling), ended)


def circles(text: str, reference: str) -> bool:
    """Whether an answer goes in circles, and its reference does not: cut there, it never ends."""
    return loops(after_thinking(text)) and not loops(reference)
