"""What goes wrong while training: not a number, no memory, no disk, kills at any moment, a spent budget."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from called import call_afina
from safetensors.torch import load_file
from test_train import BACK_ENDS, CPU, Recorder, adapter_weights, run_training
from test_walk import write_project
from tiny import make_base, make_recipe, make_rows, same_tensors

import afina.train.backend_torch as backend_torch
import afina.train.checkpoint as checkpoint
import afina.train.guard as guard
import afina.train.loop as loop
import afina.train.methods.answers_torch as answers
import afina.train.snapshot_torch as snapshot_torch
from afina.errors import DiskFull, DoesNotFit, OutOfMemory, TrainingDiverged
from afina.model import footprint
from afina.model.load_torch import attach_adapter, load_base
from afina.recipe import Budget
from afina.train.backend_torch import TorchBackend
from afina.train.guard import halve
from afina.train.memory_torch import is_out_of_memory

DROPOUT = {"dropout": 0.2}
OFTEN = {"checkpoint_seconds": 1e-9}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def recipe(base):
    return make_recipe(base, train=OFTEN, adapter=DROPOUT)


@pytest.fixture(scope="module", params=BACK_ENDS)
def either(request, base):
    """The same recipe by each back end."""
    return make_recipe(base, train=OFTEN, adapter=DROPOUT, backend=request.param)


@pytest.fixture(scope="module")
def expected_of_either(base, either, tmp_path_factory):
    """Its adapter where nothing disturbs the training."""
    return adapter_weights(run_training(base, tmp_path_factory.mktemp("either"), either)[0])


@pytest.fixture(scope="module")
def expected(base, tmp_path_factory):
    """The adapter of a training that nothing disturbs, with dropout."""
    recipe = make_recipe(base, train=OFTEN, adapter=DROPOUT)
    return adapter_weights(run_training(base, tmp_path_factory.mktemp("whole"), recipe)[0])


def events(log, name):
    return [event for event in log.events if event["event"] == name]


def wrong_at(monkeypatch, calls, value=float("nan")):
    """Give `value` instead of the loss at these calls (from 1)."""
    own, count = answers.target_loss, [0]

    def loss(model, batch, **options):
        count[0] += 1
        found = own(model, batch, **options)
        return found * value if count[0] in calls else found

    monkeypatch.setattr(answers, "target_loss", loss)
    if find_spec("mlx_lm") is None:
        return
    import afina.train.methods.answers_mlx as answers_mlx

    own_mlx = answers_mlx.loss

    def loss_by_mlx(model, batch, targets):
        count[0] += 1
        found = own_mlx(model, batch, targets)
        return found * value if count[0] in calls else found

    monkeypatch.setattr(answers_mlx, "loss", loss_by_mlx)


# ---- not a number


def test_a_single_nan_costs_half_the_rate_and_no_more(base, tmp_path, either, monkeypatch):
    plain = run_training(base, tmp_path / "plain", either)[2]
    monkeypatch.setattr(footprint, "GOOD_STEPS", 4)
    wrong_at(monkeypatch, {7})
    _, state, log, said = run_training(base, tmp_path / "nan", either)
    (back,) = events(log, "went_back")
    assert (back["step"], back["to"], back["tries"], back["rate_factor"]) == (6, 4, 1, 0.5)
    assert "rows.jsonl:" in back["reason"] and any("goes back to step 4" in line for line in said)
    rates, before = ([e["learning_rate"] for e in events(each, "step")] for each in (log, plain))
    assert rates[:6] == before[:6]
    assert rates[6:] == [rate / 2 for rate in before[4:]]
    assert (state.tries, state.rate_factor) == (1, 0.5)


def test_going_back_restores_weights_moments_and_generators(base, tmp_path, either, monkeypatch):
    """With the whole rate after going back, the run ends as if nothing had happened."""
    monkeypatch.setattr(footprint, "GOOD_STEPS", 4)
    whole = adapter_weights(run_training(base, tmp_path / "whole", either)[0])
    wrong_at(monkeypatch, {7})
    own = guard.LastGood.go_back

    def unpunished(*arguments):
        state = own(*arguments)
        state.rate_factor = 1.0
        return state

    monkeypatch.setattr(guard.LastGood, "go_back", unpunished)
    assert same_tensors(adapter_weights(run_training(base, tmp_path / "nan", either)[0]), whole)


TOO_FAST = {"torch": 200.0, "mlx": 1e12}
"""Rates at which a step leaves weights whose next loss is not a number, by back end: mlx's attention bears more."""


