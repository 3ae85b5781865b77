"""Bad input: a clear error with what, where and what to do; exit code 2 or 3; nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_walk import write_project

from afina import cli


@pytest.fixture
def project(tmp_path, monkeypatch):
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["afina", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    return int(code or 0), capsys.readouterr().err


def change(recipe: Path, old: str, new: str) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert old in text
    recipe.write_text(text.replace(old, new), encoding="utf-8")


def nothing_half_written(project: Path) -> bool:
    run = project / "runs/clube"
    return not (run / "dataset").exists() and not list(project.rglob("*.partial"))


def test_misspelt_key_and_missing_path_at_once(project, monkeypatch, capsys):
    change(project / "recipe.yaml", "learning_rate", "learning_rte")
    change(project / "recipe.yaml", "path: rows.jsonl", "path: lines.jsonl")
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert code == 2
    assert "learning_rte" in said and "did you mean `learning_rate`" in said
    assert "lines.jsonl" in said
    assert not (project / "runs").exists()


def test_empty_source(project, monkeypatch, capsys):
    (project / "rows.jsonl").write_text("")
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert (code, "rows.jsonl" in said, nothing_half_written(project)) == (3, True, True)


def test_broken_jsonl_line_is_named(project, monkeypatch, capsys):
    lines = (project / "rows.jsonl").read_text().splitlines()
    lines[29] = '{"prompt": "Onde", "completion": '
    (project / "rows.jsonl").write_text("\n".join(lines) + "\n")
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert (code, "rows.jsonl:30" in said, nothing_half_written(project)) == (3, True, True)


def test_latin_1_file_is_named_with_its_line(project, monkeypatch, capsys):
    (project / "docs/manual.md").write_bytes("# Clube\n\nO médio e o avançado.\n".encode("latin-1"))
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert (code, "manual.md:3" in said, "cp1252" in said, nothing_half_written(project)) == (3, True, True, True)


def test_empty_prompts_need_a_choice(project, monkeypatch, capsys):
    with (project / "rows.jsonl").open("a") as rows:
        rows.write('{"prompt": "", "completion": "Faro."}\n')
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert (code, "rows.jsonl:41" in said, "on_empty_prompt" in said) == (3, True, True)
    code, _ = call(monkeypatch, capsys, "data", "build", "recipe.yaml", "dataset.on_empty_prompt=drop")
    assert code == 0
    dropped = [json.loads(line) for line in (project / "runs/clube/dataset/dropped.jsonl").open()]
    assert [row["reason"] for row in dropped] == ["empty_prompt"]


@pytest.mark.parametrize("base", ["./no/such/base", "no-such-owner/no-such-model"])
def test_base_that_does_not_exist(project, monkeypatch, capsys, base):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml", f"base={base}")
    assert (code, base.removeprefix("./") in said, nothing_half_written(project)) == (2, True, True)


def test_weights_in_a_pickle_are_never_opened(project, monkeypatch, capsys):
    import torch

    weights = project / "base/model.safetensors"
    torch.save(load_file(weights), project / "base/pytorch_model.bin")
    weights.unlink()
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert (code, "pickle" in said, nothing_half_written(project)) == (2, True, True)


def test_remote_code_does_not_run(project, monkeypatch, capsys):
    config = json.loads((project / "base/config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (project / "base/config.json").write_text(json.dumps(config))
    (project / "base/modeling.py").write_text("from pathlib import Path\nPath('ran').write_text('x')\n")
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert (code, "trust_remote_code" in said, (project / "ran").exists()) == (2, True, False)


def test_rows_longer_than_the_limit_are_listed_not_cut(project, monkeypatch, capsys):
    with (project / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps({"prompt": "Onde?", "completion": "golos " * 80}) + "\n")
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml")
    assert (code, "rows.jsonl:41" in said, "max_length" in said) == (3, True, True)


def test_longer_rows_than_the_base_can_see(project, monkeypatch, capsys):
    code, said = call(monkeypatch, capsys, "run", "recipe.yaml", "train.max_length=128")
    assert (code, "64" in said, "max_length" in said) == (2, True, True)


def test_a_plan_over_budget_ends_before_training(project, monkeypatch, capsys):
    code, _ = call(monkeypatch, capsys, "run", "recipe.yaml", "budget.hours=0.0000001")
    assert code == 4
    assert not (project / "runs/clube/checkpoints").exists()


def test_unknown_verb_and_option_end_with_2(project, monkeypatch, capsys):
    assert call(monkeypatch, capsys, "trian", "recipe.yaml")[0] == 2
    assert call(monkeypatch, capsys, "run", "no-such-recipe.yaml")[0] == 2


def test_errors_for_machines(project, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["afina", "run", "recipe.yaml", "train.epochs=-1", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    out = json.loads(capsys.readouterr().out)
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
def test_disk_full_while_a_checkpoint_is_written(project, small_disk, monkeypatch, capsys):
    """Clear error, earlier checkpoints whole, and it goes on once there is room."""
    from afina.train.checkpoint import checkpoint_problem

    runs = str(small_disk)
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
    code, said = call(monkeypatch, capsys, "train", "recipe.yaml", "--runs", runs, "train.keep_checkpoints=5")
    assert (code, "disk is full" in said) == (2, True)
    # Beside the two that were saved before the disk filled up there may be best/, where a validation came first.
    checkpoints = sorted((small_disk / "clube/checkpoints").iterdir())
    assert len([folder for folder in checkpoints if folder.name.startswith("step-")]) == 2
    assert all(checkpoint_problem(folder) is None for folder in checkpoints)
    filler.unlink()
    monkeypatch.setattr(backend, "save_checkpoint", save)
    code, said = call(monkeypatch, capsys, "train", "recipe.yaml", "--runs", runs, "train.keep_checkpoints=1")
    assert (code, "goes on from step" in said) == (0, True)
