"""What the tests of several processes start under torchrun: `torchrun ranks_job.py FOLDER SCENARIO...`.

Every rank runs each scenario; rank 0 leaves what came out as safetensors and JSON in the folder.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import test_train
import torch
from safetensors.torch import save_file
from test_train import CPU, Recorder, run_training
from tiny import make_recipe

import afina.train.methods.answers_torch as answers
import afina.train.ranks as ranks_module
from afina.errors import AfinaError, DoesNotFit, TrainingDiverged
from afina.model.load_torch import attach_adapter, load_base
from afina.progress import say
from afina.train.meter import Meter
from afina.train.ranks import Ranks, joined
from afina.train.shard_torch import shard
from afina.train.signals import Stopped
from afina.walk.distributed import put_together

EVERY_STEP = {"checkpoint_seconds": 1e-9}
RAGGED = EVERY_STEP | {"accumulate": 3, "batch_tokens": 96, "validate_per_epoch": 2}
"""Steps of one to three micro-batches of rows of many lengths."""


class Job:
    """One rank's view of the scenarios."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder, self.ranks, self.base = folder, ranks, folder / "base"

    def train(self, name, *, fsdp=False, whole=False, log=None, leave=True, dropout=0.0, **settings):
        """Train, and leave the weights and the events under `name`; returns the events."""
        adapter = {"kind": "none"} if whole else {"dropout": dropout}
        recipe = make_recipe(self.base, train=RAGGED | settings, adapter=adapter)
        model = load_base(self.base, recipe, CPU)
        model = model.requires_grad_(True) if whole else attach_adapter(model, recipe.adapter, recipe.seed)
        self.ranks.sharded = fsdp
        if fsdp:
            from torch.distributed.device_mesh import init_device_mesh

            shard(model, init_device_mesh("cpu", (self.ranks.world,)))
        log = log or Recorder()
        model, _, log, said = run_training(self.base, self.folder / name, recipe, log, model=model, ranks=self.ranks)
        weights = put_together(model, self.ranks) or test_train.adapter_weights(model)
        if self.ranks.first and leave:
            save_file(weights, self.folder / f"{name}.safetensors")
            (self.folder / f"{name}.json").write_text(json.dumps({"events": log.events, "said": said}))
        return log.events

    def note(self, name, value):
        """Every rank leaves something, for the test to compare."""
        (self.folder / f"{name}.{self.ranks.rank}.json").write_text(json.dumps(value))

    # ---- scenarios

    def ddp(self):
        self.train("ddp")

    def ddp_whole(self):
        self.train("ddp_whole", whole=True)

    def fsdp_whole(self):
        self.train("fsdp_whole", whole=True, fsdp=True, checkpoint_activations=True)

    def fsdp_begun(self):
        """Sharded, killed after step 5."""
        try:
            self.train("fsdp_begun", fsdp=True, log=Recorder(die_after=5))
        except KeyboardInterrupt:
            self.ranks.wait()

    def single_begun(self):
        """Goes on, sharded, with what a single process has left."""
        self.train("single_begun", fsdp=True)

    def dropout(self):
        self.train("dropout", dropout=0.2)

    def killed(self):
        """The same; at step 5 the ranks wait to be killed, unless they were before."""

        mark = self.folder / f"hangs.{self.ranks.rank}"

        def hang(event, step=0, **_):
            if event == "step" and step == 5 and not mark.exists():
                mark.touch()
                time.sleep(600)

        self.train("killed", dropout=0.2, log=Calls(hang))

    def nan(self):
        """Rank 1 alone meets a loss that is not a number, at its fifth micro-batch."""
        self.only_rank_1("nan", 5, lambda found: found * float("nan"))

    def memory(self):
        """Rank 1 alone has no room, at its fifth micro-batch."""

        def full(_):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        self.only_rank_1("memory", 5, full)

    def only_rank_1(self, name, call, what):
        own, calls = answers.target_loss, [0]

        def loss(model, batch, **options):
            calls[0] += 1
            found = own(model, batch, **options)
            return what(found) if (self.ranks.rank, calls[0]) == (1, call) else found

        answers.target_loss = loss
        try:
            self.note(name, self.train(name))
        finally:
            answers.target_loss = own

    def terminated(self):
        """SIGTERM to rank 1 alone."""

        def kill(event, step=0, **_):
            if event == "step" and step == 3 and self.ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            self.train("terminated", log=Calls(kill))
        except Stopped as stopped:
            self.note("terminated", stopped.code)
        self.ranks.wait()

    def budget(self):
        """The time of rank 1 alone is up."""
        own = Meter.over_budget
        Meter.over_budget = lambda meter: "budget.hours (1) is used up" if self.ranks.rank == 1 else own(meter)
        try:
            self.train("budget")
        except DoesNotFit as spent:
            self.note("budget", str(spent))
        finally:
            Meter.over_budget = own
        self.ranks.wait()

    def failing(self):
        """An error in rank 1, while rank 0 hangs and hears of nothing."""

        def fail(event, step=0, **_):
            if event == "step" and step == 2:
                if self.ranks.rank == 1:
                    raise TrainingDiverged("the invented fault", "none")
                time.sleep(600)

        ranks_module.GRACE_SECONDS = 0.5
        self.train("failing", log=Calls(fail))


class Calls(Recorder):
    """A log that tells a function of each event."""

    def __init__(self, tell) -> None:
        super().__init__()
        self.tell = tell

    def __call__(self, event, **values):
        super().__call__(event, **values)
        self.tell(event, **values)


def run_scenarios(folder: Path, names: list[str]) -> None:
    """Each in turn, in one group of processes."""
    with joined(say) as ranks:
        ranks.connect(CPU)
        job = Job(folder, ranks)
        for name in names:
            getattr(job, name)()
        ranks.leave()


def command_line(folder: Path) -> None:
    """`torchrun -m afina train recipe.yaml`, in processes that have loaded everything already. Those that follow meet
    the same store, as after a restart."""
    os.chdir(folder)
    sys.argv = ["afina", "train", "recipe.yaml", "train.epochs=0.2", "train.parallel=fsdp"]
    try:
        runpy.run_module("afina", run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, *wanted = sys.argv[1:]
    try:
        if wanted[0] == "command_line":
            command_line(Path(place) / "project")
            del wanted[0]
        run_scenarios(Path(place), wanted)
    except AfinaError as failed:
        say(str(failed))
        sys.exit(failed.exit_code)