@pytest.mark.parametrize("backend", BACK_ENDS)
@pytest.mark.parametrize("die_after", [5, pytest.param(9, marks=pytest.mark.long)])
def test_killed_around_a_nan_it_ends_bitwise_the_same(base, tmp_path, monkeypatch, die_after, backend):
    """The NaN belongs to the weights of step 6 at the whole rate, so that a resumed run meets it again."""
    monkeypatch.setattr(footprint, "GOOD_STEPS", 4)
    own = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda step, *rest: TOO_FAST[backend] if step == 5 else own(step, *rest))
    recipe = make_recipe(base, train=OFTEN | {"tries": 30}, backend=backend)
    whole, state, log, _ = run_training(base, tmp_path / "whole", recipe)
    assert 2 <= state.tries < 30 and events(log, "went_back")[0]["to"] in (0, 4)
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=die_after))
    resumed, again, _, _ = run_training(base, tmp_path / "killed", recipe)
    assert (again.tries, again.rate_factor, again.step) == (state.tries, state.rate_factor, state.step)
    assert same_tensors(adapter_weights(resumed), adapter_weights(whole))


def test_trained_weights_too_large_for_memory_go_back_to_the_newest_checkpoint(base, tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "MEMORY_BYTES", 0)
    wrong_at(monkeypatch, {1 + 3})
    recipe = make_recipe(base, train={"checkpoint_seconds": 1e9})
    _, state, log, _ = run_training(base, tmp_path, recipe)
    assert events(log, "went_back")[0]["to"] == 0
    assert state.tries == 1


def test_a_hopeless_rate_gives_up_after_the_tries_and_says_so_again(base, tmp_path):
    recipe = make_recipe(base, train={"learning_rate": 1e36, "clip": 1e30, "tries": 2} | OFTEN)
    log = Recorder()
    with pytest.raises(TrainingDiverged, match=r"rows\.jsonl:\d+.*went back 2 times.*0\.25"):
        run_training(base, tmp_path, recipe, log)
    assert [event["tries"] for event in events(log, "went_back")] == [1, 2]
    with pytest.raises(TrainingDiverged, match="went back 2 times"):
        run_training(base, tmp_path, recipe)


def test_a_weight_of_the_base_that_is_not_a_number_is_not_met_by_a_lower_rate(base, tmp_path, recipe):
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    model.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight.data[3, 3] = float("nan")
    with pytest.raises(Exception, match="nan"):
        run_training(base, tmp_path, recipe, model=model)


def test_nan_in_the_data_path_from_the_start(base, tmp_path, either, monkeypatch):
    wrong_at(monkeypatch, set(range(1, 10)))
    with pytest.raises(TrainingDiverged, match="before anything was learned"):
        run_training(base, tmp_path, either)


def test_the_last_step_cannot_leave_broken_weights(base, tmp_path, either, monkeypatch):
    own = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda step, steps, train: 1e39 if step == steps - 1 else own(step, steps, train)
    )
    with pytest.raises(TrainingDiverged, match=r"after step .* is NaN or infinite|held-out loss is (nan|inf)"):
        run_training(base, tmp_path, either)


# ---- nothing is learned


def test_loss_exactly_zero_stops(base, tmp_path, recipe, monkeypatch):
    wrong_at(monkeypatch, {5}, 0.0)
    with pytest.raises(TrainingDiverged, match="at step 5 the loss is exactly zero"):
        run_training(base, tmp_path, recipe)


def test_loss_that_stands_still_stops_unless_the_rate_is_zero(base, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "CONSTANT_STEPS", 5)
    rows, _ = make_rows(base, make_recipe(base))
    still = {"epochs": 12, "learning_rate": 1e-30}
    with pytest.raises(TrainingDiverged, match="for 5 steps"):
        run_training(base, tmp_path / "still", make_recipe(base, train=still), rows=rows[:1])
    zero = make_recipe(base, train=still | {"learning_rate": 0.0})
    assert run_training(base, tmp_path / "zero", zero, rows=rows[:1])[1].step == 12


