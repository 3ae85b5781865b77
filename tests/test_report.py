"""The report of a run: its numbers are those of the run's files, and nothing in it reaches outside."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html
from report_fixture import AUDIT, HOSTILE, MANIFEST, PLAN, RECIPE, SCORES, answers, dataset, events, jsonl, write_run

from afina.errors import AfinaError, RecipeError
from afina.report.charts import smooth, spread, thin
from afina.report.compare import ABSENT, compare_runs
from afina.report.compare_page import write_comparison
from afina.report.page import write_report
from afina.report.published import read_published
from afina.report.render import environment, table

LOADS = ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href")


def page_of(folder: Path, **changed: Any) -> Any:
    return lxml_html.fromstring(write_report(write_run(folder, **changed)).read_text(encoding="utf-8"))


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


def section(page: Any, name: str) -> str:
    return words(page.get_element_by_id(name))


def rows(page: Any, name: str) -> list[list[str]]:
    return [[words(cell) for cell in row.xpath("./td|./th")] for row in page.get_element_by_id(name).xpath(".//tr")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return page_of(tmp_path_factory.mktemp("run") / "clube")


def test_the_verdict_is_the_heading_and_is_said_without_colour(page: Any) -> None:
    assert words(page.xpath("//h1")[0]) == "It learned, and it broke nothing."
    stamp = page.xpath("//p[contains(@class, 'stamp')]")[0]
    assert words(stamp) == "Passed" and stamp.xpath("./svg/path")


def test_no_line_ends_between_a_number_and_its_percent_sign(tmp_path: Path) -> None:
    """The heading of a failed run was printed as "61.5" at the end of a line and "%" on the next."""
    verdict = {"passed": False, "broke": "61.5 % of what it knew (old players)"}
    verdict["misses"] = ["old players: 61.5 % of what was right before is wrong now, the recipe allows < 0.01 %"]
    page = page_of(tmp_path / "clube", scores=SCORES | {"verdict": SCORES["verdict"] | verdict})
    assert "61.5\xa0% of what it knew" in page.xpath("string(//h1)")
    assert "the recipe allows <\xa00.01\xa0%" in page.xpath("string(//ul[@class='remarks'])")
    texts = page.xpath("//header//text() | //table[@class='probes']//text()[not(ancestor::svg)]")
    assert any("\xa0%" in text for text in texts) and not [text for text in texts if re.search(r"\d %", text)]


@pytest.mark.parametrize(
    ("verdict", "word", "sentence"),
    [
        (("yes", "nothing", True), "Passed", "It learned, and it broke nothing."),
        (("yes", "38 % of what it knew", False), "Failed", "It learned, but it broke 38 % of what it knew."),
        (("no", "nothing", False), "Failed", "It did not learn, and it broke nothing."),
        (("too little", "nothing", False), "Failed", "It learned too little, and it broke nothing."),
        (
            ("parrots", "9 % of what it knew (capitals)", False),
            "Failed",
            "It parrots: it says that it knows, and does not. It broke 9 % of what it knew (capitals).",
        ),
        (
            ("yes", "not measured (no probes)", True),
            "Passed what was measured",
            "It learned, but what it broke was not measured.",
        ),
    ],
)
def test_verdicts(tmp_path: Path, verdict: tuple[str, str, bool], word: str, sentence: str) -> None:
    scores = SCORES | {
        "verdict": dict(zip(("learned", "broke", "passed"), verdict, strict=True)) | {"misses": ["a <miss>"]}
    }
    if verdict[2]:
        scores["verdict"]["misses"] = []
    page = page_of(tmp_path, scores=scores)
    assert words(page.xpath("//h1")[0]) == sentence
    assert words(page.xpath("//p[contains(@class, 'stamp')]")[0]) == word
    assert ("a <miss>" in words(page.xpath("//header")[0])) is not verdict[2]


def test_nothing_is_loaded_from_outside(page: Any) -> None:
    for element in page.iter():
        assert element.tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form")
        for name, value in element.attrib.items():
            assert name not in LOADS or value.startswith("#"), (element.tag, name, value)
            assert not name.startswith("on")
    style = "".join(page.xpath("//style/text()"))
    assert style and "url(" not in style and "@import" not in style and "//" not in style
    policy = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    for link in page.xpath("//nav/a/@href"):
        assert page.get_element_by_id(link.removeprefix("#")) is not None


def test_what_a_model_wrote_is_shown_and_not_obeyed(page: Any) -> None:
    assert len(page.xpath("//style")) == 1
    shown = [block.text_content() for block in page.xpath("//div[contains(@class, 'text')]")]
    assert HOSTILE in shown
    assert "ما هي عاصمة البرتغال؟" in shown
    assert "Quinto lugar,\n\tapuramento europeu.\\u0000" in shown
    assert "(empty)" in shown
    assert all(block.get("dir") == "auto" or not block.text for block in page.xpath("//div[contains(@class, 'text')]"))


@given(st.text())
def test_escaped_text_reads_back_as_itself(text: str) -> None:
    """In an element and in an attribute of a template."""
    markup = environment().from_string('<p title="{{ text }}">{{ text }}</p>').render(text=text)
    markup.encode()
    element = lxml_html.fragment_fromstring(markup)
    assert element.tag == "p" and not len(element) and set(element.attrib) == {"title"}
    if re.fullmatch(r"[\t\n\x20-\x7e\xa0-\u2029\u2030-\u2065\u206a-\ud7ff\ue000-\ufffd]*", text):
        assert (element.text or "") == text and element.get("title") == text


@pytest.mark.parametrize("place", ["name", "where", "text", "key"])
def test_a_script_in_data_stays_text(tmp_path: Path, place: str) -> None:
    """Wherever strings of a run's files stand: names of probes and files, audit rows, keys of mappings."""
    script = "<script>alert(1)</script>\"' onload=x"
    scores, audit, data = (copy.deepcopy(each) for each in (SCORES, AUDIT, dataset(2)))
    if place == "name":
        scores["probes"][0]["name"] = script
        scores["verdict"]["misses"] = scores["verdict"]["notes"] = [script + " `" + script + "`"]
    if place == "where":
        audit["findings"][0]["examples"][0]["where"] = data["ledger"]["files"][0]["path"] = script
    if place == "text":
        audit["findings"][0] |= {"what": script, "fix": script, "name": script, "severity": script}
    if place == "key":
        data["train"][script] = data[script] = {script: [{script: script}, {script: 1}]}
        data["dropped"] = {script: 3}
    manifest = MANIFEST | {"libraries": {script: script}, "device": {"name": script, script: script}, "name": script}
    page = page_of(tmp_path, scores=scores, audit=audit, dataset=data, manifest=manifest)
    assert not page.xpath("//script") and not page.xpath("//@onload")
    assert script in page.text_content()


