"""Damaged folders: files cut, flipped, swapped, removed and made unreadable, JSON of another type, in the run and in
its base.

Whatever lies there, every verb ends well or says what is wrong with which file and what to do, and what it was not
asked to write stays as it is.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from called import call_afina
from forked import Forked
from ruamel.yaml import YAML
from test_walk import write_project
from thorough import THOROUGH, times

from afina.cli.verbs import app
from afina.errors import AfinaError
from afina.mcp_server.reach import Reach
from afina.mcp_server.verbs import list_runs, verdict
from afina.temporary import held_folder

RUN = "runs/clube"
SEED = int(os.environ.get("AFINA_SEED", "20"))
NOBODY = 65534
MANY = THOROUGH or "AFINA_MUTATIONS" in os.environ

QUESTION = "Onde nasceu o jogador 3?"
ASK = ["--ask", QUESTION, "--max-new-tokens", "2"]
OUT = ["--out", "out", "--no-check"]
TEMPER = ["temper", RUN, "--strengths", "1,0.5"]
VERBS: dict[str, tuple[list[str], str]] = {
    "chat": (["chat", RUN, *ASK], ""),
    "chat --compare": (["chat", RUN, "--compare", *ASK], ""),
    "chat, nobody there": (["chat", RUN], ""),
    "eval": (["eval", RUN], "*"),
    "report": (["report", RUN], "report.html"),
    "report as Markdown": (["report", RUN, "--format", "md"], "report.md"),
    "compare": (["compare", RUN, "whole"], ""),
    "report as JSON": (["report", RUN, "--format", "json"], "report.json"),
    "compare, as a page": (["compare", RUN, "whole", "--page", "out.html"], ""),
    "compare --gate": (["compare", "whole", RUN, "--gate", "limits.yaml"], ""),
    "watch": (["watch", RUN, "--once"], ""),
    "watch, for machines": (["watch", RUN, "--json"], ""),
    "plot": (["plot", RUN], "plots"),
    "plot of two": (["plot", RUN, "whole", "--to", "out"], ""),
    "doctor": (["doctor", RUN], ""),
    "guardrails": (["guardrails", RUN], ""),
    "score": (["score", f"{RUN}/task_predictions.jsonl"], ""),
    "export adapter": (["export", RUN, "--to", "adapter", *OUT], ""),
    "export adapter, checked": (["export", RUN, "--to", "adapter", "--out", "out"], ""),
    "export hub-folder": (["export", RUN, "--to", "hub-folder", *OUT], ""),
    "export merged": (["export", RUN, "--to", "merged", *OUT], ""),
    "export gguf": (["export", RUN, "--to", "gguf", *OUT], ""),
    "export gguf-lora": (["export", RUN, "--to", "gguf-lora", *OUT], ""),
    "export ollama": (["export", RUN, "--to", "ollama", *OUT], ""),
    "serve": (["serve", RUN, "--dry-run"], ""),
    "serve base": (["serve", "base", "--adapter", f"mine={RUN}", "--dry-run"], ""),
    "serve --config": (["serve", RUN, "--config", "openai"], ""),
    "show": (["data", "show", RUN, "--count", "1"], ""),
    "show tokens": (["data", "show", RUN, "--tokens", "--count", "1"], ""),
    "diff": (["data", "diff", RUN, "whole"], ""),
    "data export": (["data", "export", RUN, "--out", "out"], ""),
    "audit": (["data", "audit", "recipe.yaml"], "*"),
    "audit files": (["data", "audit", f"{RUN}/dataset/train.jsonl", "--base", "base"], ""),
    "build": (["data", "build", "recipe.yaml"], "*"),
    "base": (["base", "show", "base"], ""),
    "base replay": (["base", "replay", "base", "--prompts", "q.txt", "--to", "rows.jsonl", "--runs", "other"], ""),
    "tokenizer": (["tokenizer", "inspect", RUN], ""),
    "tokenizer compare": (["tokenizer", "compare", RUN, "base", "--", "docs/manual.md"], ""),
    "plan": (["plan", f"{RUN}/recipe.yaml"], "plan.json"),
    "plan --serve": (["plan", "recipe.yaml", "--serve", "transformers"], "plan.json"),
    "plan --trial": (["plan", "recipe.yaml", "--trial"], "*"),
    "plan scaling": (["plan", "scaling", RUN, "whole"], ""),
    "launch": (["launch", f"{RUN}/recipe.yaml", "--on", "ssh:nowhere", "--dry-run"], ""),
    "temper": (TEMPER, "*"),
    "temper --mix": ([*TEMPER, "--mix", "made"], "*"),
    "why": (["why", RUN, QUESTION], "why"),
    "why --misses": (["why", RUN, "--misses"], "why"),
    "why, of sources": (["why", RUN], "why"),
    "verify": (["verify", "made", "--base", "base", "--questions", "3"], ""),
    "improve": (["improve", "recipe.yaml", "--rounds", "1", "--yes"], "*"),
    "train": (["train", "recipe.yaml", "--yes"], "*"),
    "run": (["run", "recipe.yaml", "--yes"], "*"),
    "run again": (["run", f"{RUN}/recipe.yaml", "--yes"], "*"),
    "go on from it": (["train", "recipe.yaml", "name=next", f"start_from={RUN}", "train.epochs=1", "--yes"], ""),
}
"""Each verb's words, and what of the run it is there to write."""
ELSEWHERE = {
    "verify": ("made", "made", "base"),
    "temper --mix": ("made", RUN),
    "improve": ("base", "runs/_improve", "runs/clube-round-1"),
}
"""Which folders a verb reads, where it is not the run, its base and the answers that are kept."""
WITHOUT = {"mcp", "studio", "demo", "base import", "tokenizer train", "recipe init", "recipe schema"}
"""Verbs that are not in the table: agents and the studio have their tests (below, and test_studio_hostile.py), the
others read no run and no base's folder."""

