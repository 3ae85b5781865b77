"""The studio's pages "plan" and "start" in a real browser: sliders that agree with the terminal, a recipe's problems
at their fields, and a run that a form has started.

They need Chromium on this machine (``chromium`` on the PATH) and Playwright, and skip without them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_pages import cut, opened, studio, violations
from test_walk import write_project
from typer.testing import CliRunner
from waiting import LONGEST, until

from afina.cli import app
from afina.recipe.edit import change_text
from afina.units import show_bytes

pytestmark = pytest.mark.long
SCHEMES, WIDTHS = ("light", "dark"), (1280, 390)
SECONDS = 1000 * LONGEST
"""Milliseconds that something may take to be seen: the machine may be busy."""
JOB = """\
# a job for the page "plan"
name: job
base: Qwen/Qwen3-8B
sources:
  - path: docs
"""
BROKEN = """\
name: job
base: Qwen/Qwen3-8B
sources:
  - path: docs
train:
  epochs: -1
  learning_rte: 0.1
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base, documents, rows and two recipes."""
    folder = tmp_path_factory.mktemp("studio") / "project"
    folder.mkdir()
    write_project(folder)
    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    with studio(project / "runs", "--root", str(project)) as found:
        yield found


def planned(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page "plan" with an answer."""
    page, said = opened(browser, f"{address}/plan", width, scheme)
    settled(page)
    return page, said


def settled(page: Any) -> None:
    """The answer to what is asked now is there."""
    page.wait_for_timeout(200)
    page.wait_for_selector("#answer[aria-busy=false] .stamp", timeout=SECONDS)


