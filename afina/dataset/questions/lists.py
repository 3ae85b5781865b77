"""Lists whose heading, or whose short line above, says what they list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from afina.dataset.questions.prose_corpus import SEE_ALSO, ProseCorpus, ProseSection
from afina.text.formats import has_own_lines
from afina.text.identity import normal
from afina.text.key_terms import term_key
from afina.text.passages import Passage
from afina.text.prose_question import ProseQuestion

FEWEST_ITEMS, MOST_ITEMS = 3, 15
MOST_LABEL_WORDS, MOST_ITEM_WORDS = 6, 5

_CODE_FIRST = re.compile(r"`[^`]+`")
_REST = re.compile(r"\s*[:;(]|,(?!\d)|\s+[–—-]+\s|\s*→|(?<=[a-zà-ü]{3})\.(?=\s|$)|!|\s*=")


def list_questions(corpus: ProseCorpus, number: int, prompt: Callable[[str, bool], str]) -> Iterator[ProseQuestion]:
    """A question for each list of a section that can be named, and whose items are short or begin with a name.

    Args:
        number: the section's position.
        prompt: asks for a list by its label, and whether it belongs to the document and no longer to the section.
    """
    section = corpus.sections[number]
    for label, items in labelled_lists(section):
        heads = [item_head(item.text) for item in items]
        asked = prompt(label, items[0].apart)
        known = {term_key(head) for head in heads if head}
        question = normal(asked).casefold()
        told = all(heads) and len(known) == len(heads) and not any(key in question for key in known)
        if told and not _labels(items, heads, corpus.table.common):
            terms = tuple(head.strip("`") for head in heads)
            line = section.line + items[0].line - 1 if has_own_lines(section.path) else section.line
            yield ProseQuestion("list", section.name, section.path, line, asked, terms=terms, held_out=section.held_out)


def _labels(items: Sequence[Passage], heads: Sequence[str], common: set[str]) -> bool:
    """Whether an item is a label with its value ("Born: 1930"): then its value would be the answer."""
    return any(
        item.text.startswith(f"{head}:")
        and all(word.casefold() in common for word in re.findall(r"[^\W\d_]{2,}", head))
        for item, head in zip(items, heads, strict=True)
    )


def labelled_lists(section: ProseSection) -> Iterator[tuple[str, list[Passage]]]:
    """The lists of a section with what they are called: by a short line right above that ends with a colon, or by
    the heading where they are all that stands below it."""
    above = ""
    outer = (passage for passage in section.passages if passage.list_number >= 0)
    for list_number, group in groupby(outer, key=lambda passage: passage.list_number):
        items = list(group)
        if not list_number:
            above = items[-1].text
            continue
        label = above.removesuffix(":").strip() if above.endswith(":") else "" if above else section.label
        if label.casefold() in SEE_ALSO:
            continue
        if label and len(label.split()) <= MOST_LABEL_WORDS and FEWEST_ITEMS <= len(items) <= MOST_ITEMS:
            yield label, items


def item_head(text: str) -> str:
    """What an item is about; empty where it is a sentence.

    >>> item_head("Galicia EC (1986/87)"), item_head("`--watch` builds again"), item_head("This was a long way to go.")
    ('Galicia EC', '`--watch`', '')
    """
    if found := _CODE_FIRST.match(text):
        return found[0]
    head = _REST.split(text, maxsplit=1)[0].strip(' "“”«»*')
    return head if 0 < len(head.split()) <= MOST_ITEM_WORDS and len(head) > 2 and "..." not in text else ""
