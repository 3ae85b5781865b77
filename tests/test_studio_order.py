"""Pages of the studio whose answers come late, or in another order than they were asked for: what is shown is what was
asked for last, nothing is done twice, and no event is lost.

They need Chromium on this machine (``chromium`` on the PATH) and Playwright, and skip without them. The test holds an
answer back until the page has gone on: the order is certain, however busy the machine is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")

from filelock import FileLock
from report_fixture import jsonl
from studio_pages import listens, opened, studio
from waiting import until
from watched import start, steps, write_watched

pytestmark = pytest.mark.long
JOB = """\
# a job
name: job
base: Qwen/Qwen3-8B
sources:
  - path: docs
"""
LITTLE = 300
"""Milliseconds in which a page would have shown what it should not."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a document and two recipes."""
    folder = tmp_path_factory.mktemp("studio") / "project"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs/a.md").write_text("# Faro\n\nFaro has a lighthouse.\n", encoding="utf-8")
    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    (folder / "other.yaml").write_text(JOB.replace("# a job", "# another"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    with studio(project / "runs", "--root", str(project)) as found:
        yield found


class Held:
    """Requests of a page whose answers wait until they are let go.

    Args:
        holds: which of those that match; the others go on.
        made: whether the studio makes the answer when it is asked, and not when it is let go.
        first: only the first of them is held.
    """

    def __init__(
        self,
        page: Any,
        pattern: str,
        holds: Callable[[Any], bool] = lambda _: True,
        *,
        made: bool = False,
        first: bool = False,
    ) -> None:
        self.page, self.holds, self.made, self.first = page, holds, made, first
        self.over = False
        self.routes: list[Any] = []
        self.answers: list[Any] = []
        page.route(pattern, self._came)

    def _came(self, route: Any) -> None:
        if self.over or not self.holds(route.request) or (self.first and self.routes):
            route.fallback()
            return
        self.routes.append(route)
        self.answers.append(route.fetch() if self.made else None)

    def until_asked(self) -> None:
        page_waits(self.page, lambda: self.routes and len(self.answers) == len(self.routes))

    def let_go(self, **answer: Any) -> None:
        """Answer, with what the studio says where nothing is given; further requests are held no more."""
        from playwright.sync_api import Error

        self.over = True  # to unroute would let what is held go on by itself
        for route, made in zip(self.routes, self.answers, strict=True):
            with contextlib.suppress(Error):  # the page may not wait for it any more
                if made is not None:
                    route.fulfill(response=made)
                elif answer:
                    route.fulfill(**answer)
                else:
                    route.continue_()

    def break_off(self) -> None:
        """As if the studio were not there."""
        self.over = True
        for route in self.routes:
            route.abort()


def page_waits(page: Any, condition: Callable[[], Any]) -> None:
    until(condition, pause=lambda seconds: page.wait_for_timeout(1000 * seconds))


def text_holds(page: Any, words: str) -> None:
    page_waits(page, lambda: words in page.input_value("#yaml"))


def starting(browser: Any, address: str) -> Any:
    """The page "start" with a recipe that was looked at."""
    page, _ = opened(browser, f"{address}/start")
    page.fill("#yaml", JOB)
    page.locator("#said", has_text="valid").wait_for()
    return page


# ---- start


def test_start_pressed_twice_starts_one_run(browser: Any, address: str) -> None:
    """The second was refused, since the first had taken the name, and the refusal stood beside a run that went on."""
    page = starting(browser, address)
    posted: list[Any] = []
    page.route("**/api/start", lambda route: (posted.append(route.request), route.abort()))
    held = Held(page, "**/api/recipe/check")
    page.click("#run")
    held.until_asked()
    page.click("#run")
    held.let_go()
    page.wait_for_selector("#failure .problem")
    page.wait_for_timeout(LITTLE)
    assert len(posted) == 1
    page.click("#run")
    page_waits(page, lambda: len(posted) == 2)
    page.close()


def test_the_recipe_that_was_asked_for_last_is_the_one_that_is_shown(browser: Any, address: str) -> None:
    page = starting(browser, address)
    held = Held(page, "**/api/recipe/load*", lambda request: "job.yaml" in request.url)
    page.fill("#recipe", "job.yaml")
    page.click("#open")
    held.until_asked()
    page.fill("#recipe", "other.yaml")
    page.click("#open")
    text_holds(page, "# another")
    held.let_go()
    page.wait_for_timeout(LITTLE)
    assert "# another" in page.input_value("#yaml")
    page.close()


def test_what_is_written_before_the_starter_has_come_stays(browser: Any, address: str) -> None:
    page = browser.new_page()
    starter = Held(page, "**/api/recipe/starter*")
    page.goto(f"{address}/start")
    listens(page)
    starter.until_asked()
    page.fill("#yaml", JOB)
    starter.let_go()
    page.locator("#said", has_text="valid").wait_for()
    page.wait_for_timeout(LITTLE)
    assert page.input_value("#yaml") == JOB
    page.close()


def test_a_plan_of_an_earlier_text_is_not_shown(browser: Any, address: str) -> None:
    page = starting(browser, address)
    plan = Held(page, "**/api/plan", lambda request: "epochs" not in request.post_data_json["text"])
    with page.expect_response("**/api/recipe/check"):
        page.fill("#yaml", f"{JOB}# again\n")
    plan.until_asked()
    check = Held(page, "**/api/recipe/check")
    page.fill("#yaml", f"{JOB}train: {{epochs: 2}}\n")
    check.until_asked()
    before = page.inner_text("#answer")
    plan.let_go()
    page.wait_for_timeout(LITTLE)
    assert page.get_attribute("#answer", "aria-busy") == "true" and page.inner_text("#answer") == before
    check.let_go()
    page.wait_for_selector("#answer[aria-busy=false] .stamp")
    page.close()


def test_where_nobody_answers_no_earlier_plan_is_taken_for_that_of_the_text(browser: Any, address: str) -> None:
    page = starting(browser, address)
    page.wait_for_selector("#answer[aria-busy=false] .stamp")
    check = Held(page, "**/api/recipe/check")
    page.fill("#yaml", f"{JOB}train: {{epochs: 2}}\n")
    check.until_asked()
    check.break_off()
    page.wait_for_selector("#failure .problem")
    assert page.get_attribute("#answer", "aria-busy") == "false" and page.locator("#answer .stamp").count() == 0
    page.close()


def test_why_a_recipe_could_not_be_opened_outlasts_the_check_of_before(browser: Any, address: str) -> None:
    """It was wiped away by a check of what had been written before, a moment after it was shown."""
    page = starting(browser, address)
    check = Held(page, "**/api/recipe/check")
    page.fill("#yaml", f"{JOB}train: {{epochs: -1}}\n")
    check.until_asked()
    page.fill("#recipe", "nothing.yaml")
    page.click("#open")
    page.wait_for_selector("#failure .problem")
    check.let_go()
    page.wait_for_selector("#problems .problem")
    assert "nothing.yaml" in page.inner_text("#failure")
    page.fill("#yaml", JOB)
    page_waits(page, lambda: page.inner_text("#failure") == "")
    page.close()


def test_a_change_that_nobody_answered_is_not_made_in_another_recipe(browser: Any, address: str) -> None:
    page = starting(browser, address)
    check = Held(page, "**/api/recipe/check")
    page.locator('[data-field="train.epochs"] input').fill("5")
    check.until_asked()
    page.fill("#recipe", "other.yaml")
    page.click("#open")
    text_holds(page, "# another")
    check.break_off()
    method = page.locator('[data-field="train.method"] select')
    method.select_option("cpt")
    text_holds(page, "method: cpt")
    assert "epochs" not in page.input_value("#yaml")
    page.close()


# ---- data


GOES_ON = {"job": "j", "state": "running", "seconds": 0.1, "said": ""}
FINDING = {
    "name": "empty_prompt", "severity": "fatal", "split": "train", "count": 1, "of": 2,
    "told": {"what": {"text": "empty", "lang": None}, "fix": {"text": "mend it", "lang": None}},
    "examples": [{"where": "a.jsonl:1", "text": "x"}],
}  # fmt: skip
DONE = GOES_ON | {"state": "done", "audit": {"train": 2, "validation": 0, "said": [], "findings": [FINDING]}}


def test_an_audit_that_was_cancelled_is_not_shown_at_work_again(browser: Any, address: str) -> None:
    page, said = opened(browser, f"{address}/data")
    page.route("**/api/data/audit", lambda route: route.fulfill(json=GOES_ON))
    page.route("**/api/data/audit/j/end", lambda route: route.fulfill(json={}))
    look = Held(page, "**/api/data/audit/j")
    page.fill("#path", "docs")
    page.click("#look [type=submit]")
    look.until_asked()
    page.click("#cancel")
    page.locator("#told", has_text="stopped").wait_for()
    look.let_go(json=GOES_ON)
    page.wait_for_timeout(LITTLE)
    assert page.locator("#work").is_hidden() and not said
    page.close()


def test_the_folder_that_was_asked_for_last_is_the_one_that_is_shown(browser: Any, address: str) -> None:
    page, said = opened(browser, f"{address}/data")

    def told(route: Any) -> None:
        path = "/two" if "two" in route.request.url else None
        names = [] if path else ["one", "two"]
        entries = [{"name": name, "path": f"/{name}", "folder": True, "bytes": None} for name in names]
        route.fulfill(json={"path": path, "parent": None, "left_out": 0, "entries": entries})

    page.route("**/api/files*", told)
    late = Held(page, "**/api/files*", lambda request: "one" in request.url)
    page.click("#browse summary")
    page.get_by_role("button", name="one/").click()
    late.until_asked()
    page.get_by_role("button", name="two/").click()
    page.locator("#files code", has_text="/two").wait_for()
    late.let_go(json={"path": "/one", "parent": None, "left_out": 0, "entries": []})
    page.wait_for_timeout(LITTLE)
    assert page.inner_text("#files code") == "/two" and not said
    page.close()


def test_rows_of_an_earlier_audit_say_nothing_beside_the_next_one(browser: Any, address: str) -> None:
    """Its pasted text is forgotten: that its rows cannot be read is no failure of the new one."""
    page, _ = opened(browser, f"{address}/data")
    page.route("**/api/data/audit", lambda route: route.fulfill(json=DONE))
    page.route("**/api/data/audit/j/end", lambda route: route.fulfill(json={}))
    rows = Held(page, "**/api/data/rows*")
    page.fill("#path", "docs")
    page.click("#look [type=submit]")
    page.click("article.finding button[aria-expanded]")
    rows.until_asked()
    with page.expect_response("**/api/data/audit"):
        page.click("#look [type=submit]")
    page.locator("article.finding button[aria-expanded]:not([disabled])").wait_for()
    rows.let_go(status=404, json={"error": {"what": "this audit is not kept any more", "where": "", "fix": ""}})
    page.wait_for_timeout(LITTLE)
    assert page.inner_text("#failure") == ""
    page.close()


def test_what_is_pasted_goes_with_a_page_that_is_left_before_it_is_answered(
    browser: Any, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page did not know by then how the studio calls its audit, and the text stayed until the studio ended."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with studio(project / "runs", "--root", str(project)) as own:
        page, _ = opened(browser, f"{own}/data")
        held = Held(page, "**/api/data/audit", made=True)
        page.check("input[name=given][value=text]")
        page.fill("#pasted", '{"prompt": "Where?", "completion": "In Faro."}')
        page.click("#look [type=submit]")
        held.until_asked()
        (pasted,) = tmp_path.glob("afina-studio-*/studio/pasted.jsonl")
        page.goto(f"{own}/")
        until(lambda: not pasted.parents[1].exists())
        page.close()


# ---- playground


def streamed(*events: tuple[str, Any]) -> dict[str, Any]:
    """An answer of events, as the studio sends them."""
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return {"content_type": "text/event-stream", "body": body}


def test_what_is_open_is_not_taken_back_by_what_was_asked_before(browser: Any, address: str) -> None:
    """The page asks what is open as it begins; a question opens models before that is answered."""
    about = {"sides": [{"side": "base", "name": "b"}], "numbers": "fp32", "context": 64}
    about |= {"memory_bytes": 1, "warnings": [], "idle_seconds": 600}
    done = {"texts": {"base": "Faro"}, "pieces": {"base": [["Faro", False]]}, "remarks": [], "stopped": False}
    events = ("opened", about), ("piece", {"side": "base", "text": "Faro"}), ("done", done)
    page = browser.new_page()
    page.route("**/api/play/answer", lambda route: route.fulfill(**streamed(*events)))
    asked = Held(page, "**/api/play")
    page.goto(f"{address}/playground")
    listens(page)
    asked.until_asked()
    page.check("input[name=who][value=base]")
    page.fill("#base", "b")
    page.fill("#question", "Onde?")
    page.press("#question", "Enter")
    page.wait_for_selector("article.answer[aria-busy=false]")
    asked.let_go(json={"open": None, "busy": False})
    page.wait_for_timeout(LITTLE)
    assert "Open: b" in page.inner_text("#opened") and page.locator("#close").is_visible()
    page.close()


@pytest.fixture
def explained(browser: Any, address: str, project: Path) -> Iterator[tuple[Any, list[str]]]:
    """The playground with an answer that may be explained, and what was asked of its explanation so far."""
    write_watched(project / "runs/asked", [*start(), *steps(5)])
    texts = {"base": "Lagos", "adapter": "Faro"}
    about = {"sides": [{"side": side, "name": side} for side in texts], "numbers": "fp32", "context": 64}
    about |= {"memory_bytes": 1, "warnings": [], "idle_seconds": 600}
    done = {"texts": texts, "pieces": {side: [[text, False]] for side, text in texts.items()}}
    done |= {"remarks": [], "stopped": False}
    page, said = opened(browser, f"{address}/playground?run=asked")
    asked: list[str] = []

    def goes_on(route: Any) -> None:
        if route.request.method == "POST":
            asked.append(route.request.url.rpartition("/")[2])
        route.fulfill(json=GOES_ON)

    page.route("**/api/play/answer", lambda route: route.fulfill(**streamed(("opened", about), ("done", done))))
    page.route("**/api/play/why**", goes_on)
    page.locator("#run option[value=asked]").wait_for(state="attached")
    page.fill("#question", "Onde?")
    page.press("#question", "Enter")
    page.get_by_role("button", name="Why this answer?").wait_for()
    yield page, asked
    assert not said
    page.close()


def test_of_an_answer_that_is_forgotten_no_rows_are_looked_for(explained: tuple[Any, list[str]]) -> None:
    """The process went on with a model of its own, and its rows were said to be shown."""
    page, asked = explained
    page.get_by_role("button", name="Why this answer?").click()
    page.locator(".why-rows", has_text="so far").wait_for()
    page.click("#forget")
    page_waits(page, lambda: asked[1:])
    page.wait_for_timeout(LITTLE)
    assert page.inner_text("#told") == "The conversation is forgotten." and asked == ["why", "end"]


def test_why_asked_again_is_not_ended_with_what_was_stopped(explained: tuple[Any, list[str]]) -> None:
    """Of the same answer the studio goes on with the same explanation, which the stop then ended."""
    page, asked = explained
    why = page.get_by_role("button", name="Why this answer?")
    first = Held(page, "**/api/play/why", first=True)
    why.click()
    first.until_asked()
    page.get_by_role("button", name="Stop looking").click()
    why.click()
    page.wait_for_timeout(LITTLE)
    first.let_go(json=GOES_ON)
    page.locator(".why-rows", has_text="so far").wait_for()
    assert asked == ["end", "why"], "and before them the one that was held"


# ---- a run


def figure(page: Any, title: str) -> str:
    found = page.locator("#figures > div", has=page.locator("dt", has_text=title)).first.locator("dd")
    return str(found.inner_text())


def test_steps_that_come_while_the_curves_are_asked_for_anew_are_drawn(
    browser: Any, address: str, project: Path
) -> None:
    """The training begins anew, and makes steps before the page has its curves: they were in neither."""
    log = write_watched(project / "runs/anew", [*start(), *steps(7)]) / "metrics.jsonl"
    page, said = opened(browser, f"{address}/run/anew")
    page.wait_for_selector("#curves canvas")
    curves = Held(page, "**/metrics?*", made=True)
    with log.open("a", encoding="utf-8") as out:
        out.write(jsonl(start()[2:]))
    curves.until_asked()
    with log.open("a", encoding="utf-8") as out:
        out.write(jsonl(steps(4, 9.0, 8.0)))
    page_waits(page, lambda: figure(page, "Step").startswith("4"))
    curves.let_go()
    page_waits(page, lambda: "from 9 to 8" in (page.get_attribute("#loss .plot", "aria-label") or ""))
    assert not said
    page.close()


def test_how_a_run_stood_does_not_take_the_place_of_how_it_stands(browser: Any, address: str, project: Path) -> None:
    """A state asks for all of the run; the next state is told, and answered, before that is."""
    folder = write_watched(project / "runs/stands", [*start(), *steps(5)])
    page, said = opened(browser, f"{address}/run/stands")

    def stands(state: str) -> None:
        page_waits(page, lambda: page.inner_text("#state .badge") == state)

    stands("died")
    first = Held(page, "**/api/runs/stands", made=True, first=True)
    with FileLock(folder / ".lock"):
        first.until_asked()
        stands("running")
    stands("died")
    first.let_go()
    page.wait_for_timeout(LITTLE)
    assert page.inner_text("#state .badge") == "died" and not said
    page.close()


def test_a_page_is_used_only_when_it_listens(browser: Any, address: str) -> None:
    """A page counts as loaded before its module has the words of its language; what is pressed then does nothing."""
    page = browser.new_page()
    words = Held(page, "**/api/words")
    page.goto(f"{address}/data")
    words.until_asked()
    assert page.locator("body[data-ready]").count() == 0
    words.let_go()
    listens(page)
    page.fill("#path", "/etc/passwd")
    page.click("#look [type=submit]")
    page.wait_for_selector("#failure .problem")
    page.close()
