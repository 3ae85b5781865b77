"""The studio's pages of runs, of one run and of a comparison in a real browser: they follow what happens in the
folders, can be used by keyboard and by ear, and nothing is cut, loaded from elsewhere or complained of.

They need Chromium on this machine (``chromium`` on the PATH) and Playwright, and skip without them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_fixture import HOSTILE, MANIFEST, RECIPE, SCORES, answers, jsonl, write_run
from studio_pages import cut, opened, studio, violations
from test_walk import write_project
from waiting import LONGEST, until
from watched import held_out, start, step, steps, working, write_watched

from afina.watch.lock import lock_holder

pytestmark = pytest.mark.long
SCHEMES, WIDTHS = ("light", "dark"), (1280, 390)
SECONDS = 1000 * LONGEST
"""Milliseconds that something may take to be seen: the machine may be busy."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that finished, one that was killed, a damaged one, one with hostile texts, one with nothing but a
    recipe."""
    folder = tmp_path_factory.mktemp("studio") / "runs"
    metrics = [*start(300), *steps(300), *(held_out(50 * n, 3.1 - 0.4 * n) for n in range(1, 7))]
    write_run(folder / "clube-1", metrics=jsonl(metrics))
    verdict = SCORES["verdict"] | {
        "learned": "no",
        "passed": False,
        "misses": ["held-out loss did not fall: 1.2 -> 1.3"],
    }
    worse = SCORES | {"verdict": verdict}
    write_run(
        folder / "clube-2",
        scores=worse,
        metrics=jsonl([*start(200), *steps(200, 3.0, 2.0)]),
        manifest=MANIFEST | {"name": "clube-2"},
    )
    write_watched(folder / "killed", [*start(), *steps(200), held_out(100, 2.0)])
    write_run(folder / "damaged", scores="{ this is no JSON")
    samples, _ = answers()
    rows = [row | {"prompt": HOSTILE, "base": HOSTILE, "adapter": HOSTILE} for row in samples[:2]]
    write_run(
        folder / "hostile",
        samples=jsonl(rows),
        recipe=RECIPE.replace("/models/pequeno", "'<img src=x onerror=alert(1)>'"),
    )
    (folder / "new").mkdir()
    (folder / "new/recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with studio(runs) as found:
        yield found


PAGES = {
    "runs": "/",
    "run": "/run/clube-1",
    "killed": "/run/killed",
    "damaged": "/run/damaged",
    "compare": "/compare?runs=clube-1&runs=clube-2",
}
READY = {
    "runs": ".runs tbody tr",
    "run": "#curves canvas",
    "killed": "#curves canvas",
    "damaged": "#problems .problem",
    "compare": ".chart canvas",
}


def shown(browser: Any, address: str, name: str, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """One of :data:`PAGES` with its data, and what it complains of."""
    page, said = opened(browser, address + PAGES[name], width, scheme)
    page.wait_for_selector(READY[name], timeout=SECONDS)
    return page, said


# ---- every page


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(browser: Any, address: str, name: str, scheme: str) -> None:
    page, said = shown(browser, address, name, scheme=scheme)
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert violations(page) == []
    assert not said
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_reaches_beyond_the_window(browser: Any, address: str, name: str, width: int) -> None:
    page, said = shown(browser, address, name, width)
    assert cut(page) == []
    assert not said
    page.close()


def test_axe_finds_no_violation_on_a_phone(browser: Any, address: str) -> None:
    """Its list of runs is laid out as blocks, and stays a table for who hears it."""
    page, _ = shown(browser, address, "runs", 390)
    assert violations(page) == []
    assert page.get_by_role("table").get_by_role("row").count() == 7
    assert page.get_by_role("rowheader", name="clube-1").is_visible()
    page.close()


def test_texts_of_files_are_never_markup(browser: Any, address: str) -> None:
    page, said = opened(browser, f"{address}/run/hostile")
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.wait_for_selector("#answers-list article", timeout=SECONDS)
    assert '<script>alert("x")</script>' in page.inner_text("#answers-list")
    assert page.query_selector("#run script, #run img, #run style") is None
    page.goto(f"{address}/")
    page.wait_for_selector(READY["runs"], timeout=SECONDS)
    assert "<img src=x onerror=alert(1)>" in page.inner_text(".runs") and page.query_selector(".runs img") is None
    assert not said
    page.close()


@pytest.mark.parametrize(
    ("tag", "title", "state"), [("pt-BR", "Execuções", "terminada"), ("pt-PT", "Execuções", "terminada")]
)
def test_pages_speak_the_language_of_the_studio(browser: Any, runs: Path, tag: str, title: str, state: str) -> None:
    with studio(runs, "--language", tag) as address:
        page, said = shown(browser, address, "runs")
        assert page.get_attribute("html", "lang") == tag
        assert page.inner_text("h1") == title and state in page.inner_text(".runs")
        page.goto(f"{address}/run/clube-1")
        page.wait_for_selector(READY["run"], timeout=SECONDS)
        assert "learned" not in page.inner_text("#verdict .sentence")
        assert page.get_by_role("heading", name="Antes e depois").is_visible()
        page.goto(f"{address}/run/clube-2")
        page.wait_for_selector("#verdict .remarks li", timeout=SECONDS)
        assert page.inner_text("#verdict .remarks") == "a perda nos exemplos reservados não diminuiu: 1,2 → 1,3"
        assert "todo o percurso" in page.inner_text("#state") and page.locator("#warnings li").count() == 3
        told = page.locator("#state [lang=en], #verdict [lang=en], #warnings [lang=en]")
        assert told.count() == 0, "what files say in English is told in the language"
        assert not said
        page.close()


# ---- the list


def names(page: Any) -> list[str]:
    return [each.inner_text() for each in page.query_selector_all(".runs tbody tr:visible th a")]


def test_the_list_is_filtered_sorted_and_kept_in_the_address(browser: Any, address: str) -> None:
    page, _ = shown(browser, address, "runs")
    page.fill("#text", "CLUBE-")
    assert sorted(names(page)) == ["clube-1", "clube-2"]
    page.get_by_role("button", name="Run", exact=True).click()
    assert names(page) == ["clube-1", "clube-2"]
    page.get_by_role("button", name="Run", exact=True).click()
    assert names(page) == ["clube-2", "clube-1"]
    assert page.get_by_role("columnheader", name="Run").get_attribute("aria-sort") == "descending"
    page.reload()
    page.wait_for_selector(READY["runs"], timeout=SECONDS)
    assert names(page) == ["clube-2", "clube-1"], "what was asked for stands in the address"
    page.fill("#text", "")
    page.select_option("#state", "damaged")
    assert names(page) == ["damaged"]
    assert page.inner_text("#shown") == "1 of 6 runs"
    page.close()


def test_a_damaged_run_is_shown_as_damaged_and_the_others_as_usual(browser: Any, address: str) -> None:
    page, _ = shown(browser, address, "runs")
    words = {
        row.query_selector("th a").inner_text(): row.query_selector(".badge").inner_text()
        for row in page.query_selector_all(".runs tbody tr")
    }
    assert words["damaged"] == "damaged" and words["clube-1"] == "finished" and words["killed"] == "died"
    page.goto(f"{address}/run/damaged")
    page.wait_for_selector(READY["damaged"], timeout=SECONDS)
    assert "scores.json" in page.inner_text("#problems")
    page.close()


def test_runs_are_chosen_and_compared_by_keyboard(browser: Any, address: str) -> None:
    page, said = shown(browser, address, "runs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for name in ("clube-1", "clube-2"):
        page.get_by_role("checkbox", name=f"Choose {name}").focus()
        page.keyboard.press("Space")
    link = page.get_by_role("link", name="Compare", exact=True)
    assert page.inner_text("#count") == "2 runs chosen"
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(READY["compare"], timeout=SECONDS)
    words = [each.inner_text() for each in page.query_selector_all(".stamp")]
    assert len(words) == 2 and words[1] == "Failed"
    figures = page.get_by_role("region", name="Every figure")
    assert "held-out loss, after" in figures.inner_text()
    assert not said
    page.close()


def test_a_comparison_with_a_damaged_run_names_its_file(browser: Any, address: str) -> None:
    page, _ = opened(browser, f"{address}/compare?runs=clube-1&runs=damaged")
    page.wait_for_selector("#failure .problem", timeout=SECONDS)
    assert "scores.json" in page.inner_text("#failure")
    page.close()


# ---- a run that goes on


def value(page: Any, title: str) -> str:
    """A figure of the run's page."""
    found: str = (
        page.locator("#figures > div", has=page.locator("dt", has_text=re.compile(f"^{title}$")))
        .locator("dd")
        .inner_text()
    )
    return found


