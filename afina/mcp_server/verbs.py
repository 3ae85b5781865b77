"""afina's own verbs, each in a process of its own with ``--json``: what they say no to is handed on as they say it."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, RecipeError, read_problem, unreadable_path
from afina.evaluate.scores import read_scores
from afina.mcp_server.reach import Reach
from afina.recipe import load_recipe
from afina.recipe.starter import yaml_value
from afina.run import parse_json
from afina.run_process import AFINA, LOG, environment, start_process
from afina.temporary import temporary_folder
from afina.watch.reader import RunReader

LONGEST_ANSWER = 600.0
"""Seconds that a verb may take."""
LONGEST_SAID = 300
"""Letters of a line that a verb said as it failed."""
MOST_RUNS = 200


class VerbFailed(Exception):
    """A verb that said no: its own error, as JSON has it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("error")))
        self.error = dict(error)


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
            env=environment(offline=not reach.allow_runs) | reach.variables,
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
        last_said = " | ".join(line[:LONGEST_SAID] for line in said[-3:])
        what = f"the verb {words[0]} ended with {done.returncode}: {last_said}"
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
    with temporary_folder("audit") as runs:
        return answer_of([*words, "--runs", str(runs)], reach)


def plan(reach: Reach, recipe: str, settings: Sequence[str], device: str | None) -> Any:
    """``afina plan``."""
    words = ["plan", str(reach.recipe(recipe, settings)), *settings, *([f"--device={device}"] if device else [])]
    return answer_of([*words, "--runs", str(reach.runs)], reach)


def why(reach: Reach, run: str, question: str, answer: str | None) -> Any:
    """``afina why``."""
    words = ["why", *([f"--answer={answer}"] if answer else [])]
    return answer_of(words, reach, [str(reach.reopened(run)), question])


def list_runs(reach: Reach) -> dict[str, Any]:
    """The runs that there are: how each stands, and its verdict. What is damaged or barred, or leads out of the roots,
    says so; of many the last :data:`MOST_RUNS` that changed are told."""
    folders = sorted(reach.runs.iterdir()) if reach.runs.is_dir() else []
    changed = {folder: at for folder in folders if (at := _changed(folder)) is not None}
    newest = sorted(changed, key=lambda folder: -changed[folder])[:MOST_RUNS]
    found = [_listed(reach, folder) for folder in changed if folder in newest]
    left = len(changed) - len(found)
    return {"runs": found} | ({"left_out": f"{left} runs that changed before these"} if left else {})


def _changed(folder: Path) -> float | None:
    """When a run last changed, in seconds since 1970; None where there is none. What bars a folder is told, as if it
    had changed just now."""
    try:
        return folder.stat().st_mtime if (folder / "recipe.yaml").is_file() else None
    except OSError:
        return math.inf


def _listed(reach: Reach, folder: Path) -> dict[str, Any]:
    line: dict[str, Any] = {"name": folder.name, "folder": str(folder)}
    try:
        whole = reach.whole(folder)
        (whole / "recipe.yaml").stat()  # says what bars it
        view = RunReader(whole).look()
        line |= {"state": view.state, "reason": view.reason}
        scores = read_scores(whole)
        line["verdict"] = scores.verdict.text if scores and scores.verdict else None
        line["passed"] = scores.verdict.passed if scores and scores.verdict else None
    except AfinaError as error:
        line["problems"] = error.as_json()["problems"]
    except OSError as error:  # a folder that may not be read
        if error.filename is None:
            raise
        line["problems"] = unreadable_path(error).as_json()["problems"]
    return line


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
        RecipeError: without leave, whatever the recipe; the recipe is wrong; a process works in that run, or was
            started there and has not ended.
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
    folder = reach.inside(reach.runs / load_recipe(file, given).name)
    command = [*AFINA, "run", str(file), *given, "--yes", "--json", "--runs", str(reach.runs)]
    pid = start_process(command, folder, cwd=reach.roots[0], also=reach.variables)
    return {"run": str(folder), "pid": pid, "log": str(folder / LOG)}


def wrong(error: AfinaError | VerbFailed) -> dict[str, Any]:
    """An error for an agent: its class, exit code, and each problem's what, where and fix; in words too."""
    values = error.error if isinstance(error, VerbFailed) else error.as_json()
    listed = values["problems"]
    problems = [read_problem(each) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return {**values, "text": "\n".join(map(str, problems))}
