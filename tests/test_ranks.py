"""Several processes: real ones under torchrun, two of them, that send through gloo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st
from ranks_job import RAGGED, run_scenarios
from safetensors.torch import load_file
from test_train import CPU, Recorder, adapter_weights, run_training
from test_walk import write_project
from tiny import make_base, make_recipe, same_tensors
from torch.distributed import HashStore
from waiting import LONGEST, until

from afina.machine import free_port
from afina.model.load_torch import load_base
from afina.model.shape_table import dense_shape
from afina.recipe import Recipe
from afina.run import read_json
from afina.train.ranks import Ranks, _end_by_first, cut, deal, meet
from afina.train.shard_torch import choose_parallel

JOB = Path(__file__).with_name("ranks_job.py")
SCENARIOS = "ddp ddp_whole fsdp_whole fsdp_begun single_begun dropout nan memory terminated budget killed"
"""Of ranks_job.py, one after the other in the same two processes: starting them takes longer than all of it."""
AFTERWARDS = "command_line killed failing"


def torchrun(*arguments: object) -> list[str]:
    """The command that starts two processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*launcher, *map(str, arguments)]


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


# ---- who computes what


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 8))
def test_every_micro_batch_is_dealt_once_and_the_shares_are_near(costs, world):
    dealt = deal(costs, world)
    assert sorted(number for hand in dealt for number in hand) == list(range(len(costs)))
    sums = [sum(costs[number] for number in hand) for hand in dealt]
    assert max(sums) - min(sums) <= max(costs)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 8))
def test_a_step_with_too_few_micro_batches_is_cut_as_far_as_it_has_rows(sizes, world):
    rows = iter(range(100))
    parts = cut([[next(rows) for _ in range(size)] for size in sizes], world)
    assert sorted(row for part in parts for row in part) == list(range(sum(sizes)))
    assert len(parts) >= min(world, sum(sizes))


def test_with_sharded_weights_every_rank_makes_as_many_passes():
    lengths, parts = [9, 3, 4, 2], [[0], [1], [2], [3]]
    shares = [Ranks(rank=rank, world=2, sharded=True).share(parts, lengths) for rank in range(2)]
    assert shares == [([[0]], [[3], [3]]), ([[1], [2], [3]], [])]


@pytest.mark.parametrize(
    ("kind", "room", "chosen"),
    [
        ("lora", None, "ddp"),
        ("lora", 40e9, "ddp"),
        ("lora", 16e9, "fsdp"),
        ("none", 40e9, "fsdp"),
        ("qlora", 16e9, "ddp"),
    ],
)
def test_auto_shards_what_a_gpu_cannot_hold(kind, room, chosen):
    """Eight billion parameters in bf16: 16 GB, and 64 GB where each is trained."""
    shape = dense_shape("llama", 32, 4096, 14336, 32, 8, 128, 128256, tied_embeddings=False, max_positions=8192)
    recipe = Recipe(name="x", base="b", sources=[{"path": "x"}], adapter={"kind": kind})
    assert choose_parallel(recipe, shape, room) == chosen


def test_fsdp_refuses_what_cannot_be_sharded():
    with pytest.raises(ValueError, match="parallel ddp"):
        make_recipe(train={"parallel": "fsdp", "optimizer": "adamw_8bit"})


