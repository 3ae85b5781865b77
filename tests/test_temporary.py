"""Temporary folders: whatever ends a process, none stays, and nobody else's is taken away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afina.temporary import held_folder, temporary_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


WORKS = """
import signal, sys
from afina.temporary import temporary_folder
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
with temporary_folder("test") as folder:
    (folder / "a").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def working(place: Path) -> Iterator[tuple[Any, Path]]:
    """A process that works in a temporary folder below `place` until its input ends, and the folder."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKS], env={**os.environ, "TMPDIR": str(place)}, **pipes) as child:
        try:
            folder = Path(child.stdout.readline().strip())
            assert names(folder) == ["a"] and folder.is_relative_to(place)
            yield child, folder
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_no_temporary_folder_outlives_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM ended the process at once, and its folder stayed."""
    with working(tmp_path) as (child, _):
        child.send_signal(number)
        code = child.wait()
    assert names(tmp_path) == []
    assert code == (-number if number == signal.SIGINT else 128 + number)


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "afina-home-of-somebody"
    other.mkdir()
    with working(tmp_path) as (killed, left), working(tmp_path) as (alive, used):
        killed.kill()
        killed.wait()
        assert left.exists()
        with held_folder("first") as first, held_folder("second") as second:
            assert not left.parent.exists() and names(used) == ["a"]
            assert first.exists() and second.exists() and other.exists()
        alive.communicate()
    assert names(tmp_path) == [other.name]


def test_a_fork_is_ended_by_a_signal_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its parent would clear away is not its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("test") as folder:
        process = os.fork()
        if process == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM
        assert folder.exists()
