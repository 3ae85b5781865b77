"""`afina mcp`, driven by the official client over standard input and output: what is read, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from afina.errors import RecipeError
from afina.evaluate.scores import Scores, Verdict
from afina.mcp_server.bounded import LONGEST, as_text, bounded
from afina.mcp_server.reach import Reach
from afina.mcp_server.verbs import audit, list_runs, start_run, verdict
from afina.recipe.home import in_roots
from afina.run_process import LOG, RESULT, environment

ROWS = [{"prompt": f"Quantos golos marcou o jogador {n}?", "completion": f"Marcou {n}."} for n in range(12)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with rows (one of them twice), a recipe, and a run that was judged; beside it what lies outside."""
    folder = tmp_path_factory.mktemp("agents") / "root"
    run = folder / "runs/clube"
    run.mkdir(parents=True)
    rows = [*ROWS, ROWS[0]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder.parent / "secret.jsonl").write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    (folder / "leads-out.jsonl").symlink_to(folder.parent / "secret.jsonl")
    text = "name: clube\nroot: .\nsources: [{path: rows.jsonl}]\ntrain: {method: scratch}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    outside = text.replace("rows.jsonl", "../secret.jsonl")
    (folder / "outside.yaml").write_text(outside, encoding="utf-8")
    (run / "recipe.yaml").write_text(text, encoding="utf-8")
    Scores(verdict=Verdict("too little", "nothing", False, "learned: too little", ("seen: 40 % right",))).write(run)
    return folder


def asked(place: Path, ask: Callable[[Any], Coroutine[Any, Any, None]], *options: str) -> None:
    """Start the server as a client does, and ask it."""
    mcp = pytest.importorskip("mcp")
    environment = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    command = ["-m", "afina", "mcp", "--root", str(place), "--runs", str(place / "runs"), *options]
    server = mcp.StdioServerParameters(command=sys.executable, args=command, env=environment)

    async def talk() -> None:
        async with mcp.Client(server) as client:
            await ask(client)

    asyncio.run(talk())


def text_of(result: Any) -> str:
    return "\n".join(each.text for each in result.content)


def test_an_agent_lists_the_tools_reads_an_audit_a_plan_and_a_verdict_and_is_refused_a_run(place: Path) -> None:
    async def ask(client: Any) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"audit", "plan", "runs", "verdict", "run"} <= set(tools)
        assert tools["audit"].annotations.read_only_hint and not tools["run"].annotations.read_only_hint
        assert "starts no training" in client.instructions

        audit = await client.call_tool("audit", {"paths": ["rows.jsonl"]})
        found = json.loads(text_of(audit))
        assert not audit.is_error and found == audit.structured_content
        assert any("duplicate" in finding["name"] for finding in found["findings"]), found

        plan = await client.call_tool("plan", {"recipe": "recipe.yaml", "settings": ["train.epochs=2"]})
        assert not plan.is_error and plan.structured_content["memory"]["point"] > 0, text_of(plan)

        runs = (await client.call_tool("runs")).structured_content["runs"]
        assert [(run["name"], run["passed"]) for run in runs] == [("clube", False)]

        verdict = (await client.call_tool("verdict", {"run": "clube"})).structured_content
        assert verdict["verdict"]["learned"] == "too little" and verdict["verdict"]["misses"] == ["seen: 40 % right"]

        refused = await client.call_tool("run", {"recipe": "recipe.yaml"})
        assert refused.is_error and refused.structured_content["exit_code"] == 2
        problem = refused.structured_content["problems"][0]
        assert problem["what"] == "this server reads, and starts no run" and "--allow-runs" in problem["fix"]
        assert problem["what"] in text_of(refused) and problem["fix"] in text_of(refused)

        elsewhere = await client.call_tool("audit", {"paths": [str(place.parent / "secret.jsonl")]})
        assert elsewhere.is_error and "outside of what this server may read" in text_of(elsewhere)

        wrong = await client.call_tool("plan", {"recipe": "recipe.yaml", "settings": ["train.epoch=2"]})
        assert wrong.is_error and "did you mean `epochs`?" in text_of(wrong)

    before = sorted(place.rglob("*"))
    asked(place, ask)
    assert sorted(place.rglob("*")) == before, "it only reads"


