"""Runs as processes of their own: started, stopped and gone on with; they outlive the studio and the browser."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter

from afina.studio.settings import StudioSettings

LOG, RESULT = "console.log", "console.json"
"""What a started run says (remarks and errors), and what it gives, in its folder."""


@dataclass(frozen=True)
class StartedRun:
    """A run that was started."""

    name: str
    pid: int


def start(settings: StudioSettings, recipe: Path, name: str) -> StartedRun:
    """Start ``afina run`` on a recipe, as a process in a session of its own.

    Args:
        recipe: its file.
        name: that it gives the run, which is its folder's.
    """
    folder = settings.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "afina", "run", str(recipe), "--json", "--runs", str(settings.runs)]
    with (folder / LOG).open("ab") as log, (folder / RESULT).open("wb") as result:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return StartedRun(name, process.pid)


def routes(settings: StudioSettings) -> APIRouter:
    """Stop, and go on."""
    del settings
    return APIRouter()
