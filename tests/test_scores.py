"""Scores and manifest as types: what is written is read back, what is damaged is named, words have one owner."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsed import nodes_of, tree_of
from report_fixture import MANIFEST, SCORES, write_run

from afina.errors import AfinaError
from afina.evaluate.grade import Graded
from afina.evaluate.scores import PROSE, ROLES, SIDES, Scores, read_scores
from afina.evaluate.verdict import ProbeScore, judge
from afina.manifest import Manifest, TrainedPart, read_manifest, record_of
from afina.recipe import Limits
from afina.recipe.probe import Role
from afina.record import Record
from afina.report.compare import compare_runs
from afina.report.page import write_report
from afina.verify.card_again import score_parts
from afina.walk.describe import describe_scores

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = {
    "recall": (Graded(), Graded(verbatim=True, said=True)),
    "generalization": (Graded(), Graded(verbatim=True, said=True)),
    "retention": (Graded(), Graded(said=True)),
    "unknown": (Graded(declines=True), Graded()),
    "claims": (Graded(declines=True), Graded(claims=True)),
    "versions": (Graded(version="old"), Graded(version="new", said=True)),
    "choice": (Graded(), Graded(verbatim=True, said=True)),
    "control": (Graded(), Graded(verbatim=True, said=True)),
    "coverage": (Graded(), Graded(said=True)),
    "skills": (Graded(), Graded(verbatim=True, said=True)),
}
"""Of every role an answer that does not count for its first figure, and one that does."""


def measured(role: str) -> ProbeScore:
    """Before, one of ten answers counts; after, seven."""
    no, yes = ANSWERS[role]
    return ProbeScore("the probe", role, (yes, *[no] * 9), (*[yes] * 7, *[no] * 3))


def scores_of(role: str) -> Scores:
    score = measured(role)
    return Scores(verdict=judge([score], None, None, Limits()), probes=(score.result(),))


# ---- one owner of figures and words


def test_every_role_of_a_recipe_has_its_figures() -> None:
    assert set(ROLES) == {*get_args(Role), *PROSE, "skills"} == set(ANSWERS)


@pytest.mark.parametrize("role", ROLES)
def test_every_reader_shows_the_same_figure_under_the_same_word(tmp_path: Path, role: str) -> None:
    """0.1 -> 0.7 in the verdict's findings, the terminal, the report, the model card and the comparison."""
    scores = scores_of(role)
    counted = ROLES[role].counted[0]
    word = "" if counted.word == "right" else f": {counted.word}"
    (finding,) = scores.verdict.findings  # type: ignore[union-attr]
    if role not in ("retention", "skills"):
        assert f"10 % -> 70 % {counted.word}, +60.0 points" in finding
    folder = write_run(tmp_path / "run", scores=scores.as_json(), predictions=None)
    (line,) = [line for line in describe_scores(folder).splitlines() if line.startswith(f"the probe{word} ")]
    assert "10 %" in line and "70 %" in line and "to" in line
    card = "\n".join(score_parts(scores))
    assert f"| the probe{word} | 10 | 10 % (1.8 % to 40.4 %) | 70 % (39.7 % to 89.2 %) |" in card
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<b>10.0\u00a0%</b>" in page and "<b>70.0\u00a0%</b>" in page and "+60.0 points" in page
    (metric,) = [
        metric
        for metric in compare_runs([folder, write_run(tmp_path / "other")]).metrics
        if metric.name == f"the probe ({role}) {counted.key.replace('_', ' ')}, after"
    ]
    assert metric.values[0] == 0.7 and metric.unit == "share" and metric.better == counted.better
    assert metric.intervals[0] == pytest.approx((0.397, 0.892), abs=1e-3)


