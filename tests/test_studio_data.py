"""The studio's page "data", asked over HTTP: its audit, rows and tokens are the verbs' own, and nothing gets out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from tiny import make_base, make_recipe
from waiting import until

from afina.dataset.audit.audit import audit_files
from afina.studio.app import studio_app
from afina.studio.data_audits import PASTED
from afina.studio.settings import StudioSettings
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.show import show_tokens

FARENSE = Path(__file__).parents[2] / "shared/data/farense"
SCRIPT = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def row(question: str, answer: str) -> str:
    return json.dumps({"prompt": question, "completion": answer}, ensure_ascii=False) + "\n"


FLAWED = [row(f"O que é o clube {n}?", f"É o clube número {n} da cidade de Faro.") for n in range(12)]
FLAWED += [
    row("", f"Uma resposta a nada: {SCRIPT}"),
    row("Quem marcou?", ""),
    row("O que é o clube 3?", "Não se sabe."),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs' folder, a root with data, and what lies outside of both."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "runs").mkdir()
    (folder / "root/deep").mkdir(parents=True)
    (folder / "root/flawed.jsonl").write_text("".join(FLAWED) + "{half a row\n", encoding="utf-8")
    (folder / "root/recipe.yaml").write_text("name: x\n", encoding="utf-8")
    (folder / "outside.jsonl").write_text(row("a", "secret"), encoding="utf-8")
    (folder / "root/link.jsonl").symlink_to(folder / "outside.jsonl")
    return folder


def asking(settings: StudioSettings) -> TestClient:
    """A client that the guard lets through."""
    return TestClient(studio_app(settings), base_url="http://127.0.0.1:8321", headers={"X-Afina-Studio": "1"})


@pytest.fixture(scope="module")
def studio(place: Path) -> Iterator[TestClient]:
    roots = (place / "root", *([FARENSE] if FARENSE.is_dir() else []))
    with asking(StudioSettings(place / "runs", roots)) as client:
        yield client


def audited(client: TestClient, **wanted: Any) -> dict[str, Any]:
    """An audit when it is done."""
    state = client.post("/api/data/audit", json=wanted)
    assert state.status_code == 200, state.text
    place = f"/api/data/audit/{state.json()['job']}"

    def ended() -> dict[str, Any]:
        told: dict[str, Any] = client.get(place).json()
        return {} if told["state"] == "running" else told

    return until(ended)


@pytest.fixture(scope="module")
def flawed(studio: TestClient, place: Path) -> dict[str, Any]:
    return audited(studio, path=str(place / "root/flawed.jsonl"))


def problem(answer: Any) -> dict[str, str]:
    told: dict[str, str] = answer.json()["error"]
    return told


def test_an_audit_is_the_verbs_own(flawed: dict[str, Any], place: Path):
    assert flawed["state"] == "done"
    own = audit_files([place / "root/flawed.jsonl"]).as_json()
    expected = json.loads(json.dumps(own).replace(f"{place}/root/", ""))
    assert {each["told"]["what"]["text"] for each in flawed["audit"]["findings"]} == {
        each["what"] for each in own["findings"]
    }
    findings = [{name: each[name] for name in each if name != "told"} for each in flawed["audit"]["findings"]]
    assert flawed["audit"] | {"findings": findings} == expected
    found = {each["name"]: each for each in flawed["audit"]["findings"]}
    assert {"empty_prompt", "empty_answer", "unreadable"} <= set(found)
    assert found["empty_prompt"]["examples"][0]["where"] == "flawed.jsonl:13"


@pytest.mark.long
def test_findings_are_told_in_the_language_of_the_studio(place: Path):
    settings = StudioSettings(place / "runs", (place / "root",), language="pt-PT")
    with asking(settings) as client:
        told = audited(client, path=str(place / "root/flawed.jsonl"))["audit"]["findings"]
    (prompt,) = (each["told"] for each in told if each["name"] == "empty_prompt")
    assert prompt["fix"] == {"text": "corrija-as, ou defina `dataset.on_empty_prompt: drop` ou `text`", "lang": None}
    (broken,) = (each["told"]["what"] for each in told if each["name"] == "unreadable")
    assert broken["lang"] == "en" and broken["text"].startswith("files or rows"), "it holds what the parser says"


def test_rows_of_a_finding_are_whole(studio: TestClient, flawed: dict[str, Any]):
    def rows(finding: str) -> Any:
        return studio.get("/api/data/rows", params={"job": flawed["job"], "finding": finding})

    answer = rows("empty_prompt")
    (only,) = answer.json()["rows"]
    assert only["where"] == only["at"] == "flawed.jsonl:13"
    assert only["row"]["messages"][-1]["content"] == f"Uma resposta a nada: {SCRIPT}"
    sent = answer.headers
    assert (sent["content-type"], sent["x-content-type-options"]) == ("application/json", "nosniff")
    (broken,) = rows("unreadable").json()["rows"]
    assert broken["row"] is None and broken["line"] == "{half a row"
    assert rows("no_such_finding").status_code == 404


@pytest.mark.parametrize("outside", ["outside.jsonl", "root/link.jsonl", "root/../outside.jsonl", "root/../.."])
def test_what_lies_outside_is_refused(studio: TestClient, place: Path, outside: str):
    path = str(place / outside)
    for answer in (
        studio.post("/api/data/audit", json={"path": path}),
        studio.post("/api/data/tokens", json={"path": path, "base": "package:none"}),
        studio.get("/api/files", params={"path": path}),
        studio.post("/api/data/audit", json={"path": str(place / "root/flawed.jsonl"), "base": path}),
    ):
        assert answer.status_code == 403, answer.text
        assert "outside" in problem(answer)["what"]


@pytest.mark.parametrize(
    ("wanted", "status", "said"),
    [
        ({}, 400, "one thing"),
        ({"path": "flawed.jsonl", "text": "a"}, 400, "one thing"),
        ({"path": "nothing.jsonl"}, 404, "no such file"),
        ({"path": "recipe.yaml"}, 400, "no data"),
        ({"text": "a", "name": "../a.jsonl"}, 400, "no name"),
        ({"text": "a", "name": "recipe.yaml"}, 400, "no name"),
        ({"path": "flawed.jsonl", "run": "none"}, 404, "no run"),
        ({"path": "flawed.jsonl", "base": "./nothing"}, 422, "no such folder"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_words(studio: TestClient, wanted: dict[str, str], status: int, said: str):
    answer = studio.post("/api/data/audit", json=wanted)
    assert answer.status_code == status and said in problem(answer)["what"]


def test_tokens_need_a_tokenizer(studio: TestClient):
    answer = studio.post("/api/data/tokens", json={"path": "flawed.jsonl"})
    assert answer.status_code == 400 and "tokenizer" in problem(answer)["what"]


def test_a_folder_is_listed_and_only_what_lies_inside_of_it(studio: TestClient, place: Path):
    begin = studio.get("/api/files").json()
    assert {str(place / "root"), str(place / "runs")} <= {each["path"] for each in begin["entries"]}
    told = studio.get("/api/files", params={"path": str(place / "root")}).json()
    assert [each["name"] for each in told["entries"]] == ["deep", "flawed.jsonl", "recipe.yaml"]
    assert told["left_out"] == 1 and told["parent"] is None, "the link leads outside"
    assert told["entries"][1]["bytes"] == (place / "root/flawed.jsonl").stat().st_size
    assert studio.get("/api/files", params={"path": str(place / "root/deep")}).json()["parent"] == str(place / "root")


def test_pasted_text_is_written_into_a_folder_that_goes_with_it(
    studio: TestClient, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(place.rglob("*"))
    job = studio.post("/api/data/audit", json={"text": "".join(FLAWED), "name": "pasted.jsonl"}).json()["job"]
    (file,) = tmp_path.rglob("pasted.jsonl")
    assert file.read_text(encoding="utf-8") == "".join(FLAWED)
    assert file.parent.stat().st_mode & 0o077 == 0, "nobody else may read it"
    assert studio.post(f"/api/data/audit/{job}/end", json={}).json() == {}
    assert list(tmp_path.iterdir()) == [] and sorted(place.rglob("*")) == before
    assert studio.get(f"/api/data/audit/{job}").status_code == 404


def test_what_is_pasted_goes_with_a_page_that_is_closed_before_it_is_answered(
    studio: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The page did not know its audit's name by then, and the text stayed until the studio ended. The word that it is
    closed may come here first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    late, early = "a-name-of-a-page-1", "a-name-of-a-page-2"
    wanted = {"text": "".join(FLAWED), "name": "pasted.jsonl"}
    begun = studio.post("/api/data/audit", json=wanted | {"job": late})
    assert begun.json()["job"] == late and len(list(tmp_path.rglob("pasted.jsonl"))) == 1
    assert studio.post("/api/data/audit", json=wanted | {"job": late}).status_code == 404, "of another page"
    assert studio.get(f"/api/data/audit/{late}").json()["state"] in ("running", "done")
    for name in (late, early):
        assert studio.post(f"/api/data/audit/{name}/end", json={}).json() == {}
    assert list(tmp_path.iterdir()) == []
    assert studio.post("/api/data/audit", json=wanted | {"job": early}).status_code == 404
    assert list(tmp_path.iterdir()) == []
    assert studio.post("/api/data/audit", json=wanted | {"job": "short"}).status_code == 422


def test_the_end_of_the_studio_removes_what_was_pasted(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with asking(StudioSettings(place / "runs", (place / "root",))) as client:
        for _ in range(2):
            client.post("/api/data/audit", json={"text": "# A\n", "name": "pasted.md"})
        assert len(list(tmp_path.rglob("pasted.md"))) == 2
    assert list(tmp_path.iterdir()) == []


def test_text_is_pasted_as_what_is_read_as_text():
    names = dict(PASTED)
    assert next(iter(names)) == "JSONL" and {"Markdown", "plain text", "CSV"} <= set(names)
    assert not {"PDF", "Word", "Parquet", "code"} & set(names)


@pytest.mark.long
def test_a_verb_that_fails_says_why(studio: TestClient, place: Path):
    told = audited(studio, path=str(place / "root/flawed.jsonl"), base="nobody/nothing")
    assert told["state"] == "failed" and told["error"]["fix"]
    assert "Traceback" not in json.dumps(told)


@pytest.mark.long
def test_tokens_are_those_of_afina_data_show(studio: TestClient, flawed: dict[str, Any], place: Path):
    base = make_base(place / "root/base")
    recipe = make_recipe(base)
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    answer = studio.post("/api/data/tokens", json={"path": "flawed.jsonl", "base": str(base), "row": 2, "count": 3})
    rows = answer.json()["rows"]
    assert [each["where"] for each in rows] == ["flawed.jsonl:2", "flawed.jsonl:3", "flawed.jsonl:4"]
    for each in rows:
        example = Example.from_json(each["row"])
        text = show_tokens(example, renderer, color=False).partition("\n")[2]
        ((tokens,),) = (side["rows"] for side in each["tokens"])
        written = "".join(f"[{token['text']}]" if token["learned"] else token["text"] for token in tokens)
        assert written.replace("\n", "\\n") == text and any(token["learned"] for token in tokens)
    at = {"job": flawed["job"], "at": "flawed.jsonl:13", "base": str(base)}
    assert studio.post("/api/data/tokens", json=at).json()["rows"][0]["where"] == "flawed.jsonl:13"
    assert studio.post("/api/data/tokens", json=at | {"at": "flawed.jsonl:1"}).status_code == 404
    beyond = studio.post("/api/data/tokens", json={"path": "flawed.jsonl", "base": str(base), "row": 99})
    assert beyond.json() == {"rows": []}


@pytest.mark.long
@pytest.mark.skipif(not FARENSE.is_dir(), reason="needs ../shared/data/farense, which is not here")
def test_the_farense_file(studio: TestClient):
    told = audited(studio, path=str(FARENSE / "train_full.jsonl"))
    found = {each["name"]: each for each in told["audit"]["findings"]}
    assert (told["audit"]["train"], found["empty_prompt"]["severity"]) == (2413, "fatal")
    assert (found["empty_prompt"]["count"], found["exact_duplicate"]["count"]) == (2351, 123)
    answer = studio.get("/api/data/rows", params={"job": told["job"], "finding": "control_characters"})
    places = [each["where"] for each in found["control_characters"]["examples"]]
    assert [each["where"] for each in answer.json()["rows"]] == list(dict.fromkeys(places))
