"""`afina compare A B --gate LIMITS`: a run that is worse beyond chance, or misses a limit, ends with exit code 5."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from test_house import AFINA, ROOT

from afina.errors import RecipeError
from afina.recipe import Limits, read_limits
from afina.report.gate import gate
from afina.report.read import read_run

FACTS = 40


def probe(name: str, role: str, after: float, broken: dict[str, float] | None = None) -> dict[str, Any]:
    side = {"verbatim": after, "contains": after, "made_up": after}
    return {"name": name, "role": role, "n": 80, "clusters": FACTS, "before": side, "after": side} | (
        {"broken": broken, "shown": "contains"} if broken else {}
    )


def write(
    folder: Path,
    wrong: int = 0,
    *,
    phrasings: int = 2,
    lost: int = 0,
    empty: int = 0,
    misses: tuple[str, ...] = (),
    limits: str = "{learned_min: 0.5}",
) -> Path:
    """A measured run: `phrasings` questions about each fact, of which the first `wrong` facts are answered wrong, and
    as many questions of retention, of which `lost` are."""
    folder.mkdir(parents=True)
    rows = [
        {
            "id": f"{fact}.{n}",
            "prompt": f"Quem é {fact}, {n}?",
            "reference": f"F{fact}",
            "fact": f"fact {fact}",
            "probe": name,
            "role": role,
            "adapter": "",
            "adapter_correct": fact >= bad,
            "adapter_flaws": ["empty"] if fact < empty else [],
            "base_flaws": [],
        }
        for name, role, bad in (("unseen", "generalization", wrong), ("old", "retention", lost))
        for fact in range(FACTS)
        for n in range(phrasings)
    ]
    share = 1 - wrong / FACTS
    broken = {"knew": 80, "lost": 2 * lost, "share": lost / FACTS, "low": lost / FACTS / 2, "high": 1.0}
    scores = {
        "verdict": {"learned": "yes", "broke": "nothing", "passed": not misses, "text": "", "misses": list(misses)},
        "probes": [probe("unseen", "generalization", share), probe("old", "retention", 1 - lost / FACTS, broken)],
    }
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")
    probes = "[{path: a, role: generalization, name: unseen}, {path: b, role: retention, name: old}]"
    recipe = f"name: {folder.name}\nbase: /a/base\nsources: [{{path: a}}]\n"
    recipe += f"evaluate:\n  probes: {probes}\n  limits: {limits}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder


def weighed(first: Path, second: Path, limits: Limits | None = None) -> tuple[str, ...]:
    return gate(read_run(first), read_run(second), limits or read_limits(second)).reasons


def test_what_is_as_good_passes_and_what_is_better_too(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 8), write(tmp_path / "b", 8)
    assert weighed(a, b) == ()
    assert weighed(a, write(tmp_path / "c", 0)) == ()


def test_worse_beyond_chance_is_refused_and_five_facts_are_chance(tmp_path: Path) -> None:
    """Of 12 facts that all turned wrong, chance gives that once in 2^11; of 5 once in 16."""
    a = write(tmp_path / "a")
    assert weighed(a, write(tmp_path / "b", 5)) == ()
    (reason,) = weighed(a, write(tmp_path / "c", 12))
    assert reason.startswith("unseen (generalization): worse for 12 and better for 0 of 80 common items about 40 facts")
    assert "p = 0.00049" in reason


def test_phrasings_of_one_fact_are_one(tmp_path: Path) -> None:
    """Five facts in eight phrasings each are 40 wrong answers, and still five facts."""
    a, b = write(tmp_path / "a", phrasings=8), write(tmp_path / "b", 5, phrasings=8)
    assert weighed(a, b) == ()
    found = gate(read_run(a), read_run(b), Limits())
    (test,) = [each for each in found.tests if each.name.startswith("unseen")]
    assert (test.n, test.clusters, test.worse) == (320, 40, 5)


def test_of_several_tests_each_has_to_be_surer(tmp_path: Path) -> None:
    """Six of six is p = 0.031: below 0.05, and not below half of it, where two measures turned."""
    a = write(tmp_path / "a")
    assert len(weighed(a, write(tmp_path / "b", 6))) == 1
    assert weighed(a, write(tmp_path / "c", 6, lost=6), Limits(broke_max=1.0)) == ()
    assert len(weighed(a, write(tmp_path / "d", 8, lost=8), Limits(broke_max=1.0))) == 2


def test_a_guardrail_that_breaks_more_often_is_refused(tmp_path: Path) -> None:
    none = Limits.model_validate({"guardrails": {"empty": 1.0}})
    (reason,) = weighed(write(tmp_path / "a"), write(tmp_path / "b", empty=9), none)
    assert reason.startswith("guardrail empty: worse for 9")


def test_limits_are_the_runs_own_verdict_or_weighed_anew(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 4), write(tmp_path / "b", 4, lost=4, misses=("unseen: something of its own",))
    own = read_limits(b)
    assert weighed(a, b, own) == ("unseen: something of its own",)
    missed = weighed(a, b, Limits(learned_min=0.95, broke_max=0.01))
    assert missed[0] == "unseen: 90 % right, the limit asks for 95 %"
    assert missed[1].startswith("old: 8 of 80 that were right before are wrong now, the limit allows 1")
    assert weighed(a, b, Limits(learned_min=0.9, broke_max=0.2)) == ()


def test_what_was_not_asked_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    file = b / "predictions.jsonl"
    rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(row for row in rows if '"old"' not in row), encoding="utf-8")
    (reason,) = weighed(a, b)
    assert reason == "old (retention): b was not asked what a was: nothing tells that it is no worse"
    file.write_text("", encoding="utf-8")
    with pytest.raises(RecipeError, match="a and b share no question"):
        weighed(a, b)
    (b / "scores.json").unlink()
    with pytest.raises(RecipeError, match="it was not measured"):
        weighed(a, b, Limits())


def change_rows(run: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Path:
    file = run / "predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in change(rows)), encoding="utf-8")
    return run


def change_scores(run: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    change(scores)
    (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return run


def test_questions_that_were_left_out_are_no_better_answered(tmp_path: Path) -> None:
    """A run that was not asked the hard half passes no gate by that; nor one of which a question was changed."""
    a = write(tmp_path / "a")
    half = change_rows(write(tmp_path / "b"), lambda rows: [row for row in rows if int(row["fact"][5:]) % 2])
    reasons = weighed(a, half)
    assert [each.partition(":")[0] for each in reasons] == ["unseen (generalization)", "old (retention)"]
    assert "40 of 80 questions were asked of a alone: nothing tells that b is no worse there" in reasons[0]
    unmarked = change_rows(write(tmp_path / "c"), lambda rows: [rows[0] | {"adapter_correct": None}, *rows[1:]])
    (reason,) = weighed(a, unmarked)
    assert "1 of 80 questions were asked of a alone" in reason


def test_questions_made_of_the_dataset_may_be_others_where_enough_are_common(tmp_path: Path) -> None:
    def control(rows: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
        made = [row | {"probe": "made", "role": "control", "prompt": f"{row['prompt']} {n}"} for n, row in
                enumerate(rows[:40])]  # fmt: skip
        return [*rows, *made[first:]]

    a = change_rows(write(tmp_path / "a"), lambda rows: control(rows, 0))
    others = change_rows(write(tmp_path / "b"), lambda rows: control(rows, 10))
    found = gate(read_run(a), read_run(others), read_limits(others))
    assert found.reasons == () and any("10 of 40 questions were asked of a alone" in note for note in found.notes)
    few = change_rows(write(tmp_path / "c"), lambda rows: control(rows, 32))
    (reason,) = weighed(a, few)
    assert reason == "made (control): 4 facts are common to both, of which no loss could be told from chance"


def test_turns_before_a_question_tell_it_from_another(tmp_path: Path) -> None:
    """The last turn is the same in all of them, and the conversations stand in another order."""

    def talk(rows: list[dict[str, Any]], wrong: int) -> list[dict[str, Any]]:
        return [
            row | {"prompt": "E ele?", "reference": "Sim", "messages": [{"role": "user", "content": row["prompt"]}],
                   "adapter_correct": n >= wrong}
            for n, row in enumerate(rows[:40])
        ]  # fmt: skip

    a = change_rows(write(tmp_path / "a", phrasings=1), lambda rows: talk(rows, 12))
    b = change_rows(write(tmp_path / "b", phrasings=1), lambda rows: talk(rows, 12)[::-1])
    found = gate(read_run(a), read_run(b), Limits())
    (test,) = [each for each in found.tests if each.name.startswith("unseen")]
    assert (test.better, test.worse) == (0, 0)


def test_figures_that_are_missing_or_no_numbers_are_refused(tmp_path: Path) -> None:
    a, nan = write(tmp_path / "a"), float("nan")
    cases: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
        "nan": (lambda it: it["probes"][0]["after"].update(verbatim=nan), "unseen: its figures are no numbers"),
        "low": (lambda it: it["probes"][1]["broken"].update(low=nan), "old: its figures are no numbers"),
        "gone": (lambda it: it["probes"][0]["after"].pop("verbatim"), "unseen: figures are missing"),
        "lost": (lambda it: it["probes"][1].pop("broken"), "old: figures are missing"),
        "none": (lambda it: it["verdict"].update(passed=False), "its verdict is that it did not pass"),
    }
    for name, (change, reason) in cases.items():
        reasons = weighed(a, change_scores(write(tmp_path / name), change))
        assert any(each.startswith(reason) for each in reasons), (name, reasons)
    (reason,) = weighed(a, write(tmp_path / "b"), Limits(hallucination_max=0.1))
    assert reason == "hallucination_max: no question was asked that tells whether it is kept (unknown)"


def test_a_tasks_scores_that_are_no_numbers_are_not_passed_over(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    for run, value in ((a, 1.0), (b, float("nan"))):
        rows = [{"task": "qa", "prompt": f"{n}?", "reference": "x", "adapter_scores": {"f1": value}} for n in range(40)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (run / "task_predictions.jsonl").write_text(text, encoding="utf-8")
    (reason,) = weighed(a, b)
    assert reason.startswith("task qa") and "figures are no numbers" in reason


def test_what_cannot_be_compared_is_no_pass(tmp_path: Path) -> None:
    """One run twice, and two that share questions about five facts: exit code 2."""
    a = write(tmp_path / "a")
    (tmp_path / "again").symlink_to(a)
    done = call_afina("compare", a, tmp_path / "again", "--gate", a, check=2)
    assert "it is one run twice, and no run is worse than itself" in done.stderr
    few = [change_rows(write(tmp_path / name), lambda rows: [row for row in rows if int(row["fact"][5:]) < 5])
           for name in "bc"]  # fmt: skip
    with pytest.raises(RecipeError, match="about fewer than 6 facts"):
        weighed(*few)


def test_by_other_limits_its_own_verdict_is_told(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", misses=("safety canary_exposure_max: 6 bits",))
    found = gate(read_run(a), read_run(b), Limits(learned_min=0.4))
    assert found.reasons == () and found.notes[-1].endswith("did not pass: safety canary_exposure_max: 6 bits")


def test_limits_come_of_a_recipe_a_run_or_a_file_of_their_own(tmp_path: Path) -> None:
    run = write(tmp_path / "a", limits="{learned_min: 0.7, guardrails: {loops: 0.5}}")
    assert read_limits(run) == read_limits(run / "recipe.yaml")
    assert read_limits(run).learned_min == 0.7 and read_limits(run).guardrails.loops == 0.5
    own = tmp_path / "limits.yaml"
    own.write_text("broke_max: 0.02\n", encoding="utf-8")
    assert read_limits(own) == Limits(broke_max=0.02)
    own.write_text("broke_mx: 0.02\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"unknown key `broke_mx`(?s:.*)did you mean `broke_max`"):
        read_limits(own)
    with pytest.raises(RecipeError, match=r"no limits can be read there(?s:.*)name a recipe, a run, or a file"):
        read_limits(tmp_path / "nothing.yaml")


def test_a_gate_weighs_two_runs(tmp_path: Path) -> None:
    runs = [write(tmp_path / name) for name in "abc"]
    done = call_afina("compare", *runs, "--gate", runs[0], check=2)
    assert "a gate weighs one run against another, and 3 are named" in done.stderr
    shown = call_afina("compare", *runs[:2], "--gate", runs[0]).stdout
    assert "gate: passed" in shown


def test_the_script_of_the_page_takes_a_run_and_refuses_one(tmp_path: Path) -> None:
    """docs/how-to.md, by sh: what is no worse is taken into use, what is worse is not, an error is no refusal."""
    page = (ROOT / "docs/how-to.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", page, re.DOTALL)
    (tmp_path / "release.sh").write_text(script, encoding="utf-8")
    for name, wrong in (("good", 1), ("same", 1), ("worse", 20)):
        write(tmp_path / name, wrong, limits="{learned_min: null}")

    def release(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "release.sh", *words],
            cwd=tmp_path,
            env={**os.environ, "AFINA": str(AFINA)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert release("good", "same", "same").returncode == 0
    assert (tmp_path / "in-use.txt").read_text() == "same\n"
    refused = release("good", "worse", "good")
    assert refused.returncode == 5 and "good stays in use" in refused.stderr
    told = json.loads((tmp_path / "gate.json").read_text(encoding="utf-8"))["gate"]
    assert told["passed"] is False and "worse for 19 and better for 0" in told["reasons"][0]
    failed = release("good", "nothing", "good")
    assert failed.returncode == 2 and "afina itself failed" in failed.stderr
    assert (tmp_path / "in-use.txt").read_text() == "same\n"
