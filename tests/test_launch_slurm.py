"""A recipe in the queue of a Slurm of the test's own, on loopback: submitted, preempted, requeued, finished."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from called import call_afina
from safetensors.torch import load_file
from test_launch_ssh import python_with_afina
from test_stages import TOWNS, write
from tiny import make_base, same_tensors
from waiting import until

from afina.machine import free_port

SBIN = os.environ["PATH"] + ":/usr/sbin"
PROGRAMS = {name: shutil.which(name, path=SBIN) for name in ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")}
MISSING = [name for name, found in PROGRAMS.items() if not found]
pytestmark = [
    pytest.mark.long,
    pytest.mark.training,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed here: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd of a test needs root"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """slurmctld and slurmd of one node, this machine, in a folder; and munged, which vouches for users."""
    place = tmp_path_factory.mktemp("slurm")
    for above in (place, *place.parents[:3]):
        above.chmod(0o755)
    host, (control, node) = socket.gethostname().split(".")[0], (free_port(), free_port())
    munge = place / "munge"
    munge.mkdir(mode=0o755)
    (munge / "key").write_bytes(os.urandom(128))
    (munge / "key").chmod(0o400)
    for name in ("state", "spool"):
        (place / name).mkdir()
    (place / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={control}\nSlurmdPort={node}\n"
        f"SlurmUser=root\nAuthType=auth/munge\nAuthInfo=socket={munge}/socket,cred_expire=5\nCredType=cred/munge\n"
        f"StateSaveLocation={place}/state\nSlurmdSpoolDir={place}/spool\nSlurmctldPidFile={place}/ctld.pid\n"
        f"SlurmdPidFile={place}/slurmd.pid\nSlurmctldLogFile={place}/ctld.log\nSlurmdLogFile={place}/slurmd.log\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/linear\nReturnToService=2\n"
        "JobAcctGatherType=jobacct_gather/none\nMpiDefault=none\nSchedulerParameters=sched_interval=2\n"
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN\n"
        f"PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
    )
    environment = os.environ | {"SLURM_CONF": str(place / "slurm.conf")}
    words = [PROGRAMS["munged"], "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket"]
    words += [f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
    running = [subprocess.Popen(words, stderr=subprocess.DEVNULL)]
    try:
        until((munge / "socket").exists, said=lambda: logs_of(place))
        for name in ("slurmctld", "slurmd"):
            command = [PROGRAMS[name], "-D", *(["-c"] if name == "slurmctld" else ["-N", host])]
            with (place / f"{name}.out").open("w") as output:
                running.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        info = {"args": ["sinfo", "-h", "-o", "%t"], "env": environment, "capture_output": True, "text": True}
        until(lambda: "idle" in subprocess.run(**info).stdout, said=lambda: logs_of(place))
        yield place
    finally:
        for each in reversed(running):
            each.terminate()
            each.wait()


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
    monkeypatch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))
    assert call_afina("run", "recipe.yaml", "--yes", "--runs", tmp_path / "local", check=None).returncode in (0, 5)
    run = project / "runs/two"

    def preempt() -> None:
        until(lambda: list(run.glob("checkpoints/step-*")), said=lambda: logs_of(cluster))
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
