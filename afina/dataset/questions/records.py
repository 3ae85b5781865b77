"""The facts of one JSON object, such as a biography kept as a record."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from afina.dataset.questions.fact import Fact, is_not_said, typed
from afina.dataset.questions.labels import ACCENTS, LABELS, NAMES, label_key
from afina.dataset.questions.values import clean_value, words_of
from afina.text.document import Document

_KEYS = {*ACCENTS.values(), "jogos", "golos", "data", "jogo", "nacional", "total", "carreira"}
"""Words of keys that are no names."""


def record_facts(record: Any, language: str, document: Document) -> Iterator[Fact]:
    """The facts of one JSON object; a record wrapped in a single key is taken out of it.

    The subject is its name or title, else the document's title. Keys within keys are a label such as
    ``Carreira total: Jogos``.
    """
    while isinstance(record, Mapping) and len(record) == 1 and isinstance(next(iter(record.values())), Mapping):
        record = next(iter(record.values()))
    if not isinstance(record, Mapping):
        return
    subject = next((str(value) for key, value in record.items() if label_key(key) in NAMES), "") or document.title
    if not subject:
        return
    words = words_of(document.text)
    for path, value in _leaves(record, ()):
        label = _spoken(path[-1], language, words)
        key = label_key(path[-1])
        if key in NAMES:
            continue
        kind = LABELS.get(key, "other") if len(path) == 1 else "other"
        shown = ": ".join(_spoken(part, language, words) for part in path)
        items = [item for item in (value if isinstance(value, list) else [value]) if not is_not_said(item)]
        line = _line_of(document.text, path[-1])
        if items:
            yield from typed(subject, kind, shown if kind == "other" else label, items, line, "", language)


def _leaves(record: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in record.items():
        here = (*path, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, here)
        elif isinstance(value, list):
            items = [_flat(item) for item in value]
            if any(items):
                yield here, [item for item in items if item]
        elif value is not None and not isinstance(value, bool) and str(value).strip():
            yield here, clean_value(str(value))


def _flat(item: Any) -> str:
    """A list's item on one line: the first value, the others behind a colon."""
    if not isinstance(item, Mapping):
        return clean_value(str(item))
    values = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in item.values()]
    values = [clean_value(value) for value in values if value and not is_not_said(value)]
    return f"{values[0]}: {'; '.join(values[1:])}" if len(values) > 1 else "".join(values)


def _spoken(key: str, language: str, words: Counter[str]) -> str:
    """A JSON key as words, names with the capital that the values give them.

    >>> _spoken("selecaoNacional", "pt-PT", Counter())
    'Seleção nacional'
    """
    spoken: list[str] = []
    for word in re.sub(r"(?<=[a-z0-9à-ÿ])(?=[A-ZÀ-Ý])", " ", key).replace("_", " ").lower().split():
        accented = ACCENTS.get(word, word) if language.startswith("pt") else word
        is_name = words[accented.capitalize()] and not words[accented] and accented not in _KEYS
        spoken.append(accented.capitalize() if is_name or not spoken else accented)
    return " ".join(spoken)


def _line_of(text: str, key: str) -> int:
    place = text.find(f'"{key}"')
    return text.count("\n", 0, place) + 1 if place >= 0 else 1
