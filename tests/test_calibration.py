"""The interval of a plan: as wide as cases ask for whose source was left out, and said in words."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.model.shape import Shape
from afina.model.shape_table import dense_shape
from afina.plan.bases import find_shape
from afina.plan.calibration import TABLE, shipped, sureness
from afina.plan.check import describe
from afina.plan.device import Device, find_device
from afina.plan.memory import Setup, certain_bytes, training_memory
from afina.plan.plan import plan_run
from afina.plan.programs import MLX, TORCHTUNE, TORCHTUNE_WHOLE
from afina.plan.record import Correction, MeasuredRun
from afina.plan.serving import LITGPT, Serving, serving_peak
from afina.plan.tokens import TokenCount
from afina.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
CPU = Device("two cores", "cpu", 8 * 2**30, 7 * 2**30, flops_per_second=150e9, bytes_per_second=20e9)
COUNT = TokenCount(88_000, 44_000, 1000, 200, padded=100_000.0, micro_batches=100)
LLAMA_70B = dense_shape("llama", 80, 8192, 28672, 64, 8, 128, 32000, tied_embeddings=False, max_positions=4096)
PEAKS = ("training peak", "training peak, settings guessed", "serving peak")


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plan_accuracy

    return plan_accuracy


@pytest.fixture
def cases(accuracy: Any) -> tuple[list[Any], dict[str, Any]]:
    """Published cases and shapes."""
    if not accuracy.SHARED.exists():
        pytest.skip("needs ../shared/planner, which is not here")
    return accuracy.read("cases.json"), accuracy.read("architectures.json")


def recipe() -> Recipe:
    """Of an adapter, as short as it may be."""
    return Recipe.model_validate({"name": "x", "base": "Qwen/Qwen3-0.6B", "sources": [{"path": "a.md"}]})


# --- how wide ------------------------------------------------------------------------------------


def test_the_reach_by_hand(accuracy: Any) -> None:
    """Two sources: rows weigh 1/sqrt(2) each and 1, W = 2.41. At 0.4 the quantile is at 0.57: 0.1 and 0.2 hold 0.59."""
    from published.calibration import Residual, reach

    rows = [Residual("a", "p", "cuda", error) for error in (0.1, -0.2)] + [Residual("b", "p", "cuda", 0.3)]
    assert reach(rows, 0.4) == 0.2
    assert reach(rows) == 0.3  # nine of ten of so few: the largest


def test_a_group_with_few_sources_leans_on_the_one_above_it(accuracy: Any) -> None:
    from published.calibration import LEAN, Residual, pooled_reach

    rows = [Residual(f"s{number}", "other", "cuda", 0.4) for number in range(5)]
    rows.append(Residual("own", "mine", "cuda", 0.1))
    assert pooled_reach(rows, "never seen", "cuda") == pytest.approx(0.4)
    assert pooled_reach(rows, "mine", "cuda") == pytest.approx((0.1 + LEAN * 0.4) / (1 + LEAN))
    rows.append(Residual("apple", "mine", "mps", 1.0))
    assert pooled_reach(rows, "mine", "tpu") > pooled_reach(rows, "mine", "cuda")  # as bad as the worst that is known


@given(seed=st.integers(0, 10_000), sources=st.integers(5, 12), between=st.sampled_from([0.0, 0.1, 0.3]))
def test_cases_of_a_source_that_is_not_known_lie_inside(seed: int, sources: int, between: float) -> None:
    """Sources are drawn alike, each with an error of its own: nine of ten hold on average, less what few sources
    cannot tell; 40 draws of each."""
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from published.calibration import Residual, held

    draw, inside = random.Random(seed), []
    for _ in range(40):
        rows = []
        for source in range(sources):
            own = draw.gauss(0, between)
            count = draw.choice([1, 3, 20])
            rows += [Residual(str(source), "p", "cuda", own + draw.gauss(0, 0.1)) for _ in range(count)]
        by_source: dict[str, list[bool]] = {}
        for row, good in zip(rows, held(rows), strict=True):
            by_source.setdefault(row.source, []).append(good)
        inside.append(sum(sum(each) / len(each) for each in by_source.values()) / sources)
    assert sum(inside) / len(inside) >= 0.9 - 0.06


# --- what is shipped -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*PEAKS, "training time"])
def test_nine_of_ten_lie_inside_with_their_source_left_out(kind: str) -> None:
    (whole,) = (row for row in shipped()["groups"][kind] if not row["device"])
    assert whole["cases"] >= 40 and whole["sources"] >= 4
    assert whole["inside"] / whole["cases"] >= 0.9


def test_the_shipped_table_is_what_the_script_yields(accuracy: Any, cases: tuple[list[Any], dict[str, Any]]) -> None:
    """Peaks again from the cases; time, which is fitted again for every source, takes minutes and is not."""
    rows, shapes = cases
    left_out: Counter[str] = Counter()
    again = {
        "training peak": accuracy.training_cases(rows, shapes, left_out),
        "training peak, settings guessed": accuracy.training_cases(rows, shapes, left_out, guessed=True),
        "serving peak": accuracy.serving_cases(rows, shapes, left_out),
    }
    found = json.loads(json.dumps(accuracy.calibration(accuracy.SHARED / "cases.json", again)))
    assert found["groups"] == {kind: shipped()["groups"][kind] for kind in PEAKS}
    digest = hashlib.sha256((accuracy.SHARED / "cases.json").read_bytes()).hexdigest()
    assert found["cases_sha256"] == shipped()["cases_sha256"] == digest


def test_what_is_decided_is_right(accuracy: Any, cases: tuple[list[Any], dict[str, Any]]) -> None:
    answers = accuracy.fits_cases(*cases, Counter())
    decided = [(fitted, said) for _, fitted, said in answers if said != "maybe"]
    right = sum(fitted == (said == "yes") for fitted, said in decided)
    assert len(decided) >= len(answers) / 2 and right / len(decided) >= 0.97


def test_what_was_never_measured_is_wider() -> None:
    """A program that no case is of gets the row of its kind of device, a kind of device that none is of all of them."""
    seen, unseen = (sureness("training time", kind, "a program of tomorrow") for kind in ("cuda", "cpu"))
    assert (seen.device, seen.program, unseen.device) == ("cuda", "", "")
    assert unseen.factor >= max(row["factor"] for row in shipped()["groups"]["training time"] if not row["program"])
    assert TABLE.is_file()


# --- in words ------------------------------------------------------------------------------------


def test_a_plan_says_how_sure_it_is() -> None:
    shape = find_shape("Qwen/Qwen3-0.6B")
    gpu, cpu = (plan_run(recipe(), shape, COUNT, device) for device in (find_device("RTX 4090"), CPU))
    row = sureness("training peak", "cuda", "")
    said = f"{row.inside} of {row.cases} cases fell inside such an interval, from {row.sources} sources"
    assert f"how sure: never measured: a guess from other programs on this kind of device; {said}" in describe(gpu)
    assert "trainings fell inside such an interval, in afina's own tests on one machine" in describe(cpu)
    found = gpu.as_json()["memory"]
    assert found["sure"]["in_words"].startswith("never measured") and found["sure"]["factor"] == row.factor
    assert found["low"] >= certain_bytes(gpu.memory_parts)
    assert found["high"] < found["point"] * row.factor  # the weights are known
    assert gpu.as_json()["time"]["sure"]["cases"] > 100


def test_a_measurement_on_the_device_takes_the_place_of_the_guess() -> None:
    run = MeasuredRun("RTX 4090", "lora sft", 1e9, 1.1e9, 100.0, 110.0)
    shape, device = find_shape("Qwen/Qwen3-0.6B"), find_device("RTX 4090")
    plan = plan_run(recipe(), shape, COUNT, device, correction=Correction([run]))
    assert "how sure" not in describe(plan) and "learned" in describe(plan)


# --- what was systematic -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "measured_gib"),
    [(1024, 6.4), (2048, 8.0), (4096, 11.8), (8192, 25.7)],
)
def test_attention_on_an_apple_chip_makes_its_scores_one_layer_at_a_time(tokens: int, measured_gib: float) -> None:
    """Qwen3-8B in 4 bits, one row, recomputation, by mlx-train-perf; the plan said 3 to 20 times as much."""
    setup = Setup("qlora", tokens, tokens, 8, place="mps", program=MLX, length=tokens, checkpointing=True)
    parts = training_memory(find_shape("Qwen/Qwen3-8B"), setup)
    assert sum(part.point for part in parts.values()) == pytest.approx(measured_gib * 2**30, rel=0.12)


@pytest.mark.parametrize(
    ("shape", "weights", "measured"),
    [
        (find_shape("meta-llama/Llama-2-7b-hf"), "nf4", 4.57e9),
        (find_shape("meta-llama/Llama-2-7b-hf"), "nf4-double", 4.26e9),
        (LLAMA_70B, "nf4-double", 37.21e9),
    ],
)
def test_litgpt_generates_with_its_output_matrix_in_four_bits(shape: Shape, weights: str, measured: float) -> None:
    """And takes the largest matrix out of them twice, in two types."""
    peak = serving_peak(shape, Serving("transformers", weights, 100, 100, program=LITGPT, allocated=True))
    assert peak.point == pytest.approx(measured, rel=0.02)


def test_a_step_in_the_backward_pass_holds_one_layers_gradients() -> None:
    """torchtune, Llama-2-7B whole on 24 GB: 24.1 GB, where 13.5 GB of gradients alone made 31.5 before."""
    shape = find_shape("meta-llama/Llama-2-7b-hf")
    setup = Setup("none", 8192, 8192, place="cuda", program=TORCHTUNE_WHOLE, checkpointing=True, state_bytes=0.0)
    apart = training_memory(shape, setup)["gradients"].point
    at_once = training_memory(shape, Setup(**{**vars(setup), "step_in_backward": True}))["gradients"].point
    assert apart == 2 * shape.parameters
    assert at_once == 2 * max(shape.head_parameters, shape.linear_parameters / shape.depth)


def test_whole_logits_cost_what_their_copies_do() -> None:
    shape = find_shape("meta-llama/Llama-2-7b-hf")
    whole, chunked = (
        training_memory(shape, Setup("lora", 8192, 8192, place="cuda", program=program, checkpointing=True))
        for program in (TORCHTUNE_WHOLE, TORCHTUNE)
    )
    assert whole["logits and backward"].point == 16 * 8192 * 32000
    assert chunked["logits and backward"].point < whole["logits and backward"].point * 0.6


def test_only_layers_with_an_adapter_keep_anything() -> None:
    """mlx-lm's 16 of 32 layers: half the adapter, half the activations."""
    shape = find_shape("mistralai/Mistral-7B-v0.1")
    setup = Setup("lora", 512, 512, place="mps", program=MLX, length=512)
    half = training_memory(shape, Setup(**{**vars(setup), "adapted_layers": 16}))
    whole = training_memory(shape, setup)
    for part in ("adapter", "activations"):
        assert math.isclose(half[part].point * 2, whole[part].point)
