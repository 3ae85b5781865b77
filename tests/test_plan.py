"""The plan: memory and time by hand, published measurements, monotonicity, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina import machine
from afina.errors import DoesNotFit, RecipeError
from afina.model.shape import Shape
from afina.model.shape_read import read_shape
from afina.model.shape_table import dense_shape, scratch_shape
from afina.plan import doctor
from afina.plan import tokens as token_counts
from afina.plan.advise import cheapest_device, largest_context, what_would_fit
from afina.plan.bases import find_shape, recipe_shape
from afina.plan.check import check_plan, describe
from afina.plan.device import Device, find_device, known_devices, local_device
from afina.plan.interval import Interval
from afina.plan.memory import (
    AdapterKind,
    Setup,
    activation_bytes,
    dequantized_bytes,
    frozen_weight_bytes,
    training_memory,
    values_per_layer,
)
from afina.plan.plan import EIGHT_BIT_STATES, Plan, plan_run
from afina.plan.programs import AFINA_CPU, AFINA_CUDA, LITGPT, TrainingProgram
from afina.plan.time import (
    FILL,
    LAUNCH_SECONDS,
    MATRIX_CEILING,
    MOVES_PER_PASS,
    flops_per_token,
    micro_batch_seconds,
    optimizer_steps,
)
from afina.plan.tokens import TokenCount, estimate_learning, estimate_tokens
from afina.recipe import Recipe, Scratch, load_recipe
from afina.recipe.changed import with_settings
from afina.walk.plan_answers import PlanAsked, answer

SHARED = Path(__file__).parents[2] / "shared"

TINY = dense_shape(
    "llama",
    layers=2,
    hidden=8,
    intermediate=24,
    heads=2,
    kv_heads=1,
    head_dim=4,
    vocab=100,
    tied_embeddings=True,
    max_positions=32,
)
CPU = Device("two cores", "cpu", 8 * 2**30, 7 * 2**30, flops_per_second=150e9, bytes_per_second=20e9)
COUNT = TokenCount(tokens=88_000, targets=44_000, rows=880, longest=256, held_out=4_000)


def recipe(**changes: Any) -> Recipe:
    """A recipe that trains an adapter, with parts replaced."""
    raw: dict[str, Any] = {"name": "x", "sources": [{"path": "a.md"}], "base": "Qwen/Qwen3-0.6B"} | changes
    return Recipe.model_validate(raw)


def scratch(**changes: Any) -> Recipe:
    """A recipe that starts from nothing."""
    return recipe(base=None, train={"method": "scratch"}, **changes)


# --- memory by hand ------------------------------------------------------------------------------


def test_lora_memory_by_hand() -> None:
    setup = Setup("lora", batch_tokens=16, target_tokens=4, rank=2, targets=("q_proj", "v_proj"))
    parts = {name: part.point for name, part in training_memory(TINY, setup).items()}
    matrices = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 24  # q, k and v, o, gate and up and down
    parameters = 2 * (matrices + 2 * 8) + 8 + 100 * 8
    adapter = 2 * 2 * ((8 + 8) + (8 + 4))  # rank * layers * (q + v)
    kept = 4 * 8 + 2 * 8 + 2 * 4 + 4 * 24 + 2 * 2  # 4h + 2q + 2k + 4M + r for each adapted matrix
    assert parts["weights"] == 4 * parameters
    assert parts["adapter"] == parts["gradients"] == 4 * adapter
    assert parts["optimizer"] == 8 * adapter
    assert parts["activations"] == 2 * 16 * kept * 4
    # the logits of 4 targets with their hidden states, or one layer's backward pass
    assert parts["logits and backward"] == max(12 * 4 * 100 + 4 * 8 * 4 * 2, 16 * (3 * 24 + 2 * 8) * 4)
    assert parts["overhead"] == AFINA_CPU.fixed_bytes + AFINA_CPU.slack * (
        parts["activations"] + parts["logits and backward"]
    )


def test_full_memory_by_hand() -> None:
    setup = Setup("none", batch_tokens=16, target_tokens=16)
    parts = {name: part.point for name, part in training_memory(TINY, setup).items()}
    assert TINY.parameters == 2 * (768 + 16) + 8 + 800 == 2376
    assert (parts["weights"], parts["gradients"], parts["optimizer"]) == (4 * 2376, 4 * 2376, 8 * 2376)
    assert parts["adapter"] == 0
    assert parts["activations"] == 2 * 16 * (6 * 8 + 2 * 8 + 2 * 4 + 4 * 24) * 4
    assert parts["logits and backward"] == 8 * 16 * 100 + 16 * 8 * 4 * 2


def test_what_else_is_trained_and_kept_by_hand() -> None:
    """8-bit averages, embeddings trained whole, DoRA's lengths, what is kept to go back to, the first check."""
    plain = Setup("lora", batch_tokens=16, target_tokens=4, rank=2)

    def parts(**changes: Any) -> dict[str, float]:
        found = training_memory(TINY, dataclasses.replace(plain, **changes))
        return {name: part.point for name, part in found.items()}

    adapter = TINY.lora_parameters(2)
    lengths = 2 * (8 + 4 + 4 + 8 + 24 + 24 + 8)  # outputs of q, k, v, o, gate, up and down, in two layers
    assert parts(state_bytes=EIGHT_BIT_STATES)["optimizer"] == EIGHT_BIT_STATES * adapter
    assert parts(dora=True)["optimizer"] == 8 * (adapter + lengths)
    assert parts(saved_parameters=800)["optimizer"] == 8 * (adapter + 800)
    assert parts(saved_parameters=800)["weights"] == parts()["weights"]  # the frozen copy stays
    assert parts(kept_states=1.0)["state to go back to"] == 12 * adapter
    moving = parts()["activations"] + parts()["logits and backward"] + parts()["gradients"]
    assert parts(check_tokens=10_000)["first check"] == 8 * 10_000 * 100 - moving