NAMED = {0, 2, 3, 4, 5}
"""Ends that say something; 1 is looked at more closely."""

NAN, LARGE = float("nan"), 10**400
OTHER: tuple[Any, ...] = (None, True, -1, 0.5, 1e308, LARGE, NAN, "", "x", "\ud800", "../../x", [], [1], {}, {"a": 1})


def json_values(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in JSON."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place, *(each for key, value in inside for each in json_values(value, (*place, key)))]


def change_values(file: Path, pick: random.Random, change: Callable[[Any, Any], None]) -> None:
    """Change what is in JSON or YAML, or in a line of JSONL, by its mapping or list and the key there."""
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines(keepends=True)
    at = pick.randrange(len(lines)) if file.suffix == ".jsonl" and lines else None
    try:
        read = YAML(typ="safe", pure=True).load if file.suffix == ".yaml" else json.loads
        content = [read(text if at is None else lines[at])]
    except ValueError:
        flip(file, pick)
        return
    *way, last = (0, *pick.choice(json_values(content[0])))
    inside: Any = content
    for key in way:
        inside = inside[key]
    change(inside, last)
    changed = json.dumps(content[0]) if content else ""
    if at is not None:
        lines[at] = changed + "\n"
        changed = "".join(lines)
    file.write_text(changed, encoding="utf-8")


def retype(file: Path, pick: random.Random) -> None:
    """A value is one of another type, or one that no number, name or path is."""

    def change(inside: Any, key: Any) -> None:
        inside[key] = pick.choice(OTHER)

    change_values(file, pick, change)


def drop_key(file: Path, pick: random.Random) -> None:
    """A value is gone."""

    def change(inside: Any, key: Any) -> None:
        del inside[key]

    change_values(file, pick, change)


def double_key(file: Path, pick: random.Random) -> None:
    """A key stands there twice, the second time with another value."""
    text = file.read_text(encoding="utf-8", errors="replace")
    at = text.find('"')
    if not text.lstrip().startswith("{") or at < 0:
        cut(file, pick)
        return
    key = text[at : text.index('"', at + 1) + 1]
    end = text.index("}", at) if file.suffix == ".jsonl" else text.rindex("}")
    file.write_text(f"{text[:end]}, {key}: {json.dumps(pick.choice(OTHER))}{text[end:]}", encoding="utf-8")


def nest(file: Path, _: random.Random) -> None:
    """Brackets without end."""
    file.write_text("[" * 100_000, encoding="utf-8")


def cut(file: Path, pick: random.Random) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: pick.randrange(len(whole) or 1)])