def picture(page: Any) -> str:
    """What a canvas of the loss shows."""
    found: str = page.evaluate("document.querySelector('#loss canvas').toDataURL()")
    return found


MOVES = """[(run.log("step", step=step, loss=3.0 / step, learning_rate=1e-4, tokens_per_second=100.0), time.sleep(0.02))
     for step in range(6, 306)]"""


def test_the_curve_moves_while_a_process_appends_and_nothing_is_read_again(browser: Any, tmp_path: Path) -> None:
    with studio(tmp_path) as address, working(tmp_path / "live", MOVES.replace("\n", " ")) as process:
        page, said = opened(browser, f"{address}/run/live")
        asked: list[str] = []
        page.wait_for_selector("#curves canvas", timeout=SECONDS)
        page.on("request", lambda request: asked.append(request.url))
        assert state(page) == "running"
        before = picture(page)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: value(page, "Step").startswith("305"), every=0.1)
        until(lambda: picture(page) != before, every=0.1)
        until(lambda: state(page) != "running", every=0.1)
        until(lambda: "to 0.0098" in page.get_attribute("#loss .plot", "aria-label"), every=0.1)
        assert not [url for url in asked if "/metrics" in url], "new lines came by the stream alone"
        assert not said
        page.close()


def test_a_run_that_was_removed_is_said_and_not_taken_for_a_studio_that_is_silent(browser: Any, tmp_path: Path) -> None:
    folder = write_watched(tmp_path / "gone", [*start(), *steps(5)])
    with studio(tmp_path) as address:
        page, _ = opened(browser, f"{address}/run/gone")
        page.wait_for_selector("#curves canvas", timeout=SECONDS)
        folder.rename(tmp_path / ".elsewhere")
        page.wait_for_selector("#failure .problem", timeout=SECONDS)
        page.wait_for_timeout(6000)  # longer than the page waits for a studio that may come back
        assert "there is no run" in page.inner_text("#failure")
        page.close()


