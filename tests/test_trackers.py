"""What trackers get, read back with their own libraries; and that none of them can harm a training."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from called import call_afina
from test_walk import write_project

from afina.errors import RecipeError
from afina.train import trackers
from afina.train.trackers import ADAPTERS, GIVE_UP, check_installed, tracked


def send(folder, names, steps, *, training="hash", factor=1.0, settings=None, stop=None):
    """A session of training; returns its own log and what was said."""
    events, said = [], []
    folder.mkdir(parents=True, exist_ok=True)

    def log(event, **values):
        events.append({"event": event, **values})

    options = {
        "name": "clube",
        "folder": folder,
        "stage": "train",
        "training": training,
        "settings": settings or {"rank": 4},
    }
    with tracked(log, said.append, names, **options) as each:
        each("computing", precision="fp32", peak_flops=1e9)
        for step in steps:
            each("step", step=step, loss=factor / step, mfu=None, fused=True, reason="text")
        if stop:
            raise stop
        each("validation", step=steps[-1], loss=2.0)
    return events, said


def read_tensorboard(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = (folder / "tensorboard").iterdir()
    found = EventAccumulator(str(run))
    found.Reload()
    assert found.Tags()["scalars"] == ["step/loss", "validation/loss"]
    return [(each.step, each.value) for each in found.Scalars(name)]


def read_mlflow(folder, name):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("afina").experiment_id])
    assert (run.info.status, run.data.params) == ("FINISHED", {"rank": "4"})
    last = {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
    return sorted(last.items())


def read_trackio(folder, name):
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("afina")
    last = {each["step"]: each[name] for each in SQLiteStorage.get_logs("afina", run) if name in each}
    return sorted(last.items())


def read_wandb(folder, name):
    """Of a file of at most 32 KiB: seven bytes, then records of checksum (4), length (2), type (1) and content."""
    from wandb.proto import wandb_internal_pb2

    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) == 2 and len({file.name for file in files}) == 1  # two sessions of one run
    last = {}
    for data in map(Path.read_bytes, files):
        assert len(data) < 32768
        place = 7
        while place < len(data):
            length, kind = struct.unpack_from("<HB", data, place + 4)
            record = wandb_internal_pb2.Record.FromString(data[place + 7 : place + 7 + length])
            assert kind == 1  # whole
            place += 7 + length
            row = {(each.key or each.nested_key[0]): json.loads(each.value_json) for each in record.history.item}
            if name in row:
                last[row["training_step"]] = row[name]
    return sorted(last.items())


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio", "wandb"])
def test_a_resumed_training_goes_on_with_the_same_run(tmp_path, monkeypatch, name):
    """Steps 1 to 4; killed; steps 3 and 4 once more, with other losses, then 5 and 6: one run of six points."""
    pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = tmp_path / "runs/clube"
    with pytest.raises(KeyboardInterrupt):
        send(folder, [name], [1, 2, 3, 4], stop=KeyboardInterrupt())
    events, said = send(folder, [name], [3, 4, 5, 6], factor=10.0)
    assert not said
    assert {key: events[-1][key] for key in ("event", "name", "sent", "missed")} == {
        "event": "tracker", "name": name, "sent": 5, "missed": 0
    }  # fmt: skip
    expected = [(1, 1.0), (2, 0.5), (3, 10 / 3), (4, 2.5), (5, 2.0), (6, 10 / 6)]
    points = globals()[f"read_{name}"](folder, "step/loss")
    assert [step for step, _ in points] == [step for step, _ in expected]
    assert [value for _, value in points] == pytest.approx([value for _, value in expected])


def test_another_training_opens_another_run(tmp_path):
    pytest.importorskip("tensorboard")
    for training in ("first", "first", "second"):
        send(tmp_path, ["tensorboard"], [1, 2], training=training)
    assert sorted(each.name for each in (tmp_path / "tensorboard").iterdir()) == ["001", "002"]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {
        "train": {"training": "second", "ids": {"tensorboard": "002"}}
    }


class Fake:
    """A tracker that fails at the calls of `broken`."""

    def __init__(self, broken):
        self.id, self.calls, self.broken, self.closed = "1", 0, broken, []

    def send(self, step, values):
        self.calls += 1
        if self.calls in self.broken:
            raise OSError(f"no network\nat call {self.calls}")

    def close(self, done):
        self.closed.append(done)


@pytest.fixture
def fake(monkeypatch):
    def put(broken):
        made = Fake(broken)
        monkeypatch.setitem(ADAPTERS, "trackio", lambda _: made)
        monkeypatch.setattr(trackers, "find_spec", lambda _: object())
        return made

    return put


def test_a_tracker_that_fails_is_said_once_and_counted(tmp_path, fake):
    tracker = fake({2, 4})
    events, said = send(tmp_path, ["trackio"], [1, 2, 3, 4, 5])
    assert len([event for event in events if event["event"] == "step"]) == 5
    assert [text.split(" (")[0] for text in said] == [
        "train: trackio fails",
        "train: trackio missed 2 of 6 events; metrics.jsonl has all",
    ]
    assert "OSError: no network" in said[0] and "\n" not in said[0]
    assert events[-1] | {"id": ""} == {
        "event": "tracker", "name": "trackio", "id": "", "sent": 4, "missed": 2, "reason": "OSError: no network"
    }  # fmt: skip
    assert tracker.closed == [True]


def test_a_tracker_that_is_gone_is_left_alone(tmp_path, fake):
    tracker = fake(range(1, 100))
    events, _ = send(tmp_path, ["trackio"], list(range(1, 11)))
    assert tracker.calls == GIVE_UP
    assert (events[-1]["sent"], events[-1]["missed"]) == (0, 11)


def test_an_error_of_training_is_not_the_trackers(tmp_path, fake):
    tracker = fake(())
    with pytest.raises(ValueError, match="of ours"):
        send(tmp_path, ["trackio"], [1], stop=ValueError("of ours"))
    assert tracker.closed == [False]


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name in ("wandb", "mlflow") else object())
    with pytest.raises(RecipeError) as refused:
        check_installed(["tensorboard", "wandb", "mlflow"])
    assert [each.fix for each in refused.value.problems] == ["pip install wandb", "pip install mlflow"]


def test_a_tracker_that_cannot_be_opened_stops_before_training(tmp_path, fake, monkeypatch):
    fake(())

    def refuse(_):
        raise RuntimeError("not logged in")

    monkeypatch.setitem(ADAPTERS, "trackio", refuse)
    with pytest.raises(RecipeError, match="trackio cannot be opened: RuntimeError: not logged in"):
        send(tmp_path, ["trackio"], [1])


def test_a_run_sends_its_figures(tmp_path):
    """From the command line, with the choice of how to compute beside it."""
    pytest.importorskip("tensorboard")
    write_project(tmp_path)
    shown = call_afina("train", "recipe.yaml", "train.trackers=[tensorboard]", "train.epochs=1", folder=tmp_path)
    assert "train: fp32, torch kernels, not compiled, adamw (" in shown.stderr
    assert "compiled layers were measured slower on a CPU" in shown.stderr
    folder = tmp_path / "runs/clube"
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard/001"))
    found.Reload()
    sent = {each.step: each.value for each in found.Scalars("step/loss")}
    assert sent == pytest.approx({event["step"]: event["loss"] for event in steps}, rel=1e-5)
    assert {"step/mfu", "step/grad_norm", "step/tokens_per_second", "validation/loss"} <= set(found.Tags()["scalars"])
    computing = next(event for event in events if event["event"] == "computing")
    assert (computing["precision"], computing["compile"]) == ("fp32", False)
    assert computing["peak_flops"] > 1e8 and "GFLOP/s measured on" in computing["peak_flops_source"]
    assert all(0 < event["mfu"] < 2 for event in steps)
    result = json.loads((folder / "stages.json").read_text())["train"]["result"]
    assert result["kernels"] == "torch" and 0 < result["mfu"] < 2