def cut_out(file: Path, pick: random.Random) -> None:
    """Bytes in the middle are gone."""
    whole = file.read_bytes()
    start = pick.randrange(len(whole) or 1)
    file.write_bytes(whole[:start] + whole[start + pick.randrange(1, 64) :])


def flip(file: Path, pick: random.Random) -> None:
    whole = bytearray(file.read_bytes())
    for _ in range(pick.choice((1, 1, 8)) if whole else 0):
        whole[pick.randrange(len(whole))] = pick.randrange(256)
    file.write_bytes(whole)


def no_text(file: Path, pick: random.Random) -> None:
    """Bytes that are no UTF-8."""
    whole = file.read_bytes()
    at = pick.randrange(len(whole) or 1)
    file.write_bytes(whole[:at] + b"\xff\xfe\x00" + whole[at:])


def empty(file: Path, _: random.Random) -> None:
    file.write_bytes(b"")


def remove(file: Path, _: random.Random) -> None:
    file.unlink()


def remove_folder(file: Path, _: random.Random) -> None:
    """The folder that the file is in is gone."""
    shutil.rmtree(file.parent)


def become_folder(file: Path, _: random.Random) -> None:
    file.unlink()
    file.mkdir()


def become_file(file: Path, _: random.Random) -> None:
    """The folder that the file is in is a file."""
    shutil.rmtree(file.parent)
    file.parent.write_text("a file", encoding="utf-8")


def lead_nowhere(file: Path, _: random.Random) -> None:
    file.unlink()
    file.symlink_to("gone")


def swap(file: Path, pick: random.Random) -> None:
    """Two files of one kind have each other's content."""
    root = next(folder for folder in file.parents if folder.name == "project")
    others = [each for each in sorted(root.rglob(f"*{file.suffix}")) if each.is_file() and each != file]
    other = pick.choice(others or [file])
    here, there = file.read_bytes(), other.read_bytes()
    file.write_bytes(there)
    other.write_bytes(here)


def forbid(file: Path, _: random.Random) -> None:
    """Nobody may read it."""
    file.chmod(0)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    retype, retype, retype, retype, drop_key, drop_key, double_key, nest, cut, cut, cut_out, flip, flip, no_text, empty,
    remove, remove_folder, become_folder, become_file, lead_nowhere, swap, forbid,
)  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def finished() -> Iterator[Path]:
    """A project at the place that its recipe names, and the same beside it to copy from."""
    with held_folder("damaged") as above:  # not below pytest's: others than its owner have to enter
        for each in (above, above.parent):
            each.chmod(0o755)
        folder = above / "project"
        folder.mkdir()
        recipe = write_project(folder)
        facts = [{"prompt": f"Quantos golos tem o jogador {n}?", "completion": f"Marcou {n}."} for n in range(20)]
        (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in facts), encoding="utf-8")
        text = recipe.read_text(encoding="utf-8").replace("epochs: 3", "epochs: 1")
        probes = "probes: [{path: facts.jsonl, role: generalization}, "  # enough of them to temper by
        recipe.write_text(text.replace("probes: [", probes), encoding="utf-8")
        (folder / "limits.yaml").write_text("learned_min: 0.5\n", encoding="utf-8")
        (folder / "q.txt").write_text("Onde fica?\nQuem?\n", encoding="utf-8")
        assert call_afina("run", "recipe.yaml", folder=folder, check=None).returncode in (0, 5)
        call_afina("export", RUN, "--to", "adapter", "--out", "made", "--no-check", folder=folder)
        # What is loaded here no fork has to load, nor be allowed to: nobody may read root's Python.
        more = ("plot", "doctor", "why", "temper", "improve") if MANY else ()
        for name in ("chat", "report", "serve", "watch", *more):
            call_afina(*VERBS[name][0], folder=folder, check=None)
        shutil.rmtree(folder / RUN / "plots", ignore_errors=True)
        shutil.copytree(folder / RUN, folder / "whole")
        shutil.copytree(folder, above / "pristine")
        yield folder


