"""A recipe in the queue of a Slurm of the test's own, with one node and two: submitted, preempted, requeued, done."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from called import call_afina
from safetensors.torch import load_file
from test_launch_ssh import python_with_afina
from test_nodes import Node, nodes  # noqa: F401  (`nodes` is a fixture)
from test_ranks import furthest
from test_stages import TOWNS, write
from tiny import make_base, same_tensors
from waiting import until

from afina.machine import free_port
from afina.run import read_metrics

SBIN = os.environ["PATH"] + ":/usr/sbin"
PROGRAMS = {name: shutil.which(name, path=SBIN) for name in ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")}
MISSING = [name for name, found in PROGRAMS.items() if not found]
pytestmark = [
    pytest.mark.long,
    pytest.mark.training,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed here: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd of a test needs root"),
]


@dataclass(frozen=True)
class Machine:
    """One of a cluster's: its name, where the others reach it, and what begins a command that runs on it."""

    name: str
    address: str
    inside: tuple[str, ...] = ()

    def does(self, *words: str, check: bool = True) -> str:
        """What a command prints that runs on it."""
        return subprocess.run([*self.inside, *words], capture_output=True, text=True, check=check).stdout


@contextlib.contextmanager
def slurm_of(place: Path, machines: Sequence[Machine]) -> Iterator[Path]:
    """slurmctld on the first of the machines and a slurmd on each, in a folder; and munged, which vouches for users."""
    for above in (place, *place.parents[:3]):
        above.chmod(0o755)
    first, (control, node) = machines[0], (free_port(), free_port())
    munge = place / "munge"
    munge.mkdir(mode=0o755)
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o400)
    for name in ("state", *(f"spool-{each.name}" for each in machines)):
        (place / name).mkdir()
    (place / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={first.name}({first.address})\nSlurmctldPort={control}\nSlurmdPort={node}\n"
        f"SlurmUser=root\nAuthType=auth/munge\nAuthInfo=socket={munge}/socket,cred_expire=5\nCredType=cred/munge\n"
        f"StateSaveLocation={place}/state\nSlurmdSpoolDir={place}/spool-%n\nSlurmctldPidFile={place}/ctld.pid\n"
        f"SlurmdPidFile={place}/slurmd-%n.pid\nSlurmctldLogFile={place}/ctld.log\nSlurmdLogFile={place}/slurmd-%n.log\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/linear\nReturnToService=2\n"
        "JobAcctGatherType=jobacct_gather/none\nMpiDefault=none\nSchedulerParameters=sched_interval=2\n"
        + "".join(f"NodeName={m.name} NodeAddr={m.address} CPUs={os.cpu_count()} State=UNKNOWN\n" for m in machines)
        + f"PartitionName=all Nodes={','.join(m.name for m in machines)} Default=YES MaxTime=INFINITE State=UP\n"
    )
    words = [PROGRAMS["munged"], "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket"]
    words += [f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
    running = [subprocess.Popen(words, stderr=subprocess.DEVNULL)]

    def start(machine: Machine, name: str, *options: str) -> None:
        with (place / f"{name}-{machine.name}.out").open("w") as output:
            command = [*machine.inside, PROGRAMS[name], "-D", *options]
            running.append(subprocess.Popen(command, stdout=output, stderr=output))

    def idle() -> bool:
        return first.does("sinfo", "-h", "-N", "-o", "%t", check=False).split() == ["idle"] * len(machines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(place / "slurm.conf"))
        try:
            until((munge / "socket").exists, said=lambda: logs_of(place))
            start(first, "slurmctld", "-c")
            for each in machines:
                start(each, "slurmd", "-N", each.name)
            until(idle, said=lambda: logs_of(place))
            yield place
        finally:
            for each in reversed(running):
                each.terminate()
                each.wait()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Slurm with one node, this machine."""
    alone = Machine(socket.gethostname().split(".")[0], "127.0.0.1")
    with slurm_of(tmp_path_factory.mktemp("slurm"), [alone]) as place:
        yield place


@pytest.fixture
def two_machines(
    tmp_path_factory: pytest.TempPathFactory,
    nodes: list[Node],  # noqa: F811
) -> Iterator[tuple[Path, list[Machine]]]:
    """Slurm with two nodes that are network namespaces of this machine, each under a name of its own.

    One slurmd per host name is all that Slurm takes unless it was built with --enable-multiple-slurmd, which Debian's
    was not; and two of them on one loopback would prove nothing of how machines find each other.
    """
    place = tmp_path_factory.mktemp("slurm")
    names = [f"node{node.number}" for node in nodes]
    lines = [f"{node.address} {name}\n" for node, name in zip(nodes, names, strict=True)]
    (place / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
    named = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'
    machines = []
    for node, name in zip(nodes, names, strict=True):
        # Not by `ip netns exec`: it mounts another /sys, in which slurmd finds no control groups.
        inside = ("nsenter", f"--net=/run/netns/{node.name}", "unshare", "--uts", "--mount", "sh", "-ec", named)
        machines.append(Machine(name, node.address, (*inside, "sh", name, str(place / "hosts"))))
    with slurm_of(place, machines):
        yield place, machines


def logs_of(place: Path) -> str:
    logs = "\n".join(file.read_text(errors="replace")[-1500:] for file in place.glob("*.log"))
    outs = "\n".join(file.read_text(errors="replace")[-500:] for file in place.glob("*.out"))
    return f"it did not come about\n{logs}\n{outs}"


def test_submitted_preempted_requeued_finished(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    make_base(project / "base")
    rows = [{"prompt": f"Onde joga o {n}?", "completion": f"Em {TOWNS[n % 6]}."} for n in range(60)]
    write(project / "rows.jsonl", rows)
    (project / "recipe.yaml").write_text(
        "name: two\nbase: base\nsources: [{path: rows.jsonl}]\ndataset: {language: pt-PT, validation: 0.2}\n"
        "adapter: {rank: 4, dropout: 0.1}\ndevice: cpu\n"
        "train: {max_length: 64, batch_tokens: 64, learning_rate: 0.005, epochs: 3, checkpoint_seconds: 0.000001}\n"
        "evaluate: {samples: 2, max_new_tokens: 4, questions: 0, skills: 0}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(project)
    call_afina("train", "recipe.yaml", "--yes", "--runs", tmp_path / "local")
    run = project / "runs/two"

    def preempt() -> None:
        until(lambda: list(run.glob("checkpoints/step-????????")), said=lambda: logs_of(cluster))
        subprocess.run(["scancel", "--signal=TERM", "--batch", "--name=afina-two"], check=True)

    preempter = threading.Thread(target=preempt, daemon=True)
    preempter.start()
    words = ("launch.look_seconds=0.3", "--on", "slurm", "--python", python_with_afina(tmp_path), "--yes")
    done = call_afina("launch", "recipe.yaml", *words, check=None)
    preempter.join()
    assert done.returncode in (0, 5), done.stderr + (project / "runs/_launch/two/log").read_text()
    assert "COMPLETED" in done.stderr or "FAILED" in done.stderr  # a verdict of 5 is a failure to Slurm
    assert "PENDING" in done.stderr.partition("RUNNING")[2], "it was put back into the queue"
    assert '"resumed"' in (run / "metrics.jsonl").read_text(), "it went on from a checkpoint"
    runs = (tmp_path / "local", run.parent)
    local, queued = (load_file(each / "two/adapter/adapter_model.safetensors") for each in runs)
    assert same_tensors(local, queued)


def test_two_machines_of_the_queue_train_one_model_and_go_on_after_a_preemption(
    two_machines: tuple[Path, list[Machine]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of gloo on each, by the batch file's `srun` and torchrun: the adapter of one process."""
    _, machines = two_machines
    project = tmp_path / "project"
    project.mkdir()
    make_base(project / "base")
    rows = [{"prompt": f"Onde joga o {n}?", "completion": f"Em {TOWNS[n % 6]}."} for n in range(48)]
    write(project / "rows.jsonl", rows)
    (project / "recipe.yaml").write_text(
        "name: two\nbase: base\nsources: [{path: rows.jsonl}]\ndataset: {language: pt-PT, validation: 0.0}\n"
        "adapter: {rank: 4}\ndevice: cpu\nlaunch: {nodes: 2, devices: 1, look_seconds: 0.3}\n"
        "train: {max_length: 64, batch_tokens: 32, accumulate: 4, learning_rate: 0.001, epochs: 4,"
        " checkpoint_seconds: 0.000001}\n"
        "evaluate: {samples: 2, max_new_tokens: 4, questions: 0, skills: 0}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(project)
    call_afina("train", "recipe.yaml", "--yes", "--runs", tmp_path / "local")
    run = project / "runs/two"
    at: list[int] = []
    over = threading.Event()

    def preempt() -> None:
        while not list(run.glob("checkpoints/step-????????")):  # whole: one that is being written is called otherwise
            if over.wait(0.05):
                return
        machines[0].does("scancel", "--signal=TERM", "--batch", "--name=afina-two")
        at.append(len(steps_of(run)))

    preempter = threading.Thread(target=preempt, daemon=True)
    preempter.start()
    afina = [*machines[0].inside, sys.executable, "-m", "afina"]  # there, where Slurm's controller is heard
    words = ["launch", "recipe.yaml", "--on", "slurm", "--python", str(python_with_afina(tmp_path)), "--yes"]
    done = subprocess.run([*afina, *words], capture_output=True, text=True, check=False)
    over.set()
    preempter.join()
    log = (project / "runs/_launch/two/log").read_text()
    assert done.returncode in (0, 5), done.stderr + log
    assert "PENDING" in done.stderr.partition("RUNNING")[2], "it was put back into the queue"
    assert at and at[0] < 48, "it was done before it was preempted"
    assert '"resumed"' in (run / "metrics.jsonl").read_text(), "it went on from a checkpoint"
    assert "train: 2 processes, each with" in log
    assert steps_of(run) == steps_of(tmp_path / "local/two") == list(range(1, 49))
    runs = (tmp_path / "local", run.parent)
    assert furthest(*(load_file(each / "two/adapter/adapter_model.safetensors") for each in runs)) < 1e-5


def steps_of(run: Path) -> list[int]:
    return [event["step"] for event in read_metrics(run) if event["event"] == "step"]