def test_logits_are_made_in_chunks() -> None:
    """24 MiB of float32 are 62 targets of 100,000 words, but 100 are made: more only add their hidden states."""
    wide = dataclasses.replace(TINY, vocab=100_000)

    def logits(targets: int) -> float:
        return training_memory(wide, Setup("none", 4096, targets))["logits and backward"].point

    assert logits(90) == 8 * 90 * 100_000 + 90 * 8 * 4 * 2
    assert logits(1000) == 8 * 100 * 100_000 + 1000 * 8 * 4 * 2
    assert logits(2000) - logits(1000) == 1000 * 8 * 4 * 2


def test_several_devices_share_what_can_be_shared() -> None:
    one = {name: part.point for name, part in training_memory(TINY, Setup("lora", 16, 4)).items()}
    sharded = Setup("lora", 16, 4, parallel="fsdp", devices=4)
    four = {name: part.point for name, part in training_memory(TINY, sharded).items()}
    copied = {
        name: part.point
        for name, part in training_memory(TINY, Setup("lora", 16, 4, parallel="ddp", devices=4)).items()
    }
    for name in ("weights", "adapter", "gradients", "optimizer"):
        assert four[name] == one[name] / 4
        assert copied[name] == one[name]
    assert four["activations"] == one["activations"]
    assert four["gathered"] > 0 == copied["gathered"]


def test_checkpointing_keeps_the_inputs_and_one_layer() -> None:
    setup = Setup("lora", batch_tokens=16, target_tokens=4, rank=2, checkpointing=True)
    layer = values_per_layer(TINY.layers[0], setup)
    assert activation_bytes(TINY, setup) == 4 * 16 * 2 * 8
    back = 4 * 16 * (layer + 3 * 24 + 2 * 8)
    assert training_memory(TINY, setup)["logits and backward"].point == max(back, 12 * 4 * 100 + 4 * 8 * 4 * 2)


def test_nf4_weights_by_hand() -> None:
    llama = find_shape("meta-llama/Llama-2-7b-hf")
    setup = Setup("qlora", 512, 512, program=AFINA_CUDA)
    linears = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    rest = 2 * 32000 * 4096 + 65 * 4096
    assert frozen_weight_bytes(llama, setup) == pytest.approx(linears * (0.5 + 1 / 64 + 4 / 16384) + 2 * rest)


