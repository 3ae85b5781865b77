"""The studio's page "start": one recipe as form and text, its problems at their fields, and the run of it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from afina.recipe import load_recipe, recipe_schema
from afina.recipe.edit import change_text
from afina.recipe.form import form_fields, given_values
from afina.recipe.keys import every_key
from afina.recipe.starter import starter
from afina.recipe.yaml_text import parse_yaml
from afina.studio import jobs
from afina.studio.app import studio_app
from afina.studio.settings import StudioSettings

TEXT = """\
# what we know of Faro
name: faro
base: Qwen/Qwen3-8B   # small enough
sources:
  - path: docs
    exclude: ["drafts/*"]   # not ready
train:
  epochs: 2
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "a.md").write_text("# A\n\nFaro has a lighthouse.\n", encoding="utf-8")
    return folder


@pytest.fixture
def settings(root: Path) -> StudioSettings:
    return StudioSettings(root.parent / "runs", (root,))


@pytest.fixture
def client(settings: StudioSettings) -> TestClient:
    return TestClient(studio_app(settings), base_url="http://localhost:8321", headers={"X-Afina-Studio": "1"})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str]]:
    """Recipes that would have been started, and the names of their runs."""
    found: list[tuple[Path, str]] = []

    def start(settings: StudioSettings, recipe: Path, name: str) -> jobs.StartedRun:
        found.append((recipe, name))
        return jobs.StartedRun(name, 1)

    monkeypatch.setattr(jobs, "start", start)
    return found


def check(client: TestClient, text: str = TEXT, *changes: dict[str, str], **more: Any) -> dict[str, Any]:
    done = client.post("/api/recipe/check", json={"text": text, "changes": changes, **more})
    assert done.status_code == 200, done.text
    found: dict[str, Any] = done.json()
    return found


def keys(found: dict[str, Any]) -> list[str]:
    return [problem["key"] for problem in found["problems"]]


# ---- the form


def test_the_form_has_every_key(client: TestClient) -> None:
    found = client.get("/api/recipe/schema").json()
    assert [each["key"] for each in found["fields"]] == [key.path for key in every_key()]
    assert all(each["help"] for each in found["fields"])
    assert found["schema"] == json.loads(json.dumps(recipe_schema()))
    for kind, facts in found["kinds"].items():
        text = starter(kind)
        assert facts["basic"] and all(f"{key.rpartition('.')[2]}:" in text for key in facts["basic"])


def test_a_form_with_every_default_is_the_recipe_that_it_was(client: TestClient, root: Path) -> None:
    """Each default, as its field shows it, is what its control writes."""
    (root / "plain.yaml").write_text(TEXT, encoding="utf-8")
    own = check(client)["given"]
    absent = tuple(f"{each['key']}." for each in form_fields() if each["control"] == "optional")
    defaults = {
        each["key"]: each["default"]
        for each in form_fields()
        if each["default"] and "[]" not in each["key"] and each["key"] not in own and not each["key"].startswith(absent)
    }
    assert len(defaults) > 100
    changes = ({"key": key, "yaml": value} for key, value in defaults.items())
    found = check(client, TEXT, *changes)
    assert found["problems"] == []
    (root / "whole.yaml").write_text(found["text"], encoding="utf-8")
    assert load_recipe(root / "whole.yaml") == load_recipe(root / "plain.yaml")
    assert {key: found["given"][key] for key in defaults} == {
        key: "" if value == "''" else value for key, value in defaults.items()
    }


def test_choices_are_those_of_the_schema() -> None:
    """Each is taken by its key, or refused by a rule of several keys, but never as no value of it."""
    fields = {each["key"]: each for each in form_fields()}
    for key in every_key():
        field = fields[key.path]
        if field["options"]:
            values = [parse_yaml(each) for each in field["options"]]
            written = key.schema["items"] if field["control"] == "choices" else key.schema
            allowed = [each.get("enum", [each.get("const")]) for each in written.get("anyOf", [written])]
            assert values == [value for each in allowed for value in each if value is not None], key.path


def test_the_form_changes_the_text_and_keeps_its_comments(client: TestClient) -> None:
    found = check(
        client,
        TEXT,
        {"key": "train.epochs", "yaml": "3"},
        {"key": "train.learning_rate", "yaml": "2e-5"},
        {"key": "sources.1.path", "text": "docs/a.md"},
        {"key": "evaluate.retrieval", "yaml": "{}"},
        {"key": "chat.system", "text": "Say: yes"},
    )
    assert found["problems"] == []
    assert all(said in found["text"] for said in ("# what we know of Faro", "# small enough", "# not ready"))
    assert found["given"] | {"train.epochs": "3", "sources": "2", "sources.1.path": "docs/a.md"} == found["given"]
    assert found["given"]["train.learning_rate"] == "2e-05" and found["given"]["chat.system"] == "Say: yes"
    back = check(
        client,
        found["text"],
        {"key": "sources.0"},
        {"key": "evaluate.retrieval"},
        {"key": "chat"},
        {"key": "train.seed"},
        {"key": "sources.1.repeat", "yaml": "2"},
    )
    assert back["problems"] == [] and "evaluate.retrieval" not in back["given"] and "chat" not in back["given"]
    assert (back["given"]["sources"], back["given"]["sources.0.path"]) == ("1", "docs/a.md")
    assert back["given"]["sources.0.repeat"] == "2", "places count as they were in the text that came"


