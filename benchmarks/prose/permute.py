"""A text that reads alike and says other things: each of its terms in the place of another of the same kind."""

from __future__ import annotations

import random
from collections.abc import Iterator

from afina.text.key_terms import Term, TermTable

_NO_TERM = ("code:other",)
"""Whole expressions: what stands inside is no term of its own."""


def permuted(text: str, seed: int = 0) -> str:
    """The text with its identifiers, numbers, versions and names permuted among those of their kind, the same one
    everywhere: whoever learns it learns of each something that is true of another.

    Of a kind with a single term, it changes places with the single ones of related kinds; one that has none of these
    stays.

    >>> permuted("Use `@as` here.\\nNever use `@min`.\\nThe `std.mem` has `@max`.\\nNot `std.fs`.")
    'Use `@min` here.\\nNever use `@max`.\\nThe `std.fs` has `@as`.\\nNot `std.mem`.'
    """
    lines = text.split("\n")
    table = TermTable.of(lines)
    places = _places([term for line in lines for term in table.find(line)], random.Random(seed))
    return "\n".join("".join(_rewritten(line, table.find(line), places)) for line in lines)


def _places(terms: list[Term], pick: random.Random) -> dict[tuple[str, str], str]:
    """(kind, text as :func:`_bare` has it) -> what stands in its place."""
    kinds: dict[str, set[str]] = {}
    for term in terms:
        if term.kind not in _NO_TERM:
            kinds.setdefault(_kind(term), set()).add(_bare(term))
    pools: dict[str, list[tuple[str, str]]] = {}
    for kind, texts in sorted(kinds.items()):
        pool = kind if len(texts) > 1 else kind.partition(":")[0] + ": single ones"
        pools.setdefault(pool, []).extend((kind, text) for text in sorted(texts))
    found = {}
    for pool in pools.values():
        texts = list(dict.fromkeys(text for _, text in pool))
        pick.shuffle(texts)
        following = dict(zip(texts, [*texts[1:], *texts[:1]], strict=True))  # a circle: none stays in its own place
        found |= {key: following[key[1]] for key in pool}
    return found


def _bare(term: Term) -> str:
    """Without backticks and the brackets of a call, which stay where they are."""
    return term.text.strip("`").removesuffix("()")


def _kind(term: Term) -> str:
    """The same for an identifier with and without backticks."""
    return term.kind.replace("word:", "code:")


def _rewritten(line: str, terms: list[Term], places: dict[tuple[str, str], str]) -> Iterator[str]:
    done = 0
    for term in terms:
        bare = _bare(term)
        yield line[done : term.start]
        yield term.text.replace(bare, places.get((_kind(term), bare), bare))
        done = term.end
    yield line[done:]
