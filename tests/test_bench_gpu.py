"""The benchmark for GPUs, with tiny shapes on a CPU, so that it is known to work before a GPU is paid for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


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


def test_without_a_gpu_it_says_so_and_tiny_shapes_run(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("bitsandbytes")
    script = [sys.executable, str(BENCHMARKS / "gpu.py")]
    if not torch.cuda.is_available():
        done = subprocess.run(script, capture_output=True, text=True, check=True)
        assert "there is no CUDA device here" in done.stdout
    tiny = ["--device", "cpu", "--tiny", "--models", "qwen3-8b", "--adapters", "qlora", "--rows", "16"]
    done = subprocess.run([*script, *tiny, "--json", tmp_path / "out.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "out.json").read_text())
    assert [(each["rows"], each["contestant"]) for each in records] == [("2048", "afina"), ("canarim", "afina")]
    for each in records:
        assert each["tokens_per_second"] > 0 and 0 < each["mfu"] < 2 and each["peak_bytes"] > 1e8
        assert each["chosen"].startswith("fp32, torch kernels")