def test_no_other_module_repeats_the_names_of_the_figures() -> None:
    """`made_up` and the like are written in evaluate/scores.py, and where answers are counted for them."""
    keys = {counted.key for role in ROLES.values() for counted in role.counted} - {"claims", "new", "old"}
    owners = {ROOT / "afina/evaluate/scores.py", ROOT / "afina/evaluate/verdict.py"}
    readers = {ROOT / "afina/walk/describe.py", ROOT / "afina/export/card.py", *(ROOT / "afina/report").glob("*.py")}
    readers -= {ROOT / "afina/report/known.py"}  # words for catalogues, no keys
    for file in {*readers, *owners}:
        written = {node.value for node in nodes_of(tree_of(file)) if isinstance(node, ast.Constant)}
        assert bool(written & keys) is (file in owners), f"{file}: {written & keys}"


def test_strict_and_squad_matches_have_two_names() -> None:
    """ "faro." is SQuAD's exact match of "Faro", and not the reference word for word."""
    from afina.evaluate.grade import grade
    from afina.score.metrics import row_scores

    assert row_scores("faro.", ["Faro"], "pt")["exact_match"] == 1.0
    score = ProbeScore("p", "recall", (grade("x", "Faro"),), (grade("faro.", "Faro"),))
    shares = score.result().after.shares
    assert shares["verbatim"] == 0.0 and shares["contains"] == 1.0 and "exact_match" not in shares


def test_every_reader_says_how_many_facts_a_probe_is_about(tmp_path: Path) -> None:
    """Ten questions about four facts: the interval of the change counts four."""
    no, yes = ANSWERS["recall"]
    names = (*("a",) * 3, *("b",) * 3, *("c",) * 2, *("d",) * 2)
    score = ProbeScore("towns", "recall", (no,) * 10, (*[yes] * 8, no, no), clusters=names)
    scores = Scores(verdict=judge([score], None, None, Limits()), probes=(score.result(),))
    assert scores.verdict is not None and scores.verdict.findings[0].endswith("n = 10, 4 facts)")
    assert scores.verdict.learned == "not measured (10 questions about 4 facts are too few)"
    folder = write_run(tmp_path / "run", scores=scores.as_json(), predictions=None)
    assert scores.as_json()["probes"][0]["clusters"] == 4
    assert "towns" in describe_scores(folder) and " 10 (4 facts) " in describe_scores(folder)
    assert "| towns | 10 (4 facts) |" in "\n".join(score_parts(scores))
    assert "n\u00a0=\u00a010 (4 facts)" in write_report(folder).read_text(encoding="utf-8")


# ---- scores.json


@pytest.mark.parametrize("role", ROLES)
def test_written_scores_are_read_back(tmp_path: Path, role: str) -> None:
    scores = scores_of(role)
    scores.write(tmp_path)
    found = read_scores(tmp_path)
    assert found is not None and found.as_json() == scores.as_json()
    assert found.probes == scores.probes and found.verdict == scores.verdict


def test_scores_of_older_runs_are_read() -> None:
    side = {"exact_match": 0.5, "low": 0.3, "high": 0.7}
    versions = side | {"new": 0.5, "old": 0.4, "neither": 0.1}
    rows = [
        {"name": role, "role": role, "n": 20, "before": values, "after": values}
        for role, values in (("recall", side | {"contains": 0.6}), ("versions", versions))
    ]
    recall, asked = Scores.of(Record({"probes": rows}, "scores.json")).probes
    assert dict(recall.before.shares) == {"contains": 0.6, "verbatim": 0.5}
    assert dict(asked.after.shares) == {"new": 0.5, "old": 0.4, "neither": 0.1}
    assert asked.figures()[0].intervals == ((0.3, 0.7), (0.3, 0.7))