def test_cells_are_written_by_their_kind() -> None:
    markup = table(["a <b>", ""], [["<i>", None], ["x", "y"]], numbers=(1,), kind="plan")
    element = lxml_html.fragment_fromstring(markup)
    assert [cell.text for cell in element.xpath(".//th")] == ["a <b>", None]
    assert [[cell.text for cell in row] for row in element.xpath(".//tbody/tr")] == [["<i>", None], ["x", "y"]]
    assert [cell.get("class") for cell in element.xpath(".//tbody/tr[1]/td")] == [None, "num"]


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    rows = '{"prompt": "a", "reference": "b", "base": "\\ud83d", "adapter": "b\\u2028c"}\n'
    page = page_of(tmp_path, samples=rows)
    assert "\\ud83d" in section(page, "answers")


def test_probes_show_shares_counts_intervals_and_what_turned(page: Any) -> None:
    recall, generalization, retention = rows(page, "probes")[1:4]
    assert recall[1:4] == [
        "5.0 %2 of 401.4 % to 16.5 %",
        "92.5 %37 of 4080.1 % to 97.4 %",
        "+87.5 points35 newly right0 newly wrong",
    ]
    assert generalization[0].startswith("outras palavras") and generalization[0].endswith("n = 40")
    assert retention[3] == "−4.2 points0 newly right1 newly wrong"
    bars = page.xpath(
        "//table[@class='probes']//tr[2]//rect/@width | //table[@class='probes']/tbody/tr[1]//rect/@width"
    )
    assert bars[:2] == ["5.00%", "92.50%"]


def test_guardrails_stand_above_the_scores_the_worst_first(page: Any) -> None:
    assert rows(page, "guardrails")[1:] == [
        ["Loops", "0", "98.0 %", "5.0 %"],
        ["Never stops", "3026.8 %", "21.8 %", "5.0 %"],
        ["Empty", "10.89 %", "0", "5.0 %"],
    ]
    assert "In none of the 112 answers, before or after: open think." in section(page, "guardrails")
    names = [name.removeprefix("#") for name in page.xpath("//nav/a/@href")]
    assert names.index("guardrails") < names.index("probes")


