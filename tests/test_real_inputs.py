"""The shipped recipes on the real files, with a small base and few steps: the whole walk, nothing lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from called import call_afina

from afina.sandbox.launcher import isolation_missing

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared/data"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")

TINY = ["scratch.hidden=32", "scratch.layers=1", "scratch.heads=2", "scratch.vocab=2000", "train.epochs=0.03"]
FEW = ["train.epochs=0.03", "evaluate.samples=1", "evaluate.max_new_tokens=4", "evaluate.questions=4"]


def run(recipe: Path, *settings: str, folder: Path, codes: tuple[int, ...] = (0, 5)) -> str:
    """What the whole walk printed. So few steps learn nothing, and what is written then may fail the guardrails: 5."""
    done = call_afina("run", recipe, *settings, folder=folder, check=None)
    assert done.returncode in codes, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.training
@pytest.mark.parametrize("name", ["zig-0.14", "farense"])
def test_the_whole_walk_on_real_files(name, tmp_path):
    recipes = ROOT / "recipes"
    few_answers = FEW[1:]
    run(recipes / f"{name}-base.yaml", *TINY, *few_answers, folder=tmp_path)
    base = f"base=runs/{name}-base/model"
    tasks = []
    if name == "zig-0.14":  # its programs need isolation, and more than four tokens
        tasks = ["evaluate.tasks=[]" if isolation_missing() else "evaluate.tasks.0.max_new_tokens=4"]
    run(recipes / f"{name}.yaml", base, *FEW, *tasks, folder=tmp_path)
    folder = tmp_path / "runs" / name
    every_input_is_traced(folder)
    plain_peft_opens(tmp_path / f"runs/{name}-base/model", folder / "adapter")
    assert (folder / "report.html").stat().st_size > 20_000
    assert json.loads((folder / "dataset/dataset.json").read_text(encoding="utf-8"))["balanced"] is True


def every_input_is_traced(folder: Path) -> None:
    """Each file of the manifest has the hash that it says; each example comes from one of them."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    root = Path(manifest["root"])
    hashes = set()
    for each in manifest["inputs"]:
        assert hashlib.sha256((root / each["path"]).read_bytes()).hexdigest() == each["sha256"]
        hashes.add(each["sha256"])
    for split in ("train", "validation"):
        for line in (folder / f"dataset/{split}.jsonl").open(encoding="utf-8"):
            assert json.loads(line)["from"]["sha256"] in hashes


def plain_peft_opens(base: Path, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([[1, 300, 301, 302]])
    before = model(ids).logits
    assert not torch.equal(PeftModel.from_pretrained(model, adapter)(ids).logits, before)


@pytest.mark.long
@pytest.mark.training
def test_the_monographs_tasks_on_few_rows(tmp_path):
    """recipes/ptbr-eval.yaml as its head says it runs without a GPU, on the first rows of the real files."""
    real = SHARED / "ptbr/canarim"
    (tmp_path / "canarim").mkdir()
    asked = json.loads((real / "extrinsic_seed123_qa.jsonl").open(encoding="utf-8").readline())
    trained = {"instruction": asked["instruction"], "input": asked["input"], "output": asked["reference"]}
    for name, count in (("train", 150), ("val", 20)):
        lines = (real / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        lines += [json.dumps(trained | {"hash": "x"}, ensure_ascii=False)] if name == "train" else []
        (tmp_path / f"canarim/{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for task in ("qa", "summarization", "rewriting"):
        shutil.copy(real / f"extrinsic_seed123_{task}.jsonl", tmp_path / "canarim")
    (tmp_path / "machado").symlink_to(SHARED / "ptbr/machado")
    root, recipes = f"root={tmp_path}", ROOT / "recipes"
    few_texts = "sources.0.path=machado/poesia"
    run(recipes / "ptbr-eval-base.yaml", root, *TINY, few_texts, folder=tmp_path, codes=(0,))
    few = [f"evaluate.tasks.{number}.sample=4" for number in range(3)]
    few += [f"evaluate.tasks.{number}.max_new_tokens=4" for number in range(3)]
    settings = ["base=runs/ptbr-eval-base/model", "adapter.kind=lora", *FEW, *few]
    shown = run(recipes / "ptbr-eval.yaml", root, *settings, folder=tmp_path)
    scores = json.loads((tmp_path / "runs/ptbr-eval/scores.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in scores["tasks"]] == ["qa", "summarization", "rewriting"]
    assert [task["trained_on"] for task in scores["tasks"]] == [1, 0, 0]
    for task in scores["tasks"]:
        assert (task["n"], task["seeds"], task["rows"]) == (4, [123, 456, 789], 200)
        assert f"task {task['name']}: n = 4, seeds 123, 456, 789" in shown
        metrics = {metric["name"]: metric for metric in task["metrics"]}
        assert {"exact_match", "f1", "rougeL", "chrf", "bleu"} <= set(metrics)
        assert metrics["chrf"]["before"]["sd"] is not None, "three samples of different rows"
    assert "1 of 200 rows stand in the training data and are left out" in shown
