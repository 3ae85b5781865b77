"""A studio as a process of its own: over the wire, for hours, killed; what it started goes on without it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_fixture import RECIPE, jsonl
from studio_pages import studio_process
from waiting import LONGEST, until
from watched import start, step, steps, working, write_watched

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytestmark = pytest.mark.long

CHANGES = {"x-afina-studio": "1"}


def get(address: str, path: str) -> Any:
    return httpx.get(f"{address}/api/runs{path}", timeout=LONGEST)


def post(address: str, path: str) -> Any:
    """A change; it may wait for a process that is about to end."""
    return httpx.post(f"{address}/api/runs{path}", headers=CHANGES, timeout=LONGEST)


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Any, str]]:
    """Names, data and ids of the events of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, text = line.partition(": ")
        if line:
            fields[name] = text
        elif fields.keys() >= {"event", "data"}:
            yield fields["event"], json.loads(fields["data"]), fields.get("id", "")
            fields = {}


def test_a_connection_that_breaks_loses_nothing(tmp_path: Path) -> None:
    """Lines are written while nobody listens; who comes again with the last id gets each of them once."""
    folder = write_watched(tmp_path / "runs/a", [*start(), *steps(3)])
    log, seen, last = folder / "metrics.jsonl", [], ""
    with studio_process(tmp_path / "runs") as (address, _):
        offset = get(address, "/a/metrics").json()["offset"]
        for n in range(4, 24, 5):
            headers = {"last-event-id": last} if last else {}
            with httpx.stream(
                "GET", f"{address}/api/runs/a/stream?offset={offset}", headers=headers, timeout=LONGEST
            ) as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                for name, data, number in events_of(stream.iter_lines()):
                    if name == "state":
                        with log.open("a") as out:
                            out.write(jsonl([step(m, 1.0) for m in range(n, n + 3)]))
                    elif name == "metric":
                        seen.append(data["step"])
                        last = number
                        if seen[-1] >= n + 2:
                            break
            with log.open("a") as out:
                out.write(jsonl([step(m, 1.0) for m in range(n + 3, n + 5)]))
    assert seen == [*range(4, 22)]


def resident(process: int) -> int:
    """Bytes of a process that are in memory."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the memory of a process")
def test_ten_runs_of_a_million_lines_are_open_in_300_mb(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    from test_studio import write_long_log

    runs = tmp_path / "runs"
    first = write_watched(runs / "run-0", [])
    write_long_log(first / "metrics.jsonl", 1_000_000)
    for n in range(1, 10):
        write_watched(runs / f"run-{n}", [])
        (runs / f"run-{n}/metrics.jsonl").unlink()
        os.link(first / "metrics.jsonl", runs / f"run-{n}/metrics.jsonl")
    with studio_process(runs) as (address, process):
        at_first = resident(process.pid)
        client = httpx.Client(base_url=address, timeout=LONGEST)
        streams = []
        for n in range(10):
            for path in ("", "/metrics"):
                client.get(f"/api/runs/run-{n}{path}").raise_for_status()
            opened = client.build_request("GET", f"/api/runs/run-{n}/stream")
            streams.append(httpx.Client(timeout=LONGEST).send(httpx.Request("GET", opened.url), stream=True))
        most = at_first
        for _ in range(10):
            with (first / "metrics.jsonl").open("a") as out:
                out.write(json.dumps(step(1_000_001, 1.0)) + "\n")
            client.get("/api/runs").raise_for_status()
            most = max(most, resident(process.pid))
            time.sleep(0.5)
        for stream in streams:
            stream.close()
    record_property("result", f"{at_first / 2**20:.0f} MiB when it began, {most / 2**20:.0f} MiB with ten runs open")
    assert most < 300 * 10**6


def test_a_run_outlives_the_studio_that_started_it(tmp_path: Path) -> None:
    """The studio is killed without a word; the next one finds the run at work, stops it, and goes on with it."""
    from test_walk import write_project

    recipe, runs = write_project(tmp_path), tmp_path / "runs"
    # So long a training that it is still at work when the studio is gone.
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("epochs: 3", "epochs: 400"), encoding="utf-8")
    (runs / "clube").mkdir(parents=True)
    (runs / "clube/recipe.yaml").write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    text = (runs / "clube/recipe.yaml").read_text(encoding="utf-8")
    (runs / "clube/recipe.yaml").write_text(f"root: {tmp_path}\n{text}", encoding="utf-8")

    def line(address: str) -> dict[str, Any]:
        return get(address, "").json()["runs"][0]

    with studio_process(runs) as (address, process):
        begun = post(address, "/clube/resume")
        pid = begun.raise_for_status().json()["pid"]
        try:
            until(lambda: (line(address)["step"] or 0) > 3)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            at = line_of(runs)
            until(lambda: line_of(runs) > at + 3)
            with studio_process(runs) as (again, _):
                assert line(again)["state"] == "running"
                assert post(again, "/clube/resume").status_code == 409
                assert post(again, "/clube/stop").json()["pid"] == pid
                found = until(lambda: (each := line(again))["state"] == "stopped" and each)
                assert found["stage"] == "train" and "checkpoint" in (runs / "clube/metrics.jsonl").read_text()
                until(lambda: post(again, "/clube/resume").is_success)  # not before the one that was stopped has ended
                until(lambda: line(again)["step"] > found["step"])
                pid = post(again, "/clube/stop").json()["pid"]
                until(lambda: line(again)["state"] == "stopped")
            assert (runs / "clube/console.log").stat().st_size > 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def line_of(runs: Path) -> int:
    """The last step in the log of the run."""
    lines = (runs / "clube/metrics.jsonl").read_bytes().rpartition(b"\n")[0].split(b"\n")
    return max(json.loads(line).get("step", 0) for line in lines)


def test_ctrl_c_ends_the_studio_at_once_with_a_stream_open(tmp_path: Path) -> None:
    write_watched(tmp_path / "runs/a", [*start(), *steps(3)])
    with (
        studio_process(tmp_path / "runs") as (address, process),
        httpx.stream("GET", f"{address}/api/runs/a/stream", timeout=LONGEST) as stream,
    ):
        next(stream.iter_lines())
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST) == 0, "a stream does not end by itself"


def test_a_stopped_run_shows_at_once(tmp_path: Path) -> None:
    """Whoever started it: here a terminal."""
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/recipe.yaml").write_text(RECIPE)
    with (
        studio_process(tmp_path / "runs") as (address, _),
        working(tmp_path / "runs/a") as process,
        httpx.stream("GET", f"{address}/api/runs/a/stream", timeout=LONGEST) as stream,
    ):
        states = (data["state"] for name, data, _ in events_of(stream.iter_lines()) if name == "state")
        assert next(states) == "running"
        process.send_signal(signal.SIGINT)
        assert next(each for each in states if each != "running") == "stopped"


def test_the_verb_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "afina", "studio", "--runs", str(tmp_path), "--language", "fr", "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--language fr is not known" in done.stderr