def test_made_up_answers_and_intervals_of_the_change_are_shown(tmp_path: Path) -> None:
    scores = copy.deepcopy(SCORES)
    sides = {"made_up": 0.5, "low": 0.3, "high": 0.7, "declined": 0.4, "right_by_luck": 0.1}
    change = {"points": 0.0, "low": -0.2, "high": 0.2}
    scores["probes"] = [
        {"name": "facts held out", "role": "unknown", "n": 20, "before": sides, "after": sides, "change": change},
        scores["probes"][2] | {"broken": {"knew": 21, "lost": 1, "share": 0.0476, "low": 0.0085, "high": 0.227}},
    ]
    scores["verdict"]["notes"] = ["forgetting was measured on general questions only"]
    page = page_of(tmp_path, scores=scores)
    unknown, retention = rows(page, "probes")[1:3]
    assert unknown[1] == "50.0 %10 of 2030.0 % to 70.0 %" and unknown[3] == "0 points−20.0 to +20.0"
    assert retention[3].endswith("1 of 21 known lost0.9 % to 22.7 %")
    assert ["facts held out", "say that they do not know", "40.0 %", "40.0 %"] in rows(page, "probes")
    assert "general questions only" in words(page.xpath("//header")[0])


def test_held_out_loss(page: Any) -> None:
    table = rows(page, "loss")
    assert ["Loss, nats per target token", "3.214", "0.731", "−77.3 %"] in table
    assert ["Target tokens", "9,120", "9,120", ""] in table


def test_losses_over_different_tokens_are_called_incomparable(tmp_path: Path) -> None:
    scores = copy.deepcopy(SCORES)
    scores["loss"]["after"]["tokens"] = 9000
    assert "only bits per byte can be compared" in section(page_of(tmp_path, scores=scores), "loss")


def test_curves_hold_every_step_once_and_mark_the_resume(page: Any) -> None:
    chart = page.xpath("//section[@id='training']//figure")[0]
    raw = chart.xpath(".//polyline[contains(@class, 'raw')]/@points")[0].split()
    assert len(raw) == 600
    assert len(chart.xpath(".//circle")) == 6
    text = section(page, "training")
    assert "resumed after 240" in text and "600 of 600" in text
    assert f"{600 * 2538:,}" in text and "3.1 %" in text and "lossnats" not in text
    assert "loss, nats per target token" in text and "optimizer step" in text
    assert any(title.text.startswith("step ") for title in chart.xpath(".//rect/title"))
    first, last = (float(point.split(",")[0]) for point in (raw[0], raw[-1]))
    assert (first, last) == (0.0, 1000.0)


def test_losses_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    log = [{"event": "step", "step": n, "loss": float("nan") if n == 3 else 1.0} for n in range(1, 6)]
    text = section(page_of(tmp_path, metrics=jsonl(log)), "training")
    assert "could not be drawn: 1." in text


@pytest.mark.parametrize("count", [1, 2])
def test_very_short_runs_are_drawn(tmp_path: Path, count: int) -> None:
    assert f"{count} of 600" in section(page_of(tmp_path, metrics=jsonl(events(resume=None, until=count))), "training")


def test_answers_are_limited_and_counted_and_the_wrong_ones_come_first(page: Any) -> None:
    text = section(page, "answers")
    assert "The first 12 of 15 held-out questions" in text
    assert "Newly right: 62" in text and "6 of 62" in text and "Wrong before and after: 18" in text
    assert text.index("Newly wrong: 1") < text.index("Wrong before and after") < text.index("Newly right")
    assert "800 more characters" in text
    origins = [words(origin) for origin in page.xpath("//article[@class='answer']/div[@class='origin']")]
    assert origins[0].startswith("probes/retention") and origins[-12] == "docs/linhas.jsonl:10"
    assert {origin.partition(".")[0] for origin in origins[7:13]} == {"probes/recall", "probes/generalization"}
    assert ["retention", "retention", "20", "0", "1", "3", "24"] in rows(page, "answers")


def test_flawed_answers_are_marked(tmp_path: Path) -> None:
    row = {"prompt": "a", "reference": "b", "base": "b", "adapter": "c c", "role": "recall", "probe": "p"}
    row |= {"base_correct": True, "adapter_correct": False, "adapter_is": "wrong", "adapter_flaws": ["prompt_echo"]}
    samples = [row | {"adapter_flaws": [], "adapter": "first"}, row | {"adapter": "second"}]
    page = page_of(tmp_path, predictions=jsonl([row]), samples=jsonl(samples))
    text = section(page, "answers")
    assert "Adapter · wrong · prompt echo" in text and "Breaks a guardrail: 1" in text
    assert text.index("second") < text.rindex("first")


def test_plan_beside_measured(page: Any) -> None:
    table = rows(page, "plan")
    gib = "3.1 GiB"
    assert table[1][:6] == ["Memory, peak", "3.0 GiB", "2.4 GiB to 3.9 GiB", gib, "1.03", "inside"]
    assert table[3][:6] == [
        "Time of training",
        "25 min 00 s",
        "20 min 00 s to 31 min 40 s",
        "35 min 04 s",
        "1.40",
        "above",
    ]
    assert table[4][:6] == ["Money", "US$ 0.19", "US$ 0.15 to US$ 0.26", "US$ 0.28", "1.47", "above"]
    assert "The plan said that the job fits." in section(page, "plan")


