"""The texts of the report's pages, collected from code and templates, and the catalogues of ``afina/report/words``.

``python tests/report_words.py`` writes the catalogues again: a new text comes in untranslated, one that nobody asks for
any more goes. The tests refuse a catalogue with either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from string import Formatter

from babel.messages import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

import afina.report
from afina.dataset.audit.rules import RULES
from afina.evaluate.derive import CHOICE, CONTROL, COVERAGE, GENERAL, TITLES
from afina.evaluate.guardrails import NAMES
from afina.evaluate.safety.findings import MEASURES
from afina.evaluate.scores import ROLES, WAYS
from afina.evaluate.skills import NAME, ROOM
from afina.report.language import ENGLISH, LANGUAGES, PROBE
from afina.score.output_checks import RULES as OUTPUT_RULES

FOLDER = Path(afina.report.__file__).parent
CALLS = {"tr": None, "trn": (1, 2), "mark": None, "mark_of": ((1, "c"), 2)}
METHODS = {".py": "python", ".html": babel_extract}


def collected() -> Catalog:
    """Every text that a page may look up: where code and templates name one, and what other rooms call things."""
    texts = Catalog()
    for file in sorted(FOLDER.iterdir()):
        if file.suffix in METHODS:
            for _, text, _, context in extract_from_file(METHODS[file.suffix], file, keywords=CALLS):
                texts.add(text, context=context)
    for text in _of_other_rooms():
        texts.add(text)
    for text in (*TITLES.values(), CHOICE, CONTROL, COVERAGE, GENERAL, NAME):
        texts.add(text, context=PROBE)
    return texts


def _of_other_rooms() -> Iterator[str]:
    for role in ROLES.values():
        yield from (role.about, role.clusters)
        for counted in role.counted:
            yield from (counted.word, counted.words)
    yield from (*WAYS.values(), *NAMES.values(), *(name.replace("_", " ") for name in NAMES))
    yield from (title for title, _ in MEASURES.values())
    yield from ROOM
    for rule in RULES.values():
        yield from (rule.what, rule.fix)
    yield from (what for what, _ in OUTPUT_RULES.values())


def stored(tag: str) -> Catalog:
    """A language's catalogue as it stands."""
    with (FOLDER / "words" / f"{tag}.po").open(encoding="utf-8") as file:
        return read_po(file, locale=tag.replace("-", "_"))


def ids(catalogue: Catalog) -> set[tuple[str | None, ...]]:
    """The texts of a catalogue: context, text and, where it has one, its plural."""
    return {(each.context, *forms(each.id)) for each in catalogue if each.id}


def forms(text: str | list[str] | tuple[str, ...]) -> list[str]:
    """The forms of a text or of its translation: one, or singular and plural."""
    return list(text) if isinstance(text, list | tuple) else [text]


def placeholders(text: str) -> set[str]:
    """The names in braces.

    >>> sorted(placeholders("{n} of {all}"))
    ['all', 'n']
    """
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def main() -> None:
    """Write the catalogues again."""
    texts = collected()
    for tag in LANGUAGES:
        if tag == ENGLISH:
            continue
        file = FOLDER / "words" / f"{tag}.po"
        locale = tag.replace("-", "_")
        catalogue = stored(tag) if file.exists() else Catalog(locale=locale)
        catalogue.update(texts, no_fuzzy_matching=True)
        catalogue.obsolete.clear()
        catalogue.fuzzy = False
        for message in catalogue:
            message.flags.discard("python-format")  # "95 % intervals" looks like one
        with file.open("wb") as out:
            write_po(out, catalogue, width=120, omit_header=False, no_location=True, sort_output=True)


if __name__ == "__main__":
    main()
