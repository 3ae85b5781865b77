"""The studio's pages "data" and "playground" in Debian's Chromium: clicked through, by keys alone, and by axe-core."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")

from exported import SHAPE, make_run
from studio_pages import cut, opened, studio, violations
from test_studio_data import FARENSE, FLAWED, SCRIPT
from test_why import with_rows
from tiny import make_base
from waiting import LONGEST

pytestmark = pytest.mark.long
WIDTHS = (1280, 390)
REFUSED = re.compile("status of 40[03]")
"""What the browser notes where the studio refuses: the page says it in words."""
PATIENCE = 1000 * LONGEST  # ms: machines of tests are busy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with one that learned a little, and a root with its base and with data."""
    folder = tmp_path_factory.mktemp("studio")
    # It sees enough for two questions whatever it answers: a base that is untrained may answer with marks of the chat,
    # which are many tokens each where the next question tells them again as text.
    base = make_base(folder / "root/base", max_position_embeddings=512, **SHAPE)
    with_rows(make_run(folder / "runs/corrida", base, new=8))
    (folder / "root/deep").mkdir()
    (folder / "root/flawed.jsonl").write_text("".join(FLAWED), encoding="utf-8")
    if FARENSE.is_dir():
        shutil.copy(FARENSE / "train_full.jsonl", folder / "root/train_full.jsonl")
    return folder


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    with studio(place / "runs", "--root", str(place / "root")) as address:
        yield address