@pytest.mark.training
@pytest.mark.long
def test_with_leave_a_run_is_started_and_goes_on_without_the_server(place: Path) -> None:
    started: dict[str, Any] = {}

    async def ask(client: Any) -> None:
        small = ["scratch.vocab=300", "scratch.hidden=16", "scratch.layers=1", "scratch.heads=2", "train.epochs=1"]
        result = await client.call_tool("run", {"recipe": "recipe.yaml", "settings": small, "name": "allowed"})
        assert not result.is_error, text_of(result)
        started.update(result.structured_content)

    asked(place, ask, "--allow-runs")
    over = place / "runs/allowed/finished.json"
    until(over.is_file, said=lambda: Path(started["log"]).read_text(encoding="utf-8"))


def test_what_a_recipe_leads_to_lies_inside_too(place: Path) -> None:
    reach = Reach.of(place / "runs", [place], allow_runs=True)
    with pytest.raises(RecipeError, match=r"sources\.0\.path: .*secret.jsonl: outside of what"):
        reach.recipe("outside.yaml", [])
    with pytest.raises(RecipeError, match="outside of what"):
        reach.recipe("recipe.yaml", ["sources=[{path: leads-out.jsonl}]"])
    with pytest.raises(RecipeError, match="outside of what"):
        reach.inside("leads-out.jsonl")
    with pytest.raises(RecipeError, match="no path is given"):
        reach.inside(" ")
    (place / "linked").mkdir()
    (place / "linked/rows.jsonl").symlink_to(place.parent / "secret.jsonl")
    with pytest.raises(RecipeError, match="outside of what"):
        reach.whole("linked")
    shutil.rmtree(place / "linked")
    with pytest.raises(RecipeError, match="no setting"):
        reach.recipe("recipe.yaml", ["--runs"])
    assert reach.recipe("recipe.yaml", []) == place / "recipe.yaml"


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("dataset.check_code={python: '3.11'}", "dataset.check_code"),
        ("trust_remote_code=true", "trust_remote_code"),
        ("dataset.teacher={url: 'http://localhost:1/v1', model: x}", "dataset.teacher"),
        ("sources=[{path: 'https://example.org/'}]", "sources.0.path"),
    ],
)
def test_what_starts_programs_downloads_or_pays_needs_leave(place: Path, setting: str, key: str) -> None:
    with pytest.raises(RecipeError, match="this server only reads") as refused:
        Reach.of(place / "runs", [place], allow_runs=False).recipe("recipe.yaml", [setting])
    assert refused.value.problems[0].where == key and "--allow-runs" in refused.value.problems[0].fix
    Reach.of(place / "runs", [place], allow_runs=True).recipe("recipe.yaml", [setting])


def test_settings_for_files_need_leave_too(place: Path) -> None:
    reach = Reach.of(place / "runs", [place], allow_runs=False)
    reach.check_settings(["train.max_length=512"])
    with pytest.raises(RecipeError, match="programs are compiled"):
        reach.check_settings(["dataset.check_code={python: '3.11'}"])
    with pytest.raises(RecipeError, match=r"chat\.template: .*outside of what"):
        reach.check_settings([f"chat.template={place.parent / 'secret.jsonl'}"])


def test_a_root_or_a_template_below_another_root_leads_nowhere(place: Path) -> None:
    """`root` is no path of a file, and yet all paths of a recipe count from it."""
    reach = Reach.of(place / "runs", [place], allow_runs=False)
    with pytest.raises(RecipeError, match=r"root: .*outside of what"):
        reach.recipe("recipe.yaml", [f"root={place.parent}", "sources=[{path: root/rows.jsonl}]"])
    with pytest.raises(RecipeError, match=r"chat\.template: .*outside of what"):
        reach.check_settings([f"root={place.parent}", "chat.template=secret.jsonl"])