def test_a_run_that_is_removed_before_its_page_follows_it_is_said_too(browser: Any, tmp_path: Path) -> None:
    folder = write_watched(tmp_path / "gone", [*start(), *steps(5)])

    def stream(route: Any) -> None:
        folder.rename(tmp_path / ".elsewhere")
        route.continue_()

    with studio(tmp_path) as address:
        page = browser.new_page()
        page.set_default_timeout(SECONDS)
        page.route("**/stream*", stream)
        page.goto(f"{address}/run/gone")
        page.wait_for_selector("#failure .problem", timeout=SECONDS)
        page.wait_for_timeout(6000)  # longer than the page waits for a studio that may come back
        assert "there is no run" in page.inner_text("#failure")
        page.close()


def look(page: Any, away: bool) -> None:
    """As if the page's tab were left, or come back to."""
    page.evaluate(
        """away => { Object.defineProperty(document, "hidden", {value: away, configurable: true});
                     document.dispatchEvent(new Event("visibilitychange")); }""",
        away,
    )


def test_pages_in_tabs_that_nobody_looks_at_hold_no_connection_and_miss_nothing(browser: Any, tmp_path: Path) -> None:
    """A browser keeps six connections to a server: eight pages that follow a run would leave the last two waiting."""
    with studio(tmp_path) as address, working(tmp_path / "live", MOVES.replace("\n", " ")) as process:
        log, context = tmp_path / "live/console.log", browser.new_context()
        context.set_default_timeout(SECONDS)
        log.write_text("first\n", encoding="utf-8")
        pages = [context.new_page() for _ in range(8)]
        for page in pages:
            page.goto(f"{address}/run/live")
            page.wait_for_selector("#curves canvas", timeout=SECONDS)
            page.wait_for_selector("#log:has-text('first')", timeout=SECONDS)
            look(page, away=True)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        with log.open("a", encoding="utf-8") as more:
            more.write("second\n")
        look(pages[0], away=False)
        until(lambda: value(pages[0], "Step").startswith("305"), every=0.1)
        until(lambda: pages[0].inner_text("#log").split() == ["first", "second"], every=0.1)
        until(lambda: "to 0.0098" in pages[0].get_attribute("#loss .plot", "aria-label"), every=0.1)
        context.close()


