"""The benchmark of training from scratch, with tiny shapes: everybody starts alike and learns the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
TEXT = "O rio corre para o mar, e a vila fica onde o rio corre. " * 60


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scratch_cpu

    return scratch_cpu


@pytest.fixture
def texts(tmp_path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/rio.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "texts"


def test_both_loops_learn_the_same_from_the_same_start(bench, texts, tmp_path):
    """afina's loop and the one written by hand, of which neither shares a line with the other."""
    bench.make_start(tmp_path, texts, bench.TINY)
    ours = bench.run_afina(tmp_path, bench.TINY)
    plain = bench.run_plain(tmp_path, bench.TINY, compiled=False)
    assert ours["held_out"] == pytest.approx(plain["held_out"], rel=1e-4)
    assert len(ours["seconds"]) == len(plain["seconds"]) == bench.TINY.steps
    shape, vocab = bench.TINY, json.loads((tmp_path / "model/config.json").read_text())["vocab_size"]
    matrices = shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate)
    by_hand = 6 * shape.rows * (shape.length * matrices + (shape.length - 1) * shape.hidden * vocab)
    assert ours["flops_of_a_step"] == by_hand


@pytest.mark.long
def test_contestants_run_in_processes_of_their_own(bench, texts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scratch_cpu.py"])
    bench.main(["--tiny", "--data", str(texts), "--threads", "1", "--only", "plain-torch"])
    said = capsys.readouterr().out
    assert "litgpt is left out" in said and "| plain-torch |" in said and "float32 matrix product" in said
