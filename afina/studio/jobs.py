"""Runs as processes of their own: started, stopped and gone on with; they outlive the studio and the browser.

Who works in a run is what its lock says (:mod:`afina.watch.lock`), whoever started it: the studio remembers nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from afina.errors import AfinaError, RecipeError, read_problem
from afina.recipe.starter import yaml_value
from afina.run import parse_json
from afina.run_process import AFINA, start_process
from afina.run_process import environment as environment
from afina.studio.facts import check_links, checked_run
from afina.studio.refusal import StudioRefusal
from afina.studio.security import is_name, run_folder
from afina.studio.settings import StudioSettings
from afina.watch.lock import UNNAMED, lock_holder

LONGEST_ANSWER = 600.0
"""Seconds that a verb may take to answer a page."""
LONGEST_LINE = 1 << 24
"""Bytes of a line that a verb says."""


@dataclass(frozen=True)
class StartedRun:
    """A run that was started."""

    name: str
    pid: int


def start(settings: StudioSettings, recipe: Path, name: str) -> StartedRun:
    """Start ``afina run`` on a recipe, as a process in a session of its own.

    What it says goes to ``console.log`` in the run's folder, what it gives to ``console.json``.

    Args:
        recipe: its file.
        name: of the run, whatever name the recipe gives.

    Raises:
        StudioRefusal: 409, a process works in that run, or was started there and has not ended; 400, the name is none
            of a folder.
        AfinaError: a file of the folder is a link that leads out of what the studio may read.
    """
    if not is_name(name):
        raise StudioRefusal(400, f"{name!r} is no name of a run", "letters, digits, - and _", "name")
    folder = settings.runs / name
    check_links(settings, folder)
    try:
        return StartedRun(name, start_process(run_command(settings, recipe, name), folder))
    except RecipeError as error:
        problem = error.problems[0]
        raise StudioRefusal(409, problem.what, problem.fix, problem.where) from error


def run_command(settings: StudioSettings, recipe: Path, name: str) -> list[str]:
    """The command line of ``afina run``. The name is quoted as YAML wants it: ``2026-11-29`` alone would be a date."""
    return [*AFINA, "run", str(recipe), f"name={yaml_value(name)}", "--json", "--runs", str(settings.runs)]


def stop(settings: StudioSettings, name: str) -> int:
    """Ask the process that works in a run to end as Ctrl-C does: a training writes a checkpoint first.

    Returns:
        Its number.

    Raises:
        StudioRefusal: 409, nothing works in it, or who does cannot be told or may not be asked.
    """
    folder = run_folder(settings, name)
    lock = folder / ".lock"
    if lock.is_symlink():  # somebody else's folder, and what it leads to may be held by any program of this user
        raise StudioRefusal(409, "is a link, and no run writes one", "stop the run where it was started", str(lock))
    holder = lock_holder(lock)
    if holder is None:
        raise StudioRefusal(409, "no process works in this run", "look at its state again", str(folder))
    if holder == UNNAMED:
        raise StudioRefusal(409, "the system does not tell which process works in it", "stop it where it was started")
    try:
        os.kill(holder, signal.SIGINT)
    except ProcessLookupError as error:
        raise StudioRefusal(409, "the process has just ended", "look at its state again", str(folder)) from error
    except PermissionError as error:
        raise StudioRefusal(409, f"process {holder} is another user's", "stop it as that user", str(folder)) from error
    return holder


def resume(settings: StudioSettings, name: str) -> StartedRun:
    """Go on with a run by the recipe in its folder, from its last whole state.

    Raises:
        StudioRefusal: 409, a process works in it, or it has no recipe.
        AfinaError: a file of it is a link that leads out of what the studio may read.
    """
    recipe = checked_run(settings, name) / "recipe.yaml"
    if not recipe.is_file():
        raise StudioRefusal(409, "the run has no recipe to go on by", "start it with one", str(recipe))
    return start(settings, recipe, name)


async def ask(
    verb: str,
    *words: str,
    behind: Sequence[str] = (),
    said: Callable[[str], None] = lambda _: None,
    seconds: float | None = LONGEST_ANSWER,
    offline: bool = False,
) -> dict[str, Any]:
    """What a verb of afina answers to ``--json``, computed in a process of its own, so that neither the time nor the
    memory is the studio's. Cancelled, it ends with all that it started.

    Args:
        verb: its words, such as ``watch`` or ``data audit``.
        words: its options, written ``--name=value``, and its arguments; one that begins with ``-`` is no option.
        behind: further arguments behind them, whatever they begin with: what a person wrote.
        said: is told each line of its progress and remarks.
        seconds: that it may take; None: as long as it wants.
        offline: whether the hub's cache alone counts, and nothing is downloaded.

    Raises:
        AfinaError: with the problems that the verb names, or that it took too long.
    """
    options = [word for word in words if word.startswith("--")]
    rest = [word for word in words if not word.startswith("--")]
    process = await asyncio.create_subprocess_exec(
        *AFINA,
        *verb.split(),
        "--json",
        *options,
        "--",
        *rest,
        *behind,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(offline=offline),
        start_new_session=True,
        limit=LONGEST_LINE,
    )
    assert process.stdout and process.stderr
    last = ""

    async def follow(lines: asyncio.StreamReader) -> None:
        nonlocal last
        async for line in lines:
            last = line.decode("utf-8", errors="replace").strip() or last
            said(last)

    try:
        async with asyncio.timeout(seconds):
            out, _ = await asyncio.gather(process.stdout.read(), follow(process.stderr))
            await process.wait()
    except BaseException as error:  # whoever asked has left, or it took too long
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            raise AfinaError(f"the verb {verb} took more than {seconds} s", "try it in a terminal") from None
        raise
    try:
        values = parse_json(out)
    except ValueError:
        values = None
    if not isinstance(values, dict) or ("error" in values and "exit_code" in values):
        raise _error_of(verb, values, last)
    return values


def _error_of(verb: str, values: Any, said: str) -> AfinaError:
    problems = values.get("problems") if isinstance(values, dict) else None
    if problems:
        return AfinaError(problems=[read_problem(each) for each in problems])
    return AfinaError(f"the verb {verb} gave no answer: {said[:500] or 'it said nothing'}", "try it in a terminal")


def routes(settings: StudioSettings) -> APIRouter:
    """Stop, and go on."""
    made = APIRouter()

    @made.post("/api/runs/{name}/stop")
    def stop_run(name: str) -> Response:
        """End it as Ctrl-C does."""
        return JSONResponse({"name": name, "pid": stop(settings, name)})

    @made.post("/api/runs/{name}/resume")
    def resume_run(name: str) -> Response:
        """Go on with it."""
        return JSONResponse(asdict(resume(settings, name)))

    return made