def test_data_findings_and_ledger(page: Any) -> None:
    text = section(page, "data")
    assert ["duplicate", "37"] in rows(page, "data")
    findings = [words(finding.xpath("./h4")[0]) for finding in page.xpath("//article[@class='finding']")]
    assert findings[0] == "fatal contradiction 9 of 1,904 (0.47 %), train"
    assert [finding.split()[0] for finding in findings] == ["fatal", "warning", "note"]
    assert "docs/linhas.jsonl:41" in text and "and 2 more in audit.json" in text
    assert "15 files: 120,000 in + 300 added − 750 dropped = 119,550 out" in text
    assert "The sums agree" in text
    assert ["docs/logo.png", "not text"] in rows(page, "data")


def test_a_ledger_that_does_not_add_up_is_said(tmp_path: Path) -> None:
    data = dataset(2)
    data["ledger"]["files"][0]["chars_out"] += 1
    assert "The sums do not agree" in section(page_of(tmp_path, dataset=data), "data")


def test_environment_hashes_cost_and_recipe(page: Any) -> None:
    text = section(page, "environment")
    for shown in ("a1" * 32, "d4" * 32, "e5" * 32, "0f" * 20, "Two-core laptop", "2025-10-09 08:53:20 UTC", "24.0 GiB"):
        assert shown in text
    assert "42 min 00 s × US$ 0.40 per hour = US$ 0.28." in text
    assert ["torch", "2.11.0"] in rows(page, "environment")
    recipe = page.xpath("//section[@id='recipe']/details")[0]
    assert recipe.get("open") is None and recipe.xpath("./pre")[0].text == RECIPE


def test_an_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    log = jsonl(events(until=330)) + '{"event": "st'
    everything_else = dict.fromkeys(
        ("manifest", "plan", "audit", "dataset", "scores", "samples", "predictions", "finished")
    )
    page = page_of(tmp_path, metrics=log, **everything_else)
    assert words(page.xpath("//h1")[0]) == "The run is not finished: nothing is proven yet."
    assert "Training made 330 of 600 steps." in words(page.xpath("//header")[0])
    assert "cut by a kill and left out: 1." in section(page, "training")
    for name, file in (
        ("probes", "scores.json"),
        ("loss", "scores.json"),
        ("answers", "samples.jsonl"),
        ("plan", "plan.json"),
        ("data", "audit.json"),
        ("environment", "manifest.json"),
    ):
        said = "Missing." if name in ("plan", "data", "environment") else "Not measured."
        assert said in section(page, name) and file in section(page, name)


def test_a_run_that_failed_before_it_was_measured(tmp_path: Path) -> None:
    page = page_of(tmp_path, scores=None, finished={"exit_code": 5, "verdict": None})
    assert words(page.xpath("//h1")[0]) == "The run ended with exit code 5 and was not measured."


@pytest.mark.parametrize("left", ["recipe", "manifest", "plan", "audit", "dataset", "metrics", "scores", "samples"])
def test_each_file_may_be_the_only_one(tmp_path: Path, left: str) -> None:
    names = (
        "recipe",
        "manifest",
        "plan",
        "audit",
        "dataset",
        "metrics",
        "scores",
        "samples",
        "predictions",
        "finished",
    )
    assert page_of(tmp_path, **{name: None for name in names if name != left}).xpath("//h1")


@pytest.mark.parametrize("empty", ["manifest", "plan", "audit", "dataset", "scores", "finished"])
def test_empty_records_are_no_crash(tmp_path: Path, empty: str) -> None:
    assert page_of(tmp_path, **{empty: {}}).xpath("//h1")


