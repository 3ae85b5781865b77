"""The figures of ``metrics.jsonl`` sent on to TensorBoard, W&B, MLflow and Trackio while training.

An adapter opens its library's run, or goes on with the one that an earlier start of the same training opened,
and sends numbers under ``event/name``. `metrics.jsonl` remains the record: a tracker that fails is said
once, what it missed is counted, and training goes on.

Not accelerate's trackers: they need its process state, hand out no id to go on with, and drop long parameters.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from afina.errors import Problem, RecipeError
from afina.record import Record, read_record
from afina.whole import write_json

GIVE_UP = 3
"""After so many failures in a row a tracker is left alone: each may have waited for a network."""
PROJECT = "afina"


class Tracker(Protocol):
    """A library's open run."""

    id: str
    """What the next start needs to go on with it."""

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Send the figures of a step."""

    def close(self, done: bool, /) -> None:
        """End the run; `done` when training reached its end, so that no start goes on with it."""


@dataclass(frozen=True)
class Opening:
    """What a tracker's run is made of."""

    name: str
    folder: Path
    """The run's folder."""
    settings: dict[str, Any]
    """The recipe, shown beside the curves."""
    id: str | None
    """Of the run to go on with; None for a new one."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder. On going on, what an earlier start sent for the same and
    later steps is hidden."""

    def __init__(self, opening: Opening) -> None:
        from torch.utils.tensorboard import SummaryWriter

        runs = opening.folder / "tensorboard"
        self.id = opening.id or f"{len(list(runs.iterdir())) + 1 if runs.exists() else 1:03}"
        (runs / self.id).mkdir(parents=True, exist_ok=True)
        self.open, self.new = functools.partial(SummaryWriter, str(runs / self.id)), opening.id is None
        self.settings = opening.settings
        self.writer: Any = None

    def send(self, step: int, values: Mapping[str, float]) -> None:
        if self.writer is None:
            self.writer = self.open(purge_step=None if self.new else step)
            text = "\n".join(f"    {key}: {value}" for key, value in self.settings.items())
            self.writer.add_text("recipe", text, step)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, _: bool) -> None:
        if self.writer is not None:
            self.writer.close()


class Wandb:
    """W&B's own steps only climb; ours is sent as a value and set as the axis, since a resumed run repeats some."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=opening.name,
            id=opening.id,
            resume="allow",
            dir=str(opening.folder),
            config=opening.settings,
        )
        self.id = self.run.id
        self.run.define_metric("*", step_metric="training_step")

    def send(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"training_step": step, **values})

    def close(self, done: bool) -> None:
        self.run.finish(exit_code=0 if done else 1)


class MLflow:
    """A run in MLFLOW_TRACKING_URI, or in ``mlflow.db`` beside the runs."""

    def __init__(self, opening: Opening) -> None:
        import mlflow

        store = f"sqlite:///{opening.folder.parent.resolve() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", store))
        if opening.id:
            self.id = opening.id
            self.client.update_run(self.id, status="RUNNING")
            return
        named = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(named)
        experiment = found.experiment_id if found else self.client.create_experiment(named)
        self.id = self.client.create_run(experiment, run_name=opening.name).info.run_id
        for key, value in opening.settings.items():
            self.client.log_param(self.id, key, str(value)[:500])

    def send(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(name, value, now, step) for name, value in values.items()])

    def close(self, done: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if done else "KILLED")


class Trackio:
    """Trackio's local store; its runs go on by their name."""

    def __init__(self, opening: Opening) -> None:
        import trackio

        self.id = opening.id or f"{opening.name}-{secrets.token_hex(3)}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        with contextlib.redirect_stdout(sys.stderr):
            self.run = trackio.init(project=project, name=self.id, resume="allow", config=opening.settings)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self, _: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.run.finish()


ADAPTERS: dict[str, Callable[[Opening], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def check_installed(names: Iterable[str]) -> None:
    """Refuse trackers whose library is not here, before any work is done.

    Raises:
        RecipeError: with the command that installs each.
    """
    problems = [
        Problem(f"{name} is not installed", f"pip install {name}", "train.trackers")
        for name in names
        if find_spec(name) is None
    ]
    if problems:
        raise RecipeError(problems=problems)


@dataclass
class _Open:
    tracker: Tracker
    sent: int = 0
    missed: int = 0
    in_a_row: int = 0
    said: str = ""


@contextlib.contextmanager
def tracked(
    log: Callable[..., None],
    say: Callable[[str], None],
    names: Sequence[str],
    *,
    name: str,
    folder: Path,
    stage: str,
    training: str,
    settings: dict[str, Any],
) -> Iterator[Callable[..., None]]:
    """A log that writes each event with `log` first and then sends its numbers to the trackers `names`.

    Args:
        name: of the run. folder: of the run; ``trackers.json`` there says which runs to go on with.
        stage: of training: each has a run of its own in a tracker.
        training: hash of what is trained; another one opens new runs.
        settings: shown beside the curves.

    Raises:
        RecipeError: a tracker cannot be opened.
    """
    check_installed(names)
    notes = folder / "trackers.json"
    noted = read_record(notes) or Record({}, str(notes))
    before = noted.record(stage)
    known = before.record("ids") if before.text("training") == training else Record({}, str(notes))
    ids = {which: known.required_text(which) for which in known.values}
    name = name if stage == "train" else f"{name}-{stage}"
    opened: dict[str, _Open] = {}
    done = False

    def send(event: str, **values: Any) -> None:
        log(event, **values)
        numbers = {
            f"{event}/{key}": float(value)
            for key, value in values.items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        if "step" in values and numbers:
            for which, each in opened.items():
                _attempt(which, each, functools.partial(each.tracker.send, values["step"], numbers), say)

    try:
        for which in names:
            try:
                tracker = ADAPTERS[which](Opening(name, folder, settings, ids.get(which)))
            except Exception as error:  # somebody else's library, perhaps over a network
                raise RecipeError(
                    f"{which} cannot be opened: {type(error).__name__}: {error}",
                    "see its own settings, or remove it from train.trackers",
                    "train.trackers",
                ) from error
            opened[which] = _Open(tracker)
            ids[which] = tracker.id
            write_json(notes, dict(noted.values) | {stage: {"training": training, "ids": ids}})
        yield send
        done = True
    finally:
        for which, each in opened.items():
            _attempt(which, each, functools.partial(each.tracker.close, done), say, always=True)
            log("tracker", name=which, id=each.tracker.id, sent=each.sent, missed=each.missed, reason=each.said)
            if each.missed:
                say(f"train: {which} missed {each.missed} of {each.sent + each.missed} events; metrics.jsonl has all")


def _attempt(
    which: str, each: _Open, do: Callable[[], None], say: Callable[[str], None], *, always: bool = False
) -> None:
    """Do what a tracker is asked for; its failure is said once and counted."""
    if each.in_a_row >= GIVE_UP and not always:
        each.missed += 1
        return
    try:
        do()
    except Exception as error:  # noqa: BLE001  somebody else's library: whatever it raises, training goes on
        each.missed += 1
        each.in_a_row += 1
        if not each.said:
            each.said = f"{type(error).__name__}: {error}".splitlines()[0]
            say(f"train: {which} fails ({each.said}); training goes on, metrics.jsonl has all figures")
    else:
        each.sent += not always
        each.in_a_row = 0