# ---- memory


def no_room_for(monkeypatch, most_rows, after_calls=0):
    """A loss that runs out of memory above so many rows, from some call on."""
    own, calls = answers.target_loss, [0]

    def loss(model, batch, **options):
        calls[0] += 1
        found = own(model, batch, **options)
        if calls[0] > after_calls and batch.ids_BL.shape[0] > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return found

    monkeypatch.setattr(answers, "target_loss", loss)


def test_out_of_memory_makes_micro_batches_smaller_and_changes_nothing_else(base, tmp_path, monkeypatch):
    recipe = make_recipe(base, train=OFTEN)
    whole, plain, before, _ = run_training(base, tmp_path / "whole", recipe)
    no_room_for(monkeypatch, 3)
    model, state, log, said = run_training(base, tmp_path / "small", recipe)
    assert state.splits == len(events(log, "smaller_batches")) >= 1
    assert any("does not fit the memory" in line for line in said)
    assert (state.step, state.tokens, state.targets) == (plain.step, plain.tokens, plain.targets)
    assert max(e["micro_batches"] for e in events(log, "step")) > 1
    for name, weight in adapter_weights(whole).items():
        torch.testing.assert_close(adapter_weights(model)[name], weight, rtol=2e-3, atol=2e-5)
    assert log.losses() == pytest.approx(before.losses(), abs=1e-4)
    saved = sorted((tmp_path / "small").glob("step-*"))[-1]
    assert json.loads((saved / "state.json").read_text())["splits"] == state.splits


@pytest.mark.long
def test_killed_after_out_of_memory_it_goes_on_with_the_smaller_batches(base, tmp_path, recipe, monkeypatch):
    no_room_for(monkeypatch, 3)
    whole = adapter_weights(run_training(base, tmp_path / "whole", recipe)[0])
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=4))
    resumed, _, log, _ = run_training(base, tmp_path / "killed", recipe)
    assert not events(log, "smaller_batches")
    assert same_tensors(adapter_weights(resumed), whole)


@pytest.mark.long
def test_going_back_remembers_that_memory_was_short(base, tmp_path, monkeypatch):
    """Memory runs out after the good state was noted."""
    no_room_for(monkeypatch, 3, after_calls=2)
    own = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda step, *rest: TOO_FAST["torch"] if step == 5 else own(step, *rest))
    recipe = make_recipe(base, train=OFTEN | {"tries": 30})
    _, state, log, _ = run_training(base, tmp_path, recipe)
    assert events(log, "went_back") and events(log, "smaller_batches")[-1]["splits"] == state.splits
    assert len(events(log, "smaller_batches")) == state.splits


def test_going_back_forgets_the_checkpoints_behind_it(base, tmp_path, monkeypatch):
    """Else a kill would start from the way that was left, and pruning would keep it instead of the new one."""
    wrong_at(monkeypatch, {7})
    present = []

    class Looks(Recorder):
        def __call__(self, event, **values):
            super().__call__(event, **values)
            if event == "step" and events(self, "went_back"):
                present.append(sorted(int(folder.name[5:]) for folder in tmp_path.glob("step-????????")))

    run_training(base, tmp_path, make_recipe(base, train=OFTEN | {"keep_checkpoints": 3}), Looks())
    assert present[0] == [0]


@pytest.mark.long
def test_one_row_that_does_not_fit_is_named(base, tmp_path, recipe, monkeypatch):
    no_room_for(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="single row") as refused:
        run_training(base, tmp_path, recipe)
    assert ".jsonl:" in refused.value.problems[0].where


@pytest.mark.long
def test_held_out_loss_that_does_not_fit_is_measured_in_smaller_batches(base, tmp_path, monkeypatch):
    recipe = make_recipe(base)
    before = events(run_training(base, tmp_path / "whole", recipe)[2], "validation")
    own = answers.held_out_loss

    def tight(*arguments, batch_tokens, **options):
        if batch_tokens > 40:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return own(*arguments, batch_tokens=batch_tokens, **options)

    monkeypatch.setattr(answers, "held_out_loss", tight)
    after = events(run_training(base, tmp_path / "small", recipe)[2], "validation")
    assert [e["loss"] for e in after] == pytest.approx([e["loss"] for e in before], rel=1e-5)