def test_damaged_files_are_named_all_at_once(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path, scores='{"verdict": ', plan="[]", predictions='{"probe": "a"}\nnot json\n', recipe="a: ["
    )
    with pytest.raises(AfinaError) as caught:
        write_report(folder)
    places = [problem.where for problem in caught.value.problems]
    assert places == [str(folder / name) for name in ("plan.json", "scores.json", "predictions.jsonl:2", "recipe.yaml")]
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("changed", "file", "said"),
    [
        ({"scores": SCORES | {"probes": [{"name": 3}]}}, "scores.json", "`probes.0.name` should be text and is 3"),
        ({"plan": PLAN | {"memory": 7}}, "plan.json", "`memory` should be a mapping and is 7"),
        ({"audit": AUDIT | {"findings": ["x"]}}, "audit.json", "`findings` should be a list of mappings and is ['x']"),
        (
            {"metrics": '{"event": "step", "step": 1, "loss": "low"}\n'},
            "metrics.jsonl",
            "should be a number and is 'low'",
        ),
        ({"metrics": "3\n"}, "metrics.jsonl:1", "an event should be a mapping and is 3"),
        ({"samples": jsonl([{"prompt": ["x"]}])}, "samples.jsonl:1", "`prompt` should be text and is ['x']"),
    ],
)
def test_values_of_the_wrong_kind_are_named(tmp_path: Path, changed: dict[str, Any], file: str, said: str) -> None:
    with pytest.raises(AfinaError) as caught:
        write_report(write_run(tmp_path, **changed))
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / file) and said in problem.what and problem.fix


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no run here"):
        write_report(tmp_path)
    with pytest.raises(RecipeError, match="no run here"):
        write_report(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert {path.name for path in folder.glob("report*")} == {"report.html"}


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300), st.integers(2, 50))
def test_thinning_keeps_the_extremes(values: list[float], limit: int) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    kept = thin(points, limit)
    assert kept == sorted(kept) and set(kept) <= set(points) and len(kept) <= max(limit, 2)
    assert min(y for _, y in kept) == min(values) and max(y for _, y in kept) == max(values)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.integers(0, 10))
def test_a_smoothed_value_is_the_mean_of_its_neighbours(values: list[float], half: int) -> None:
    for position, mean in enumerate(smooth(values, half)):
        near = values[max(0, position - half) : position + half + 1]
        assert mean == pytest.approx(sum(near) / len(near), abs=1e-9)


# --- comparison -------------------------------------------------------------------------------


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    scores = copy.deepcopy(SCORES)
    scores["probes"][1]["after"] = {"verbatim": 0.2, "low": 0.105, "high": 0.348}
    scores["probes"][0]["after"] = {"verbatim": 0.95, "low": 0.835, "high": 0.986}
    scores["verdict"] |= {"learned": "no", "passed": False}
    manifest = MANIFEST | {"name": "clube-r4", "adapter": {"parameters": 610_000}, "dataset": {"sha256": "ff" * 32}}
    manifest["measured"] = MANIFEST["measured"] | {"train_seconds": 1800.0}
    recipe = RECIPE.replace("rank: 16", "rank: 4").replace("name: clube", "name: clube-r4") + "budget:\n  hours: 2\n"
    return [
        write_run(tmp_path / "clube"),
        write_run(tmp_path / "clube-r4", scores=scores, manifest=manifest, recipe=recipe, plan=None),
    ]


def test_two_runs_side_by_side(two_runs: list[Path]) -> None:
    found = compare_runs(two_runs)
    assert found.runs == ("clube", "clube-r4")
    metrics = {metric.name: metric for metric in found.metrics}
    unseen = metrics["outras palavras (generalization) verbatim, after"]
    assert unseen.values == (0.7, 0.2) and unseen.intervals == ((0.546, 0.819), (0.105, 0.348)) and unseen.best == 0
    # 92.5 % and 95 % of 40 lie within each other's intervals: neither is called better.
    assert metrics["perguntas treinadas (recall) verbatim, after"].best is None
    assert metrics["time of training"].values == (2104.0, 1800.0) and metrics["time of training"].best == 1
    assert metrics["planned memory"].values == (PLAN["memory"]["point"], None)
    assert metrics["train examples"].values == (1904, None)
    assert metrics["held-out loss, after"].values == (0.731, 0.731) and metrics["held-out loss, after"].best is None
    assert found.recipe == {"name": ("clube", "clube-r4"), "adapter.rank": (16, 4), "budget.hours": (ABSENT, 2)}
    assert any("different datasets" in note for note in found.notes)


def test_the_same_items_are_held_against_each_other(tmp_path: Path) -> None:
    """Run b answers 10 of the 40 unseen phrasings that a answers right wrong, and all others as a does."""
    _, predictions = answers()
    worse = copy.deepcopy(predictions)
    unseen = [row for row in worse if row["role"] == "generalization" and row["adapter_correct"]]
    for row in unseen[:10]:
        row["adapter_correct"] = False
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", predictions=jsonl(worse))
    found = {each.name: each.differences for each in compare_runs([a, b]).same_items}
    first, second = found["outras palavras (generalization)"]
    assert first is None and second is not None
    assert (second.value, second.n) == (-0.25, 40) and second.low < -0.25 < second.high < 0
    other = found["perguntas treinadas (recall)"][1]
    assert other is not None and (other.value, other.low, other.high) == (0.0, 0.0, 0.0)
    text = compare_runs([a, b]).describe()
    (line,) = [line for line in text.splitlines() if line.startswith("outras palavras (generalization)  -")]
    assert "-0.250 [" in line and line.endswith("n 40 *")


