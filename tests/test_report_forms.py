"""The report as Markdown and as JSON, its warnings, and what differs between two answers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html
from markdown_it import MarkdownIt
from report_fixture import AUDIT, HOSTILE, MANIFEST, PLAN, SCORES, answers, dataset, events, jsonl, write_run

from afina.cli.judging import report
from afina.errors import RecipeError
from afina.report.answers import COMPARED, side_names
from afina.report.compare import compare_runs
from afina.report.compare_page import comparison_html
from afina.report.differences import differences
from afina.report.forms import FORMS, write_as
from afina.report.markdown import as_markdown
from afina.report.page import write_report
from afina.report.read import read_run


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


# ---- what differs between two answers


@given(st.text(), st.text())
def test_pieces_are_the_texts_and_unmarked_ones_are_the_same(before: str, after: str) -> None:
    one, two = differences(before, after)
    assert "".join(piece for piece, _ in one) == before and "".join(piece for piece, _ in two) == after
    same = [["".join(piece for piece, alone in side if not alone).split() for side in (one, two)]]
    if any(alone for _, alone in (*one, *two)):
        assert "".join(same[0][0]) == "".join(same[0][1])


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("He was born in Faro.", "He was born in Olhão.", (["Faro"], ["Olhão"])),
        ("born in the town of Faro", "born in 1910", (["the town of Faro"], ["1910"])),
        ("not sure", "1910", ([], [])),
        ("1910", "1910", ([], [])),
        ("", "1910", ([], [])),
        ("Faro", "Faro Faro Faro", ([], [" Faro Faro"])),
    ],
)
def test_words_of_one_side_are_marked(before: str, after: str, marked: tuple[list[str], list[str]]) -> None:
    found = differences(before, after)
    assert tuple([piece for piece, alone in side if alone] for side in found) == marked


def test_answers_stand_side_by_side_with_their_differences(tmp_path: Path) -> None:
    row = {
        "prompt": "q",
        "reference": "r",
        "base": "he lives in <b>Faro</b>",
        "adapter": f"he lives in {'x' * COMPARED} Faro",
    }
    page = lxml_html.fromstring(write_report(write_run(tmp_path, samples=jsonl([row]))).read_text(encoding="utf-8"))
    (shown,) = page.xpath("//h3[@id='samples']/following-sibling::article")
    assert [words(each) for each in shown.xpath(".//del")] == ["<b>Faro</b>"]
    assert [len(each.text_content()) for each in shown.xpath(".//ins")] == [COMPARED - len("he lives in ")]
    assert "17 more characters" in words(shown)


def test_the_sides_of_a_whole_weight_run_are_called_what_they_are(tmp_path: Path) -> None:
    whole = {key: value for key, value in MANIFEST.items() if key != "adapter"} | {"model": {"parameters": 5}}
    for manifest, names in (
        (MANIFEST, ["Base", "Adapter"]),
        (whole, ["Base", "Trained model"]),
        (whole | {"base": None}, ["Random weights", "Trained model"]),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert list(side_names(read_run(tmp_path))) == names


# ---- warnings


def warned(folder: Path) -> list[tuple[str, str]]:
    page = lxml_html.fromstring(write_report(folder).read_text(encoding="utf-8"))
    links = page.xpath("//header//div[@class='cautions']//a")
    assert not page.xpath("//header//details"), "never folded"
    for link in links:
        assert page.get_element_by_id(link.get("href").removeprefix("#")) is not None
    return [(words(link), link.get("href")) for link in links]


def test_warnings_stand_at_the_top(tmp_path: Path) -> None:
    assert warned(write_run(tmp_path)) == [
        ("Audit, fatal: contradiction, 9 of 1,904 (0.47 %), train", "#audit"),
        ("Audit, warning: exact duplicate, 37 of 1,904 (1.9 %), train", "#audit"),
    ]


def test_what_keeps_figures_from_meaning_what_they_say_is_a_warning(tmp_path: Path) -> None:
    data, scores = dataset(2), copy.deepcopy(SCORES)
    data["ledger"]["files"][0]["chars_out"] += 1
    scores["loss"]["after"]["tokens"] = 9000
    log = [*events(until=20, resume=None), {"event": "went_back", "step": 20, "to": 10}]
    log += [{"event": "step", "step": 21, "loss": float("nan")}, {"event": "smaller_batches", "step": 22}]
    folder = write_run(
        tmp_path,
        audit=AUDIT | {"findings": []},
        dataset=data,
        scores={key: value for key, value in scores.items() if key != "guardrails"},
        plan=PLAN | {"fits": "maybe"},
        metrics=jsonl(log) + '{"event": "st',
    )
    assert [section for _, section in warned(folder)] == [
        "#ledger",
        "#training",
        "#training",
        "#training",
        "#training",
        "#plan",
        "#loss",
        "#guardrails",
    ]
    assert ("Training went back from step 20 to 10.", "#training") in warned(folder)


def test_a_run_without_flaws_has_no_warnings(tmp_path: Path) -> None:
    assert warned(write_run(tmp_path, audit=AUDIT | {"findings": AUDIT["findings"][:1]})) == []


# ---- Markdown


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A report and a comparison as HTML."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / name, manifest=MANIFEST | {"name": name}) for name in ("a|b", "*c*")]
    return write_report(runs[0]).read_text(encoding="utf-8"), comparison_html(compare_runs(runs))


def rendered(text: str) -> Any:
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    return lxml_html.fragment_fromstring(markdown.render(text), create_parent="div")


@pytest.mark.parametrize("which", [0, 1])
def test_markdown_says_what_the_page_says(pages: tuple[str, str], which: int) -> None:
    page, text = lxml_html.document_fromstring(pages[which]), as_markdown(pages[which])
    again = rendered(text)
    for level in ("h1", "h2", "h3", "h4"):
        shown = [words(each) for each in page.xpath(f"//main//{level}")]
        assert [words(each) for each in again.xpath(f".//{level}")] == shown
    for table, other in zip(page.xpath("//table[not(ancestor::table)]"), again.xpath(".//table"), strict=True):
        for row, its in zip(table.xpath("./*/tr"), other.xpath("./*/tr"), strict=True):
            assert len(row) == len(its)
            numbers = [" ".join(cell.xpath("string(./b)").split()) for cell in row]
            assert all(number in words(cell) for number, cell in zip(numbers, its, strict=True))
    fences = [each.text_content().strip() for each in again.xpath(".//pre")]
    said = [each.text_content().strip() for each in page.xpath("//div[contains(@class, 'text')] | //pre")]
    assert fences == said


def test_markdown_gives_no_way_out_of_its_fences(tmp_path: Path) -> None:
    """A model's text, a probe's name, a place in a file: markup of either language stays text."""
    hostile = f"````\n# heading\n{HOSTILE}\n| a | b |\n```"
    samples, _ = answers()
    scores = copy.deepcopy(SCORES)
    scores["verdict"]["notes"] = ["# no heading <script>", "1. no list [link](javascript:alert(1)) `a|b`"]
    scores["probes"][0]["name"] = "a|b <img src=x> *c* _d_ &lt;"
    folder = write_run(tmp_path, samples=jsonl([samples[0] | {"base": hostile, "adapter": "`"}]), scores=scores)
    again = rendered(write_as(folder, "md").read_text(encoding="utf-8"))
    assert not again.xpath(".//script | .//img | .//a | .//em[. = 'c' or . = 'd'] | .//ol")
    assert len(again.xpath(".//h1")) == 1
    assert hostile in [each.text_content().rstrip("\n") for each in again.xpath(".//pre/code")]
    said = words(again)
    for text in ("# no heading <script>", "1. no list [link](javascript:alert(1)) a|b", "a|b <img src=x> *c* _d_ &lt;"):
        assert text in said


# ---- several runs on one page


def test_a_comparison_begins_with_the_verdicts_and_draws_what_was_learned_against_its_cost(tmp_path: Path) -> None:
    failed = copy.deepcopy(SCORES)
    failed["verdict"] |= {"learned": "no", "passed": False, "broke": "38 % of what it knew (rivers)"}
    failed["probes"][1]["after"] = {"verbatim": 0.2, "low": 0.105, "high": 0.348}
    other = MANIFEST | {"name": "other", "cost": {"hours": 1.4}}
    runs = [
        write_run(tmp_path / "clube"),
        write_run(tmp_path / "other", scores=failed, manifest=other),
        write_run(tmp_path / "begun", scores=None, manifest=MANIFEST | {"name": "begun"}, metrics=None, finished=None),
    ]
    page = lxml_html.document_fromstring(comparison_html(compare_runs(runs)))
    assert page.xpath("//main//section/@id")[0] == "verdicts"
    rows = [[words(cell) for cell in row] for row in page.xpath("//section[@id='verdicts']//tbody/tr")]
    learned = "perguntas treinadas: 5.0 % → 92.5 %outras palavras: 2.5 % → "
    assert rows[0] == [
        "clube",
        "Passed It learned, and it broke nothing.",
        f"{learned}70.0 %",
        "retention: 87.5 % → 83.3 %",
        "42 min 00 s",
        "US$ 0.28",
    ]
    assert rows[1][:3] == [
        "other",
        "Failed It did not learn, and it broke 38 % of what it knew (rivers).",
        f"{learned}20.0 %",
    ]
    assert rows[2][1:4] == [
        "Not finished The run is not finished: nothing is proven yet.",
        "not measured",
        "not measured",
    ]
    tips = page.xpath("//section[@id='reached']//figure[contains(., 'outras palavras, right, %')]//circle/title/text()")
    assert tips == ["clube: 70 at 0.7", "other: 20 at 1.4", "clube: 70 at 0.28"], (
        "over hours, and over money where known"
    )
    lines = page.xpath("//section[@id='curves']//polyline/@class")
    assert lines == ["line c0 d0", "line c1 d0"] and "in its log: begun." in words(page.get_element_by_id("curves"))
    same = [[words(cell) for cell in row] for row in page.xpath("//section[@id='same']//tbody/tr")]
    assert ["retention", "+0.000 [+0.000, +0.000], n 24", "+0.000 [+0.000, +0.000], n 24"] in same
    told = [words(each) for each in page.xpath("//header//li")]
    assert "begun is not marked as finished" in told


# ---- JSON, and the files


def test_the_verb_writes_each_form_and_refuses_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path)
    report(folder, "md", "pt-PT")
    assert capsys.readouterr().out == f"{folder / 'report.md'}\n"
    assert "# Aprendeu e não perdeu nada do que sabia." in (folder / "report.md").read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match="--format pdf is not known"):
        report(folder, "pdf")
    with pytest.raises(RecipeError, match="--language pt is not known"):
        report(folder, "html", "pt")


def test_json_holds_the_figures_as_numbers(tmp_path: Path) -> None:
    folder = write_run(tmp_path, scores=SCORES | {"loss": {"before": {"loss": float("nan")}, "after": {"loss": 1.5}}})
    text = write_as(folder, "json", "pt-PT").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (found["run"], found["state"], found["sentence"]) == ("clube", "good", "It learned, and it broke nothing.")
    figures = {each["name"]: each for each in found["figures"]}
    unseen = figures["outras palavras (generalization) verbatim, after"]
    assert (unseen["values"], unseen["intervals"], unseen["unit"]) == ([0.7], [[0.546, 0.819]], "share")
    assert figures["held-out loss, before"]["values"] == ["nan"]
    assert found["plan"][0] == {
        "what": "memory",
        "unit": "bytes",
        **{key: PLAN["memory"][key] for key in ("point", "low", "high")},
        "measured": MANIFEST["measured"]["peak_bytes"],
    }
    assert [each["section"] for each in found["warnings"]] == ["audit", "audit"]
    assert [each["name"] for each in found["audit"]] == [each["name"] for each in AUDIT["findings"]]
    assert found["manifest"]["adapter"]["sha256"] == MANIFEST["adapter"]["sha256"]


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("left", ["recipe", "scores", "finished"])
def test_a_run_that_holds_one_file_has_each_form(tmp_path: Path, form: str, left: str) -> None:
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
    folder = write_run(tmp_path, **{name: None for name in names if name != left})
    assert write_as(folder, form).stat().st_size > 100
    assert write_as(folder, form).name == f"report.{form}"
