"""The benchmark for GPUs, with tiny shapes on a CPU, so that it is known to work before a GPU is paid for."""

from __future__ import annotations

import json
import sys

import pytest
from benched import BENCHMARKS, opened


@pytest.fixture
def gpu(monkeypatch):
    return opened("gpu", monkeypatch)


def test_the_shapes_are_the_published_ones(gpu):
    """Beside the table that the planner has from the models' own files."""
    table = json.loads((BENCHMARKS.parent / "afina/plan/architectures.json").read_text(encoding="utf-8"))
    for ours, published in (("llama-3.1-8b", "meta-llama/Llama-3.1-8B"), ("qwen3-8b", "Qwen/Qwen3-8B")):
        found = table[published]
        same = found.keys() & gpu.CONFIGS[ours].keys()
        assert len(same) >= 9
        assert {key: found[key] for key in same} == {key: gpu.CONFIGS[ours][key] for key in same}


def test_the_rows_are_as_long_as_canarims(gpu):
    """7,995 rows have 85.4 tokens on average, 37.2 of them answer; 40 means of equal shares have the same mean."""
    assert sum(size for size, _ in gpu.CANARIM) / 40 == pytest.approx(85.4, abs=0.1)
    assert sum(answer for _, answer in gpu.CANARIM) / 40 == pytest.approx(37.2, abs=0.1)


def test_without_a_gpu_it_says_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "_has_cuda", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    gpu.main()
    assert "there is no CUDA device here" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("lengths", ["canarim", "2048"])
def test_tiny_shapes_run(gpu, monkeypatch, tmp_path, lengths):
    """Each contestant in a process of its own, as on a GPU."""
    pytest.importorskip("bitsandbytes")
    words = ["--device", "cpu", "--tiny", "--models", "qwen3-8b", "--adapters", "qlora", "--rows", "16"]
    words += ["--lengths", lengths, "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    gpu.main()
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert (record["rows"], record["contestant"]) == (lengths, "afina")
    assert record["tokens_per_second"] > 0 and 0 < record["mfu"] < 2 and record["peak_bytes"] > 1e8
    assert record["chosen"].startswith("fp32, torch kernels")
