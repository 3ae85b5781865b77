"""An interval over one thing: a bootstrap over a single row gives that row again each time, and knows nothing. It is
no interval, everywhere, and decides nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from lxml import html as lxml_html
from report_fixture import SCORES, answers, jsonl, write_run

from afina.evaluate.benchmarks import describe_benchmarks
from afina.evaluate.intervals import FEWEST_TURNED, difference_interval, gain_interval, share_interval, wilson
from afina.evaluate.loss import RowLoss, compare_losses
from afina.evaluate.scores import Scores, record_of
from afina.evaluate.task_metrics import metric_values
from afina.evaluate.task_table import describe_judge, describe_tasks
from afina.evaluate.text_scores import WindowFigures, WindowScores
from afina.evaluate.windows import ReadWindows, compare_windows
from afina.record import Record
from afina.report.compare import compare_runs, show_gain
from afina.report.page import write_report
from afina.score.paired import ScoreEstimate, paired_difference, ratio_difference
from afina.score.score import Tally
from afina.score.table import score_lines
from afina.text.example import Example
from afina.tokenizer.encode import Row
from afina.verify.tasks_again import same
from afina.walk.describe import describe_scores

NONE = "one row: no interval"


def losses_of(rows: int) -> dict[str, Any]:
    """Rows of one learned byte; each loses another amount, from 3 nats down."""
    made = [Row([1, 2], [False, True], Example(text="a"), 1.0) for _ in range(rows)]
    before = [RowLoss(3.0, 1, 3.0, 1)] * rows
    after = [RowLoss(2.0 - number / 10, 1, 2.0 - number / 10, 1) for number in range(rows)]
    return compare_losses(made, before, after)


def tasks_of(rows: int) -> dict[str, Any]:
    """A task of so many rows, all of them right after and wrong before."""
    tally = Tally(("base", "adapter"), ("exact_match",))
    for _ in range(rows):
        tally.put([{"exact_match": [0.0]}, {"exact_match": [1.0]}])
    return {
        "name": "qa",
        "n": rows,
        "items": rows,
        "seeds": [1],
        "notes": [],
        "findings": [],
        "metrics": metric_values(tally, {1: range(rows)}),
    }


@pytest.mark.parametrize("found", [paired_difference([0.0], [1.0]), ratio_difference([2.0], [1.0], [4])])
def test_an_interval_over_one_row_is_none(found: ScoreEstimate):
    assert found.ends is None and (found.as_json()["low"], found.as_json()["high"]) == (None, None)
    assert show_gain(found).endswith("one common item or fact: no interval"), "and no star"


def test_of_two_rows_there_is_one():
    assert paired_difference([0.0, 0.0], [1.0, 0.0]).ends == (0.0, 1.0)


def test_metrics_over_one_row_have_no_interval():
    (metric,) = tasks_of(1)["metrics"]
    for side, mean in (("before", 0.0), ("after", 1.0), ("difference", 1.0)):
        assert (metric[side]["mean"], metric[side]["low"], metric[side]["high"]) == (mean, None, None)
    tally = Tally(("a", "b"), ("f1",))
    tally.put([{"f1": [0.25]}, {"f1": [0.5]}])
    assert score_lines(tally.scores(), ("a", "b"))[1].count(NONE) == 3


@pytest.mark.parametrize("rows", [1, 2])
def test_a_terminal_says_that_one_row_has_no_interval(rows: int):
    scores = Scores(intrinsic=record_of(losses_of(rows)), tasks=[record_of(tasks_of(rows))])
    text = "\n".join(describe_tasks(scores))
    assert ("over one row: no interval" in text) is (rows == 1) and ("over 2 rows" in text) is (rows == 2)
    assert text.count(NONE) == 3 * (rows == 1), "both kinds of losses, and the task"
    assert "1 rows" not in text


def test_what_an_earlier_afina_stored_of_one_row_is_no_interval_either(tmp_path: Path):
    """It wrote the value itself as both ends."""
    losses, task = losses_of(1), tasks_of(1)
    for gain, key in ((losses["learned"]["difference"], "value"), (task["metrics"][0]["difference"], "mean")):
        gain["low"] = gain["high"] = gain[key]
    scores = {"verdict": SCORES["verdict"], "intrinsic": losses, "tasks": [task]}
    run = write_run(tmp_path / "run", scores=scores)
    assert describe_scores(run).count(NONE) == 3
    page = lxml_html.fromstring(write_report(run).read_text(encoding="utf-8")).text_content()
    assert page.count(NONE) == 5, "two losses, the task's two means and their difference"


@pytest.mark.parametrize("rows", [1, 2])
def test_the_report_says_that_one_row_has_no_interval(rows: int, tmp_path: Path):
    scores = {"verdict": SCORES["verdict"], "intrinsic": losses_of(rows), "tasks": [tasks_of(rows)]}
    run = write_run(tmp_path / "run", scores=scores)
    page = lxml_html.fromstring(write_report(run).read_text(encoding="utf-8")).text_content()
    assert page.count(NONE) == 5 * (rows == 1) and ("2 rows" in page) is (rows == 2)


def test_a_judge_and_a_benchmark_of_one_item_have_no_interval():
    counts = dict.fromkeys(("worse", "ties", "order", "same", "failed"), 0)
    gain = paired_difference([0.0], [1.0]).as_json()
    text = "\n".join(describe_judge({"model": "m", "n": 1, "better": 1, **counts, "preference": gain}))
    assert "of 1 pair 1 better" in text and text.endswith("preference +1.000 (one pair: no interval)")
    row = {"task": "t", "metric": "acc", "n": 1, "before": 0.0, "after": 1.0, "difference": gain}
    assert describe_benchmarks([row]).endswith(f"+1.000 ({NONE})")


def test_one_window_has_no_interval_and_is_not_the_best(tmp_path: Path):
    read = ReadWindows(["abcd"], [Row([1, 2], [False, True], Example())], [0], None)
    found = compare_windows(read, ([8.0], 0), ([4.0], 1))
    assert found.change is None and found.after.interval is None
    runs = []
    for name, bits in (("a", 1.0), ("b", 2.0)):
        figures = WindowFigures(bits, 2.0, 0.4, 1, None)
        windows = WindowScores(1, 4, "same", 1, None, found.before, figures)
        runs.append(write_run(tmp_path / name, scores={"verdict": SCORES["verdict"], "windows": windows.as_json()}))
    assert "bits per byte" in describe_scores(runs[0]) and "(one window: no interval)" in describe_scores(runs[0])
    page = lxml_html.fromstring(write_report(runs[0]).read_text(encoding="utf-8")).text_content()
    assert page.count("one window: no interval") == 3, "before, after and their difference"
    metrics = {each.name: each for each in compare_runs(runs).metrics}
    assert metrics["windows: bits per byte, after"].best is None


def test_a_task_of_one_row_makes_no_run_the_best(tmp_path: Path):
    for rows, best in ((1, None), (2, 1)):
        runs = []
        for number in range(2):
            task = tasks_of(rows)
            task["metrics"][0]["after"] |= {"mean": float(number), "low": None, "high": None}
            scores = {"verdict": SCORES["verdict"], "tasks": [task]}
            runs.append(write_run(tmp_path / f"{rows}-{number}", scores=scores))
        metrics = {each.name: each for each in compare_runs(runs).metrics}
        assert metrics["task qa exact match, after"].best == best


# ---- and what decides


def test_few_items_that_all_went_one_way_are_not_beyond_chance():
    """A bootstrap over three equal differences has no width: nothing of it holds 0."""
    for n in range(2, FEWEST_TURNED + 3):
        found = paired_difference([0.0] * n, [1.0] * n)
        assert found.ends == (1.0, 1.0) and show_gain(found).endswith(" *") is (n >= FEWEST_TURNED)


@pytest.mark.parametrize(("facts", "sure"), [(1, False), (3, False), (8, True)])
def test_phrasings_of_one_fact_are_one_item_of_a_comparison(facts: int, sure: bool, tmp_path: Path):
    """Twenty-four questions about so many facts, all right in the second run alone."""
    row = {"probe": "unseen", "role": "generalization", "reference": "x"}
    rows = [row | {"prompt": f"p{number}", "fact": f"fact {number % facts}"} for number in range(24)]
    runs = [
        write_run(tmp_path / name, predictions=jsonl([each | {"adapter_correct": right} for each in rows]))
        for name, right in (("a", False), ("b", True))
    ]
    (found,) = [each for each in compare_runs(runs).same_items if each.name == "unseen (generalization)"]
    second = found.differences[1]
    assert second is not None and (second.value, second.n) == (1.0, facts)
    assert (second.ends is None) is (facts == 1) and show_gain(second).endswith(" *") is sure


def test_one_common_item_is_not_called_none(tmp_path: Path):
    _, predictions = answers()
    one = [row for row in copy.deepcopy(predictions) if row["role"] == "generalization"][:1]
    a, b = (write_run(tmp_path / name, predictions=jsonl(one)) for name in ("a", "b"))
    found = compare_runs([a, b])
    assert "+0.000, one common item or fact: no interval" in found.describe()
    (items,) = json.loads(json.dumps(found.as_json()))["same_items"]
    assert items["differences"][1] == {"value": 0.0, "low": None, "high": None, "n": 1}


def test_intervals_that_know_of_one_question_that_it_is_one():
    """Wilson's, Newcombe's and those over clusters are wide for one, and stay: 0 or 1 of 1 tells next to nothing."""
    assert wilson(1, 1)[0] < 0.25 and wilson(0, 1)[1] > 0.75
    assert share_interval([True] * 9, ["a"] * 9) == wilson(1, 1), "nine phrasings of one fact"
    low, high = gain_interval([False], [True])
    assert low < 0 < high
    low, high = difference_interval((0.0, *wilson(0, 1)), (1.0, *wilson(1, 1)))
    assert low < 0 < high


def test_figures_of_one_row_that_an_earlier_afina_stored_are_verified():
    """Its ends are the value; counted again there are none, and an export is not called forged for it."""
    from afina.score.paired import with_stored_ends

    (mine,) = tasks_of(1)["metrics"]
    stored = {**mine["after"], "low": 1.0, "high": 1.0}
    assert same(with_stored_ends(mine["after"], stored, "mean"), stored)
    forged = {**stored, "low": 0.5, "high": 0.5}
    assert not same(with_stored_ends(mine["after"], forged, "mean"), forged)
    assert not same(with_stored_ends(mine["after"], {**stored, "low": 0.5}, "mean"), {**stored, "low": 0.5})
    assert Record(mine["after"], "scores.json").number("low") is None
