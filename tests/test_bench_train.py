"""The benchmarks of training and of its plans, in their smallest forms: our own contestants, a few steps."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from benched import ROOT, opened, started
from forked import Forked
from tiny import ROWS

pytestmark = pytest.mark.training


@pytest.fixture
def canarim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows as Canarim's files have them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lines = [json.dumps({"instruction": asked, "input": "", "output": answer}) + "\n" for asked, answer in ROWS]
    for name, some in (("train", lines[:28]), ("val", lines[28:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(some), encoding="utf-8")
    return tmp_path


@pytest.mark.long
def test_our_contestants_learn_the_same_rows(canarim: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("bitsandbytes")
    bench, base = opened("train_cpu", monkeypatch), canarim / "base"
    words = ("--tiny", "--data", canarim, "--threads", 1, "--base", base)
    started(bench, monkeypatch, *words)
    said = capsys.readouterr().out
    assert "trl is left out" in said and "making the base in" in said and "float32 matrix product" in said
    rows = {row[0]: row[1].split(" | ") for row in re.findall(r"^\| ([a-z-]+) \| (\d.*) \|$", said, re.MULTILINE)}
    assert list(rows) == ["afina", "monograph", "afina-qlora"]
    assert len({tuple(row[5:7]) for row in rows.values()}) == 1, "the same tokens, and as many of them learned"
    before = float(re.search(r"held-out loss of the base: ([\d.]+)", said)[1])  # type: ignore[index]
    assert all(abs(float(row[3]) - before) < 1 for row in rows.values()), said
    notes = ("--notes", canarim / "tuned.jsonl", "--only", "monograph")
    started(bench, monkeypatch, *words, *notes, "--rates", 1e-3, "--tune")
    tuned = bench.read_tuned(canarim / "tuned.jsonl")
    assert [(each["name"], each["batch_tokens"]) for each in tuned] == [
        ("afina", 1024),
        ("afina", 640),
        ("monograph", 1024),
    ]
    worse = [each | {"loss": each["loss"] + (each["name"] == "monograph")} for each in tuned]  # so that both are timed
    (canarim / "tuned.jsonl").write_text("".join(json.dumps(each) + "\n" for each in worse), encoding="utf-8")
    capsys.readouterr()
    started(bench, monkeypatch, *words, *notes, "--equal-loss")
    assert re.search(r"^\| monograph \| .* \| [\d.]+ x \|$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.long
def test_a_plan_is_held_against_a_training_of_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("AFINA_HOME", "set by the benchmark")
    monkeypatch.syspath_prepend(str(ROOT))
    bench = opened("plan_here", monkeypatch)
    from tests import measure_training

    monkeypatch.setattr(measure_training, "METHODS", ("lora",))
    monkeypatch.setattr(measure_training, "SENTENCES", measure_training.SENTENCES)  # put back what it sets
    monkeypatch.setattr(bench, "SENTENCES", 110)
    monkeypatch.setattr(sys, "argv", ["plan_here.py", "mistral"])
    bench.main()
    said = capsys.readouterr().out
    assert re.search(r"^\| mistral \| lora \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", said, re.MULTILINE), said
    assert "time after the probe: median factor" in said


@pytest.mark.long
def test_seconds_as_planned_stand_beside_what_they_were(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Each training's pages pass the audit, and its recipe is one; the demo is walked elsewhere."""
    for name in ("AFINA_HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "set by the benchmark")
    bench = opened("plan_time_cpu", monkeypatch)

    def afina(*words: str, folder: Path) -> None:
        done = Forked(list(words), folder).done()
        assert done.returncode in (0, 5), done.stdout + done.stderr

    monkeypatch.setattr(bench, "afina", afina)
    started(bench, monkeypatch, "--tiny", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found] == [f"{name}: training" for name in ("adapter", "scratch", "whole")]
    assert all(each["predicted"] > 0 and each["measured"] > 0 and each["factor"] >= 1 for each in found)