# ---- two processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left behind, killed while the last scenario runs, and two more that go on with it."""
    folder = tmp_path_factory.mktemp("ranks")
    make_base(folder / "base")
    with pytest.raises(KeyboardInterrupt):
        run_training(folder / "base", folder / "single_begun", recipe_of(folder), Recorder(die_after=5))
    (folder / "project").mkdir()
    write_project(folder / "project")
    run_and_kill(folder, SCENARIOS.split())
    command = torchrun(JOB, folder, *AFTERWARDS.split())
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LONGEST)
    (folder / "said").write_text(done.stderr)
    assert (folder / "killed.json").exists(), done.stderr[-4000:]
    return folder


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run_and_kill(folder: Path, scenarios: list[str]) -> None:
    """kill -9 of torchrun and of both its processes, when they hang in the middle of a training."""
    with (folder / "said").open("w") as said:
        job = subprocess.Popen(torchrun(JOB, folder, *scenarios), env=environment(), stderr=said)
    until(
        lambda: all((folder / f"hangs.{rank}").exists() for rank in range(2)),
        gone=lambda: job.poll() is not None,
        said=lambda: "the job did not come to where it is killed: " + (folder / "said").read_text()[-4000:],
    )
    for process in [job.pid, *children(job.pid)]:
        os.kill(process, signal.SIGKILL)
    job.wait()