@given(
    rank=st.integers(1, 10_000),
    epochs=st.floats(0.001, 1000),
    name=st.from_regex(r"[A-Za-z0-9][\w.-]{0,20}", fullmatch=True),
)
def test_what_a_form_writes_is_what_is_read(rank: int, epochs: float, name: str) -> None:
    values = given_values(parse_yaml(change_text(TEXT, {"adapter.rank": rank, "train.epochs": epochs, "name": name})))
    assert int(values["adapter.rank"]) == rank and float(values["train.epochs"]) == epochs and values["name"] == name


# ---- problems


def test_all_problems_stand_at_their_fields(client: TestClient) -> None:
    found = check(
        client,
        """\
name: faro
base: someone/some-base
sources:
  - path: docs
  - path: missing.md
    repaet: 2
train:
  learning_rte: 1.0e-4
  epochs: -1
  method: ppo
evalute: {}
""",
    )
    assert {(each["key"], each["line"]) for each in found["problems"]} == {
        ("sources.1.path", 5),
        ("sources.1.repaet", 6),
        ("train.learning_rte", 8),
        ("train.epochs", 9),
        ("train.method", 10),
        ("evalute", 11),
    }
    fixes = {each["key"]: each["fix"] for each in found["problems"]}
    assert fixes["train.learning_rte"] == "did you mean `learning_rate`?"
    assert found["given"]["train.epochs"] == "-1", "the field shows what is wrong with it"


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("train: {decay: 0.5}", "train.decay"),
        ("train: {method: scratch}", "train.method"),
        ("adapter: {variant: loftq}", "adapter.variant"),
        ("adapter: {kind: none, num_layers: 2}", "adapter.kind"),
        ("dataset: {questions: {phrasings: 8}, hold_out_phrasings: 2}", "dataset.questions.phrasings"),
        ("train: {optimizer: muon}", "train.optimizer"),
        ("backend: mlx\ndevice: cuda", "backend"),
        ("budget: 5", "budget"),
        ("start_from: nowhere", "start_from"),
    ],
)
def test_a_rule_of_several_keys_names_one_of_them(more: str, key: str, client: TestClient) -> None:
    text = TEXT.replace("train:\n  epochs: 2\n", "") + more + "\n"
    assert keys(check(client, text)) == [key]


def test_a_text_that_is_no_yaml_names_its_line_and_takes_no_change(client: TestClient) -> None:
    broken = "name: faro\nbase: [a\nsources: x\n"
    found = check(client, broken, {"key": "seed", "yaml": "3"})
    assert found["text"] == broken and found["given"] is None
    assert [(each["key"], each["line"]) for each in found["problems"]] == [("seed", None), ("", 3)]
    assert "no YAML" in found["problems"][0]["what"] and "not YAML" in found["problems"][1]["what"]
    (wrong,) = check(client, TEXT, {"key": "seed", "yaml": "[1"})["problems"]
    assert wrong["key"] == "seed" and "is not a YAML value" in wrong["what"]


def test_a_change_that_cannot_be_made_keeps_no_other_from_it(client: TestClient) -> None:
    text = TEXT.replace("train:\n  epochs: 2\n", "train: 5\n")
    changes = [
        {"key": "train.epochs", "yaml": "3"},
        {"key": "seed", "yaml": "4"},
        {"key": "sources.7.path", "text": "a"},
    ]
    found = check(client, text, *changes)
    assert found["given"]["seed"] == "4"
    refused = {each["key"]: each["what"] for each in found["problems"]}
    assert refused["train.epochs"] == "train holds no keys" and "7 holds no keys" in refused["sources.7.path"]


def test_a_name_that_is_taken_is_said_with_a_free_one(client: TestClient, settings: StudioSettings) -> None:
    (settings.runs / "faro").mkdir(parents=True)
    (settings.runs / "faro-2.yaml").write_text("x")
    (problem,) = check(client)["problems"]
    assert problem["key"] == "name" and "faro-3" in problem["fix"]