@pytest.fixture
def page(browser: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page at the address and of the width that the test names; it may complain of nothing."""
    address, width = request.param
    made, said = opened(browser, url + address, width)
    made.set_default_timeout(PATIENCE)
    yield made
    assert not [each for each in said if not REFUSED.search(each)]
    made.close()


def audit(page: Any, name: str) -> None:
    page.fill("#path", name)
    page.click("#look [type=submit]")
    page.wait_for_selector("#result:not([hidden])")


both = pytest.mark.parametrize("page", [("/data", width) for width in WIDTHS], indirect=True, ids=map(str, WIDTHS))


@both
@pytest.mark.skipif(not FARENSE.is_dir(), reason="needs ../shared/data/farense, which is not here")
def test_the_farense_file_is_audited_and_its_rows_shown(page: Any) -> None:
    audit(page, "train_full.jsonl")
    assert "2,413 training" in page.inner_text("#counted")
    finding = page.locator("article.finding", has_text="empty_prompt").first
    assert "2,351 of 2,413 (97.4 %)" in finding.inner_text()
    finding.locator("button[aria-expanded]").click()
    page.wait_for_selector("article.row")
    assert finding.locator("article.row").count() == 5
    assert "train_full.jsonl:1" in finding.locator("article.row h4").first.inner_text()
    assert cut(page) == [] and violations(page) == []
    page.uncheck("#severities input[value=fatal]")
    assert page.locator("article.finding .badge.bad").count() == 0


@both
def test_a_rows_script_is_text_and_its_tokens_are_marked(page: Any) -> None:
    page.on("dialog", lambda _: pytest.fail("a row's script ran"))
    page.select_option("#tokenizer", "corrida")
    audit(page, "flawed.jsonl")
    finding = page.locator("article.finding", has_text="empty_prompt").first
    finding.locator("button[aria-expanded]").click()
    text = finding.locator("article.row .text").last
    text.wait_for()
    assert SCRIPT in text.inner_text() and page.locator("article.row script, article.row img").count() == 0
    finding.locator("article.row button").first.click()
    page.wait_for_selector("#shown-tokens .token")
    learned = "".join(page.locator("#shown-tokens mark.token").all_inner_texts())
    assert "resposta a nada" in learned and page.locator("#shown-tokens span.token").count() > 0
    page.click("#show-tokens")
    page.wait_for_selector("#by-row:not([hidden])")
    page.click("#next")
    page.locator("#shown-tokens h3", has_text="flawed.jsonl:2").wait_for()
    page.check("#ids")
    assert re.fullmatch(r"\d+", page.locator("#shown-tokens sub").first.inner_text())
    assert cut(page) == [] and violations(page) == []


def test_an_answer_that_comes_late_does_not_take_the_place_of_what_was_asked_after_it(browser: Any, url: str) -> None:
    """The reader goes to row 11, and back to row 10 before the studio has told of row 11."""
    page, said = opened(browser, f"{url}/data")
    late: list[Any] = []

    def told(route: Any) -> None:
        first = route.request.post_data_json["row"]
        where = [f"flawed.jsonl:{first + place}" for place in range(10)]
        sides = [{"rejected": False, "rows": [[{"text": "a", "id": 1, "learned": True}]]}]
        rows = [{"row": None, "line": None, "tokens": sides, "at": each, "where": each} for each in where]
        if first == 1:
            route.fulfill(json={"rows": rows})
        else:
            late.append(lambda: route.fulfill(json={"rows": rows}))

    page.route("**/api/data/tokens", told)
    page.fill("#path", "flawed.jsonl")
    page.locator("#tokenizer option[value=corrida]").wait_for(state="attached")
    page.select_option("#tokenizer", "corrida")
    page.click("#show-tokens")
    shown = page.locator("#shown-tokens h3")
    shown.filter(has_text=re.compile(":1$")).wait_for()
    for _ in range(9):
        page.click("#next")
    shown.filter(has_text=re.compile(":10$")).wait_for()
    page.click("#next")
    page.locator("#tokens-said", has_text="opened").wait_for()
    page.click("#previous")
    page.click("#next")
    page.click("#previous")
    assert len(late) == 1, "the same rows are asked for once"
    with page.expect_response("**/api/data/tokens"):
        late[0]()
    page.wait_for_timeout(100)
    assert shown.inner_text() == "flawed.jsonl:10" and page.input_value("#row") == "10"
    page.click("#next")
    shown.filter(has_text=re.compile(":11$")).wait_for()
    assert not said
    page.close()


@both
def test_a_folder_is_browsed_and_a_text_pasted_by_keys_alone(page: Any, place: Path) -> None:
    page.focus("#browse summary")
    page.keyboard.press("Enter")
    entries = page.locator(".entries")
    entries.get_by_role("button", name=f"{place}/root/", exact=True).press("Enter")
    entries.get_by_role("button", name="flawed.jsonl", exact=True).press("Enter")
    assert page.input_value("#path").endswith("root/flawed.jsonl")
    page.focus("input[name=given][value=path]")
    page.keyboard.press("ArrowRight")
    page.fill("#pasted", "".join(FLAWED))
    assert violations(page) == []
    page.focus("#look [type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "result-title"
    assert "pasted.jsonl:13" in page.inner_text("#findings")


@both
def test_what_is_refused_is_said(page: Any) -> None:
    page.fill("#path", "/etc/passwd")
    page.click("#look [type=submit]")
    page.wait_for_selector("#failure .problem")
    assert "outside of the folders" in page.inner_text("#failure") and violations(page) == []
    page.fill("#path", "flawed.jsonl")
    page.click("#show-tokens")
    page.locator("#failure", has_text="tokenizer").wait_for()
    assert page.evaluate("document.activeElement.id") == "tokenizer"


def look_why(page: Any) -> None:
    """The rows behind the first answer, by keys alone; shown and hidden again without another process."""
    asked: list[str] = []
    page.on("request", lambda request: request.url.endswith("/api/play/why") and asked.append(request.url))
    why = page.locator(".why-ask button[aria-expanded]")
    why.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Stop looking"
    page.fill("#question", "E Zé?")  # the page goes on meanwhile
    page.locator(".why-rows table").or_(page.locator(".why-rows .problem")).first.wait_for(timeout=2 * PATIENCE)
    assert page.locator(".why-rows .problem").count() == 0, page.inner_text(".why-rows")
    assert page.evaluate("document.activeElement.textContent") == "Hide these rows"
    first = page.locator(".why-rows tbody tr").first.inner_text()
    assert re.match(r"\+[01]\.\d{3}\s+rows\.jsonl:\d+\s", first), first
    assert "EK-FAC" in page.inner_text(".why-rows")
    for _ in range(2):
        page.keyboard.press("Enter")
    assert page.locator(".why-rows table").first.is_visible() and len(asked) == 1


@pytest.mark.parametrize("page", [("/playground", 1280)], indirect=True, ids=["playground"])
def test_two_answers_stream_side_by_side(page: Any) -> None:
    """At one width, and looked at in both: to open the models takes a process of its own ten seconds of computing."""
    page.wait_for_selector("#run option[value=corrida]", state="attached")
    assert violations(page) == []
    page.fill("#longest", "8")
    page.fill("#question", "Onde nasceu Ana Faro?")
    page.press("#question", "Enter")
    page.wait_for_selector("article.answer[aria-busy=false]", timeout=PATIENCE)
    texts = page.locator("article.answer .text").all_inner_texts()
    assert len(texts) == 2 and texts[0] != texts[1]
    assert "of memory" in page.inner_text("#opened")
    look_why(page)
    page.fill("#question", "E Rui?")
    page.press("#question", "Enter")
    page.locator("article.answer[aria-busy=false]").nth(1).or_(page.locator("#failure .problem")).wait_for()
    assert page.inner_text("#failure") == ""
    assert (
        "Only the first question of a conversation can be explained"
        in page.locator("article.answer").nth(1).inner_text()
    )
    assert page.locator(".why-ask button[aria-expanded]").count() == 1
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert cut(page) == [] and violations(page) == []
    page.click("#close")
    page.wait_for_selector("#close", state="hidden")
    page.click("#forget")
    assert page.locator("article.answer").count() == 0
