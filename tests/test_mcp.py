"""`afina mcp`, driven by the official client over standard input and output: what is read, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from afina.errors import RecipeError
from afina.evaluate.scores import Scores, Verdict
from afina.mcp_server.reach import Reach
from afina.mcp_server.verbs import start_run

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
    import time

    started: dict[str, Any] = {}

    async def ask(client: Any) -> None:
        small = ["scratch.vocab=300", "scratch.hidden=16", "scratch.layers=1", "scratch.heads=2", "train.epochs=1"]
        result = await client.call_tool("run", {"recipe": "recipe.yaml", "settings": small, "name": "allowed"})
        assert not result.is_error, text_of(result)
        started.update(result.structured_content)

    asked(place, ask, "--allow-runs")
    until = time.monotonic() + 120
    while not (place / "runs/allowed/finished.json").is_file() and time.monotonic() < until:
        time.sleep(0.2)
    assert (place / "runs/allowed/finished.json").is_file(), Path(started["log"]).read_text(encoding="utf-8")


def test_what_a_recipe_leads_to_lies_inside_too(place: Path) -> None:
    reach = Reach.of(place / "runs", [place], allow_runs=True)
    with pytest.raises(RecipeError, match=r"sources\.0\.path: .*secret.jsonl: outside of what"):
        reach.recipe("outside.yaml", [])
    with pytest.raises(RecipeError, match="outside of what"):
        reach.recipe("recipe.yaml", ["sources=[{path: leads-out.jsonl}]"])
    with pytest.raises(RecipeError, match="outside of what"):
        reach.inside("leads-out.jsonl")
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


def test_without_leave_no_run_is_started_whatever_it_is(place: Path) -> None:
    with pytest.raises(RecipeError, match="starts no run"):
        start_run(Reach.of(place / "runs", [place], allow_runs=False), "recipe.yaml", [], None)
    assert not (place / "runs/clube/console.log").exists()
