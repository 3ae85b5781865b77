"""The website of docs/: every page is in its navigation, every link leads somewhere, nothing comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from afina.page_marks import put_between

ROOT = Path(__file__).parent.parent
ADDED = {"index.md", "pt.md", "recipes.md", "log.md", "changelog.md"}
"""Pages that mkdocs_hooks.py makes of what lies outside of docs/."""


def pages_of(nav: Any) -> list[str]:
    """The pages of a navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in pages_of(entry)]


def navigation() -> list[Any]:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/object/apply:", "!")
    return YAML(pure=True).load(text)["nav"]


def test_every_page_is_in_the_navigation_once() -> None:
    found = pages_of(navigation())
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(found) == sorted(written | ADDED)


def test_what_is_for_developers_stands_last() -> None:
    *_, last = navigation()
    assert pages_of(last["For developers"])[0] == "architecture.md"
    assert pages_of(navigation()[0])[:3] == ["index.md", "pt.md", "tutorial.md"]


def test_the_table_of_gpus_is_the_planners() -> None:
    from gpu_table import fits, table

    page = (ROOT / "docs/how-to.md").read_text(encoding="utf-8")
    assert page == put_between(page, "gpus", table()), "run `make docs`"
    assert fits("32B", "none", "RTX 3080 10GB") == "no" and fits("0.6B", "qlora", "H200") == "yes"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs-site` builds it; a warning stops it."""
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
def test_the_site_is_built_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file() and (site / "pt.html").is_file()
    assert ">Two commands<" in (site / "index.html").read_text(encoding="utf-8")
    assert ">Dois comandos<" in (site / "pt.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    """Pictures, scripts, styles and fonts come out of its own folder; links for people may lead anywhere."""
    source = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:|//)", re.IGNORECASE)
    linked = re.compile(r"<link\b(?=[^>]*rel=\"?(?:style|pre|icon))[^>]*href=\"?(?:https?:|//)", re.IGNORECASE)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not source.search(text) and not linked.search(text), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style.name


@pytest.mark.long
def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Path) -> None:
    from lxml import html

    trees = {page: html.parse(str(page)).getroot() for page in site.rglob("*.html") if page.name != "404.html"}
    names = {page: {each.get("id") for each in tree.iter() if each.get("id")} for page, tree in trees.items()}
    broken = []
    for page, tree in trees.items():
        for link in tree.xpath("//article//a/@href | //article//img/@src"):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            place = (page.parent / target).resolve() if target else page
            if not place.exists() or (anchor and place in names and anchor not in names[place]):
                broken.append(f"{page.name}: {link}")
    assert not broken