@pytest.mark.parametrize(
    ("shape", "measured"),
    [
        (find_shape("meta-llama/Llama-2-7b-hf"), 4.26e9),
        (
            dense_shape("llama", 48, 8192, 22016, 64, 8, 128, 32000, tied_embeddings=False, max_positions=16384),
            18.95e9,  # CodeLlama-34b
        ),
        (
            dense_shape("llama", 80, 8192, 28672, 64, 8, 128, 32000, tied_embeddings=False, max_positions=4096),
            37.21e9,  # Llama-2-70b
        ),
    ],
)
def test_nf4_generation_peaks_as_litgpt_measured_them(shape: Shape, measured: float) -> None:
    """The published figures are peaks of generating with the 4-bit weights, not the weights alone."""
    setup = Setup("qlora", 512, 512, program=LITGPT, weights="nf4-double")
    peak = frozen_weight_bytes(shape, setup) + dequantized_bytes(shape, setup) + LITGPT.fixed_bytes
    assert peak == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize(
    ("program", "adapter"), [(AFINA_CPU, "lora"), (AFINA_CPU, "none"), (AFINA_CUDA, "lora"), (AFINA_CUDA, "none")]
)
def test_kept_values_as_torch_counts_them(kind: str, program: TrainingProgram, adapter: AdapterKind) -> None:
    """Values per token and layer, by torch's own hooks: the difference of two depths."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    setup = Setup(adapter, 96, 96, rank=4, program=program)

    def kept(layers: int) -> tuple[float, Shape]:
        sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"num_hidden_layers": layers, "vocab_size": 101, "max_position_embeddings": 64}
        sizes |= {} if kind == "qwen2" else {"head_dim": 24}
        config = transformers.AutoConfig.for_model(kind, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        model = transformers.AutoModelForCausalLM.from_config(config)
        model = model.to(torch.float32 if program.value_bytes == 4 else torch.bfloat16)
        if adapter == "lora":
            options = peft.LoraConfig(r=4, target_modules="all-linear")
            model = peft.get_peft_model(model, options).get_base_model()
        weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
        seen: dict[int, tuple[int, Any]] = {}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        ids = torch.full((8, 48), 5)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=program.value_bytes == 2)  # as the loop does
        with mixed, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        assert hidden.requires_grad
        per_token = sum(size for size, _ in seen.values()) / program.value_bytes / ids.numel()
        return per_token, read_shape(config.to_dict(), kind)

    deep, shape = kept(4)
    shallow, _ = kept(2)
    # The norms' scales and attention's sums, one value per row or head, are left out of the formula.
    assert values_per_layer(shape.layers[0], setup) == pytest.approx((deep - shallow) / 2, rel=0.015)


# --- time by hand --------------------------------------------------------------------------------


def test_flops_by_hand() -> None:
    matrices, head = 2 * 768, 8 * 100
    attention = 6 * 2 * 8 * 10  # 6 * layers * q * mean length
    full = Setup("none", 16, 16)
    assert flops_per_token(TINY, full, 10, 1.0) == 6 * matrices + attention + 6 * head
    lora = Setup("lora", 16, 16, rank=2, targets=("q_proj",))
    adapter = 2 * 2 * (8 + 8)
    assert flops_per_token(TINY, lora, 10, 0.5) == 4 * matrices + 6 * adapter + attention + 4 * head * 0.5


def test_training_time_by_hand() -> None:
    """2.2 M parameters at h 192 reach a quarter of 150 GFLOP/s."""
    plan = plan_run(scratch(), scratch_shape(Scratch(), 1024), COUNT, CPU)
    shape = scratch_shape(Scratch(), 1024)
    per_token = 6 * shape.linear_parameters + 6 * 4 * 192 * 100 + 6 * 1500 * 192 * 0.5
    seconds = per_token * 88_000 * 3 / FILL.point / (150e9 * 0.25)
    seconds += shape.parameters * 30 / 20e9 / 0.5 * plan.steps  # the optimizer reads and writes 30 bytes of each
    assert plan.time_parts["training"].point == pytest.approx(seconds, rel=0.02)


def test_time_on_a_gpu_by_hand() -> None:
    """Arithmetic, moved bytes and read weights add up; below some length the launches are the larger."""
    device, shape = find_device("A100 80GB"), find_shape("meta-llama/Llama-2-7b-hf")
    setup = Setup("none", 4096, 4096, place="cuda", program=AFINA_CUDA)
    flops = flops_per_token(shape, setup, 0, 1.0) * 4096
    moved = 32 * 4096 * (8 * 4096 + 4 * 4096 + 3 * 11008) * 2 * MOVES_PER_PASS * 3
    read = 2 * shape.parameters * 2
    seconds = flops / (312e12 * MATRIX_CEILING) + (moved + read) / 2039e9
    assert micro_batch_seconds(shape, setup, device, 4096, 0) == pytest.approx(seconds)
    assert micro_batch_seconds(shape, setup, device, 1, 0) == pytest.approx(32 * 3 * LAUNCH_SECONDS)


def test_counted_micro_batches_are_used() -> None:
    shape = find_shape("Qwen/Qwen3-0.6B")
    half = dataclasses.replace(COUNT, padded=176_000, micro_batches=172, largest_batch=900, largest_targets=100)
    full = dataclasses.replace(COUNT, padded=88_000, micro_batches=86, largest_batch=900, largest_targets=100)
    slow, fast = (plan_run(recipe(), shape, tokens, CPU) for tokens in (half, full))
    assert slow.time_parts["training"].point == pytest.approx(2 * fast.time_parts["training"].point, rel=0.01)
    assert (slow.steps, fast.steps) == (172 * 3, 86 * 3)
    estimated = plan_run(recipe(), shape, COUNT, CPU)
    assert estimated.memory.high / estimated.memory.point > fast.memory.high / fast.memory.point


def test_steps_by_hand() -> None:
    assert optimizer_steps(TokenCount(8_800, 8_800, 100, 100), 1000, 1, 3.0) == 30
    assert optimizer_steps(TokenCount(8_800, 8_800, 100, 100), 1000, 4, 3.0) == math.ceil(30 / 4)
    assert optimizer_steps(TokenCount(8_800, 8_800, 10, 2_000), 1000, 1, 1.0) == 5  # one row is two thousand
    assert optimizer_steps(TokenCount(10, 10, 1, 10), 1000, 8, 1.0) == 1


# --- what holds for every plan -------------------------------------------------------------------


@given(
    batch=st.integers(256, 8192),
    more=st.integers(1, 8192),
    rank=st.integers(1, 64),
    kind=st.sampled_from(["lora", "qlora", "none"]),
    name=st.sampled_from(["RTX 4090", "A100 80GB", "Apple M2 Max", ""]),
)
def test_more_of_anything_never_takes_less(batch: int, more: int, rank: int, kind: str, name: str) -> None:
    device, shape = find_device(name) if name else CPU, find_shape("Qwen/Qwen3-0.6B")

    def plan(**changes: Any) -> Plan:
        train = {"batch_tokens": batch, "epochs": 1.0} | changes.pop("train", {})
        adapter = {"kind": kind, "rank": rank}
        return plan_run(recipe(train=train, adapter=adapter), shape, changes.pop("tokens", COUNT), device, **changes)

    base = plan()
    for part in (*base.memory_parts.values(), *base.time_parts.values(), base.memory, base.time):
        assert 0 <= part.low <= part.point <= part.high
    wider = plan(train={"batch_tokens": batch + more})  # fewer steps keep fewer states to go back to
    for name in ("activations", "logits and backward", "overhead", "weights"):
        assert wider.memory_parts[name].point >= base.memory_parts[name].point
    assert plan(train={"epochs": 2.0}).time.point > base.time.point
    assert plan(checkpointing=True).memory.point <= base.memory.point
    longer = TokenCount(2 * COUNT.tokens, 2 * COUNT.targets, 2 * COUNT.rows, COUNT.longest)
    assert plan(tokens=longer).time_parts["training"].point > base.time_parts["training"].point


def test_qlora_takes_less_than_lora_and_lora_less_than_everything() -> None:
    shape, device = find_shape("Qwen/Qwen3-8B"), find_device("RTX 4090")
    counted = replace(COUNT, padded=100_000.0, micro_batches=100)
    small, middle, large = (
        plan_run(recipe(adapter={"kind": kind}), shape, counted, device) for kind in ("qlora", "lora", "none")
    )
    assert small.memory.point < middle.memory.point < large.memory.point
    assert (small.fits, middle.fits, large.fits) == ("yes", "maybe", "no")
    assert plan_run(recipe(), shape, COUNT, device, checkpointing=True).memory.point < middle.memory.point


def test_the_longest_example_sets_the_peak() -> None:
    long = TokenCount(88_000, 44_000, 100, longest=900)
    plan = plan_run(recipe(train={"batch_tokens": 256}), find_shape("Qwen/Qwen3-0.6B"), long, CPU)
    assert any("900 tokens" in note for note in plan.notes)
    wide = plan_run(recipe(train={"batch_tokens": 900}), find_shape("Qwen/Qwen3-0.6B"), long, CPU)
    assert plan.memory_parts["activations"] == wide.memory_parts["activations"]


def test_as_json_and_describe() -> None:
    plan = plan_run(recipe(), find_shape("Qwen/Qwen3-0.6B"), COUNT, find_device("RTX 4090"))
    found = json.loads(json.dumps(plan.as_json()))
    assert found["memory"]["point"] == pytest.approx(sum(part["point"] for part in found["memory"]["parts"].values()))
    assert found["memory"]["usable"] == int(23.52 * 2**30)
    assert set(found["time"]) == {"parts", "point", "low", "high", "sure"}
    assert found["money"]["point"] == pytest.approx(found["time"]["point"] / 3600 * 0.39)
    assert "read 2026" in found["money"]["source"]
    assert (found["money"]["currency"], found["fits"], found["notes"]) == ("US$", "yes", [])
    lines = describe(plan).splitlines()
    assert lines[0].startswith("device  RTX 4090 (cuda)")
    assert lines[-1] == "fits    yes"
    assert plan_run(recipe(), find_shape("Qwen/Qwen3-0.6B"), COUNT, CPU).as_json()["money"] is None


# --- refusals ------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_what_helps() -> None:
    given_recipe = recipe(base="Qwen/Qwen3-14B", budget={"hours": 0.01, "price_per_hour": 2, "money": 0.01})
    plan = plan_run(given_recipe, find_shape("Qwen/Qwen3-14B"), COUNT, find_device("RTX 4090"))
    assert plan.fits == "no"
    with pytest.raises(DoesNotFit) as caught:
        check_plan(plan, given_recipe)
    assert caught.value.exit_code == 4
    assert [problem.where for problem in caught.value.problems] == ["memory", "budget.hours", "budget.money"]
    assert "too little" in caught.value.problems[0].what
    assert "afina plan --all" in caught.value.problems[0].fix
    with pytest.raises(DoesNotFit, match=r"adapter\.kind=qlora"):
        check_plan(plan, given_recipe, helps="adapter.kind=qlora")


def test_the_recipe_can_say_anyway() -> None:
    given_recipe = recipe(base="Qwen/Qwen3-14B", budget={"anyway": True})
    plan = plan_run(given_recipe, find_shape("Qwen/Qwen3-14B"), COUNT, find_device("RTX 4090"))
    assert plan.fits == "no"
    check_plan(plan, given_recipe)


@pytest.mark.parametrize(
    ("base", "device", "batch"),
    [("Qwen/Qwen3-8B", "RTX 4090", 8192), ("Qwen/Qwen3-14B", "RTX 4090", 2048), ("Qwen/Qwen3-0.6B", "T4", 65_536)],
)
def test_what_is_proposed_fits_and_is_ranked(base: str, device: str, batch: int) -> None:
    given_recipe, shape = recipe(base=base, train={"batch_tokens": batch}), find_shape(base)
    found = what_would_fit(given_recipe, shape, COUNT, find_device(device))
    assert found
    for suggestion in found:
        changed = with_settings(given_recipe, suggestion.settings)
        assert plan_run(changed, shape, COUNT, find_device(device)).fits == "yes"
        assert changed.train.batch_tokens * changed.train.accumulate == pytest.approx(batch, rel=0.5)
    assert [one.price for one in found] == sorted(one.price for one in found)


def test_the_cheapest_device_and_the_longest_context() -> None:
    given_recipe, shape = recipe(adapter={"kind": "qlora"}), find_shape("Qwen/Qwen3-0.6B")
    cheapest = cheapest_device(given_recipe, shape, COUNT)
    assert cheapest and cheapest.money and cheapest.fits == "yes"
    for name in ("RTX 4090", "A100 80GB"):
        other = plan_run(given_recipe, shape, COUNT, find_device(name))
        assert other.fits != "yes" or (other.money and other.money.point >= cheapest.money.point)
    small, large = (largest_context(given_recipe, shape, find_device(name)) for name in ("T4", "A100 80GB"))
    assert 16 < small < large
    longer = with_settings(given_recipe, {"train.max_length": small, "train.batch_tokens": small})
    alone = TokenCount(small * 100, small * 100, 100, small)
    assert plan_run(longer, shape, alone, find_device("T4")).fits == "yes"


def test_a_plan_that_may_fit_is_not_refused() -> None:
    given_recipe = recipe(budget={"hours": 1000})
    plan = plan_run(given_recipe, find_shape("Qwen/Qwen3-0.6B"), COUNT, CPU)
    tight = Device("tight", "cpu", 8 * 2**30, int(plan.memory.point), 150e9, 20e9)
    plan = plan_run(given_recipe, find_shape("Qwen/Qwen3-0.6B"), COUNT, tight)
    assert plan.fits == "maybe"
    check_plan(plan, given_recipe)


def test_a_budget_in_money_needs_a_price() -> None:
    given_recipe = recipe(budget={"money": 5})
    with pytest.raises(RecipeError, match="no price"):
        check_plan(plan_run(given_recipe, find_shape("Qwen/Qwen3-0.6B"), COUNT, CPU), given_recipe)


# --- devices -------------------------------------------------------------------------------------


def test_every_known_device_can_be_found_and_planned_for() -> None:
    assert len(known_devices()) >= 30
    for name in known_devices():
        device = find_device(name)
        assert 0 < device.usable_bytes <= device.memory_bytes
        assert device.flops_per_second > 1e12


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RTX 4091", "did you mean RTX 4090"),
        ("a100", "A100 40GB, A100 80GB"),
        ("Apple M3 Max 65GB", "not 65"),
        ("toaster", "known are RTX"),
    ],
)
def test_an_unknown_device_names_the_nearest(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        find_device(name)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("NVIDIA GeForce RTX 4090, 24564, 23900", "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB, 81920, 81000", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB, 40960, 40000", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3, 81559, 81000", "H100 SXM"),
        ("NVIDIA H100 PCIe, 81559, 81000", "H100 PCIe"),
        ("NVIDIA H200, 143771, 143000", "H200"),
        ("Tesla T4, 15360, 15000", "T4"),
    ],
)
def test_a_local_gpu_is_recognized(monkeypatch: pytest.MonkeyPatch, told: str, name: str) -> None:
    monkeypatch.setattr(machine, "ask", lambda *command: told if command[0] == "nvidia-smi" else "")
    device = local_device()
    assert (device.name, device.kind) == (name, "cuda")
    assert device.usable_bytes == int(told.split(",")[2]) * 2**20
    assert device.price_per_hour is None


def test_the_users_own_tables_come_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_HOME", str(tmp_path))
    own = {"Our card": {"kind": "cuda", "memory_gib": [20], "tflops": 50, "gb_per_second": 500}}
    (tmp_path / "devices.json").write_text(json.dumps(own))
    (tmp_path / "prices.json").write_text(
        json.dumps({"Our card": {"price_per_hour": 7}, "RTX 4090": {"price_per_hour": 1}})
    )
    ours = find_device("our card")
    assert (ours.memory_bytes, ours.price_per_hour) == (20 * 2**30, 7.0)
    assert find_device("RTX 4090").price_per_hour == 1.0
    (tmp_path / "devices.json").write_text(json.dumps({"Half a card": {"kind": "cuda"}}))
    with pytest.raises(RecipeError, match="has no memory_gib, tflops, gb_per_second"):
        find_device("half a card")
    (tmp_path / "devices.json").write_text("[]")
    with pytest.raises(RecipeError, match="not a mapping"):
        find_device("RTX 4090")


def test_every_price_says_when_and_where() -> None:
    from afina.plan.tables import table

    for name, facts in table("prices").items():
        assert name in known_devices()
        assert facts["price_per_hour"] > 0
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", facts["read"])
        assert facts["source"].startswith("https://")


def test_a_local_gpu_that_is_not_in_the_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ask", lambda *_: "NVIDIA Quadro P400, 2048, 2000")
    with pytest.raises(RecipeError, match="rate of 'NVIDIA Quadro P400' is not known"):
        local_device()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")
def test_the_local_cpu() -> None:
    device = local_device("cpu")
    assert device.kind == "cpu"
    assert 0 < device.usable_bytes < device.memory_bytes
    assert 1e9 < device.flops_per_second < 1e14


# --- tokens --------------------------------------------------------------------------------------


def test_estimated_tokens_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x" * 7_000)
    (tmp_path / "rows.jsonl").write_text("y" * 7_000)
    sources = [{"path": "a.md"}, {"path": "rows.jsonl", "repeat": 2}]
    found = estimate_tokens(recipe(root=str(tmp_path), sources=sources, dataset={"validation": 0.0}))
    assert found.tokens == 2_000 + 2 * 1_700
    assert found.targets == 2_000 + 1_700  # texts whole, rows by half
    assert found.spread > 1


def test_files_called_by_their_split_are_counted_as_a_build_takes_them(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "more.jsonl"):
        (tmp_path / "d" / name).write_text("y" * 7_000)
    given_recipe = recipe(root=str(tmp_path), sources=[{"path": "d"}])
    found = estimate_tokens(given_recipe)
    assert (found.tokens, found.held_out) == (2 * 1_700, 1_700)
    told = "splits recognised: validation (d/valid.jsonl), test (d/test.jsonl), train (d/more.jsonl, d/train.jsonl)"
    assert told in estimate_learning(given_recipe).notes
    by_content = estimate_tokens(recipe(root=str(tmp_path), sources=[{"path": "d", "splits": "ignore"}]))
    assert by_content.tokens + by_content.held_out == 4 * 1_700


def test_excluded_files_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("a.md", "b.md"):
        (tmp_path / "docs" / name).write_text("x" * 3_500)
    source = {"path": "docs", "exclude": ["docs/b.md"]}
    given_recipe = recipe(root=str(tmp_path), sources=[source], dataset={"validation": 0.0})
    assert estimate_tokens(given_recipe).tokens == 1_000


def test_what_sizes_do_not_tell_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x" * 3500)
    (tmp_path / "b.pdf").write_bytes(b"x" * 35_000)
    hub = {"path": "hf://owner/name", "revision": "0" * 40}
    sources: list[dict[str, Any]] = [{"path": "a.md"}, {"path": "b.pdf"}, hub, {"path": "https://example.org/"}]
    given_recipe = recipe(root=str(tmp_path), sources=sources, dataset={"validation": 0.0})
    assert estimate_tokens(given_recipe).tokens == 2_000
    notes = estimate_learning(given_recipe).notes
    assert sum("is not on this disk" in note for note in notes) == 2
    assert sum(note.startswith("b.pdf holds PDF") for note in notes) == 1
    assert estimate_tokens(recipe(root=str(tmp_path), sources=[hub])).tokens == 0


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="needs ../shared/data, which is not here")
def test_a_plan_of_real_files(tmp_path: Path) -> None:
    """8,000 rows of about 87 tokens (counted with a vocabulary of 16,000 made from them)."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"name: canarim\nroot: {SHARED}/data\nbase: Qwen/Qwen3-8B\nadapter: {{kind: qlora}}\n"
        "sources:\n  - {path: ptbr/canarim/train.jsonl, validation: 0}\n"
    )
    given_recipe = load_recipe(file)
    learning = estimate_learning(given_recipe)
    shape, device = recipe_shape(given_recipe), find_device("RTX 4090")
    plan = plan_run(given_recipe, shape, learning.tokens, device, notes=learning.notes)
    assert 1 / plan.tokens.spread < plan.tokens.tokens / (8_000 * 87) < plan.tokens.spread
    assert plan.time.low < plan.time.point < plan.time.high
    assert plan.notes[0].startswith("tokens are estimated")


