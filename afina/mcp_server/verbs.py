"""afina's own verbs, each in a process of its own with ``--json``: what they say no to is handed on as they say it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from afina.errors import AfinaError, RecipeError, read_problem
from afina.evaluate.scores import read_scores
from afina.mcp_server.reach import Reach
from afina.recipe import load_recipe
from afina.recipe.starter import yaml_value
from afina.run import parse_json
from afina.watch.lock import lock_holder
from afina.watch.reader import RunReader

AFINA = (sys.executable, "-m", "afina")
LONGEST_ANSWER = 600.0
"""Seconds that a verb may take."""
LOG, RESULT = "console.log", "console.json"
"""What a run that was started here says and gives, in its folder."""


class VerbFailed(Exception):
    """A verb that said no: its own error, as JSON has it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("error")))
        self.error = dict(error)


def environment(*, offline: bool) -> dict[str, str]:
    """Of a verb's process; offline, the hub's cache is all that it asks."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"} | ({"HF_HUB_OFFLINE": "1"} if offline else {})


def answer_of(words: Sequence[str], reach: Reach, last: Sequence[str] = ()) -> Any:
    """What ``afina WORDS... --json -- LAST...`` prints.

    Raises:
        VerbFailed: it said no, or answered nothing in :data:`LONGEST_ANSWER`.
    """
    try:
        done = subprocess.run(
            [*AFINA, *words, "--json", *(("--", *last) if last else ())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=reach.roots[0],
            env=environment(offline=not reach.allow_runs),
            timeout=LONGEST_ANSWER,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        what = f"the verb {words[0]} has not answered in {LONGEST_ANSWER:.0f} s"
        raise VerbFailed(RecipeError(what, "ask for less, or run it in a terminal").as_json()) from error
    try:
        values = parse_json(done.stdout)
    except ValueError:
        said = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        what = f"the verb {words[0]} ended with {done.returncode}: {' | '.join(said[-3:])}"
        raise VerbFailed(AfinaError(what, "run it in a terminal to see all that it says").as_json()) from None
    if isinstance(values, dict) and {"error", "exit_code", "problems"} <= {*values}:
        raise VerbFailed(values)
    return values


def audit(reach: Reach, paths: Sequence[str], base: str | None, settings: Sequence[str]) -> Any:
    """``afina data audit``. A recipe's dataset is built in a folder that is gone afterwards."""
    if not paths:
        raise RecipeError("there is nothing to audit", "name files, folders or one recipe", "paths")
    recipes = [path for path in paths if path.endswith((".yaml", ".yml"))]
    if recipes and len(paths) > 1:
        raise RecipeError("a recipe is audited alone", "name files and folders, or one recipe", "paths")
    if not recipes:
        reach.check_settings(settings)
    words = ["data", "audit", *(str(reach.recipe(path, settings) if recipes else reach.whole(path)) for path in paths)]
    words += ["--base", str(reach.whole(base))] if base else []
    words += [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="afina-") as runs:
        return answer_of([*words, "--runs", runs], reach)


def plan(reach: Reach, recipe: str, settings: Sequence[str], device: str | None) -> Any:
    """``afina plan``."""
    words = ["plan", str(reach.recipe(recipe, settings)), *settings, *([f"--device={device}"] if device else [])]
    return answer_of([*words, "--runs", str(reach.runs)], reach)


def why(reach: Reach, run: str, question: str, answer: str | None) -> Any:
    """``afina why``."""
    words = ["why", *([f"--answer={answer}"] if answer else [])]
    return answer_of(words, reach, [str(reach.run_folder(run)), question])


def list_runs(reach: Reach) -> dict[str, Any]:
    """The runs that there are: how each stands, and its verdict. What is damaged says so."""
    found = []
    folders = sorted(reach.runs.iterdir()) if reach.runs.is_dir() else []
    for folder in folders:
        if not (folder / "recipe.yaml").is_file():
            continue
        view = RunReader(reach.inside(folder)).look()
        line: dict[str, Any] = {"name": folder.name, "folder": str(folder), "state": view.state, "reason": view.reason}
        try:
            scores = read_scores(folder)
            line["verdict"] = scores.verdict.text if scores and scores.verdict else None
            line["passed"] = scores.verdict.passed if scores and scores.verdict else None
        except AfinaError as error:
            line["problems"] = error.as_json()["problems"]
        found.append(line)
    return {"runs": found}


def verdict(reach: Reach, run: str) -> dict[str, Any]:
    """What a run measured: its verdict with misses, findings and notes, its probes and guardrails.

    Raises:
        RecipeError: it was not measured.
        AfinaError: its scores are damaged.
    """
    folder = reach.run_folder(run)
    scores = read_scores(folder)
    if scores is None or scores.verdict is None:
        state = RunReader(folder).look()
        what = f"the run has no verdict: {state.state} ({state.reason})"
        raise RecipeError(what, f"measure it, once it is trained: `afina eval {folder}`", str(folder))
    values = scores.as_json()
    return {"run": str(folder), **{key: values[key] for key in ("verdict", "probes", "guardrails", "loss")}}


def start_run(reach: Reach, recipe: str, settings: Sequence[str], name: str | None) -> dict[str, Any]:
    """Start ``afina run`` in a session of its own, which outlives the server.

    Raises:
        RecipeError: without leave, whatever the recipe; the recipe is wrong; a process works in that run.
    """
    if not reach.allow_runs:
        raise RecipeError(
            "this server reads, and starts no run",
            "have a person start it with `afina mcp --allow-runs`, or run it in a terminal: "
            f"afina run {recipe} {' '.join(settings)}".rstrip(),
            "run",
        )
    given = [*settings, *([f"name={yaml_value(name)}"] if name else [])]
    file = reach.recipe(recipe, given)
    folder = reach.runs / load_recipe(file, given).name
    holder = lock_holder(folder / ".lock")
    if holder is not None:
        raise RecipeError(f"process {holder} works in this run", "wait for it, or give another `name`", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    for output in (LOG, RESULT):
        if (folder / output).is_symlink():
            raise RecipeError("it is a link", "remove it: it is made anew", str(folder / output))
    with (folder / RESULT).open("wb") as result, (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [*AFINA, "run", str(file), *given, "--yes", "--json", "--runs", str(reach.runs)],
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=log,
            cwd=reach.roots[0],
            start_new_session=True,
            env=environment(offline=False),
        )
    threading.Thread(target=process.wait, daemon=True).start()  # nobody else takes its exit code
    return {"run": str(folder), "pid": process.pid, "log": str(folder / LOG)}


def wrong(error: AfinaError | VerbFailed) -> dict[str, Any]:
    """An error for an agent: its class, exit code, and each problem's what, where and fix; in words too."""
    values = error.error if isinstance(error, VerbFailed) else error.as_json()
    listed = values["problems"]
    problems = [read_problem(each) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return {**values, "text": "\n".join(map(str, problems))}