def test_choices_of_the_same_sentences_are_held_against_each_other(tmp_path: Path) -> None:
    """Twelve choices, of which b has three more right; a thirteenth has another distractor in b, and does not count."""
    rows = [
        {
            "probe": "true sentence",
            "role": "choice",
            "prompt": f"p{n}",
            "sentences": ["a", "b"],
            "adapter_correct": n < 6,
        }
        for n in range(12)
    ]
    better = [row | {"adapter_correct": row["adapter_correct"] or n < 9} for n, row in enumerate(rows)]
    runs = []
    for name, part, distractor in (("a", rows, "c"), ("b", better, "d")):
        runs.append(write_run(tmp_path / name))
        further = rows[0] | {"prompt": "p12", "sentences": ["a", distractor]}
        (runs[-1] / "choices.jsonl").write_text(jsonl([*part, further]), encoding="utf-8")
    found = {each.name: each.differences for each in compare_runs(runs).same_items}
    second = found["true sentence (choice)"][1]
    assert second is not None and (second.value, second.n) == (0.25, 12) and second.low < 0.25 < second.high


def test_what_a_point_has_cost(two_runs: list[Path]) -> None:
    metrics = {metric.name: metric for metric in compare_runs(two_runs).metrics}
    flop = (4 * 135e6 + 6 * 2.44e6) * 1_523_000
    assert metrics["training FLOP"].values[0] == pytest.approx(flop)
    assert metrics["outras palavras: points gained"].values == (pytest.approx(67.5), pytest.approx(17.5))
    assert metrics["outras palavras: cost per point"].values[0] == pytest.approx(0.28 / 67.5)
    assert metrics["outras palavras: cost per point"].unit == "US$"
    assert metrics["outras palavras: points per 10^15 FLOP"].values[0] == pytest.approx(67.5 / flop * 1e15)
    assert metrics["outras palavras: points per million training tokens"].values[0] == pytest.approx(67.5 / 1.523)


def test_what_a_training_computed_is_what_its_log_counts(tmp_path: Path) -> None:
    steps = [event | {"flops_per_second": 2e9, "tokens_per_second": 500.0} for event in events(until=3, resume=None)]
    found = compare_runs([write_run(tmp_path / "a", metrics=jsonl(steps)), write_run(tmp_path / "b")])
    (metric,) = [metric for metric in found.metrics if metric.name == "training FLOP"]
    assert metric.values[0] == pytest.approx(3 * 2538 * 2e9 / 500) and metric.values[1] != metric.values[0]


def test_a_comparison_as_text_and_as_json(two_runs: list[Path]) -> None:
    found = compare_runs(two_runs)
    lines = found.describe().splitlines()
    assert lines[0].split() == ["clube", "clube-r4"]
    (unseen,) = [line for line in lines if line.startswith("outras palavras (generalization) verbatim, after")]
    assert "70 % [54.6 %, 81.9 %] *" in unseen and unseen.endswith("20 % [10.5 %, 34.8 %]")
    assert any(line.split() == ["adapter.rank", "16", "4"] for line in lines)
    assert any(line.startswith("planned memory") and line.endswith("not measured") for line in lines)
    plain = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert plain["runs"][1] == {"name": "clube-r4", "folder": str(two_runs[1])}
    assert plain["recipe"]["adapter.rank"] == [16, 4]