def damage(project: Path, number: int, verb: str = "") -> str:
    """Do the damage of that number; what was done, and to which file."""
    pick = random.Random(SEED * 100_000 + number)
    folders = ELSEWHERE.get(verb, (RUN, RUN, "base", "runs/_answers"))
    places = [each for place in folders for each in sorted((project / place).rglob("*"))]
    file = pick.choice([each for each in places if each.is_file() and each.name != ".lock"])
    how = pick.choice(DAMAGES)
    how(file, pick)
    return f"{how.__name__} {file.relative_to(project)}"


def ended_well(code: int, said: str) -> str | None:
    """What is wrong with an end, None where nothing is."""
    if code not in NAMED and not (code == 1 and "afina: AfinaError" in said):
        return f"ends with {code}: {said[-1500:]}"
    if "Traceback" in said:
        return f"a traceback: {said[-1500:]}"
    if code in NAMED - {0, 5} and "->" not in said:
        return f"no next step: {said[-300:]}"
    return None


def losses(whole: dict[str, bytes], before: dict[str, bytes], after: dict[str, bytes], writes: str) -> Iterator[str]:
    """What is not there any more as it was, though the verb was not asked to write it; of what it was asked to write,
    what cost hours and was not damaged, and any file that is gone."""
    kept = {*after.values()}
    own = "runs/" if writes == "*" else f"{RUN}/{writes}"
    for file, content in before.items():
        if not (writes and file.startswith(own)):
            if after.get(file) != content:
                yield f"{file} is changed"
        elif content == whole.get(file) and content not in kept:
            if file.endswith(".safetensors") or file not in after:
                yield f"{file} is lost"
            elif file.endswith("metrics.jsonl") and not after[file].startswith(content):
                yield f"{file} has lost events"


def fresh(project: Path) -> None:
    """The project as it was before any damage."""
    shutil.rmtree(project)
    shutil.copytree(project.parent / "pristine", project)


def outcome(project: Path, number: int, verbs: int) -> list[str]:
    """What went wrong with one damage, on so many verbs."""
    wrong, whole = [], contents(project.parent / "pristine")
    for name in random.Random(number).sample(list(VERBS), verbs):
        fresh(project)
        done = damage(project, number, name)
        user = _nobody(project) if done.startswith("forbid") and os.geteuid() == 0 else None
        before = contents(project)
        words, writes = VERBS[name]
        ended = Forked(words, project, user=user).done()
        found = [
            ended_well(ended.returncode, ended.stdout + ended.stderr),
            *losses(whole, before, contents(project), writes),
        ]
        wrong += [f"{number}: {name} after {done}: {each}" for each in found if each]
    return wrong


def _nobody(project: Path) -> int:
    """Give the project to a user whom modes stop, as they do not stop root."""
    for each in (project, *project.rglob("*")):
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
    return NOBODY


def test_every_verb_on_a_damaged_run_or_base_ends_well_or_says_what_is_wrong(finished: Path):
    """Five mutations (`make test-all`: 24) and a verb each; as many as AFINA_MUTATIONS says
    (`make mutations`: 500), two verbs each."""
    asked = os.environ.get("AFINA_MUTATIONS")
    count, verbs = (int(asked), 2) if asked else (times(5, 24), 1)
    wrong = [each for number in range(count) for each in outcome(finished, number, verbs)]
    assert not wrong, f"{len(wrong)} of {count * verbs}:\n" + "\n".join(wrong)