def begun(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """The page "start" with a recipe that was looked at."""
    page, said = opened(browser, f"{address}/start", width, scheme)
    page.wait_for_selector("#fields [data-field]", timeout=SECONDS)
    return page, said


def write(page: Any, text: str) -> None:
    """Write a whole recipe into the text."""
    page.fill("#yaml", text)
    page.wait_for_timeout(400)


def text_holds(page: Any, words: str) -> None:
    """Wait until the recipe's text holds some words; Playwright's own waiting needs `eval`, which no page has."""
    until(
        lambda: words in page.input_value("#yaml"),
        said=lambda: f"no {words!r} in {page.input_value('#yaml')}",
        pause=lambda seconds: page.wait_for_timeout(1000 * seconds),
    )


def plan_of(*words: str) -> dict[str, Any]:
    """What `afina plan ... --json` prints."""
    done = CliRunner().invoke(app, ["plan", *words, "--json"])
    found: dict[str, Any] = json.JSONDecoder().raw_decode(done.stdout)[0]
    return found


# ---- both pages


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_no_violation(browser: Any, address: str, scheme: str) -> None:
    page, said = planned(browser, address, scheme=scheme)
    page.select_option("#device", "RTX 3060 12GB")
    page.select_option("#recipe", label="job.yaml")
    settled(page)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert violations(page) == []
    page.select_option("#device", "H200")
    settled(page)
    assert page.locator(".stamp.good").count() == 1 and violations(page) == [], (
        "where it fits, nothing stands above the advice"
    )
    page.get_by_label("Serving").check()
    settled(page)
    assert violations(page) == []
    page.goto(f"{address}/start")
    page.wait_for_selector("#fields [data-field]", timeout=SECONDS)
    page.check("#every")
    assert violations(page) == []
    write(page, BROKEN)
    page.wait_for_selector("#problems .problem", timeout=SECONDS)
    assert violations(page) == []
    assert not [each for each in said if "422" not in each]
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_reaches_beyond_the_window(browser: Any, address: str, width: int) -> None:
    page, said = planned(browser, address, width)
    page.fill("#tokens", "80000000")
    page.select_option("#device", "RTX 3060 12GB")
    settled(page)
    assert cut(page) == []
    page.goto(f"{address}/start")
    page.wait_for_selector("#fields [data-field]", timeout=SECONDS)
    page.check("#every")
    write(page, BROKEN)
    page.wait_for_selector("#problems .problem", timeout=SECONDS)
    assert cut(page) == []
    assert not said
    page.close()


@pytest.mark.parametrize(("tag", "title"), [("pt-BR", "Planejar"), ("pt-PT", "Planear")])
def test_the_pages_speak_the_studios_language(browser: Any, project: Path, tag: str, title: str) -> None:
    with studio(project / "runs", "--root", str(project), "--language", tag) as address:
        page, said = planned(browser, address)
        assert page.inner_text("h1") == title and page.get_attribute("html", "lang") == tag
        assert "pesos" in page.inner_text("#answer table")
        page.goto(f"{address}/start")
        page.wait_for_selector("#fields [data-field]", timeout=SECONDS)
        assert page.inner_text("#run") == "Iniciar" and not said
        page.close()


# ---- plan


def test_sliders_agree_with_the_terminal(browser: Any, address: str, project: Path) -> None:
    """Each control is moved by keyboard; after each the page shows what `afina plan --json` says of the same."""
    page, said = planned(browser, address)
    page.select_option("#recipe", label="job.yaml")
    page.select_option("#device", "RTX 4090")
    settled(page)
    for move in (
        lambda: page.press("#max-length-range", "ArrowRight"),
        lambda: page.press("#batch-tokens-range", "End"),
        lambda: page.press("#rank-range", "Home"),
        lambda: page.fill("#accumulate", "4"),
        lambda: page.select_option("#kind", "qlora"),
        lambda: page.fill("#base", "Qwen/Qwen3-4B"),
        lambda: page.check("#recompute"),
        lambda: page.select_option("#method", "cpt"),
        lambda: page.fill("#gpus", "2"),
    ):
        move()
        settled(page)
        command = shlex.split(page.text_content("pre.command"))
        plan = plan_of(*command[2:-1])
        shown = page.inner_text("#answer dl.figures")
        assert show_bytes(plan["memory"]["point"]) in shown and f"{plan['steps']:,}" in shown
        words = {"yes": "It fits", "maybe": "It may fit", "no": "It does not fit"}
        assert page.inner_text("#answer .stamp") == words[plan["fits"]]
    assert page.input_value("#rank") == "1" and page.input_value("#batch-tokens") == "262144"
    assert page.get_attribute("#batch-tokens-range", "aria-valuetext") == "262,144"
    assert not said
    page.close()


def test_what_would_fit_is_taken_with_one_press(browser: Any, address: str) -> None:
    page, said = planned(browser, address)
    page.select_option("#device", "RTX 4090")
    page.fill("#base", "Qwen/Qwen3-14B")
    page.fill("#batch-tokens", "32768")
    settled(page)
    assert page.inner_text("#answer .stamp") == "It does not fit"
    page.get_by_role("button", name=re.compile("^Use this .*train.batch_tokens")).first.press("Enter")
    settled(page)
    assert page.inner_text("#answer .stamp") == "It fits"
    page.get_by_role("button", name=re.compile("Longest example that fits alone")).click()
    settled(page)
    assert page.input_value("#max-length") == page.input_value("#batch-tokens") != "32768"
    page.get_by_role("link", name="Make a recipe of this").click()
    page.wait_for_selector("#fields [data-field]", timeout=SECONDS)
    text_holds(page, "batch_tokens")
    assert "Qwen/Qwen3-14B" in page.input_value("#yaml")
    assert not said
    page.close()


def test_serving_is_planned_too(browser: Any, address: str, project: Path) -> None:
    page, said = planned(browser, address)
    page.select_option("#recipe", label="job.yaml")
    page.select_option("#device", "A40")
    page.get_by_label("Serving").check()
    page.fill("#users", "4")
    page.press("#context-range", "ArrowRight")
    page.fill("#slots", "1")
    settled(page)
    context = page.input_value("#context")
    plan = plan_of(
        str(project / "job.yaml"), "--device", "A40", "--serve", "vllm", "--users", "4", "--context", context,
        "--lora-slots", "1",
    )  # fmt: skip
    shown = page.inner_text("#answer dl.figures")
    assert f"{plan['max_model_len']['point']:,.0f}" in shown and show_bytes(plan["memory"]["point"]) in shown
    assert not said
    page.close()


def test_a_setting_that_is_wrong_is_marked_at_its_control(browser: Any, address: str) -> None:
    page, _ = planned(browser, address)
    page.select_option("#optimizer", "muon")
    page.wait_for_selector("#failure .problem", timeout=SECONDS)
    assert "whole matrix" in page.inner_text("#failure")
    assert page.get_attribute("#optimizer", "aria-invalid") == "true"
    page.select_option("#optimizer", "adamw")
    settled(page)
    assert page.inner_text("#failure") == "" and page.get_attribute("#optimizer", "aria-invalid") is None
    page.close()


# ---- start


def test_a_broken_recipe_shows_its_errors_at_the_fields(browser: Any, address: str) -> None:
    page, said = begun(browser, address)
    write(page, BROKEN)
    page.locator("#problems", has_text="learning_rte").wait_for(timeout=SECONDS)  # not those of the starter
    epochs = page.locator('[data-field="train.epochs"]')
    assert epochs.locator("input").input_value() == "-1"
    assert epochs.locator("input").get_attribute("aria-invalid") == "true"
    assert "greater than 0" in epochs.locator(".problem").inner_text()
    assert "did you mean learning_rate?" in page.locator('[data-group="train"] > [data-problems]').inner_text()
    page.locator("#problems").get_by_role("button", name="line 6").click()
    assert page.evaluate("document.querySelector('#yaml').value.slice(yaml.selectionStart, yaml.selectionEnd)") == (
        "  epochs: -1"
    )
    page.locator("#problems").get_by_role("button", name="train.epochs").click()
    assert page.evaluate("document.activeElement.dataset.key") == "train.epochs"
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    text_holds(page, "epochs: 2")
    assert epochs.locator(".problem").count() == 0
    page.click("#run")
    assert page.url.endswith("/start"), "a recipe that is wrong starts nothing"
    write(page, "name: [\n")
    page.locator("#problems", has_text="not YAML").wait_for(timeout=SECONDS)
    assert page.get_attribute("#yaml", "aria-invalid") == "true" and not said
    page.close()


def test_no_plan_is_asked_of_a_text_that_was_not_looked_at(browser: Any, address: str) -> None:
    """The text changes when a check has ended and its plan has not been asked for."""
    page, said = begun(browser, address)
    asked: list[str] = []
    page.on(
        "request",
        lambda request: asked.append(request.post_data_json["text"]) if request.url.endswith("/api/plan") else None,
    )
    with page.expect_response("**/api/recipe/check"):
        page.fill("#yaml", JOB)
    page.wait_for_timeout(100)
    page.fill("#yaml", BROKEN)
    page.wait_for_selector("#problems .problem", timeout=SECONDS)
    page.wait_for_timeout(500)
    assert BROKEN not in asked and not said
    page.close()


SLOW = """(() => {
  const asked = window.fetch;
  window.fetch = async (...given) => {
    if (String(given[0]).includes("/api/recipe/check")) await new Promise((done) => setTimeout(done, 700));
    return asked(...given);
  };
})()"""
"""A studio that takes its time to look at a recipe."""


def test_what_is_started_is_what_the_form_shows(browser: Any, address: str) -> None:
    """Start is pressed while an earlier change is still being looked at."""
    page, _ = begun(browser, address)
    write(page, JOB)
    epochs = page.locator('[data-field="train.epochs"] input')
    posted: list[str] = []
    page.route("**/api/start", lambda route: (posted.append(route.request.post_data_json["text"]), route.abort()))
    page.evaluate(SLOW)
    epochs.fill("5")
    page.wait_for_timeout(400)  # the change is on its way
    epochs.fill("7")
    page.locator('[data-field="train.method"] select').select_option("cpt")
    page.click("#run")
    page.wait_for_selector("#failure .problem", timeout=SECONDS)
    assert ["epochs: 7" in text and "method: cpt" in text for text in posted] == [True]
    page.close()


def test_a_change_that_nobody_answered_is_not_lost(browser: Any, address: str) -> None:
    page, _ = begun(browser, address)
    write(page, JOB)
    posted: list[str] = []
    page.route("**/api/start", lambda route: (posted.append(route.request.post_data_json["text"]), route.abort()))
    page.route("**/api/recipe/check", lambda route: route.abort())
    page.locator('[data-field="train.epochs"] input').fill("5")
    page.wait_for_selector("#failure .problem", timeout=SECONDS)
    page.click("#run")
    page.wait_for_timeout(300)
    assert not posted and "epochs: 5" not in page.input_value("#yaml")
    page.unroute("**/api/recipe/check")
    page.locator('[data-field="train.method"] select').select_option("cpt")
    text_holds(page, "method: cpt")
    assert "epochs: 5" in page.input_value("#yaml")
    page.close()


def test_every_key_is_reached_by_search(browser: Any, address: str) -> None:
    page, said = begun(browser, address)
    assert page.locator('[data-field="train.learning_rate"]').is_visible()
    assert not page.locator('[data-field="train.neftune_alpha"]').is_visible()
    page.fill("#search", "neftune")
    field = page.locator('[data-field="train.neftune_alpha"]')
    assert field.is_visible() and "5 is usual" in field.inner_text()
    assert page.inner_text("#found") == "1 key found"
    field.locator("input").fill("5")
    text_holds(page, "neftune_alpha: 5")
    page.fill("#search", "")
    assert field.is_visible(), "what the text gives is seen"
    page.fill("#search", "probes")
    page.get_by_role("button", name="Add to evaluate.probes").click()
    page.wait_for_selector('[data-field="evaluate.probes.0.path"]', timeout=SECONDS)
    page.fill("#search", "")
    page.get_by_role("button", name="Remove evaluate.probes.0").click()
    page.wait_for_selector('[data-field="evaluate.probes.0.path"]', state="detached", timeout=SECONDS)
    assert not said
    page.close()


def test_a_run_that_the_form_starts_reaches_its_verdict(browser: Any, address: str, project: Path) -> None:
    """By keyboard and form alone; the studio writes the recipe, the run outlives the page."""
    page, said = begun(browser, address)
    page.fill("#recipe", "recipe.yaml")
    page.press("#open", "Enter")
    text_holds(page, "clube")
    name = page.locator('[data-field="name"] input')
    name.fill("from-a-form")
    text_holds(page, "from-a-form")
    page.locator('[data-field="train.epochs"] input').fill("1")
    text_holds(page, "epochs: 1")
    page.wait_for_selector("#answer[aria-busy=false] .stamp", timeout=SECONDS)
    assert page.inner_text("#answer .stamp") == "It fits"
    page.press("#run", "Enter")
    page.wait_for_url("**/run/from-a-form", timeout=SECONDS)
    page.close()
    page, _ = opened(browser, f"{address}/run/from-a-form")
    page.wait_for_selector("#verdict .stamp", timeout=SECONDS)
    run = project / "runs/from-a-form"
    until(lambda: page.inner_text("#state .badge") != "running", said=lambda: "it does not end")
    assert (run / "report.html").is_file() and "epochs: 1.0" in (run / "recipe.yaml").read_text(encoding="utf-8")
    written = (project / "runs/from-a-form.yaml").read_text(encoding="utf-8")
    expected = change_text((project / "recipe.yaml").read_text(), {"name": "from-a-form", "train.epochs": 1})
    assert written == change_text(expected, {"root": str(project)})
    assert not said
    page.close()
