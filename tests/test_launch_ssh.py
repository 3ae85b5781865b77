"""A recipe on this machine itself, by Debian's sshd on loopback: launched, watched, synced, killed, resumed, home."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from called import call_afina
from safetensors.torch import load_file
from test_stages import TOWNS, write
from tiny import make_base, same_tensors
from waiting import until

from afina.launch.remote import Remote, Unreachable
from afina.machine import free_port

ROOT = Path(__file__).parent.parent
SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
pytestmark = [
    pytest.mark.long,
    pytest.mark.training,
    pytest.mark.skipif(not SSHD, reason="openssh-server is not installed: there is no sshd"),
    pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the configuration of ssh for the host `box`: an sshd of the test's own, with keys of its own."""
    place = tmp_path_factory.mktemp("sshd")
    place.chmod(0o700)
    for name in ("host", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    shutil.copy(place / "mine.pub", place / "authorized")
    port = free_port()
    (place / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {place}/host\nAuthorizedKeysFile {place}/authorized\n"
        f"PidFile {place}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 50\n"
    )
    public = (place / "host.pub").read_text().split()
    (place / "known").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    (place / "config").write_text(
        f"Host box\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {place}/mine\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {place}/known\n  StrictHostKeyChecking yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
    assert SSHD
    running = subprocess.Popen([SSHD, "-D", "-e", "-f", str(place / "sshd_config")], stderr=(place / "log").open("w"))
    try:

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(answers, gone=lambda: running.poll() is not None, said=(place / "log").read_text)
        yield place
    finally:
        running.terminate()
        running.wait()


@pytest.fixture
def project(tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    make_base(place / "base")
    rows = [{"prompt": f"Onde joga o {n}?", "completion": f"Em {TOWNS[n % 6]}."} for n in range(60)]
    write(place / "rows.jsonl", rows)
    (place / "recipe.yaml").write_text(
        "name: two\nbase: base\nsources: [{path: rows.jsonl}]\ndataset: {language: pt-PT, validation: 0.2}\n"
        "adapter: {rank: 4, dropout: 0.1}\ndevice: cpu\n"
        # Far from done when its first checkpoint is home, which takes a look of several connections.
        "train: {max_length: 64, batch_tokens: 64, learning_rate: 0.005, epochs: 30, checkpoint_seconds: 0.2}\n"
        "evaluate: {samples: 2, max_new_tokens: 4, questions: 0, skills: 0}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(place)
    monkeypatch.setenv("AFINA_SSH", f"ssh -F {server / 'config'}")
    return place


def python_with_afina(folder: Path) -> Path:
    """An interpreter that finds this tree's afina, whatever the server's environment is."""
    file = folder / "python"
    words = f'PYTHONPATH="{ROOT}" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 AFINA_HOME="{os.environ["AFINA_HOME"]}"'
    file.write_text(f'#!/bin/sh\n{words} exec "{sys.executable}" "$@"\n')
    file.chmod(0o755)
    return file


def test_launched_watched_synced_killed_resumed_and_brought_home(project: Path, tmp_path: Path, server: Path) -> None:
    call_afina("train", "recipe.yaml", "--yes", "--runs", tmp_path / "local")
    there, home = tmp_path / "there/two", project / "runs/two"
    at: list[str] = []

    def kill() -> None:
        until(lambda: list(home.glob("checkpoints/step-????????")))  # of the copy at home
        at.extend(sorted(each.name for each in there.glob("runs/two/checkpoints/step-????????")))
        os.killpg(int((there / "job.pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    words = ("--on", "ssh:box", "--python", python_with_afina(tmp_path))
    settings = (f"launch.folder={tmp_path / 'there'}", "launch.look_seconds=0.3")
    done = call_afina("launch", "recipe.yaml", *settings, *words, "--yes", check=None)
    killer.join()
    assert done.returncode in (0, 5), done.stderr
    assert at and at[-1] >= "step-00000001"
    assert "begun again (1 of 5) from what is home" in done.stderr
    assert "RUNNING  two" in done.stderr, "what `afina watch --once` shows"
    assert "resumed" in (home / "metrics.jsonl").read_text(), "it went on from a checkpoint"
    runs = (tmp_path / "local", project / "runs")
    local, brought = (load_file(each / "two/adapter/adapter_model.safetensors") for each in runs)
    assert same_tensors(local, brought), "bitwise that of a run on this machine"
    assert not there.exists()
    shown = call_afina("watch", home, "--once")
    assert shown.stdout.startswith("FINISHED")
    # At home it is a run as any other: the same command finds it done, with its own base.
    again = call_afina("run", "recipe.yaml", "--yes", check=None)
    assert "train: done before, unchanged, kept" in again.stderr


def test_a_machine_that_is_not_there_is_not_a_command_that_fails(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_SSH", f"ssh -F {server / 'config'}")
    assert Remote("box").do("echo $((1 + 1))").strip() == "2"
    assert Remote("box").do("cat", given="a b\n") == "a b\n"
    with pytest.raises(Exception, match="`ls` failed there"):
        Remote("box").do("ls /nowhere")
    with pytest.raises(Unreachable):
        Remote("127.0.0.1 -p 1").do("true")