# --- doctor --------------------------------------------------------------------------------------


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = {check.name: check for check in doctor.examine(tmp_path / "runs")}
    assert found["hub"].status == "warning"
    assert found["runs"].status == "ok"
    assert not (tmp_path / "runs").exists()
    assert {"python", "memory", "disk", "torch", "transformers", "bitsandbytes"} <= set(found)
    for check in found.values():
        assert check.status == "ok" or check.fix


def test_doctor_says_what_is_missing_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", {"no-such-library": (1, 0), "pydantic": (99, 0)})
    (tmp_path / "runs").write_text("a file")
    found = {check.name: check for check in doctor.examine(tmp_path / "runs")}
    assert (found["no-such-library"].status, found["pydantic"].status) == ("missing", "missing")
    assert found["pydantic"].fix == "pip install --upgrade 'pydantic>=99.0'"
    assert found["runs"].status == "missing"


def test_intervals_add_end_by_end() -> None:
    total = Interval.total([Interval(1, 0.5, 2), Interval(3, 2, 3.5)])
    assert (total.low, total.point, total.high) == (2.5, 4, 5.5)


def test_nothing_heavy_is_imported_by_a_plan_of_a_family_in_the_table(tmp_path: Path) -> None:
    """Seen from outside; and nothing that reads or writes a dataset, which a plan only asks for its size."""
    (tmp_path / "a.md").write_text("x" * 3500)
    (tmp_path / "recipe.yaml").write_text("name: t\nbase: Qwen/Qwen3-0.6B\nsources: [{path: a.md}]\n")
    words = ["-X", "importtime", "-m", "afina", "plan", "recipe.yaml", "--device", "RTX 4090"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "afina.plan.plan" in loaded, "the list of imports was not understood"
    heavy = {"torch", "transformers", "numpy", "peft", "tokenizers", "lxml", "markdown_it", "jinja2", "httpx"}
    assert not {name.partition(".")[0] for name in loaded} & heavy
    assert not any(name.startswith(("afina.sources", "afina.dataset", "afina.evaluate.")) for name in loaded)


def test_a_plan_asks_the_disk_once_however_many_devices_it_compares(tmp_path: Path, monkeypatch: Any) -> None:
    """A folder of thousands of files was gone through some ninety times."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("x" * 3500)
    file = tmp_path / "recipe.yaml"
    file.write_text("name: t\nbase: Qwen/Qwen3-8B\nsources: [{path: docs}]\n")
    looked: list[Path] = []
    found_below = token_counts._files
    monkeypatch.setattr(token_counts, "_files", lambda root, source: looked.append(root) or found_below(root, source))
    for devices in ({"devices": ("T4",)}, {"devices": (), "all_devices": True}):
        looked.clear()
        answer(PlanAsked(str(file), (), runs=tmp_path / "runs", **devices))
        assert len(looked) == 4, "for the sizes, for what they do not tell, and for the splits of each"


def test_what_would_fit_counts_both_stages() -> None:
    """The advice beside a plan of two stages left the first one out where the rows were counted."""
    given_recipe = recipe(train={"method": "sft", "first": {"method": "cpt"}})
    shape, small = find_shape("Qwen/Qwen3-0.6B"), find_device("T4")
    for made in (
        lambda first: cheapest_device(given_recipe, shape, COUNT, first=first),
        lambda first: what_would_fit(given_recipe, shape, COUNT, small, first=first)[0].plan,
    ):
        both, one = (made(first).time_parts["training"].point for first in (COUNT, None))
        assert both > 1.9 * one
