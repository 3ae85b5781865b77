"""kill -9 of real processes, at random moments and in the middle of a save, and a disk that is really full."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from test_train import BACK_ENDS, Recorder, adapter_weights, run_training
from thorough import times
from tiny import make_base, make_recipe, same_tensors

import afina.train.checkpoint as checkpoint
import afina.train.snapshot_torch as snapshot_torch
from afina.errors import DiskFull
from afina.train.backend_torch import TorchBackend

KILLS = times(8, 20)
FORK = multiprocessing.get_context("fork")
STARTS = {"torch": FORK, "mlx": multiprocessing.get_context("forkserver")}
"""MLX computes in threads of its own, which a fork of this process would not have. That of a server has torch loaded,
and starts MLX itself."""
STARTS["mlx"].set_forkserver_preload(["torch", "transformers", "peft"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=BACK_ENDS)
def recipe(request, base):
    often = {"checkpoint_seconds": 1e-9, "epochs": 8, "validate_per_epoch": 0}
    return make_recipe(base, train=often, adapter={"dropout": 0.2}, backend=request.param)


@pytest.fixture(scope="module")
def whole(base, recipe, tmp_path_factory):
    """What a training leaves that nothing disturbs: its adapter, its number of steps, its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    model, state, *_ = run_training(base, folder, recipe)
    assert state.step >= 2 * KILLS
    return adapter_weights(model), state.step, folder


def newest(folder: Path) -> int:
    return max((int(each.name[5:]) for each in folder.glob("step-????????")), default=0)


class Tells(Recorder):
    """Says each step to the parent."""

    def __init__(self, pipe) -> None:
        super().__init__()
        self.pipe = pipe

    def __call__(self, event, **values):
        if event == "step":
            self.pipe.send(values["step"])


def hear(hears, count: int) -> list[int]:
    """So many steps, or those that there are until the training is over."""
    heard = []
    with contextlib.suppress(EOFError):
        while len(heard) < count:
            heard.append(hears.recv())
    return heard


@pytest.mark.long
def test_kills_at_random_moments_end_bitwise_the_same(base, tmp_path, recipe, whole):
    """How far each comes until its kill depends on the machine: of a quick one the last find nothing left to train."""
    expected, steps, _ = whole
    pick, told, killed = random.Random(), [], 0
    while len(told) < KILLS and newest(tmp_path) < steps:
        start = STARTS[recipe.backend]
        hears, says = start.Pipe(duplex=False)
        child = start.Process(target=run_training, args=(base, tmp_path, recipe, Tells(says)))
        child.start()
        says.close()
        told.append(hear(hears, pick.randint(1, 3)))
        time.sleep(pick.uniform(0.0, 0.03))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        assert child.exitcode == -signal.SIGKILL or newest(tmp_path) == steps
    model, *_ = run_training(base, tmp_path, recipe)
    assert killed >= KILLS // 4, told
    assert told[0][0] == 1 and any(heard[0] > 1 for heard in told if heard), "they went on where the last was killed"
    assert same_tensors(adapter_weights(model), expected), told


def in_a_save(backend: str):
    """Of a back end its class, and what writes its tensors: where, under which name, and itself."""
    if backend == "torch":
        return TorchBackend, (snapshot_torch, "save_file", snapshot_torch.save_file)
    import afina.model.mlx.arrays_mlx as arrays_mlx
    from afina.train.backend_mlx import MlxBackend

    return MlxBackend, (arrays_mlx, "save_file", arrays_mlx.save_file)


def die_in_a_save(call: int, *arguments) -> None:
    """Train, and kill this process at the so-manieth thing that a save does; files are left half-written."""
    inside, left, backend, written_by = [False], [call], *in_a_save(arguments[2].backend)
    own_save = backend.save

    def save(*arguments, **options):
        inside[0] = True
        own_save(*arguments, **options)
        inside[0] = False

    def deadly(own):
        def act(first, *rest, **options):
            left[0] -= inside[0]
            if left[0] == 0:
                file = rest[0] if rest and isinstance(rest[0], Path) else first
                if own is written_by[2]:
                    file.write_bytes(b"half")
                elif own is shutil.rmtree:
                    (file / "hashes.json").unlink(missing_ok=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return own(first, *rest, **options)

        return act

    backend.save = save
    places = (written_by[:2], (checkpoint, "hash_file"), (shutil, "rmtree"), (os, "fsync"))
    for module, name in (*places, (Path, "rename"), (Path, "write_text")):
        setattr(module, name, deadly(getattr(module, name)))
    run_training(*arguments)


@pytest.mark.long
def test_kills_during_a_save_end_bitwise_the_same(base, tmp_path, recipe, whole):
    expected, _, _ = whole
    pick, begun = random.Random(11), 0
    for _ in range(KILLS):
        start = STARTS[recipe.backend]
        child = start.Process(target=die_in_a_save, args=(pick.randint(1, 30), base, tmp_path, recipe))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        begun += bool(list(tmp_path.glob("step-*.partial")))
    model, *_ = run_training(base, tmp_path, recipe)
    assert begun >= KILLS // 4, "most of a save is writing"
    assert same_tensors(adapter_weights(model), expected)
    assert not list(tmp_path.glob("step-*.*"))


CLONE_NEWNS, CLONE_NEWUSER, MS_REMOUNT, MS_PRIVATE, MS_REC = 0x20000, 0x10000000, 0x20, 0x40000, 0x4000


def mount_small(folder: Path, size: int, *, again: bool = False) -> bool:
    """A tmpfs of so many bytes, seen by this process alone; or another size for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not again:
        if libc.unshare(CLONE_NEWNS) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
            return False
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    flags = MS_REMOUNT if again else 0
    return libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size}".encode()) == 0


def train_on_a_small_disk(pipe, folder: Path, size: int, base, recipe) -> None:
    if not mount_small(folder, size):
        pipe.send("no mount")
        return
    checkpoints = folder / "checkpoints"
    try:
        run_training(base, checkpoints, recipe)
    except DiskFull as full:
        said = str(full)
    problems = {each.name: checkpoint.checkpoint_problem(each) for each in checkpoints.iterdir()}
    assert mount_small(folder, 100 * size, again=True)
    model, _, log, _ = run_training(base, checkpoints, recipe)
    weights = {name: weight.numpy() for name, weight in adapter_weights(model).items()}
    pipe.send((said, problems, log.events[0], weights))


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/ns/mnt").exists(), reason="no mounts of one's own")
@pytest.mark.long
def test_a_disk_that_is_really_full(base, tmp_path, recipe, whole):
    """Room for two checkpoints and a half, and `keep_checkpoints` is 2: the third has no room while it is written."""
    expected, steps, folder = whole
    size = sum(file.stat().st_size for file in (folder / f"step-{steps:08d}").iterdir())
    start = STARTS[recipe.backend]
    hears, says = start.Pipe(duplex=False)
    child = start.Process(target=train_on_a_small_disk, args=(says, tmp_path, size * 5 // 2, base, recipe))
    child.start()
    says.close()
    told = hears.recv()
    child.join()
    if told == "no mount":
        pytest.skip("this user may not mount a tmpfs")
    said, problems, first, weights = told
    assert "the disk is full" in said and "checkpoints" in said
    assert problems and set(problems.values()) == {None} and all(name.startswith("step-0") for name in problems)
    assert first["event"] == "resumed" and first["step"] >= 2
    assert same_tensors({name: torch.from_numpy(weight) for name, weight in weights.items()}, expected)