def test_runs_of_one_name_are_told_apart_and_unmeasured_ones_are_noted(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", scores=None, recipe=None, finished=None)]
    found = compare_runs(folders)
    assert found.runs == ("a", "b")
    assert found.recipe is None and found.as_json()["recipe"] is None
    assert sum(note.startswith("b ") for note in found.notes) == 3
    assert "The recipes cannot be compared." in found.describe()


def test_numbers_that_are_not_finite_stay_readable(tmp_path: Path) -> None:
    scores = copy.deepcopy(SCORES)
    scores["loss"]["after"]["loss"] = float("nan")
    found = compare_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", scores=scores)])
    (metric,) = [metric for metric in found.as_json()["metrics"] if metric["name"] == "held-out loss, after"]
    assert metric["values"] == [0.731, "nan"] and metric["best"] is None
    assert json.dumps(found.as_json(), allow_nan=False)


def test_of_held_out_losses_over_other_rows_or_in_other_tokens_none_is_better(tmp_path: Path) -> None:
    def run(name: str, loss: float, tokens: int = 9120, rows: str = "ab") -> Path:
        scores = copy.deepcopy(SCORES)
        scores["loss"]["after"] |= {"loss": loss, "bits_per_byte": loss, "tokens": tokens}
        manifest = MANIFEST | {"name": name, "dataset": MANIFEST["dataset"] | {"validation_sha256": rows}}
        return write_run(tmp_path / name, manifest=manifest, scores=scores)

    def best(other: Path) -> list[int | None]:
        found = {metric.name: metric.best for metric in compare_runs([first, other]).metrics}
        return [found["held-out loss, after"], found["held-out bits per byte, after"]]

    first = run("a", 0.7)
    assert best(run("b", 0.5)) == [1, 1]
    assert best(run("c", 0.5, tokens=4000)) == [None, 1]
    assert best(run("d", 0.5, rows="cd")) == [None, None]


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least two"):
        compare_runs([write_run(tmp_path)])


# --- what each training cost and reached


def from_nothing(folder: Path, hours: float, bits: float, **cost: Any) -> Path:
    """A run from random weights, of which the held-out rows and the weights' hash are known."""
    manifest = {key: value for key, value in MANIFEST.items() if key not in ("adapter", "base")}
    manifest |= {"name": folder.name, "model": {"weights_sha256": folder.name, "parameters": 4_000_000}}
    manifest |= {"cost": {"hours": hours, "price_per_hour": 0.5, "money": hours / 2, "currency": "US$"} | cost}
    manifest["dataset"] = MANIFEST["dataset"] | {"validation_sha256": "ab" * 32}
    scores = copy.deepcopy(SCORES)
    scores["loss"]["after"]["bits_per_byte"] = bits
    return write_run(folder, manifest=manifest, scores=scores)


def over(folder: Path, base: str) -> Path:
    """An adapter over the weights of another run, with a task."""
    manifest = MANIFEST | {"name": folder.name, "base": MANIFEST["base"] | {"weights_sha256": base}}
    manifest["cost"] = {"hours": 0.25, "price_per_hour": 0.5, "money": 0.125, "currency": "US$"}
    sides = {"before": {"mean": 0.0}, "after": {"mean": 0.2, "low": 0.1, "high": 0.3}}
    task = {"name": "qa", "n": 200, "metrics": [{"name": "exact_match", **sides, "difference": {"mean": 0.2}}]}
    return write_run(folder, manifest=manifest, scores=SCORES | {"tasks": [task]})


PUBLISHED = """
title: A thesis
source: https://example.org
found: [measured on another text]
results:
  - name: theirs
    road: adapter
    hours: 2.5
    money: 0.75
    bits_per_byte: 1.5
    derived: from its loss
    scores:
      - {task: qa, metric: exact match, before: 0.1, after: 0.3, label: as published}
      - {task: qa, metric: exact match, before: 0.2, after: 0.5, label: mended}
    found: [half of the rows leak]
"""


@pytest.fixture
def two_roads(tmp_path: Path) -> list[Path]:
    return [
        from_nothing(tmp_path / "v1", 1.0, 2.5),
        from_nothing(tmp_path / "v6", 1.5, 2.0),
        over(tmp_path / "a", "v6"),
    ]


def test_an_adapter_over_one_of_the_runs_has_its_cost_beside_its_own(two_roads: list[Path]) -> None:
    v1, v6, adapter = compare_runs(two_roads).costs
    assert [(each.road, each.hours, each.money) for each in (v1, v6)] == [
        ("from nothing", 1.0, 0.5),
        ("from nothing", 1.5, 0.75),
    ]
    assert (v6.bits_per_byte, v6.text, v6.base) == (2.0, "held-out rows abababab", None)
    assert (adapter.road, adapter.base, adapter.hours, adapter.all_hours) == ("adapter", "v6", 0.25, 1.75)
    assert (adapter.money, adapter.all_money) == (0.125, 0.875)
    (score,) = adapter.scores
    assert (score.title, score.before, score.after, score.interval) == ("qa, exact match", 0.0, 0.2, (0.1, 0.3))


def test_no_price_is_no_money_and_not_a_cost_of_nothing(tmp_path: Path) -> None:
    run = from_nothing(tmp_path / "v1", 1.0, 2.5, price_per_hour=0.0, money=0.0)
    assert compare_runs([run, over(tmp_path / "a", "other")]).costs[0].money is None


def test_published_figures_stand_beside_those_of_the_runs(two_roads: list[Path], tmp_path: Path) -> None:
    (tmp_path / "published.yaml").write_text(PUBLISHED, encoding="utf-8")
    found = compare_runs(two_roads, tmp_path / "published.yaml")
    text = found.describe()
    table = text.partition("What each cost and what it reached:")[2].splitlines()
    rows = {line.split()[0]: line for line in table if line.strip()}
    assert "2 h 30 min" in rows["theirs"] and "US$ 0.75" in rows["theirs"]
    assert "about 1.500 (another text)" in rows["theirs"] and "another text" not in rows["v6"]
    assert "0.1 → 0.3 (as published); 0.2 → 0.5 (mended)" in rows["theirs"]
    assert "15 min 00 s (with v6: 1 h 45 min)" in rows["a"] and rows["a"].endswith("0 → 0.2")
    assert "  measured on another text" in table and "  theirs: half of the rows leak" in table
    plain = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [each["name"] for each in plain["costs"]] == ["v1", "v6", "a", "theirs"]
    assert [each["published"] for each in plain["costs"]] == [False, False, False, True]

    page = lxml_html.fromstring(write_comparison(found, tmp_path / "page.html").read_text(encoding="utf-8"))
    charts = page.xpath("//section[@id='reached']//figure")
    drawn = {
        words(each.xpath(".//svg/title")[0]): [words(tip) for tip in each.xpath(".//circle/title")] for each in charts
    }
    shared = "retention, contain the reference, % (higher is better) against "
    assert drawn.pop(f"{shared}hours") == ["v1: 83.33 at 1", "v6: 83.33 at 1.5", "a: 83.33 at 1.75"]
    assert len([drawn.pop(name) for name in list(drawn) if ", % " in name]) == 5
    assert drawn == {
        "bits per byte (lower is better) against hours": ["v1: 2.5 at 1", "v6: 2 at 1.5", "theirs: 1.5 at 2.5"],
        "bits per byte (lower is better) against US$": ["v1: 2.5 at 0.5", "v6: 2 at 0.75", "theirs: 1.5 at 0.75"],
        "qa, exact match (higher is better) against hours": [
            "a: 0.2 at 1.75",
            "theirs, as published: 0.3 at 2.5",
            "theirs, mended: 0.5 at 2.5",
        ],
        "qa, exact match (higher is better) against US$": [
            "a: 0.2 at 0.875",
            "theirs, as published: 0.3 at 0.75",
            "theirs, mended: 0.5 at 0.75",
        ],
    }
    assert "Not drawn, since measured on another text: a (an unknown text)." in section(page, "reached")
    assert "half of the rows leak" in section(page, "published")
    assert not page.xpath("//script | //img | //link")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("hours: 2.5", "hour: 2.5"), r"unknown key `results\.0\.hour`(.|\n)*did you mean `hours`"),
        (
            ("hours: 2.5", "hours: two"),
            r"`results\.0\.hours` should be a number and is 'two'(.|\n)*published\.yaml is an",
        ),
        (("hours: 2.5", "hours: 0"), "should be above 0"),
        (("road: adapter", "road: lora"), "should be one of from nothing, adapter, every weight"),
        (("after: 0.3, ", ""), r"`results\.0\.scores\.0\.after` is missing"),
        (("title: A thesis", "title: [A"), "no YAML"),
    ],
)
def test_a_file_of_published_figures_is_read_strictly(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    file = tmp_path / "published.yaml"
    file.write_text(PUBLISHED.replace(*change), encoding="utf-8")
    with pytest.raises(RecipeError, match=said):
        read_published(file)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=18))
