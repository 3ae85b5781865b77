"""The report's section of `afina why`: sources, the rows behind wrong answers, and what it says without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lxml import html as lxml_html
from report_fixture import HOSTILE, RECIPE, write_run

from afina.errors import AfinaError
from afina.report.forms import write_as
from afina.report.page import write_report
from afina.run import hash_file

LOSSES = {"rows": 40, "units": 40, "low": -1.5, "high": -0.9, "no_number": 0}


def source(path: str, came: str, held_out: tuple[float, float] | None) -> dict[str, Any]:
    trained = LOSSES | {"before": 3.25, "after": 0.5, "known": 0.125, "verdict": "fell"}
    held = LOSSES | {"before": held_out[0], "after": held_out[1], "known": 0.0} if held_out else None
    return {"path": path, "kind": "messages", "rows": 1904, "trained": trained, "held_out": held, "verdict": came}


def scored(score: float, line: int, text: str) -> dict[str, Any]:
    return {"score": score, "path": "docs/linhas.jsonl", "line": line, "text": text}


def miss(number: int, **changed: Any) -> dict[str, Any]:
    rows = [scored(0.8125, 41 + number, "Onde nasceu Ana? → Faro")]
    hurt = [scored(-0.25, 7, HOSTILE)]
    asked = {
        "question": f"Onde nasceu Ana {number}?",
        "answer": "Lagos",
        "reference": "Faro",
        "probe": "outras palavras",
    }
    return asked | {"rows": rows, "hurt": hurt} | changed


def with_why(folder: Path, *misses: dict[str, Any], of: str | None = None, **counts: int) -> Path:
    """A run whose `why/` was made of its answers, or of others."""
    write_run(folder)
    answers = of or hash_file(folder / "predictions.jsonl")
    sources = [source("docs/a.jsonl", "helped", (3.0, 1.0)), source("docs/b.jsonl", "wasted", None)]
    write(folder / "why/effects.json", {"key": {"predictions": answers}, "sources": sources, "probes": []})
    write(folder / "why/misses.json", {"predictions": answers, "misses": list(misses), **counts})
    return folder


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def section(folder: Path, **more: Any) -> Any:
    page = lxml_html.fromstring(write_report(folder, **more).read_text(encoding="utf-8"))
    return page.get_element_by_id("why")


def words(element: Any) -> str:
    return " ".join(element.text_content().split())


def test_without_it_the_commands_that_make_it_are_named(tmp_path: Path) -> None:
    shown = section(write_run(tmp_path))
    assert [each.text for each in shown.xpath(".//code")] == [
        *("afina why RUN", "afina report RUN"),
        *("afina why RUN --misses", "afina report RUN"),
    ]
    assert not shown.xpath(".//table")


def test_sources_and_wrong_answers_are_shown_with_their_rows(tmp_path: Path) -> None:
    shown = section(with_why(tmp_path, miss(0), miss(1, rows=[], hurt=[]), more=3, empty=1, with_tools=0))
    tables = [
        [[words(cell) for cell in row.xpath("./td")] for row in table.xpath(".//tbody/tr")]
        for table in shown.xpath(".//table")
    ]
    assert tables == [
        [
            ["docs/a.jsonlmessages", "1,904", "12.5 %", "3.250", "0.500", "3.000", "1.000", "helped"],
            ["docs/b.jsonlmessages", "1,904", "12.5 %", "3.250", "0.500", "", "", "wasted"],
        ],
        [["+0.812", "docs/linhas.jsonl:41", "Onde nasceu Ana? → Faro"]],
        [["\N{MINUS SIGN}0.250", "docs/linhas.jsonl:7", " ".join(HOSTILE.split())]],
    ]
    first, second = shown.xpath(".//article")
    assert "Lagos" in words(first) and "Faro" in words(first) and "outras palavras" in words(first)
    assert "No row does." in words(second) and "Hurt" not in words(second)
    text = words(shown)
    assert "3 more wrong answers are not shown here." in text and "1 wrong answer is empty." in text
    assert "with tools" not in text and not shown.xpath(".//script")


def test_what_was_found_of_other_answers_is_left_out_and_told(tmp_path: Path) -> None:
    """The run was trained or measured anew since."""
    shown = section(with_why(tmp_path, miss(0), of="0" * 64))
    assert "looked at other answers than those on this page" in words(shown)
    assert not shown.xpath(".//table") and "afina why RUN --misses" in words(shown)


def test_no_wrong_answer_is_told(tmp_path: Path) -> None:
    assert "No probe was answered wrongly" in words(section(with_why(tmp_path)))


def test_more_than_a_page_holds_are_counted(tmp_path: Path) -> None:
    shown = section(with_why(tmp_path, *map(miss, range(15)), more=2))
    assert len(shown.xpath(".//article")) == 12 and "5 more wrong answers are not shown here." in words(shown)


def test_it_is_told_in_the_language_of_the_page(tmp_path: Path) -> None:
    folder = with_why(tmp_path, miss(0))
    (folder / "recipe.yaml").write_text(RECIPE + "dataset:\n  language: pt-PT\n", encoding="utf-8")
    shown = words(section(folder))
    assert "ajudou" in shown and "3,250" in shown and "helped" not in shown and "wrote" not in shown


@pytest.mark.parametrize("name", ["effects", "misses"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    folder = with_why(tmp_path, miss(0, rows=[{"score": "high"}]))
    with pytest.raises(AfinaError, match=r"misses.json: `misses.0.rows.0.score` should be a number") as damaged:
        write_report(folder)
    assert "remove the folder why/" in damaged.value.problems[0].fix
    (folder / f"why/{name}.json").write_bytes(b"{")
    with pytest.raises(AfinaError, match=f"{name}.json: damaged") as damaged:
        write_report(folder)
    assert "afina why RUN --misses" in damaged.value.problems[0].fix


def test_it_stands_in_markdown_too(tmp_path: Path) -> None:
    text = write_as(with_why(tmp_path, miss(0)), "md").read_text(encoding="utf-8")
    assert "docs/linhas.jsonl:41" in text and "Speak for what it wrote" in text


def test_programs_are_given_it_too(tmp_path: Path) -> None:
    folder = with_why(tmp_path / "a", miss(0))
    why = json.loads(write_as(folder, "json").read_text(encoding="utf-8"))["why"]
    assert [each["verdict"] for each in why["sources"]] == ["helped", "wasted"]
    assert why["misses"][0]["hurt"][0]["line"] == 7
    other = with_why(tmp_path / "b", miss(0), of="0" * 64)
    assert json.loads(write_as(other, "json").read_text(encoding="utf-8"))["why"] == {"sources": None, "misses": None}