def test_other_runtime_errors_are_not_taken_for_memory(base, tmp_path, recipe, monkeypatch):
    assert not is_out_of_memory(RuntimeError("expected scalar type Half"))
    assert is_out_of_memory(MemoryError())

    def broken(*_, **__):
        raise RuntimeError("expected scalar type Half")

    monkeypatch.setattr(answers, "target_loss", broken)
    with pytest.raises(RuntimeError, match="Half"):
        run_training(base, tmp_path, recipe)


def test_halving_keeps_every_row_once():
    batches = [list(range(13)), [20], [30, 31]]
    for splits in range(6):
        parts = halve(batches, splits)
        assert [row for part in parts for row in part] == [row for batch in batches for row in batch]
        assert max(map(len, parts)) <= -(-13 // 2**splits)


# ---- patience, budget, what is kept


def scripted_validation(monkeypatch, losses):
    """Held-out losses from a list, in the order of the measured steps."""
    from afina.evaluate.loss import LossScore

    given = iter(losses)
    monkeypatch.setattr(answers, "held_out_loss", lambda *_, **__: LossScore(loss=next(given), tokens=1))


def test_patience_stops_and_keeps_the_best_weights(base, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [3.0, 2.0, 2.5, 2.2, 1.0])
    recipe = make_recipe(base, train=OFTEN | {"epochs": 6, "patience": 2, "keep_checkpoints": 99})
    model, state, log, _ = run_training(base, tmp_path, recipe)
    measured = [e["step"] for e in events(log, "validation")]
    assert len(measured) == 4
    assert (state.best_step, state.best_loss, state.step) == (measured[1], 2.0, measured[3])
    assert "no better held-out loss in 2" in state.stopped and events(log, "stopped_early")
    best = load_file(tmp_path / f"step-{measured[1]:08d}/weights.safetensors")
    assert same_tensors(adapter_weights(model), best) and same_tensors(
        load_file(tmp_path / "best/weights.safetensors"), best
    )
    again, state, log, _ = run_training(base, tmp_path, recipe)
    assert not events(log, "step") and same_tensors(adapter_weights(again), best)


def test_best_is_kept_without_patience_and_the_last_weights_are_used(base, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    recipe = make_recipe(base, train=OFTEN | {"epochs": 4, "keep_checkpoints": 1})
    model, state, log, _ = run_training(base, tmp_path, recipe)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["best", f"step-{state.step:08d}"]
    assert json.loads((tmp_path / "best/state.json").read_text())["step"] == events(log, "validation")[0]["step"]
    assert same_tensors(adapter_weights(model), load_file(tmp_path / f"step-{state.step:08d}/weights.safetensors"))


def test_damaged_best_is_not_used(base, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [2.0, 3.0])
    recipe = make_recipe(base, train=OFTEN | {"epochs": 2, "patience": 1})
    run_training(base, tmp_path, recipe)
    file = tmp_path / "best/weights.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(Exception, match=r"damaged \(weights"):
        run_training(base, tmp_path, recipe)


@pytest.mark.parametrize("budget", [Budget(hours=1e-9), Budget(money=1e-9, price_per_hour=10)])
def test_a_spent_budget_stops_with_a_checkpoint_and_a_larger_one_goes_on(base, tmp_path, recipe, expected, budget):
    for _ in range(2):  # the same budget again does not move
        with pytest.raises(DoesNotFit, match="used up at step 0") as refused:
            run_training(base, tmp_path, recipe, budget=budget)
    assert refused.value.exit_code == 4 and "larger budget goes on" in str(refused.value)
    model = run_training(base, tmp_path, recipe, budget=Budget(hours=1))[0]
    assert same_tensors(adapter_weights(model), expected)


def test_a_budget_that_runs_out_while_training(base, tmp_path, recipe, expected, monkeypatch):
    clock = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr("afina.train.meter.time.monotonic", lambda: float(next(clock)))
        with pytest.raises(DoesNotFit, match=r"budget\.hours \(0\.01\) is used up at step [1-9]"):
            run_training(base, tmp_path, recipe, budget=Budget(hours=0.01))
    (saved, *_) = sorted(tmp_path.glob("step-*"), reverse=True)
    assert json.loads((saved / "state.json").read_text())["wall_seconds"] >= 36
    with pytest.raises(DoesNotFit, match="used up at step"):  # what was spent is not forgotten
        run_training(base, tmp_path, recipe, budget=Budget(hours=0.01))
    assert same_tensors(adapter_weights(run_training(base, tmp_path, recipe, budget=Budget(hours=1))[0]), expected)


def test_steps_tell_speed_memory_time_left_and_money(base, tmp_path):
    _, _, log, _ = run_training(base, tmp_path, budget=Budget(price_per_hour=3600))
    steps = events(log, "step")
    assert all(e["flops_per_second"] > 0 and e["memory_bytes"] > 1e6 for e in steps)
    assert steps[-1]["eta_seconds"] == 0 <= steps[0]["eta_seconds"]
    assert 0 < steps[0]["money"] < steps[-1]["money"]


def test_flops_by_hand(base):
    from afina.train.flops_torch import flops_per_token

    recipe = make_recipe(base)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    h, m, kv, v, r = 32, 64, 16, 400, 4
    frozen = 2 * (2 * h * h + 2 * h * kv + 3 * h * m)
    lora = 2 * r * (2 * (h + h) + 2 * (h + kv) + 3 * (h + m))
    vocab = model.get_base_model().config.vocab_size
    assert vocab <= v + 10
    assert flops_per_token(model) == (4 * frozen + 6 * lora, 4 * h * vocab)


@pytest.mark.long
def test_peak_memory_is_not_that_of_whoever_started_the_process():
    """`ru_maxrss` goes through fork and exec: a run started from a notebook of 10 GB said 10 GB."""
    begun = (
        "import resource, subprocess, sys; kept = bytearray(b'x') * (1600 << 20)\n"
        "code = 'from afina.train.flops_torch import process_peak_bytes; print(process_peak_bytes())'\n"
        "print(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)"
    )
    said = subprocess.run([sys.executable, "-c", begun], capture_output=True, text=True, check=True).stdout
    assert 50 << 20 < int(said) < 1000 << 20


# ---- kills and disks


class Killed(BaseException):
    """A kill at this very moment."""


def test_twenty_kills_anywhere_even_while_saving_end_bitwise_the_same(base, tmp_path, recipe, expected, monkeypatch):
    """Nothing cleans up after a kill: what was begun stays half-written."""
    pick, left = random.Random(7), [0]

    def deadly(own):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return own(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for module, name in (
            (answers, "target_loss"), (backend_torch, "set_rate"), (loop, "check_moving"),
            (TorchBackend, "held_out"), (snapshot_torch, "save_file"), (checkpoint, "hash_file"),
            (backend_torch, "random_states"),
            (Path, "rename"),
        ):  # fmt: skip
            patch.setattr(module, name, deadly(getattr(module, name)))
        clean = shutil.rmtree
        patch.setattr(shutil, "rmtree", lambda *a, **k: sys.exc_info()[0] is Killed or clean(*a, **k))
        kills = 0
        while kills < 20:
            left[0] = pick.randint(3, 40)
            try:
                run_training(base, tmp_path, recipe)
            except Killed:
                kills += 1
            else:
                break
    model, *_ = run_training(base, tmp_path, recipe)
    assert kills == 20, "the training was over before the kills came"
    assert same_tensors(adapter_weights(model), expected)
    assert not list(tmp_path.glob("step-*.partial"))


def test_sigterm_then_the_same_again_is_bitwise_uninterrupted(base, tmp_path, either, expected_of_either):
    class Signals(Recorder):
        def __call__(self, event, **values):
            super().__call__(event, **values)
            if event == "step" and values["step"] in (3, 7):
                os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):
        with pytest.raises(loop.Stopped):
            run_training(base, tmp_path, either, Signals())
    assert same_tensors(adapter_weights(run_training(base, tmp_path, either)[0]), expected_of_either)


@pytest.mark.parametrize(
    "file",
    ["weights", "good-optimizer", *(pytest.param(each, marks=pytest.mark.long) for each in ("optimizer", "random"))],
)
def test_truncated_checkpoint_is_passed_over(base, tmp_path, recipe, expected, file):
    recipe = make_recipe(base, train=OFTEN | {"keep_checkpoints": 3}, adapter=DROPOUT)
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path, recipe, Recorder(die_after=6))
    path = tmp_path / f"step-00000006/{file}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    model, _, log, said = run_training(base, tmp_path, recipe)
    assert log.events[0] == {"event": "resumed", "step": 5} and f"damaged ({file}" in said[0]
    assert same_tensors(adapter_weights(model), expected)


def test_full_disk_leaves_whole_checkpoints_and_the_same_command_goes_on(base, tmp_path, recipe, expected, monkeypatch):
    own, count = snapshot_torch.save_file, [0]

    def full(tensors, path, *rest):
        count[0] += 1
        if count[0] > 20:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return own(tensors, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(snapshot_torch, "save_file", full)
        with pytest.raises(DiskFull, match="the disk is full"):
            run_training(base, tmp_path, recipe)
    assert all(checkpoint.checkpoint_problem(folder) is None for folder in tmp_path.iterdir())
    model, _, log, _ = run_training(base, tmp_path, recipe)
    assert log.events[0]["event"] == "resumed"
    assert same_tensors(adapter_weights(model), expected)


@pytest.mark.long
def test_a_spent_budget_through_the_command_line(tmp_path, monkeypatch):
    """Exit code 4; the same command with a larger budget goes on in the same checkpoints."""
    import afina.plan.check
    from afina.train.meter import Meter

    recipe = write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    often = "train.checkpoint_seconds=0.000001"
    with monkeypatch.context() as patch:
        patch.setattr(afina.plan.check, "check_plan", lambda *_, **__: None)  # the plan itself would refuse it
        reads = iter(range(10**9))
        patch.setattr(Meter, "wall_seconds", property(lambda _: 1e-9 if next(reads) < 20 else 1e9))
        said = call_afina("train", "recipe.yaml", often, "budget.hours=2", check=4).stderr
    assert "budget.hours (2) is used up at step" in said
    saved = sorted((tmp_path / "runs/clube/checkpoints").glob("step-*"))
    assert saved and recipe.exists()
    state = json.loads((saved[-1] / "state.json").read_text()) | {"wall_seconds": 1.0}
    (saved[-1] / "state.json").write_text(json.dumps(state))
    hashes = json.loads((saved[-1] / "hashes.json").read_text())
    hashes["state.json"] = checkpoint.hash_file(saved[-1] / "state.json")
    (saved[-1] / "hashes.json").write_text(json.dumps(hashes))
    said = call_afina("train", "recipe.yaml", often, "budget.hours=3").stderr
    assert f"goes on from step {state['step']}" in said
    assert not (tmp_path / "runs/clube/replaced").exists()


def test_patience_makes_the_measurements_part_of_what_is_learned(base, tmp_path):
    from afina.run import Run
    from afina.walk.context import Context
    from afina.walk.training_inputs import training_inputs
    from afina.walk.trainings import trainings_of

    (tmp_path / "dataset").mkdir()

    def inputs(**train):
        recipe = make_recipe(base, train=train, budget=Budget(hours=len(train) + 1))
        run = Run(tmp_path, recipe, print, stages={"dataset": {"outputs": "hash"}, "tokens": {"outputs": "hash"}})
        return training_inputs(Context(run, lambda _: None), trainings_of(recipe)[-1])

    assert inputs() == inputs(validate_per_epoch=3) == inputs(tries=9) == inputs(checkpoint_activations=True)
    assert inputs(patience=1) != inputs(patience=1, validate_per_epoch=3)


def test_what_a_kill_left_half_written_is_removed(base, tmp_path, recipe):
    for name in ("step-00000999.partial", "step-00000998.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"half")
    run_training(base, tmp_path, recipe)
    assert not list(tmp_path.glob("step-*.*"))