def test_a_page_that_was_closed_shows_the_same_when_it_is_opened_again(browser: Any, tmp_path: Path) -> None:
    with working(tmp_path / "live", MOVES.replace("\n", " ")) as process:
        with studio(tmp_path) as address:
            page, _ = opened(browser, f"{address}/run/live")
            page.wait_for_selector("#curves canvas", timeout=SECONDS)
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
            until(lambda: value(page, "Step") not in ("5", ""), every=0.1)
            page.close()
        process.wait(timeout=LONGEST)  # neither the browser nor the studio is there
        with studio(tmp_path) as address:
            page, said = opened(browser, f"{address}/run/live")
            page.wait_for_selector("#curves canvas", timeout=SECONDS)
            page.click("#loss summary")
            page.wait_for_selector("#loss tbody tr", timeout=SECONDS)
            rows = page.query_selector_all("#loss tbody tr")
            assert rows[0].inner_text().split()[:2] == ["1", "3"] and rows[-1].inner_text().split()[0] == "305"
            assert value(page, "Step").startswith("305") and not said
            page.close()


def test_a_real_run_is_stopped_gone_on_with_and_judged(browser: Any, tmp_path: Path) -> None:
    recipe, run = write_project(tmp_path), tmp_path / "runs/clube"
    longer = recipe.read_text(encoding="utf-8").replace("epochs: 3", "epochs: 24").replace(": 0.05", ": 1.0")
    recipe.write_text(longer, encoding="utf-8")
    run.parent.mkdir()
    command = [sys.executable, "-m", "afina", "run", str(recipe), "--runs", str(run.parent)]
    with studio(run.parent) as address, ended(run), (tmp_path / "said").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        until((run / "recipe.yaml").exists, every=0.1)
        page, said = opened(browser, f"{address}/run/clube")
        page.wait_for_selector("#curves canvas", timeout=SECONDS)
        first = picture(page)
        until(lambda: picture(page) != first, every=0.1)
        page.click("#stop")
        assert process.wait(timeout=LONGEST) != 0
        until(lambda: state(page) == "stopped", every=0.1)
        made = steps_shown(page)
        page.click("#resume")
        until(lambda: state(page) == "running", every=0.1)
        until(lambda: state(page) == "finished", every=0.1)
        assert page.inner_text("#verdict .stamp") and page.inner_text("#verdict .sentence")
        assert made < steps_shown(page) and page.query_selector("#answers-list article")
        events = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
        assert [event["step"] for event in events if event["event"] == "resumed"] and not said
        page.click("#report")
        page.wait_for_selector("section#probes", timeout=SECONDS)
        page.close()


def state(page: Any) -> str:
    found: str = page.inner_text("#state .badge")
    return found


def steps_shown(page: Any) -> int:
    return int(value(page, "Step").split()[0].replace(",", ""))


@contextmanager
def ended(run: Path) -> Iterator[None]:
    """At the end no process works in a run: the one that the studio started outlives it."""
    try:
        yield
    finally:
        if holder := lock_holder(run / ".lock"):
            os.kill(holder, signal.SIGKILL)


def quickest(page: Any) -> float:
    """Seconds until the curves of a page are there once more, the least of five: other programs make it longer."""
    page.wait_for_selector("#loss .plot[aria-label]", timeout=SECONDS)
    took = []
    for _ in range(5):
        began = time.monotonic()
        page.reload()
        page.wait_for_selector("#loss .plot[aria-label]", timeout=SECONDS)
        took.append(time.monotonic() - began)
    return min(took)


def test_a_million_steps_are_drawn_and_followed(
    browser: Any, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The studio has read them for the first page; the next one is drawn as soon as that of a short run, and new lines
    come by themselves."""
    write_watched(tmp_path / "short", [*start(300), *steps(300)])
    folder = write_watched(tmp_path / "long", start(1_000_000))
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as out:
        for n in range(1, 1_000_001):
            out.write(json.dumps(step(n, 1.0 + 1.0 / n)) + "\n")
    with studio(tmp_path) as address:
        page, said = opened(browser, f"{address}/run/short")
        short = quickest(page)
        page.close()
        page, said = opened(browser, f"{address}/run/long")
        long = quickest(page)
        record_property("result", f"{long:.2f} s for a million steps, {short:.2f} s for 300")
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(step(1_000_001, 9.0)) + "\n")
        until(lambda: "to 9" in page.get_attribute("#loss .plot", "aria-label").split(";")[0], every=0.1)
        assert long < 3 * short
        assert not said
        page.close()
