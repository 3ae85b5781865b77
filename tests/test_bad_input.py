"""Bad input: a clear error with what, where and what to do; exit code 2 or 3; nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from called import call_afina
from safetensors.torch import load_file
from test_walk import write_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(recipe: Path, old: str, new: str) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert old in text
    recipe.write_text(text.replace(old, new), encoding="utf-8")


def nothing_half_written(project: Path) -> bool:
    run = project / "runs/clube"
    return not (run / "dataset").exists() and not list(project.rglob("*.partial"))


def test_misspelt_key_and_missing_path_at_once(project):
    change(project / "recipe.yaml", "learning_rate", "learning_rte")
    change(project / "recipe.yaml", "path: rows.jsonl", "path: lines.jsonl")
    said = call_afina("run", "recipe.yaml", check=2).stderr
    assert "learning_rte" in said and "did you mean `learning_rate`" in said
    assert "lines.jsonl" in said
    assert not (project / "runs").exists()


def test_empty_source(project):
    (project / "rows.jsonl").write_text("")
    said = call_afina("run", "recipe.yaml", check=3).stderr
    assert "rows.jsonl" in said and nothing_half_written(project)


def test_broken_jsonl_line_is_named(project):
    lines = (project / "rows.jsonl").read_text().splitlines()
    lines[29] = '{"prompt": "Onde", "completion": '
    (project / "rows.jsonl").write_text("\n".join(lines) + "\n")
    said = call_afina("run", "recipe.yaml", check=3).stderr
    assert "rows.jsonl:30" in said and nothing_half_written(project)


def test_latin_1_file_is_named_with_its_line(project):
    (project / "docs/manual.md").write_bytes("# Clube\n\nO médio e o avançado.\n".encode("latin-1"))
    said = call_afina("run", "recipe.yaml", check=3).stderr
    assert "manual.md:3" in said and "cp1252" in said and nothing_half_written(project)


def test_empty_prompts_need_a_choice(project):
    with (project / "rows.jsonl").open("a") as rows:
        rows.write('{"prompt": "", "completion": "Faro."}\n')
    said = call_afina("run", "recipe.yaml", check=3).stderr
    assert "rows.jsonl:41" in said and "on_empty_prompt" in said
    call_afina("data", "build", "recipe.yaml", "dataset.on_empty_prompt=drop")
    dropped = [json.loads(line) for line in (project / "runs/clube/dataset/dropped.jsonl").open()]
    assert [row["reason"] for row in dropped] == ["empty_prompt"]


@pytest.mark.parametrize("base", ["./no/such/base", "no-such-owner/no-such-model"])
def test_base_that_does_not_exist(project, monkeypatch, base):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = call_afina("run", "recipe.yaml", f"base={base}", check=2).stderr
    assert base.removeprefix("./") in said and nothing_half_written(project)


def test_weights_in_a_pickle_are_never_opened(project):
    import torch

    weights = project / "base/model.safetensors"
    torch.save(load_file(weights), project / "base/pytorch_model.bin")
    weights.unlink()
    said = call_afina("run", "recipe.yaml", check=2).stderr
    assert "pickle" in said and nothing_half_written(project)


def test_remote_code_does_not_run(project):
    config = json.loads((project / "base/config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (project / "base/config.json").write_text(json.dumps(config))
    (project / "base/modeling.py").write_text("from pathlib import Path\nPath('ran').write_text('x')\n")
    said = call_afina("run", "recipe.yaml", check=2).stderr
    assert "trust_remote_code" in said and not (project / "ran").exists()


def test_rows_longer_than_the_limit_are_listed_not_cut(project):
    with (project / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps({"prompt": "Onde?", "completion": "golos " * 80}) + "\n")
    said = call_afina("run", "recipe.yaml", check=3).stderr
    assert "rows.jsonl:41" in said and "max_length" in said


def test_longer_rows_than_the_base_can_see(project):
    said = call_afina("run", "recipe.yaml", "train.max_length=128", check=2).stderr
    assert "64" in said and "max_length" in said


def test_a_plan_over_budget_ends_before_training(project):
    call_afina("run", "recipe.yaml", "budget.hours=0.0000001", check=4)
    assert not (project / "runs/clube/checkpoints").exists()


def test_unknown_verb_and_option_end_with_2(project):
    assert "trian" in call_afina("trian", "recipe.yaml", check=2).stderr
    assert "no-such-recipe.yaml" in call_afina("run", "no-such-recipe.yaml", check=2).stderr


def test_errors_for_machines(project):
    out = json.loads(call_afina("run", "recipe.yaml", "train.epochs=-1", "--json", check=2).stdout)
    assert out["exit_code"] == 2
    assert out["problems"][0]["where"].endswith("train.epochs")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: " + mounted.stderr.decode().strip())
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
def test_disk_full_while_a_checkpoint_is_written(project, small_disk, monkeypatch):
    """Clear error, earlier checkpoints whole, and it goes on once there is room."""
    from afina.train.checkpoint import checkpoint_problem

    runs, often = str(small_disk), "train.checkpoint_seconds=0.05"
    filler = small_disk / "filler"
    import afina.train.backend_torch as backend

    save, saved = backend.save_checkpoint, []

    def fill_then_save(*arguments, **options):
        if len(saved) == 2:
            free = shutil.disk_usage(small_disk).free
            filler.write_bytes(b"0" * max(0, free - 16384))
        saved.append(1)
        return save(*arguments, **options)

    monkeypatch.setattr(backend, "save_checkpoint", fill_then_save)
    said = call_afina("train", "recipe.yaml", "--runs", runs, "train.keep_checkpoints=5", often, check=2).stderr
    assert "disk is full" in said
    # Beside the two that were saved before the disk filled up there may be best/, where a validation came first.
    checkpoints = sorted((small_disk / "clube/checkpoints").iterdir())
    assert len([folder for folder in checkpoints if folder.name.startswith("step-")]) == 2
    assert all(checkpoint_problem(folder) is None for folder in checkpoints)
    filler.unlink()
    monkeypatch.setattr(backend, "save_checkpoint", save)
    said = call_afina("train", "recipe.yaml", "--runs", runs, "train.keep_checkpoints=1", often, check=0).stderr
    assert "goes on from step" in said
