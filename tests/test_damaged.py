"""Damaged folders: bytes cut and flipped, files removed, JSON broken, in the run and in its base.

Whatever lies there, every verb ends well or says what is wrong with which file and what to do, and what it was not
asked to write stays as it is.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import run_afina
from test_walk import write_project

from afina import cli

RUN = "runs/clube"
SEED = 20

VERBS: dict[str, tuple[list[str], str]] = {
    "chat": (["chat", RUN, "--ask", "Onde nasceu o jogador 3?", "--max-new-tokens", "2"], ""),
    "eval": (["eval", RUN], "*"),
    "report": (["report", RUN], "report.html"),
    "compare": (["compare", RUN, "whole"], ""),
    "export adapter": (["export", RUN, "--to", "adapter", "--out", "out", "--no-check"], ""),
    "export merged": (["export", RUN, "--to", "merged", "--out", "out", "--no-check"], ""),
    "serve": (["serve", RUN, "--dry-run"], ""),
    "show": (["data", "show", RUN, "--count", "1"], ""),
    "show tokens": (["data", "show", RUN, "--tokens", "--count", "1"], ""),
    "plan": (["plan", f"{RUN}/recipe.yaml"], "plan.json"),
    "run": (["run", "recipe.yaml", "--yes"], "*"),
}
"""Each verb's words, and what of the run it is there to write."""

NAMED = {0, 2, 3, 4, 5}
"""Ends that say something; 1 is looked at more closely."""

OTHER: tuple[Any, ...] = (None, True, -1, 1e308, "", "x", [], [1], {}, {"a": 1})


def json_values(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in JSON."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place, *(each for key, value in inside for each in json_values(value, (*place, key)))]


def retype(file: Path, pick: random.Random) -> None:
    """A value of JSON is replaced by one of another type; of other files, a line is repeated in a wrong place."""
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines(keepends=True)
    at = pick.randrange(len(lines)) if file.suffix == ".jsonl" and lines else None
    try:
        content = json.loads(text if at is None else lines[at])
    except ValueError:
        flip(file, pick)
        return
    place = pick.choice(json_values(content))
    value = pick.choice(OTHER)
    if not place:
        content = value
    else:
        inside = content
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = value
    changed = json.dumps(content, ensure_ascii=False)
    if at is not None:
        lines[at] = changed + "\n"
        changed = "".join(lines)
    file.write_text(changed, encoding="utf-8")


def drop_key(file: Path, pick: random.Random) -> None:
    """A value of JSON is gone."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        cut(file, pick)
        return
    places = [place for place in json_values(content) if place]
    if places:
        place = pick.choice(places)
        inside = content
        for key in place[:-1]:
            inside = inside[key]
        del inside[place[-1]]
        file.write_text(json.dumps(content), encoding="utf-8")


def cut(file: Path, pick: random.Random) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: pick.randrange(len(whole) or 1)])


def flip(file: Path, pick: random.Random) -> None:
    whole = bytearray(file.read_bytes())
    for _ in range(pick.choice((1, 1, 8)) if whole else 0):
        whole[pick.randrange(len(whole))] = pick.randrange(256)
    file.write_bytes(whole)


def empty(file: Path, _: random.Random) -> None:
    file.write_bytes(b"")


def remove(file: Path, _: random.Random) -> None:
    file.unlink()


def become_folder(file: Path, _: random.Random) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    cut, flip, empty, remove, become_folder, retype, retype, drop_key,
)  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A project at the place that its recipe names, and the same beside it to copy from."""
    folder = tmp_path_factory.mktemp("damaged") / "project"
    folder.mkdir()
    write_project(folder)
    with pytest.MonkeyPatch.context() as patch:  # in this process: what is loaded here, no fork has to load
        patch.chdir(folder)
        cli.app(["run", "recipe.yaml"], standalone_mode=False)
        for name in ("chat", "report", "serve", "export adapter"):
            cli.app(VERBS[name][0], standalone_mode=False)
    shutil.rmtree(folder / "out")
    shutil.copytree(folder / RUN, folder / "whole")
    shutil.copytree(folder, folder.parent / "pristine")
    return folder


def damage(project: Path, number: int) -> tuple[str, Path]:
    """Do the damage of that number; what was done, and to which file."""
    pick = random.Random(SEED * 100_000 + number)
    files = sorted(file for place in (RUN, RUN, "base") for file in (project / place).rglob("*") if file.is_file())
    file = pick.choice([each for each in files if each.name != ".lock"])
    how = pick.choice(DAMAGES)
    how(file, pick)
    return f"{how.__name__} {file.relative_to(project)}", file


def outcome(project: Path, number: int) -> list[str]:
    """What went wrong with one damage, on two verbs."""
    wrong = []
    for name in random.Random(number).sample(list(VERBS), 2):
        shutil.rmtree(project)
        shutil.copytree(project.parent / "pristine", project)
        done, damaged = damage(project, number)
        before = contents(project)
        words, writes = VERBS[name]
        ended = run_afina(*words, folder=project, check=None)
        said = ended.stdout + ended.stderr
        where = f"{number}: {name} after {done}: "
        if ended.returncode not in NAMED and not (ended.returncode == 1 and "afina: AfinaError" in ended.stderr):
            wrong.append(f"{where}ends with {ended.returncode}: {said[-1500:]}")
        elif "Traceback" in said:
            wrong.append(f"{where}a traceback: {said[-1500:]}")
        elif ended.returncode in NAMED - {0, 5} and "->" not in said:
            wrong.append(f"{where}no next step: {said[-300:]}")
        after = contents(project)
        kept = {content for file, content in after.items()}
        for file, content in before.items():
            own = "runs/" if writes == "*" else f"{RUN}/{writes}"
            if after.get(file) != content and not (writes and file.startswith(own)):
                wrong.append(f"{where}{file} is changed")
            elif file.endswith(".safetensors") and content not in kept and project / file != damaged:
                wrong.append(f"{where}{file} is lost")
    return wrong


def test_every_verb_on_a_damaged_run_or_base_ends_well_or_says_what_is_wrong(finished: Path):
    """Two dozen mutations, or as many as AFINA_MUTATIONS says (`make mutations`: 500)."""
    count = int(os.environ.get("AFINA_MUTATIONS", "24"))
    wrong = [each for number in range(count) for each in outcome(finished, number)]
    assert not wrong, f"{len(wrong)} of {2 * count}:\n" + "\n".join(wrong)
