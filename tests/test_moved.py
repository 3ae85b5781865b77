"""A run that was moved, or whose documents are gone: its result and the base are all that is needed to use it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import test_stages
from test_stages import write
from tiny import make_base
from transformers import AutoTokenizer

from afina.cli import main
from afina.recipe import read_saved_recipe

base = test_stages.base  # a fixture


def afina(*words: str, capsys: Any, monkeypatch: Any) -> tuple[int, str, str]:
    """A command line: exit code, output and messages."""
    monkeypatch.setattr(sys, "argv", ["afina", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(scope="module", params=["rank: 4", "kind: none"], ids=["adapter", "whole"])
def moved(request: Any, tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished run whose project is gone: documents, probes, template and the base's old place."""
    folder = tmp_path_factory.mktemp("moved")
    project = folder / "project"
    project.mkdir()
    shutil.copytree(base, project / "base")
    (project / "own.jinja").write_text(AutoTokenizer.from_pretrained(base).chat_template + "{# own #}\n")
    rows = [{"prompt": f"Onde joga o {n}?", "completion": f"Em {test_stages.TOWNS[n % 6]}."} for n in range(40)]
    write(project / "rows.jsonl", rows)
    write(project / "asked.jsonl", rows[:3])
    (project / "recipe.yaml").write_text(
        "name: two\nbase: base\nsources: [{path: rows.jsonl}]\ndataset: {language: pt-PT, validation: 0.2}\n"
        f"chat: {{template: own.jinja}}\nadapter: {{{request.param}}}\n"
        "train: {max_length: 64, batch_tokens: 256, learning_rate: 0.005, epochs: 1}\n"
        "evaluate: {samples: 4, max_new_tokens: 8, probes: [{path: asked.jsonl, role: generalization}]}\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.chdir(project)
        patch.setattr(sys, "argv", ["afina", "run", "recipe.yaml", "--yes"])
        main()
    assert ended.value.code in (None, 0, 5)
    (folder / "new/place").mkdir(parents=True)
    shutil.move(project / "runs/two", folder / "new/place/two")
    shutil.move(project / "base", folder / "new/model")
    shutil.rmtree(project)
    return folder / "new"


@pytest.fixture
def elsewhere(moved: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """The same for one test, which may change it: the current folder holds the base as `model`."""
    shutil.copytree(moved, tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    return Path("place/two")


def test_a_moved_run_needs_its_result_and_the_base_and_nothing_else(
    elsewhere: Path, capsys: Any, monkeypatch: Any, tmp_path: Path
):
    def run(*words: str) -> tuple[int, str, str]:
        return afina(*words, capsys=capsys, monkeypatch=monkeypatch)

    run_folder, whole = str(elsewhere), (elsewhere / "model").is_dir()
    before = (elsewhere / "recipe.yaml").read_text(encoding="utf-8"), (elsewhere / "scores.json").read_text()
    code, _, err = run("chat", run_folder, "--ask", "Onde joga o 3?")
    assert code == 2 and "there is no such folder" in err and "base=PATH" in err
    code, out, err = run("chat", run_folder, "base=model", "--ask", "Onde joga o 3?", "--max-new-tokens", "4")
    assert code == 0 and out, err
    code, _, err = run("serve", run_folder, "base=model", "--dry-run", "--engine", "local")
    assert code == 0, err
    code, _, err = run("export", run_folder, "base=model", "--to", "merged", "--no-check")
    assert code == 0, err
    code, out, err = run("report", run_folder)
    assert code == 0 and (elsewhere / "report.html").is_file(), err
    _, _, err = run("eval", run_folder, "base=model")
    assert "tokens: done before" in err and "evaluate: done before" in err, "what was measured stands"
    assert (elsewhere / "recipe.yaml").read_text(encoding="utf-8") == before[0]
    assert (elsewhere / "scores.json").read_text() == before[1]

    (elsewhere / "scores.json").unlink()  # it has to be measured again: without the questions that are gone
    code, out, err = run("eval", run_folder, "base=model", "--json")
    verdict = json.loads(out)
    assert code == 5 and not verdict["passed"], "the recipe asks for a probe that nobody can ask"
    assert any("the probe generalization could not be asked: asked.jsonl" in each for each in verdict["misses"])
    asked = {json.loads(line)["role"] for line in (elsewhere / "predictions.jsonl").open(encoding="utf-8")}
    assert {"recall", "retention"} <= asked and "generalization" not in asked, "what lies in dataset/ is asked again"

    make_base(tmp_path / "new/other", seed=7)
    words = ("eval", run_folder, "base=other") if whole else ("chat", run_folder, "base=other", "--ask", "Onde?")
    code, _, err = run(*words)
    assert (code == 2 and "another base" in err) or ("was trained on" in err and "differ" in err)
    code, _, err = run("chat", run_folder, "train.epochs=3", "--ask", "Onde?")
    assert code == 2 and "only base, root and device may be another" in err


def test_a_base_named_beside_the_run_is_found_from_every_folder(
    elsewhere: Path, capsys: Any, monkeypatch: Any, tmp_path: Path
):
    """`base: ../../model` in a run's recipe.yaml counts from that file, for every verb alike."""
    file = elsewhere / "recipe.yaml"
    moved = read_saved_recipe(elsewhere).model_copy(update={"base": "../../model"})
    file.write_text(moved.to_yaml(), encoding="utf-8")
    there = str(elsewhere.resolve())
    monkeypatch.chdir(tmp_path)
    for words in (("chat", there, "--ask", "Onde?", "--max-new-tokens", "2"), ("serve", there, "--dry-run"),
                  ("export", there, "--to", "merged", "--no-check")):  # fmt: skip
        code, _, err = afina(*words, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, err


def test_a_result_that_was_copied_alone_is_asked_served_and_written_and_eval_says_what_is_missing(
    elsewhere: Path, capsys: Any, monkeypatch: Any
):
    alone = Path("alone")
    alone.mkdir()
    shutil.copy(elsewhere / "recipe.yaml", alone)
    kind = "model" if (elsewhere / "model").is_dir() else "adapter"
    shutil.copytree(elsewhere / kind, alone / kind)
    for words in (("chat", "--ask", "Onde?", "--max-new-tokens", "2"), ("serve", "--dry-run"),
                  ("export", "--to", "merged", "--no-check")):  # fmt: skip
        code, _, err = afina(words[0], "alone", "base=model", *words[1:], capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, err
    code, _, err = afina("eval", "alone", "base=model", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2 and "has no dataset" in err and "export --no-check" in err
