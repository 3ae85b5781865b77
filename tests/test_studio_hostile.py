"""Whatever is sent to the studio, in whatever place of a request: it is answered or refused in words, and no defect."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_fixture import write_run

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from afina.studio import jobs, play_process
from afina.studio.app import studio_app
from afina.studio.settings import StudioSettings

RECIPE = "name: x\nbase: a/b\nsources: [{path: .}]\n"
TEXTS = (
    "~nobody-has-this-name/x",
    "a" * 300,
    "a/" * 3000,
    "\0",
    "\ud800",
    "..",
    "/",
    "",
    "\n",
    "{" * 2000,
    "\U0010ffff",
)
PATHS: tuple[str, ...] = (
    "/api/runs/HERE", "/api/runs/HERE/metrics", "/api/runs/HERE/report", "/run/HERE", "/api/files?path=HERE",
    "/api/recipe/load?path=HERE", "/api/recipe/starter?kind=HERE", "/api/compare?runs=HERE&runs=a",
    "/api/data/rows?job=HERE&finding=x", "/api/data/audit/HERE", "/static/HERE", "/HERE",
)  # fmt: skip
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/api/runs/HERE/stop", {}),
    ("/api/runs/HERE/resume", {}),
    ("/api/data/audit/HERE/end", {}),
    ("/api/data/audit", {"path": "HERE"}),
    ("/api/data/audit", {"text": "a", "name": "HERE"}),
    ("/api/data/audit", {"path": ".", "base": "HERE"}),
    ("/api/data/audit", {"path": ".", "run": "HERE"}),
    ("/api/data/tokens", {"path": "HERE", "run": "a"}),
    ("/api/data/tokens", {"job": "HERE", "run": "a", "at": "HERE"}),
    ("/api/play/open", {"run": "HERE"}),
    ("/api/play/answer", {"base": "HERE", "question": "?"}),
    ("/api/play/answer", {"run": "a", "question": "HERE", "turns": [{"question": "HERE"}]}),
    ("/api/recipe/check", {"text": "HERE"}),
    ("/api/recipe/check", {"text": "name: HERE\n"}),
    ("/api/recipe/check", {"text": RECIPE, "folder": "HERE"}),
    ("/api/recipe/check", {"text": RECIPE, "changes": [{"key": "HERE", "yaml": "1"}]}),
    ("/api/recipe/check", {"text": RECIPE, "changes": [{"key": "name", "text": "HERE"}]}),
    ("/api/recipe/check", {"text": RECIPE, "changes": [{"key": "seed", "yaml": "HERE"}]}),
    ("/api/recipe/check", {"text": RECIPE, "changes": [{"key": "sources.0.path", "text": "HERE"}]}),
    ("/api/start", {"text": "HERE"}),
    ("/api/start", {"text": RECIPE, "folder": "HERE"}),
    ("/api/plan", {"recipe": "HERE"}),
    ("/api/plan", {"text": RECIPE, "folder": "HERE"}),
    ("/api/plan", {"tokens": "HERE"}),
    ("/api/plan", {"tokens": "1M", "device": "HERE"}),
    ("/api/plan", {"tokens": "1M", "device": "L4", "settings": {"base": "HERE"}}),
    ("/api/plan", {"tokens": "1M", "device": "L4", "settings": {"HERE": 1}}),
    ("/api/plan", {"tokens": "1M", "device": "L4", "parallel": "HERE"}),
    ("/api/plan", {"tokens": "1M", "device": "L4", "serve": {"weights": "HERE"}}),
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A studio with one run and one root that holds nothing."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "root").mkdir()
    write_run(folder / "runs/a")
    app = studio_app(StudioSettings(folder / "runs", (folder / "root",)))
    with TestClient(
        app,
        base_url="http://127.0.0.1:8321",
        headers={"X-Afina-Studio": "1"},
        raise_server_exceptions=False,
        follow_redirects=False,
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request would start is not looked at here: it ends at once."""
    monkeypatch.setattr(jobs, "AFINA", ("false",))
    monkeypatch.setattr(play_process.sys, "executable", "false")


def filled(value: Any, text: str) -> Any:
    """A body with a text in the place of `HERE`."""
    if isinstance(value, str):
        return value.replace("HERE", text)
    if isinstance(value, dict):
        return {filled(key, text): filled(each, text) for key, each in value.items()}
    return [filled(each, text) for each in value] if isinstance(value, list) else value


def quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="surrogatepass"))


def refused_in_words(answer: Any) -> bool:
    """Whether an answer is one, or says what is wrong."""
    if answer.status_code < 400:
        return True
    if answer.headers["content-type"].startswith("text/html"):
        return answer.status_code < 500
    return bool(answer.status_code < 500 and answer.json()["error"]["what"])


@pytest.mark.parametrize("path", PATHS)
def test_no_address_is_a_defect(studio: TestClient, path: str) -> None:
    wrong = [text[:30] for text in TEXTS if not refused_in_words(studio.get(path.replace("HERE", quoted(text))))]
    assert not wrong


