"""Two texts side by side: which of their words stand on one side only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import groupby

Pieces = list[tuple[str, bool]]
"""A text in parts; whether each stands on its side alone. Together they are the text."""


def differences(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces, the words that the other lacks marked; none where they share no word, as all would be.

    >>> differences("born in Faro.", "born in 1910.")
    ([('born in ', False), ('Faro', True), ('.', False)], [('born in ', False), ('1910', True), ('.', False)])
    """
    one, two = _tokens(before), _tokens(after)
    same = SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks()
    shared_words = (token for block in same for token in one[block.a : block.a + block.size] if re.match(r"\w", token))
    if not any(shared_words):
        return _whole(before), _whole(after)
    shared = {block.a + step for block in same for step in range(block.size)}
    also = {block.b + step for block in same for step in range(block.size)}
    return _pieces(one, shared), _pieces(two, also)


def _tokens(text: str) -> list[str]:
    """Words, white space between them, and every other character by itself."""
    return re.findall(r"\w+|\s+|[^\w\s]", text)


def _whole(text: str) -> Pieces:
    return [(text, False)] if text else []


def _pieces(tokens: list[str], shared: set[int]) -> Pieces:
    """Neighbours that are alike joined; the space between two words that differ differs with them."""
    alone = [position not in shared for position in range(len(tokens))]
    for position in range(1, len(tokens) - 1):
        if tokens[position].isspace() and alone[position - 1] and alone[position + 1]:
            alone[position] = True
    return list(_joined(zip(tokens, alone, strict=True)))


def _joined(tokens: Iterable[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    for alone, group in groupby(tokens, key=lambda each: each[1]):
        yield "".join(token for token, _ in group), alone
