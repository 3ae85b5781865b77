"""Plans of mixtures and of Gemma 3 beside what others published; docs/planning.md holds the table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("transformers")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from afina.page_marks import put_between  # noqa: E402
from benchmarks.published.walked import compared, models, shape_of, table  # noqa: E402

TOTALS = {
    "Qwen3-30B-A3B": 31_817_152_512 - 1_285_029_888,
    "gpt-oss-20b": 20_918_738_496 - 3_981_312,
    "ERNIE-4.5-21B-A3B": 22_002_983_104 - 177_545_216,
    "gemma-3-27b": 27_489_164_912 - 56_758_272,
}
"""Unsloth prints all parameters with those of the adapter among them, and the latter."""
NAMED_IN_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_parameters_are_those_that_were_printed() -> None:
    assert {name: shape_of(name).parameters for name in TOTALS} == TOTALS
    assert shape_of("gpt-oss-20b").lora_parameters(8, experts=False) == 3_981_312
    assert shape_of("gemma-3-27b").lora_parameters(8) == 56_758_272
    assert shape_of("gemma-3-4b").lora_parameters(8, NAMED_IN_LAYERS) == 14_901_248
    experts = [one for one in shape_of("Qwen3-30B-A3B").linears if one.role == "expert"]
    adapters = sum(32 * one.count * (one.inputs + one.outputs) for one in experts)
    assert adapters + shape_of("Qwen3-30B-A3B").lora_parameters(32, NAMED_IN_LAYERS[:4]) == 1_285_029_888


@pytest.mark.parametrize(("name", "billions"), [("Qwen3-30B-A3B", 3.3), ("gpt-oss-20b", 3.6)])
def test_what_is_active_is_what_the_model_cards_say(name: str, billions: float) -> None:
    shape = shape_of(name)
    tables = shape.head_parameters * (1 if name == "gpt-oss-20b" else 2)  # its card leaves the embedding out
    assert (shape.active_parameters + tables) / 1e9 == pytest.approx(billions, abs=0.06)


def test_peaks_of_mixtures_and_of_gemma_3() -> None:
    rows = compared()
    assert {row.case["model"] for row in rows} == set(models())
    errors = sorted(abs(row.error) for row in rows)
    assert errors[len(errors) // 2] < 0.08, "the median"
    assert errors[-1] < 0.30, "the worst"


def test_the_documented_table_is_this_one() -> None:
    documented = (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    assert put_between(documented, "walked", table()) == documented, "python -m benchmarks.published.walked"
