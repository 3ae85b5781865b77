"""Two machines that train one model: network namespaces of this one, joined by a cable, each with a torchrun."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from called import call_afina
from ranks_job import RAGGED
from safetensors.torch import load_file
from test_ranks import JOB, furthest
from test_train import CPU, adapter_weights, run_training
from tiny import make_base, make_recipe
from waiting import LONGEST, until

from afina.model.load_torch import load_base
from afina.run import read_metrics

ROOT = Path(__file__).parent.parent
STEPS = 36
"""Of the recipe below: 48 rows, four a step, three epochs."""
TOWNS = ("Faro", "Olhão", "Lagos", "Tavira")


def why_not() -> str:
    """Why this machine makes no network namespaces; empty where it does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no program ip (iproute2)"
    name = f"afina-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


pytestmark = [pytest.mark.long, pytest.mark.training]


@dataclass(frozen=True)
class Node:
    """One machine."""

    name: str
    address: str
    number: int

    def torchrun(self, port: int, *words: object, processes: int = 1, restarts: int = 0) -> subprocess.Popen[bytes]:
        """Start this machine's torchrun, whose words go to a file."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", processes]
        launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"10.77.0.1:{port}", "--rdzv-id", "two"]
        # Both have this machine's name: who hosts the rendezvous and where each is reached has to be said.
        launcher += ["--rdzv-conf", f"is_host={self.number == 0}", "--local-addr", self.address]
        launcher += ["--max-restarts", restarts, *words]
        variables = {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        # Else a machine that comes back is told no address by those that stayed (docs/scaling.md).
        variables |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with Path(f"said.{self.number}").open("ab") as said:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *map(str, launcher)],
                env=os.environ | variables, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    def processes(self) -> list[int]:
        """All that runs on it."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self) -> None:
        """As when its power goes: every process, also one that was begun meanwhile; some end by themselves."""
        while there := self.processes():
            for pid in there:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    """Two of them, and a cable between them."""
    if why := why_not():
        pytest.skip(why)
    made = [Node(f"afina-{os.getpid()}-{number}", f"10.77.0.{number + 1}", number) for number in range(2)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for node in made:
            ip("netns", "add", node.name)
        one, other = (node.name for node in made)
        ip("link", "add", "cable", "netns", one, "type", "veth", "peer", "name", "cable", "netns", other)
        for node in made:
            ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", node.name, "link", "set", device, "up")
        yield made
    finally:
        for node in made:
            node.kill()
            subprocess.run(["ip", "netns", "del", node.name], check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and in `runs` what one process makes of it."""
    place = tmp_path_factory.mktemp("nodes")
    make_base(place / "base")
    rows = [{"prompt": f"Onde joga o {n}?", "completion": f"Em {TOWNS[n % 4]}."} for n in range(48)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (place / "recipe.yaml").write_text(
        "name: two\nbase: base\nsources: [{path: rows.jsonl}]\ndataset: {language: pt-PT, validation: 0.0}\n"
        "adapter: {rank: 4}\ndevice: cpu\n"
        "train: {max_length: 64, batch_tokens: 32, accumulate: 4, learning_rate: 0.001, epochs: 3,"
        " checkpoint_seconds: 0.000001}\nevaluate: {samples: 0, questions: 0, skills: 0}\n",
        encoding="utf-8",
    )
    call_afina("train", "recipe.yaml", folder=place)
    return place


PORTS = itertools.count(29500)


def start(node: Node, port: int, runs: str, restarts: int = 0) -> subprocess.Popen[bytes]:
    return node.torchrun(port, "-m", "afina", "train", "recipe.yaml", "--runs", runs, restarts=restarts)


def start_all(nodes: list[Node], runs: str, restarts: int = 0) -> list[subprocess.Popen[bytes]]:
    port = next(PORTS)
    return [start(node, port, runs, restarts) for node in nodes]


def steps(run: Path) -> list[int]:
    return [event["step"] for event in read_metrics(run) if event["event"] == "step"]


def wait(condition: Callable[[], bool], jobs: list[subprocess.Popen[bytes]]) -> None:
    until(condition, every=0.01, gone=lambda: all(job.poll() is not None for job in jobs), said=said)


def said() -> str:
    return "\n".join(f"--- {file}\n{file.read_text(errors='replace')[-3000:]}" for file in Path().glob("said.*"))


def ended(jobs: list[subprocess.Popen[bytes]]) -> list[int]:
    return [job.wait(timeout=LONGEST) for job in jobs]


def same_as_one_process(project: Path, runs: str) -> float:
    return furthest(*(load_file(project / each / "two/adapter/adapter_model.safetensors") for each in ("runs", runs)))


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for file in Path().glob("said.*"):
        file.unlink()


def test_two_machines_are_one_process(nodes: list[Node], project: Path) -> None:
    assert ended(start_all(nodes, "whole")) == [0, 0], said()
    assert steps(project / "whole/two") == steps(project / "runs/two")
    assert same_as_one_process(project, "whole") < 1e-5


def test_a_machine_that_is_killed_and_comes_back_joins_the_one_that_stayed(nodes: list[Node], project: Path) -> None:
    """The one that stayed starts its ranks again (`--max-restarts`), and waits for it."""
    port, run = next(PORTS), project / "back/two"
    jobs = [start(node, port, "back", restarts=3) for node in nodes]
    wait(lambda: len(steps(run)) >= 5, jobs)
    nodes[1].kill()
    before = len(steps(run))
    assert before < STEPS, "it was done before it was killed"
    jobs[1] = start(nodes[1], port, "back", restarts=3)
    assert ended(jobs) == [0, 0], said()
    assert '"resumed"' in (run / "metrics.jsonl").read_text()
    assert same_as_one_process(project, "back") < 1e-5


def test_without_the_machine_of_the_rendezvous_both_end_and_go_on_when_started_again(
    nodes: list[Node], project: Path
) -> None:
    jobs, run = start_all(nodes, "again", restarts=3), project / "again/two"
    wait(lambda: len(steps(run)) >= 5, jobs)
    nodes[0].kill()
    assert ended(jobs)[1] != 0 and len(steps(run)) < STEPS
    assert ended(start_all(nodes, "again")) == [0, 0], said()
    assert '"resumed"' in (run / "metrics.jsonl").read_text()
    assert same_as_one_process(project, "again") < 1e-5


def test_four_sharded_processes_on_two_machines_are_one_and_one_goes_on_with_what_they_left(
    nodes: list[Node], project: Path
) -> None:
    """FSDP2 of every weight, and of an adapter that is killed after its fifth step (tests/ranks_job.py)."""
    port = next(PORTS)
    jobs = [node.torchrun(port, JOB, project, "fsdp_whole", "fsdp_begun", processes=2) for node in nodes]
    assert ended(jobs) == [0, 0], said()
    base, recipe = project / "base", make_recipe(project / "base", train=RAGGED)
    model, _, log, told = run_training(base, project / "fsdp_begun", recipe)
    assert log.events[0] == {"event": "resumed", "step": 5}
    assert any("4 processes, this one in 1" in line for line in told)
    alone = adapter_weights(run_training(base, project / "alone", recipe)[0])
    assert furthest(adapter_weights(model), alone) < 1e-6
    whole = make_recipe(base, train=RAGGED, adapter={"kind": "none"})
    model = load_base(base, whole, CPU).requires_grad_(True)
    alone = adapter_weights(run_training(base, project / "alone_whole", whole, model=model)[0])
    assert furthest(load_file(project / "fsdp_whole.safetensors"), alone) < 1e-5