def test_a_start_that_fails_leaves_the_name_free(
    client: TestClient, settings: StudioSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short of processes: recipe and folder stayed, and the next try was told that the name is taken."""

    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("afina.run_process.subprocess.Popen", none_left)
    with pytest.raises(OSError, match="temporarily"):
        client.post("/api/start", json={"text": TEXT})
    assert [*settings.runs.iterdir()] == []


# ---- nothing outside of the roots


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root", ".."),
        ("root", "/"),
        ("base", "../secret"),
        ("base", "{secret}"),
        ("sources.0.path", "../secret/a.md"),
        ("sources.0.path", "{secret}/*"),
        ("sources.0.path", "link"),
        ("sources.0.solutions", "../secret"),
        ("dataset.answers", "../secret/a.md"),
        ("start_from", "../secret"),
        ("chat.template", "../secret/a.md"),
        ("evaluate.prompts", "{secret}/a.md"),
        ("safety.strings", "../secret/a.md"),
    ],
)
def test_a_recipe_names_nothing_outside_of_the_roots(
    key: str, value: str, client: TestClient, root: Path, started: list[tuple[Path, str]]
) -> None:
    secret = root.parent / "secret"
    secret.mkdir()
    (secret / "a.md").write_text("a secret", encoding="utf-8")
    (root / "link").symlink_to(secret)
    found = check(client, TEXT, {"key": key, "text": value.format(secret=secret)})
    assert key in keys(found)
    assert any("outside of the folders" in each["what"] for each in found["problems"] if each["key"] == key)
    done = client.post("/api/start", json={"text": found["text"]})
    assert done.status_code == 422 and not started


def test_no_file_outside_of_the_roots_is_loaded(client: TestClient, root: Path) -> None:
    outside = root.parent / "other.yaml"
    outside.write_text(TEXT, encoding="utf-8")
    (root / "link.yaml").symlink_to(outside)
    (root / "notes.txt").write_text(TEXT, encoding="utf-8")
    for path in (str(outside), "../other.yaml", "link.yaml", "/etc/passwd"):
        done = client.get("/api/recipe/load", params={"path": path})
        assert done.status_code == 403 and "lighthouse" not in done.text and "faro" not in done.text
    assert client.get("/api/recipe/load", params={"path": "notes.txt"}).status_code == 422
    for body in ({"text": TEXT, "folder": str(root.parent)}, {"text": TEXT, "folder": "/"}):
        assert client.post("/api/recipe/check", json=body).status_code == 403
        assert client.post("/api/start", json=body).status_code == 403


# ---- the run


def test_a_start_writes_one_file_into_the_runs_and_never_over_another(
    client: TestClient, root: Path, settings: StudioSettings, started: list[tuple[Path, str]]
) -> None:
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    done = client.post("/api/start", json={"text": TEXT, "folder": str(root)})
    assert done.status_code == 200 and done.json()["name"] == "faro"
    file = settings.runs / "faro.yaml"
    assert started == [(file, "faro")]
    assert {each: each.read_bytes() for each in root.rglob("*") if each.is_file()} == before
    assert list(settings.runs.iterdir()) == [file]
    written = file.read_text(encoding="utf-8")
    assert "# small enough" in written and f"root: {root}" in written
    again = client.post("/api/start", json={"text": TEXT.replace("epochs: 2", "epochs: 9"), "folder": str(root)})
    assert again.status_code == 422 and again.json()["error"]["key"] == "name"
    assert file.read_text(encoding="utf-8") == written and len(started) == 1


def test_a_recipe_means_the_same_where_it_is_started(
    client: TestClient, root: Path, settings: StudioSettings, started: list[tuple[Path, str]]
) -> None:
    """What counts from the recipe's folder is made absolute: root, a base that is a folder, files beside the recipe."""
    inner = root / "jobs"
    (inner / "base").mkdir(parents=True)
    (inner / "prompts.txt").write_text("In Faro\n", encoding="utf-8")
    (inner / "rows.jsonl").write_text('{"prompt": "a", "reference": "b"}\n', encoding="utf-8")
    text = """\
name: moved
root: ..
base: ./base
sources:
  - path: docs
evaluate:
  prompts: prompts.txt
  tasks:
    - name: t
      path: rows.jsonl
      metrics: [exact_match]
"""
    (inner / "job.yaml").write_text(text, encoding="utf-8")
    loaded = client.get("/api/recipe/load", params={"path": "jobs/job.yaml"}).json()
    assert loaded == {"text": text, "folder": str(inner)}
    done = client.post("/api/start", json=loaded)
    assert done.status_code == 200, done.text
    assert load_recipe(settings.runs / "moved.yaml") == load_recipe(inner / "job.yaml")


def test_a_broken_recipe_starts_nothing(
    client: TestClient, settings: StudioSettings, started: list[tuple[Path, str]]
) -> None:
    done = client.post("/api/start", json={"text": TEXT + "  epochss: 3\n"})
    assert done.status_code == 422 and not started and not settings.runs.exists()
    assert done.json()["error"]["key"] == "train.epochss"


def test_recipes_that_are_there_are_listed(client: TestClient, root: Path, settings: StudioSettings) -> None:
    (root / "a.yaml").write_text(TEXT, encoding="utf-8")
    (root / "jobs").mkdir()
    (root / "jobs" / "b.yml").write_text(TEXT, encoding="utf-8")
    (root / "other.yaml").write_text("colour: red\n", encoding="utf-8")
    (settings.runs / "old").mkdir(parents=True)
    (settings.runs / "old" / "recipe.yaml").write_text(TEXT, encoding="utf-8")
    found = client.get("/api/recipe/schema").json()["recipes"]
    assert [(each["name"], each["kind"]) for each in found] == [
        ("a.yaml", "recipe"),
        ("jobs/b.yml", "recipe"),
        ("old", "run"),
    ]
