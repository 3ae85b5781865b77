"""Predicted beside measured: the peak of whole trainings on this CPU, six architectures with three methods each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from measure_training import BOUND, METHODS, SHAPES, WALKED

from afina.model.footprint import GOOD_STEPS

HERE = Path(__file__).parent
assert len(WALKED) >= 8


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark of a fork is read as Linux counts it")
@pytest.mark.long
def test_a_state_to_go_back_to_on_disk_is_not_in_the_peak(tmp_path: Path) -> None:
    """As a base of 0.5 G parameters that is trained whole, at a smaller shape: plan and loop ask the same number."""
    environment = {**os.environ, "AFINA_HOME": str(tmp_path / "home"), "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "measure_training.py"), str(tmp_path), "--on-disk"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (whole,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert whole["steps"] > GOOD_STEPS and whole["parts"]["state to go back to"] == 0
    assert 3 * whole["parts"]["weights"] > 0.2 * whole["measured"], "the state would show"
    assert 0.85 <= whole["predicted"] / whole["measured"] <= 1.15, whole


@pytest.mark.training
@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark of a fork is read as Linux counts it")
def test_the_peak_of_a_training_is_within_fifteen_per_cent(tmp_path: Path) -> None:
    """Nothing here depends on time or load; seconds are compared by benchmarks/plan_here.py. In `make test` three real
    steps are held against a plan (test_plan_more.py)."""
    kinds, methods = tuple(SHAPES), METHODS
    environment = {**os.environ, "AFINA_HOME": str(tmp_path / "home"), "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "measure_training.py"), str(tmp_path), *kinds, *methods]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == len(kinds) * len(methods)
    wrong = {
        f"{row['kind']} {row['method']}": round(row["predicted"] / row["measured"], 3)
        for row in rows
        if not 1 - BOUND <= row["predicted"] / row["measured"] <= 1 + BOUND
    }
    assert not wrong, wrong
    records = (tmp_path / "home/plans.jsonl").read_text().splitlines()
    assert len(records) == len(rows)  # every finished run teaches the next plan