def test_a_text_includes_no_file_from_outside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit reads what a page includes, also from the folder above its own."""
    (place / "page.md").write_text("# A\n\nTexto.\n\n{{#include ../secret.jsonl}}\n", encoding="utf-8")
    told = json.dumps(audit(Reach.of(place / "runs", [place], allow_runs=False), ["page.md"], None, []))
    assert "lies outside" in told and ROWS[0]["completion"] not in told
    monkeypatch.setenv("AFINA_ROOTS", f"{place / 'runs'}{os.pathsep}{place}")
    assert in_roots(place / "rows.jsonl") and not in_roots(place.parent / "secret.jsonl")
    monkeypatch.delenv("AFINA_ROOTS")
    assert in_roots(place.parent / "secret.jsonl")
    (place / "page.md").unlink()


def test_why_opens_no_base_from_outside_and_runs_no_code(place: Path, tmp_path: Path) -> None:
    reach = Reach.of(place / "runs", [place], allow_runs=False)
    recipe = "name: x\nsources: [{path: rows.jsonl}]\n"
    for name, more, said in (
        ("code", "base: x/y\ntrust_remote_code: true\n", "code that came with a base is run"),
        ("away", f"base: {tmp_path}\n", "base: .*outside of what"),
    ):
        run = place / "runs" / name
        run.mkdir()
        (run / "recipe.yaml").write_text(recipe + more, encoding="utf-8")
        with pytest.raises(RecipeError, match=said):
            reach.reopened(name)
        shutil.rmtree(run)
    assert reach.reopened("clube") == place / "runs/clube"


def test_a_run_whose_files_lead_out_is_told_and_not_read(place: Path) -> None:
    """One such run does not hide the others."""
    run, reach = place / "runs/linked", Reach.of(place / "runs", [place], allow_runs=False)
    run.mkdir()
    (run / "recipe.yaml").write_text("name: linked\n", encoding="utf-8")
    (run / "scores.json").symlink_to(place.parent / "secret.jsonl")
    listed = {each["name"]: each for each in list_runs(reach)["runs"]}
    assert "outside of what" in listed["linked"]["problems"][0]["what"] and listed["clube"]["passed"] is False
    with pytest.raises(RecipeError, match="outside of what"):
        verdict(reach, "linked")
    shutil.rmtree(run)
    (place / "runs/away").symlink_to(place.parent)
    with pytest.raises(RecipeError, match="outside of what"):
        start_run(Reach.of(place / "runs", [place], allow_runs=True), "recipe.yaml", [], "away")
    (place / "runs/away").unlink()


def test_an_answer_is_as_long_as_an_agent_can_read() -> None:
    """The lists of a long one are cut, and it says which; what is long by its keys is refused."""
    values = {"findings": [{"name": "x" * 50, "places": list(range(300))} for _ in range(300)], "said": "y" * 9000}
    short = bounded(values)
    assert len(as_text(short)) <= LONGEST and short["findings"][0]["name"] == "x" * 50
    assert short["left_out"]["findings"].endswith(" of 300") and short["left_out"]["said"] == "2000 of 9000 letters"
    assert bounded({"findings": [1]}) == {"findings": [1]}
    with pytest.raises(RecipeError, match="longer than the 100000 letters"):
        bounded({f"key {n}": n for n in range(20_000)})


def test_a_run_is_not_started_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks again before the first process has loaded its libraries, and taken the lock, starts no second."""
    from afina import run_process

    monkeypatch.setattr("afina.mcp_server.verbs.AFINA", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(run_process, "LONGEST_ENDING", 0.2)
    reach = Reach.of(place / "runs", [place], allow_runs=True)
    started = start_run(reach, "recipe.yaml", [], "twice")
    try:
        with pytest.raises(RecipeError, match="has not ended"):
            start_run(reach, "recipe.yaml", [], "twice")
    finally:
        os.kill(started["pid"], signal.SIGKILL)
    shutil.rmtree(place / "runs/twice")


def test_a_verbs_process_takes_no_module_from_the_folder_that_it_works_in(tmp_path: Path) -> None:
    (tmp_path / "base64.py").write_text("raise SystemExit('another module')", encoding="utf-8")
    command = [sys.executable, "-m", "base64", "-e"]
    done = subprocess.run(command, input=b"a", cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert done.stdout == b"YQ==\n"


def test_the_studio_reads_what_a_started_run_writes() -> None:
    facts = pytest.importorskip("afina.studio.facts")
    assert (facts.LOG, facts.RESULT) == (LOG, RESULT)


def test_without_leave_no_run_is_started_whatever_it_is(place: Path) -> None:
    with pytest.raises(RecipeError, match="starts no run"):
        start_run(Reach.of(place / "runs", [place], allow_runs=False), "recipe.yaml", [], None)
    assert not (place / "runs/clube/console.log").exists()
