"""The benchmark beside `mlx_lm.lora`, in its tiny form: both learn, and what mlx-lm does with two kinds of rows."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CANARIM = ROOT.parent / "shared/data/ptbr/canarim"


@pytest.mark.long
@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="needs the extra mlx, which is not installed")
@pytest.mark.skipif(not CANARIM.is_dir(), reason="../shared/data/ptbr/canarim is not here")
def test_both_learn_the_same_rows_and_what_mlx_lm_leaves_out_is_shown(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mlx_cpu

    monkeypatch.setattr(sys, "argv", ["mlx_cpu.py", "--tiny", "--threads", "1"])
    mlx_cpu.main()
    said = capsys.readouterr().out
    before = float(re.search(r"held-out loss of the base: ([\d.]+)", said)[1])  # type: ignore[index]
    table = {row[0]: row for row in re.findall(r"^\| (afina|mlx-lm) \| (.*) \|$", said, re.MULTILINE)}
    losses = {name: float(row[1].split(" | ")[5]) for name, row in table.items()}
    assert losses["afina"] < before and losses["mlx-lm"] < before
    assert losses["afina"] == pytest.approx(losses["mlx-lm"], rel=0.03)
    assert re.search(r"mlx-lm exit code 0, [1-9]\d* losses that are nan, 56 of 56 tensors NaN, saved", said)
    assert "afina refused: " in said
    assert "59 rows at batch size 4: mlx-lm trains 56, never row 57, 58, 59; afina trains 59" in said
