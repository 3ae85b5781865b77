"""The studio's page "plan": the very answer of ``afina plan --json``, from a thread of the server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from afina.cli import app
from afina.machine import Memory, main_memory
from afina.plan.device import find_device
from afina.recipe.edit import change_text
from afina.studio.app import studio_app
from afina.studio.plan_routes import ASSUMED, KEYS
from afina.studio.settings import StudioSettings

RECIPE = """\
name: job
base: Qwen/Qwen3-8B  # the teacher's choice
sources:
  - path: docs
train:
  epochs: 2
"""
QUESTIONS: list[dict[str, Any]] = [
    {},
    {"device": "RTX 4090"},
    {"device": "RTX 4090", "settings": {"train.max_length": 4096, "train.batch_tokens": 16384}},
    {"device": "RTX 3060", "settings": {"adapter.kind": "qlora", "adapter.rank": 64}},
    {"device": "H100 SXM", "settings": {"base": "meta-llama/Llama-3.1-70B", "adapter.kind": "none"}},
    {"device": "A100 80GB", "gpus": 4, "parallel": "fsdp", "settings": {"adapter.kind": "none"}},
    {"device": "Apple M3 Max 64GB", "settings": {"backend": "mlx", "adapter.kind": "qlora"}},
    {"device": "T4", "settings": {"train.method": "dpo", "train.learning_rate": 2e-5}},
    {"device": "L4", "settings": {"train.method": "scratch", "base": None, "scratch.hidden": 512, "scratch.layers": 8}},
    {"device": "L4", "tokens": "2M", "settings": {"train.checkpoint_activations": True}},
    {"device": "L4", "settings": {"train.optimizer": "paged_adamw_8bit", "train.accumulate": 8}},
    {"device": "A40", "settings": {"budget.hours": 0.001}},
    {"device": "A40", "serve": {"engine": "vllm", "context": 40960, "users": 2, "lora_slots": 1}},
    {"device": "H100 SXM", "gpus": 2, "serve": {"engine": "transformers", "weights": "nf4"}},
    {"serve": {"engine": "llamacpp", "weights": "gguf-q8_0", "context": 2048}},
    {"device": "Apple M2 Pro", "serve": {"engine": "mlx", "weights": "mlx-4-64"}},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a recipe and its one document."""
    folder = tmp_path / "project"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "a.md").write_text("# A\n\n" + "Faro has a lighthouse. " * 400, encoding="utf-8")
    (folder / "job.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture
def client(root: Path) -> TestClient:
    settings = StudioSettings(root / "runs", (root,))
    return TestClient(studio_app(settings), base_url="http://localhost:8321", headers={"X-Afina-Studio": "1"})


@pytest.fixture(autouse=True)
def same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has free changes from one question to the next."""
    memory = main_memory()
    monkeypatch.setattr("afina.plan.device.main_memory", lambda: memory)


def from_terminal(*words: str) -> tuple[int, Any]:
    """Exit code of `afina plan ... --json`, and the object that it prints first."""
    done = CliRunner().invoke(app, ["plan", *words, "--json"])
    return done.exit_code, json.JSONDecoder().raw_decode(done.stdout)[0]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: shlex.quote(json.dumps(question))[:70])
def test_the_answer_is_that_of_the_terminal(question: dict[str, Any], root: Path, client: TestClient) -> None:
    answer = client.post("/api/plan", json={"recipe": str(root / "job.yaml"), **question}).json()
    words = shlex.split(answer["command"])
    assert words[:3] == ["afina", "plan", str(root / "job.yaml")] and words[-1] == "--json"
    assert {word.partition("=")[0] for word in words if "=" in word} == question.get("settings", {}).keys()
    done = CliRunner().invoke(app, words[1:])
    assert json.JSONDecoder().raw_decode(done.stdout)[0] == answer["plan"]
    assert bool(answer["refused"]) == bool(done.exception and not isinstance(done.exception, SystemExit))


def test_a_recipe_that_is_no_file_is_planned_alike(root: Path, client: TestClient) -> None:
    changed = {"base": "mistralai/Mistral-7B-v0.3", "train.max_length": 2048, "train.epochs": 1.0}
    answer = client.post("/api/plan", json={"settings": changed, "tokens": "5M", "device": "L4"}).json()
    (root / "same.yaml").write_text(change_text(ASSUMED, changed), encoding="utf-8")
    _, plan = from_terminal(str(root / "same.yaml"), "--tokens", "5M", "--device", "L4")
    assert answer["plan"] == plan and answer["command"] is None
    assert plan["tokens"]["per_epoch"] == 5_000_000 and any("is assumed" in note for note in plan["notes"])
    text = (root / "job.yaml").read_text(encoding="utf-8")
    of_text = client.post("/api/plan", json={"text": text, "folder": str(root), "device": "L4"}).json()
    assert of_text["plan"] == from_terminal(str(root / "job.yaml"), "--device", "L4")[1]


def test_the_profile_is_that_of_the_device_that_is_planned_for(
    root: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` went by the memory of the machine that the studio runs on, and so did the settings on the page."""
    monkeypatch.setattr("afina.machine.main_memory", lambda: Memory(64 << 30, 60 << 30))
    monkeypatch.setattr("afina.machine.nvidia_cards", list)
    for device, length in (("Apple M1 8GB", 256), ("Apple M1 16GB", 512)):
        asked = {"recipe": "job.yaml", "device": device, "settings": {"train.profile": "auto"}}
        answer = client.post("/api/plan", json=asked).json()
        assert answer["settings"]["train.max_length"] == length
        assert answer["plan"] == from_terminal(str(root / "job.yaml"), "--device", device, "train.profile=auto")[1]


def test_several_devices_are_no_device_of_the_page(root: Path, client: TestClient) -> None:
    """`afina plan` takes a list of them; the page died of it."""
    refused = client.post("/api/plan", json={"recipe": "job.yaml", "device": "RTX 4090,L4"})
    assert refused.status_code == 422 and "no device" in refused.json()["problems"][0]["what"]


def test_what_would_fit_fits_when_it_is_taken(root: Path, client: TestClient) -> None:
    asked = {"recipe": "job.yaml", "device": "RTX 3090", "settings": {"train.batch_tokens": 65536}}
    first = client.post("/api/plan", json=asked).json()
    assert first["plan"]["fits"] != "yes" and first["plan"]["would_fit"]
    for advised in first["plan"]["would_fit"]:
        assert advised["settings"].keys() <= set(KEYS), "a key that the page has no control for"
        again = client.post("/api/plan", json={**asked, "settings": asked["settings"] | advised["settings"]}).json()
        assert again["plan"]["fits"] == "yes"
        assert again["settings"] | advised["settings"] == again["settings"]


def test_choices_are_known_to_the_plan(root: Path, client: TestClient) -> None:
    found = client.get("/api/plan/choices").json()
    assert [each["name"] for each in found["recipes"]] == ["job.yaml"]
    assert found["keys"].keys() == set(KEYS)
    assert found["keys"]["train.method"]["options"][:2] == ["sft", "cpt"]
    for name in found["devices"]:
        assert find_device(name).name in name
    for weights in found["weights"]:
        asked = {"recipe": "job.yaml", "device": "A40", "serve": {"engine": "llamacpp", "weights": weights}}
        assert client.post("/api/plan", json=asked).status_code == 200, weights


def test_parts_are_named_in_the_studios_language(root: Path) -> None:
    portuguese = StudioSettings(root / "runs", (root,), language="pt-BR")
    client = TestClient(studio_app(portuguese), base_url="http://localhost", headers={"X-Afina-Studio": "1"})
    trained = client.post("/api/plan", json={"recipe": "job.yaml", "device": "A40"}).json()
    assert (
        trained["names"]["weights"] == "pesos" and trained["names"].keys() >= trained["plan"]["memory"]["parts"].keys()
    )
    served = client.post("/api/plan", json={"recipe": "job.yaml", "device": "A40", "serve": {}}).json()
    assert served["names"]["KV cache"] == "cache de chaves e valores"


def test_notes_and_sureness_are_told_in_the_studios_language(root: Path) -> None:
    portuguese = StudioSettings(root / "runs", (root,), language="pt-BR")
    client = TestClient(studio_app(portuguese), base_url="http://localhost", headers={"X-Afina-Studio": "1"})
    trained = client.post("/api/plan", json={"recipe": "job.yaml", "device": "A40"}).json()
    told = trained["told"]
    assert len(told["notes"]) == len(trained["plan"]["notes"]) and len(told["sure"]) == 2
    assert any(each["text"].startswith("os tokens são estimados pelo tamanho dos arquivos") for each in told["notes"])
    served = client.post("/api/plan", json={"recipe": "job.yaml", "device": "A40", "serve": {}}).json()["told"]
    assert len(served["sure"]) == 1 and served["notes"] == []
    english = re.compile(r"\b(measured|cases|lay|inside|from|files|tokens are)\b")
    said = [each for each in (*told["notes"], *told["sure"], *served["sure"]) if each["lang"] is None]
    assert len(said) > 3 and not [each for each in said if english.search(each["text"])]


@pytest.mark.parametrize(
    ("asked", "key", "said"),
    [
        ({"settings": {"adapter.rank": 0}}, "adapter.rank", "greater than or equal to 1"),
        ({"settings": {"base": "Qwen/Qwen3-9B"}}, None, "Qwen/Qwen3-8B"),
        ({"settings": {"train.optimizer": "muon"}}, "train.optimizer", "whole matrix"),
        ({"settings": {"backend": "mlx", "train.method": "orpo"}}, "backend", "backend mlx has no"),
        ({"device": "RTX 40900"}, None, "did you mean RTX 4090"),
        ({"settings": {"sources": []}}, "sources", "without a recipe"),
        ({"tokens": "many"}, None, "no count"),
        ({"tokens": None}, None, "how many tokens"),
        ({"serve": {"engine": "vlm"}}, None, "known are vllm"),
        ({"gpus": 0}, None, "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(
    asked: dict[str, Any], key: str | None, said: str, client: TestClient
) -> None:
    done = client.post("/api/plan", json={"tokens": "1M", "device": "L4", **asked})
    assert done.status_code == 422
    problem = done.json()["error"]
    assert said in problem["what"] + problem["fix"] and problem.get("key") == key


def test_no_file_outside_of_the_roots_is_planned(root: Path, client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (secret / "docs").mkdir(parents=True)
    (secret / "job.yaml").write_text(RECIPE, encoding="utf-8")
    (root / "link.yaml").symlink_to(secret / "job.yaml")
    for path in (str(secret / "job.yaml"), "../secret/job.yaml", "link.yaml"):
        assert client.post("/api/plan", json={"recipe": path, "device": "L4"}).status_code == 403
    for changed in ({"base": str(secret)}, {"base": "../secret"}):
        done = client.post("/api/plan", json={"tokens": "1M", "device": "L4", "settings": changed})
        assert done.status_code == 422 and done.json()["error"]["key"] == "base"
        assert "outside of the folders" in done.json()["error"]["what"]
    done = client.post("/api/plan", json={"recipe": "job.yaml", "settings": {"sources.0.path": str(secret)}})
    assert done.status_code == 422 and done.json()["error"]["key"] == "sources.0.path"
    assert client.post("/api/plan", json={"text": RECIPE, "folder": str(secret)}).status_code == 403