def test_every_verb_is_driven():
    """A new one is added to the table, or said to read no such folder."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    every = {name for name, command in commands.items() if not hasattr(command, "commands")}
    every |= {f"{name} {each}" for name, group in commands.items() for each in getattr(group, "commands", ())}
    driven = {" ".join(words[: 2 if words[0] in ("data", "base", "tokenizer") else 1]) for words, _ in VERBS.values()}
    assert not every - driven - WITHOUT, "not in VERBS"
    assert not WITHOUT - every and not WITHOUT & driven, "there is none such, or it is driven"


def test_an_agent_is_told_what_is_damaged_and_the_other_runs(finished: Path):
    """Eight damages, one after the other: the tools answer or name what is wrong, and a run is only wrong about
    itself."""
    fresh(finished)
    runs, reach = finished / "runs", Reach.of(finished / "runs", [finished], allow_runs=False)
    (runs / "away").symlink_to(finished.parent / "pristine/whole")
    for number in range(8):
        done = damage(finished, number)
        shutil.rmtree(runs / "whole", ignore_errors=True)
        shutil.copytree(finished.parent / "pristine/whole", runs / "whole")
        listed = {each["name"]: each for each in list_runs(reach)["runs"]}
        assert listed["whole"]["passed"] is False and "problems" in listed["away"], done
        try:
            assert verdict(reach, "clube")["verdict"], done
        except AfinaError as error:
            assert all(each.fix and each.where for each in error.problems), done


ROW = '{"text": 3, "from": {"path": "a.md", "line": 1, "sha256": ""}, "source": 0}\n'


@pytest.mark.parametrize(
    ("file", "content", "verb", "code", "said"),
    [
        ("base/chat_template.jinja", "{% if %}", "eval", 2, "the chat template is no Jinja (line 1)"),
        ("base/chat_template.jinja", "{{ raise_exception('no') }}", "train", 3, "refuses the conversation: no"),
        (f"{RUN}/recipe.yaml", "[" * 500, "report", 1, "recipe.yaml: damaged: brackets in brackets"),
        (f"{RUN}/plan.json", f'{{"fits": {"1" * 400}}}', "report", 1, "plan.json: damaged: a number of 400 digits"),
        (f"{RUN}/.train.begun.json", '{"check": "x"}', "train", 1, "what it notes of the stage `train` is not"),
        (f"{RUN}/dataset/train.jsonl", ROW, "plan", 3, "train.jsonl:1: not an example: TypeError('3 where str belongs"),
        (f"{RUN}/adapter/adapter_config.json", '{"r": "x"}', "serve", 2, "damaged: `r` is 'x'"),
        (f"{RUN}/adapter/adapter_config.json", '{"modules_to_save": [3]}', "serve", 2, "`modules_to_save` is 3"),
        (f"{RUN}/adapter/tokenizer.json", "", "export adapter, checked", 2, "adapter: no tokenizer can be opened"),
        (f"{RUN}/adapter/tokenizer.json", "", "export adapter", 2, "adapter: no tokenizer can be opened"),
        (f"{RUN}/adapter/tokenizer.json", "{}", "export hub-folder", 2, "adapter: no tokenizer can be opened"),
        (f"{RUN}/adapter/tokenizer_config.json", None, "export hub-folder", 2, "cannot be copied"),
    ],
)
def test_what_is_damaged_is_named(
    finished: Path, file: str, content: str | None, verb: str, code: int, said: str
) -> None:
    """Kinds of damage that ended in a traceback, or that cost a training; None is a link to nowhere."""
    fresh(finished)
    if content is None:
        lead_nowhere(finished / file, random.Random())
    else:
        (finished / file).write_text(content, encoding="utf-8")
    ended = Forked(VERBS[verb][0], finished).done()
    assert ended.returncode == code and said in ended.stderr and "->" in ended.stderr, ended.stderr
    assert not (finished / RUN / "replaced").exists()