def recipe_of(folder: Path, **adapter: object) -> Recipe:
    return make_recipe(folder / "base", train=RAGGED, adapter=adapter)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The same training in this process alone: adapter and events."""
    model, _, log, _ = run_training(folder / "base", tmp_path_factory.mktemp("alone"), recipe_of(folder))
    return adapter_weights(model), log.events


@pytest.fixture(scope="module")
def alone_whole(folder, tmp_path_factory):
    model = load_base(folder / "base", make_recipe(folder / "base"), CPU).requires_grad_(True)
    place = tmp_path_factory.mktemp("alone")
    return adapter_weights(run_training(folder / "base", place, recipe_of(folder, kind="none"), model=model)[0])


def furthest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def left(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / f"{name}.json").read_text())["events"]


def of_each(folder: Path, name: str) -> list:
    return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(2)]


def assert_same_training(folder: Path, alone: tuple[dict[str, torch.Tensor], list[dict]]) -> None:
    """The same weights but for the order in which numbers are added, over ragged rows with accumulation."""
    weights, events = alone
    assert furthest(load_file(folder / "ddp.safetensors"), weights) < 1e-6
    steps, expected = ([e for e in found if e["event"] == "step"] for found in (left(folder, "ddp"), events))
    for step, other in zip(steps, expected, strict=True):
        assert step["loss"] == pytest.approx(other["loss"], abs=2e-6)
        assert [step[name] for name in ("tokens", "target_tokens")] == [other[n] for n in ("tokens", "target_tokens")]


def as_rank(number: int, port: int, folder: Path) -> None:
    """A rank as torchrun starts it, in a fork of this process, which has loaded everything already. Never returns."""
    code = 1
    try:
        os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        run_scenarios(folder, ["ddp"])
        code = 0
    except BaseException:  # noqa: BLE001  # told, and the exit code says it
        traceback.print_exc()
    finally:
        os._exit(code)


def test_two_processes_are_one(tmp_path):
    """The fast form of all that follows: one training in two processes, one here."""
    make_base(tmp_path / "base")
    port = free_port()
    ranks = []
    for number in range(2):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            as_rank(number, port, tmp_path)
    assert [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks] == [0, 0]
    model, _, log, _ = run_training(tmp_path / "base", tmp_path / "alone", recipe_of(tmp_path))
    assert_same_training(tmp_path, (adapter_weights(model), log.events))


@pytest.mark.long
def test_ddp_is_the_single_process(folder, alone):
    assert_same_training(folder, alone)


@pytest.mark.long
def test_ddp_and_fsdp_of_every_weight_are_the_single_process(folder, alone_whole):
    """With tied embeddings; under FSDP also with activations computed again."""
    for name in ("ddp_whole", "fsdp_whole"):
        assert furthest(load_file(folder / f"{name}.safetensors"), alone_whole) < 1e-5


@pytest.mark.long
def test_a_killed_job_ends_bitwise_as_if_it_had_not_been(folder):
    """With dropout, drawn by each rank for itself."""
    whole, killed = (load_file(folder / f"{name}.safetensors") for name in ("dropout", "killed"))
    assert same_tensors(whole, killed)
    assert left(folder, "killed")[0] == {"event": "resumed", "step": 4}


@pytest.mark.long
def test_a_sharded_checkpoint_goes_on_in_a_single_process(folder, alone):
    model, _, log, said = run_training(folder / "base", folder / "fsdp_begun", recipe_of(folder))
    assert log.events[0] == {"event": "resumed", "step": 5}
    assert any("2 processes, this one in 1" in line for line in said)
    assert furthest(adapter_weights(model), alone[0]) < 1e-6


@pytest.mark.long
def test_a_checkpoint_of_a_single_process_goes_on_sharded(folder, alone):
    assert left(folder, "single_begun")[0] == {"event": "resumed", "step": 5}
    assert furthest(load_file(folder / "single_begun.safetensors"), alone[0]) < 1e-6


@pytest.mark.long
def test_what_one_rank_meets_all_answer(folder):
    first, second = ([e for e in events if e["event"] == "went_back"] for events in of_each(folder, "nan"))
    assert first == second and len(first) == 1
    first, second = ([e for e in events if e["event"] == "smaller_batches"] for events in of_each(folder, "memory"))
    assert first == second and len(first) == 1 and first[0]["reason"].endswith("(rank 1)")
    assert of_each(folder, "terminated") == [128 + signal.SIGTERM] * 2
    assert (folder / "terminated/step-00000003").is_dir()
    first, second = of_each(folder, "budget")
    assert first == second and "(rank 1)" in first


@pytest.mark.long
def test_an_error_in_one_rank_ends_all_with_its_exit_code_and_reason(folder):
    """Even a rank that hangs in the middle of something."""
    said = (folder / "said").read_text()
    assert "rank 1 of 2 failed:\nthe invented fault" in said
    assert "rank 0 ends, because rank 1 did: TrainingDiverged: the invented fault" in said
    codes = re.findall(r"exitcode\s*: (-?\d+)", said)
    assert "5" in codes and set(codes) <= {"5", "-15"}  # torchrun may end the second rank before it ends itself


def test_a_rank_that_fails_after_another_one_leaves_the_word_to_it():
    """It has most likely failed because it lost the other."""
    ranks, said = Ranks(rank=0, world=2, store=HashStore()), []
    ranks.store.set("failed", json.dumps({"rank": 1, "code": 4, "what": "DoesNotFit: one row"}))
    with pytest.raises(SystemExit) as ended:
        _end_by_first(ranks, RuntimeError("[gloo] Connection closed by peer"), said.append)
    assert ended.value.code == 4
    assert said == ["rank 0 ends, because rank 1 did: DoesNotFit: one row"]


def test_ranks_that_are_started_again_do_not_take_an_earlier_start_for_theirs():
    """They may meet the same store, and the numbers that torchrun gives to starts are each machine's own."""
    store = HashStore()
    store.set("afina/newest", "of a rank 0 that died while it waited")

    def start() -> list[str]:
        with ThreadPoolExecutor(3) as ranks:
            return list(ranks.map(lambda rank: meet(store, rank, 3), (2, 1, 0)))

    first, second = start(), start()
    assert len({*first}) == len({*second}) == 1 and first[0] != second[0]


# ---- the command


@pytest.mark.long
def test_torchrun_trains_a_recipe_and_a_single_process_finds_it_done(folder, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert "train: 2 processes, each with a part of every weight (fsdp)" in (folder / "said").read_text()
    monkeypatch.chdir(folder / "project")
    assert read_json(Path("runs/clube/stages.json"))["train"]["result"]["ranks"] == 2
    said = call_afina("train", "recipe.yaml", "train.epochs=0.2").stderr
    assert "train: done before, unchanged, kept" in said
    base = AutoModelForCausalLM.from_pretrained("base")
    ids = torch.tensor([[1, 40, 50, 60]])
    before = base(ids).logits
    assert not torch.equal(PeftModel.from_pretrained(base, "runs/clube/adapter")(ids).logits, before)