@pytest.mark.parametrize(("path", "body"), BODIES, ids=lambda given: json.dumps(given)[:60])
def test_no_body_is_a_defect(studio: TestClient, path: str, body: dict[str, Any]) -> None:
    wrong = []
    for text in TEXTS:
        sent = json.dumps(filled(body, text))  # with escapes: half a character too
        headers = {"content-type": "application/json"}
        answer = studio.post(path.replace("HERE", quoted(text)), content=sent, headers=headers)
        if not refused_in_words(answer):
            wrong.append((text[:30], answer.status_code, answer.text[:300]))
    assert not wrong


YAML = (
    "!!bool x", "!!int ''", "!!float x", "!!timestamp x", "!!binary x", "!!python/object:x y", "!x y", "&a [*a]",
    "&a {b: *a}", "{[a]: 1}", "!!set {a}", "!!omap [a]", "2026-02-31", "1" * 5000, "[" * 1000, "*a", "<<: 1",
)  # fmt: skip


@pytest.mark.parametrize("value", YAML, ids=lambda value: value[:20])
def test_no_value_of_yaml_is_a_defect(studio: TestClient, value: str) -> None:
    """In a recipe's text, and as what a field of the form holds."""
    change = {"text": RECIPE, "changes": [{"key": "seed", "yaml": value}]}
    for path, body in (
        ("/api/recipe/check", {"text": f"{RECIPE}seed: {value}\n"}),
        ("/api/recipe/check", change),
        ("/api/plan", {"text": f"{RECIPE}seed: {value}\n", "tokens": "1M", "device": "L4"}),
        ("/api/start", {"text": f"{RECIPE}seed: {value}\n"}),
    ):
        answer = studio.post(path, json=body)
        assert refused_in_words(answer), (path, answer.text)
    assert studio.post("/api/recipe/check", json=change).json()["problems"]


@pytest.mark.parametrize("number", [10**30, 10**400, -1, 2**64])
def test_no_number_is_a_defect(studio: TestClient, number: int) -> None:
    for path, body in (
        ("/api/plan", {"tokens": "1M", "device": "L4", "gpus": number}),
        ("/api/plan", {"tokens": "1M", "device": "L4", "serve": {"context": number}}),
        ("/api/plan", {"tokens": "1M", "device": "L4", "serve": {"users": number, "lora_slots": number}}),
        ("/api/plan", {"tokens": "1M", "device": "L4", "settings": {"train.max_length": number}}),
        ("/api/plan", {"tokens": str(number), "device": "L4"}),
        ("/api/data/tokens", {"path": ".", "run": "a", "row": number}),
        ("/api/play/answer", {"run": "a", "question": "?", "seed": number}),
    ):
        assert refused_in_words(studio.post(path, json=body)), (path, body)


def test_a_key_that_nobody_reads_is_refused(studio: TestClient) -> None:
    """As in a recipe: a page that asks for what the studio does not know is told so."""
    for path, body in BODIES:
        if body:
            answer = studio.post(path, json=body | {"spelled_wrong": 1})
            assert answer.status_code == 422 and "spelled_wrong" in answer.text, path


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_hides_nothing_else(tmp_path: Path) -> None:
    """Files of an old disk or archive: one name in Latin-1 was a 500 for every list that it stood in."""
    root, runs, name = tmp_path / "root", tmp_path / "runs", os.fsdecode("ação".encode("latin-1"))
    root.mkdir()
    for place in (f"{name}.yaml", "good.yaml"):
        (root / place).write_text(RECIPE, encoding="utf-8")
    (root / name).mkdir()
    (root / name / "inner.yaml").write_text(RECIPE, encoding="utf-8")
    for place in (name, "100% #1 ção 😀"):
        write_run(runs / place)
    app = studio_app(StudioSettings(runs, (root,)))
    client = TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False)
    listed = {each["name"]: each for each in client.get("/api/runs").json()["runs"]}
    assert {each: listed[each]["state"] for each in listed} == {
        "a\ufffd\ufffdo": "damaged",
        "100% #1 ção 😀": "finished",
    }
    assert "rename the folder" in listed["a\ufffd\ufffdo"]["problem"]
    there = quoted("100% #1 ção 😀")
    for address in (f"/run/{there}", f"/api/runs/{there}", f"/api/runs/{there}/metrics"):
        assert client.get(address).status_code == 200, address
    folder = client.get("/api/files", params={"path": str(root)}).json()
    assert [each["name"] for each in folder["entries"]] == ["good.yaml"] and folder["left_out"] == 2
    for path in ("/api/recipe/schema", "/api/plan/choices"):
        found = [each["name"] for each in client.get(path).json()["recipes"] if each["kind"] == "recipe"]
        assert found == ["good.yaml"]


def test_a_folder_that_may_not_be_read_hides_no_other_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who may read everything: the system's answer is put in its place."""
    (tmp_path / "root/closed").mkdir(parents=True)
    (tmp_path / "root/open").mkdir()
    (tmp_path / "root/open/a.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "root/linked").symlink_to(tmp_path / "outside")
    (tmp_path / "root/link.yaml").symlink_to(tmp_path / "outside/secret.yaml")
    iterdir = Path.iterdir

    def barred(folder: Path) -> Iterator[Path]:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", barred)
    app = studio_app(StudioSettings(tmp_path / "runs", (tmp_path / "root",)))
    client = TestClient(app, base_url="http://127.0.0.1:8321")
    for path in ("/api/recipe/schema", "/api/plan/choices"):
        assert [each["name"] for each in client.get(path).json()["recipes"]] == ["open/a.yaml"]
