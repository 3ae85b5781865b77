"""The studio's words: every text of its code, templates and modules stands in every catalogue, and no other."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

import pytest
from babel.messages import Catalog
from babel.messages.extract import extract_from_file
from jinja2.ext import babel_extract

import afina.studio
from afina.report.language import ENGLISH, LANGUAGES, read_catalogue
from afina.studio.translate import PACKAGE, all_words

FOLDER = Path(afina.studio.__file__).parent
CALLS = {"_": None, "_n": (1, 2), "mark": None}
METHODS = {".py": "python", ".html": babel_extract, ".js": "javascript"}
OTHERS = [tag for tag in LANGUAGES if tag != ENGLISH]


def collected() -> Catalog:
    """Every text that a page may look up."""
    texts = Catalog()
    for file in sorted([*FOLDER.glob("*.py"), *FOLDER.glob("templates/*.html"), *FOLDER.glob("static/*.js")]):
        for _, text, _, _ in extract_from_file(METHODS[file.suffix], file, keywords=CALLS):
            texts.add(text)
    return texts


def names_in(text: str) -> set[str]:
    """The ``{names}`` of a text."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def forms(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def test_texts_are_found_in_code_templates_and_modules(tmp_path: Path) -> None:
    found = {each.id for each in collected()}
    assert {"Playground", "Skip to the content"} <= found
    (tmp_path / "a.js").write_text('element("p", {}, _n("{n} run", "{n} runs", 3), _("Runs"));', encoding="utf-8")
    assert [text for _, text, _, _ in extract_from_file("javascript", tmp_path / "a.js", keywords=CALLS)] == [
        ("{n} run", "{n} runs"),
        "Runs",
    ]


@pytest.mark.parametrize("tag", OTHERS)
def test_catalogues_are_complete(tag: str) -> None:
    asked = {each.id for each in collected() if each.id}
    told = {each.id: each.string for each in read_catalogue(tag, PACKAGE) if each.id}
    assert not sorted(map(str, asked - told.keys())), "these texts stand in no catalogue: add them to words/*.po"
    assert not sorted(map(str, told.keys() - asked)), "nobody asks for these any more: take them out of words/*.po"
    for text, translated in told.items():
        assert all(forms(translated)), f"{text!r} has no translation"
        names = set().union(*(names_in(each) for each in forms(text)))
        assert all(names_in(each) <= names for each in forms(translated)), text
        assert set().union(*(names_in(each) for each in forms(translated))) == names, text


@pytest.mark.parametrize("tag", OTHERS)
def test_no_text_stands_twice_in_a_catalogue(tag: str) -> None:
    """Four blocks are written by hand; of two entries the later one would count in silence."""
    lines = (FOLDER / "words" / f"{tag}.po").read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if line.startswith("msgid ") and line != 'msgid ""']
    assert sorted(keys) == sorted(set(keys))


def test_the_browser_gets_both_forms_of_a_plural() -> None:
    assert all_words(ENGLISH) == {"language": ENGLISH, "words": {}}
    assert all_words("pt-PT")["words"]["Plan"] == "Planear"
    assert all_words("pt-BR")["words"]["Plan"] == "Planejar"