def test_labels_are_spread_apart_and_stay_in_the_picture(wanted: list[float]) -> None:
    found = spread(wanted, 16, 300)
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    assert all(found[after] - found[before] >= 16 - 1e-9 for before, after in itertools.pairwise(order))
    assert max(found) <= 300 and min(found) >= min(0, 300 - 16 * (len(wanted) - 1))


# --- runs that train every weight: the manifest holds `model` where others hold `adapter`


@pytest.fixture
def whole_weights(tmp_path: Path) -> Path:
    manifest = {key: value for key, value in MANIFEST.items() if key != "adapter"}
    manifest["model"] = {"sha256": "e6" * 32, "weights_sha256": "f7" * 32, "parameters": 135_000_000}
    manifest["base"] = MANIFEST["base"] | {"parameters": 0}
    return write_run(tmp_path / "whole", manifest=manifest)


def test_the_report_of_a_whole_weight_run_shows_its_figures(whole_weights: Path) -> None:
    page = lxml_html.fromstring(write_report(whole_weights).read_text(encoding="utf-8"))
    assert "Trained135 M parameters" in words(page.xpath("//header")[0])
    hashes = section(page, "environment")
    assert "e6" * 32 in hashes and "f7" * 32 in hashes and "Model SHA-256" in hashes


def test_a_comparison_with_a_whole_weight_run_shows_its_figures(whole_weights: Path, tmp_path: Path) -> None:
    found = compare_runs([whole_weights, write_run(tmp_path / "clube")])
    metrics = {metric.name: metric.values for metric in found.metrics}
    assert metrics["trained parameters"] == (135_000_000, 2_440_000)
    assert metrics["trained part"] == ("model", "adapter")
    assert metrics["training FLOP"][0] == pytest.approx(6 * 135e6 * 1_523_000)


def test_the_fixture_is_what_the_tests_believe() -> None:
    samples, predictions = answers()
    assert len(samples) == 15 and len(predictions) == 40 + 40 + 24
    assert sum(event["event"] == "step" for event in events()) == 620