def test_an_interval_of_the_strict_figure_is_not_shown_for_the_lenient_one() -> None:
    """Retention was shown word for word before: interval and change of older scores are of that."""
    side = {"verbatim": 0.0, "contains": 0.5, "low": 0.0, "high": 0.2}
    row: dict[str, Any] = {"name": "old", "role": "retention", "n": 20, "before": side, "after": side}
    row["change"] = {"points": 0.0, "low": -0.2, "high": 0.2}
    (older,) = Scores.of(Record({"probes": [row]}, "scores.json")).probes
    assert older.figures()[0].counted.key == "contains" and older.figures()[0].before == 0.5
    assert older.figures()[0].intervals == (None, None) and older.change is None
    (newer,) = Scores.of(Record({"probes": [row | {"shown": "contains"}]}, "scores.json")).probes
    assert newer.figures()[0].intervals == ((0.0, 0.2), (0.0, 0.2)) and newer.change is not None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("verdict", "passed"), "`verdict.passed` is missing"),
        (("verdict", "learned"), "`verdict.learned` is missing"),
        (("guardrails", "answers"), "`guardrails.answers` is missing"),
        (("loss", "after"), "`loss.after` is missing"),
        (("probes", 0, "role"), "`probes.0.role` is missing"),
        (("probes", 1, "n"), "`probes.1.n` is missing"),
    ],
)
def test_what_is_missing_in_scores_is_named(tmp_path: Path, path: tuple[Any, ...], said: str) -> None:
    scores = copy.deepcopy(SCORES)
    inner: Any = scores
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    write_run(tmp_path, scores=scores)
    for read in (read_scores, write_report, describe_scores):
        with pytest.raises(AfinaError) as caught:
            read(tmp_path)
        (problem,) = caught.value.problems
        assert said in problem.what and problem.where == str(tmp_path / "scores.json") and problem.fix


def test_an_unknown_role_is_named_and_not_shown_as_another() -> None:
    row = {"name": "x", "role": "riddles", "n": 3, "before": {}, "after": {}}
    with pytest.raises(AfinaError, match=r"`probes.0.role` should be one of recall, .* and is 'riddles'"):
        Scores.of(Record({"probes": [row]}, "scores.json"))


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*SIDES, "name", "n"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([*SCORES, "tasks", "safety"]), _PLAIN)
def test_whatever_stands_in_scores_is_read_or_named(key: str, value: Any) -> None:
    try:
        Scores.of(Record(SCORES | {key: value}, "scores.json")).as_json()
    except AfinaError as error:
        assert all(problem.where == "scores.json" for problem in error.problems)


def test_a_run_without_scores_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(AfinaError, match=r"no scores here[\s\S]*afina eval"):
        describe_scores(tmp_path)


# ---- manifest.json


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_the_trained_part_stands_under_its_kind(tmp_path: Path, kind: Any) -> None:
    part = TrainedPart(kind, 99, "aa", "bb")
    written = Manifest(name="x", seed=7, base=record_of({"parameters": 1000}), trained=part)
    written.write(tmp_path)
    plain = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert plain[kind] == {"sha256": "aa", "weights_sha256": "bb", "parameters": 99}
    found = read_manifest(tmp_path)
    assert found is not None and found.trained == part and found.as_json() == written.as_json()
    assert found.frozen_parameters == (1000 if kind == "adapter" else 0)


def test_two_results_in_a_manifest_are_an_error() -> None:
    values = MANIFEST | {"model": {"sha256": "00"}}
    with pytest.raises(AfinaError, match="both `adapter` and `model`"):
        Manifest.of(Record(values, "manifest.json"))


@pytest.mark.parametrize("key", ["adapter", "base", "measured", "libraries", "inputs", "started"])
def test_a_damaged_manifest_is_named(tmp_path: Path, key: str) -> None:
    write_run(tmp_path, manifest=MANIFEST | {key: "x"})
    with pytest.raises(AfinaError) as caught:
        read_manifest(tmp_path)
    (problem,) = caught.value.problems
    assert f"`{key}` should be" in problem.what and problem.where == str(tmp_path / "manifest.json")


@given(st.sampled_from(list(MANIFEST)), _PLAIN)
def test_whatever_stands_in_a_manifest_is_read_or_named(key: str, value: Any) -> None:
    try:
        Manifest.of(Record(MANIFEST | {key: value}, "manifest.json")).as_json()
    except AfinaError as error:
        assert all(problem.where == "manifest.json" for problem in error.problems)
