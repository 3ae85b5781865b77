"""Pages of the report in a real browser: at two widths, light, dark and on paper, nothing is cut and nothing complains.

They need Chromium on this machine (``chromium`` on the PATH) and Playwright, and skip without them.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader
from report_fixture import AUDIT, MANIFEST, PLAN, RECIPE, SCORES, answers, dataset, jsonl, write_run

from afina.report.compare import compare_runs
from afina.report.compare_page import write_comparison
from afina.report.page import write_report

pytestmark = pytest.mark.long
LARGEST = 3_000_000
WIDTHS = (1280, 390)
LONG = "a-name-of-a-file-without-any-place-to-break-it/" * 4
FAILED = {"passed": False, "broke": "61.5 % of what it knew (old players)", "misses": [LONG, "word " * 80]}


def portuguese(folder: Path, tag: str, **changed: Any) -> Path:
    return write_run(folder, recipe=f"{RECIPE}dataset:\n  language: {tag}\n", **changed)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A usual run, one in which everything is long and much, one that has only begun, and a comparison of nine."""
    folder = tmp_path_factory.mktemp("pages")
    samples, predictions = answers()
    much = {
        "samples": jsonl([row | {"base": "x" * 5000, "from": {"path": LONG}} for row in samples]),
        "dataset": dataset(300) | {"prose": {"documents": {"notes.html": {"terms": {"asked": 54}}}}},
        "scores": SCORES | {"verdict": SCORES["verdict"] | FAILED},
        "audit": AUDIT | {"findings": AUDIT["findings"] * 20},
        "manifest": MANIFEST | {"name": LONG, "device": {"name": LONG}},
        "predictions": jsonl(predictions),
    }
    nothing = dict.fromkeys(("manifest", "plan", "audit", "dataset", "scores", "samples", "predictions", "finished"))
    runs = [
        write_run(folder / f"run-{n}", manifest=MANIFEST | {"name": f"version {n}", "cost": {"hours": 0.1 + n / 7}})
        for n in range(9)
    ]
    return {
        "usual": write_report(write_run(folder / "usual")),
        "pt-PT": write_report(portuguese(folder / "pt", "pt-PT")),
        "much": write_report(portuguese(folder / "much", "pt-BR", **much)),
        "begun": write_report(write_run(folder / "begun", **nothing)),
        "does not fit": write_report(write_run(folder / "maybe", plan=PLAN | {"fits": "no"})),
        "comparison": write_comparison(compare_runs(runs), folder / "comparison.html"),
    }


NAMES = ("usual", "pt-PT", "much", "begun", "does not fit", "comparison")
CUT = """() => [...document.querySelectorAll("main *")].filter(each => {
  const box = each.getBoundingClientRect();
  if (!box.width || each.closest(".scroll") || each.closest("svg") || each.closest("pre")) return false;
  return box.right > document.documentElement.clientWidth + 1 || box.left < -1;
}).map(each => each.tagName + "." + each.className + ": " + each.textContent.slice(0, 40))"""
"""What reaches beyond the window, but for what scrolls by itself."""
LABELS = """() => [...document.querySelectorAll("svg.plot")].flatMap(plot => {
  const boxes = [...plot.querySelectorAll("text")].map(each => [each.textContent, each.getBoundingClientRect()]);
  const over = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  const found = boxes.flatMap(([one, a], n) =>
    boxes.slice(n + 1).filter(([, b]) => over(a, b)).map(([two]) => [one, two]));
  const wide = document.documentElement.clientWidth;
  return [...found, ...boxes.filter(([, a]) => a.right > wide + 1 || a.left < -1).map(([one]) => [one, "the edge"])];
})"""
"""Words of a chart that lie over each other, or over the edge."""


SQUEEZED = """() => [...document.querySelectorAll("main dd, main th, main td")].filter(each => {
  const box = each.getBoundingClientRect(), words = each.innerText.trim();
  return words.length > 1 && box.width < 12 && box.height;
}).map(each => each.tagName + ": " + each.innerText.slice(0, 40))"""
"""Figures and words for which no room is left beside what stands before them."""


def opened(browser: Any, file: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """A page of the browser with the file, and what it complains of."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url == file.as_uri() else said.append(request.url))
    page.goto(file.as_uri())
    return page, said


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_or_lies_over_another(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    assert pages[name].stat().st_size < LARGEST
    page, said = opened(browser, pages[name], width, "light")
    assert not said
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert page.evaluate(CUT) == []
    assert page.evaluate(LABELS) == []
    empty = "() => [...document.querySelectorAll('section')].filter(s => s.innerText.trim().length < 20).map(s => s.id)"
    assert page.evaluate(empty) == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_one_chooses(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    page, said = opened(browser, pages["usual"], 1280, scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(253, 253, 252)", "rgb(22, 24, 27)"
    assert page.evaluate(paper) == {"light": light, "dark": dark}[scheme]
    for choice, colour in (("#theme-dark", dark), ("#theme-light", light)):
        page.check(choice)
        assert page.evaluate(paper) == colour
    assert not said
    page.close()


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const light = colour => rgb(colour).reduce((sum, v, n) => sum + linear(v / 255) * [.2126, .7152, .0722][n], 0);
  const ground = each => {
    for (let at = each; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  const says = each => [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const seen = each => !each.closest("svg") && each.getBoundingClientRect().width && says(each);
  return [...document.querySelectorAll("main *")].filter(seen).flatMap(each => {
    const [a, b] = [light(getComputedStyle(each).color), light(ground(each))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    return ratio < 4.5 ? [`${each.tagName}.${each.className}: ${each.textContent.slice(0, 30)} ${ratio}`] : [];
  });
}"""
"""Text whose contrast is below what WCAG 2.2 AA asks for."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["usual", "much", "comparison"])
def test_text_can_be_read(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    page, _ = opened(browser, pages[name], 1280, scheme)
    assert page.evaluate(CONTRAST) == []
    page.close()


@pytest.mark.parametrize("name", NAMES)
def test_paper_holds_all_of_it(browser: Any, pages: dict[str, Path], name: str) -> None:
    """Printed from a dark screen: light, the contents' links and the choice of colours gone, what was folded open, no
    page empty, no line beyond the edge."""
    page, said = opened(browser, pages[name], 1280, "dark")
    page.check("#theme-dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.set_viewport_size({"width": 687, "height": 971})  # A4 without its margins at 96 dpi
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert page.evaluate(CUT.replace('each.closest(".scroll") || ', "").replace(' || each.closest("pre")', "")) == []
    printed = PdfReader(io.BytesIO(page.pdf(format="A4", print_background=True)))
    texts = [sheet.extract_text() for sheet in printed.pages]
    assert all(len(text.strip()) > 40 for text in texts)
    everything = "".join(texts)
    assert not re.search(r"\d\s*\n\s*%", everything), "a number on one line, its percent sign on the next"
    ends = [[line.strip() for line in text.split("\n") if line.strip()][-1] for text in texts]
    heads = page.evaluate("[...document.querySelectorAll('h2, h3, h4, summary')].map(each => each.innerText.trim())")
    assert sorted({*ends} & {*heads}) == [], "a heading alone at a page's end"
    assert page.evaluate(SQUEEZED) == []
    if name == "usual":
        assert "rank: 16" in everything and "docs/história-15.md" in everything, "what is folded on a screen"
    assert not said
    page.close()
