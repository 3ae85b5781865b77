"""A club's history on a Mac, in its tiny form on this CPU: the recipe, the notebook, the adapter in mlx-lm and PEFT.

AFINA_FARENSE=all python -m pytest -n 0 tests/test_farense_mlx.py -m long    # over every biography, not over a few
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from forked import start_afina
from tiny import make_base

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks/farense.ipynb"
FARENSE = ROOT.parent / "shared/data/farense"
needs_farense = pytest.mark.skipif(not FARENSE.is_dir(), reason="../shared/data/farense is not here")
needs_mlx = pytest.mark.skipif(find_spec("mlx_lm") is None, reason="needs the extra mlx, which is not installed")
ALL = os.environ.get("AFINA_FARENSE") == "all"
"""Every biography, which takes a quarter of an hour on an idle core."""
FEW = () if ALL else ("sources=[{path: biografias/jogadores/historia_an*.md}]",)
"""Of all players those whose name begins with An: MLX's build for Linux CPUs takes half a minute for them."""
TINY = (
    "train.profile=null train.max_length=256 train.batch_tokens=1024 train.learning_rate=0.002 evaluate.samples=2 "
    "evaluate.questions=12 evaluate.skills=0 evaluate.max_new_tokens=8 evaluate.windows.count=4"
)
"""What makes the recipe small: two layers read in minutes what seven billion numbers read in hours."""


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, and a tokenizer trained on the biographies; as Mistral's base, without a chat template."""
    from afina.recipe import Chat
    from afina.tokenizer.load import load_tokenizer
    from afina.tokenizer.train import train_tokenizer

    folder = tmp_path_factory.mktemp("base")
    texts = [file.read_text(encoding="utf-8") for file in sorted(FARENSE.glob("biografias/**/*.md"))[:80]]
    train_tokenizer("byte-bpe", texts, 1000, folder, 512)
    tokenizer = load_tokenizer(str(folder), Chat())
    shape = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}
    return make_base(folder, tokenizer=tokenizer, **shape)


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder after `afina run recipes/farense-mlx.yaml` with the tiny base."""
    folder = tmp_path_factory.mktemp("farense")
    words = ("run", ROOT / "recipes/farense-mlx.yaml", f"base={tiny_base}", *FEW, *TINY.split())
    done = start_afina(*words, folder=folder, check=None)
    assert done.returncode in (0, 5), done.stdout + done.stderr
    return folder / "runs/farense-mlx"


@needs_farense
@needs_mlx
@pytest.mark.long
def test_held_out_loss_falls_and_a_verdict_is_given(finished: Path) -> None:
    events = [json.loads(line) for line in (finished / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "validation"]
    assert losses == sorted(losses, reverse=True) and len(losses) == 3, "once an epoch, lower each time"
    scores = json.loads((finished / "scores.json").read_text(encoding="utf-8"))
    assert losses[-1] < losses[0] < scores["loss"]["before"]["loss"]
    assert scores["loss"]["after"]["loss"] < scores["loss"]["before"]["loss"]
    assert scores["verdict"]["learned"] in ("yes", "no", "too little", "parrots")
    recipe = (finished / "recipe.yaml").read_text(encoding="utf-8")
    assert "backend: mlx" in recipe and "group_size: 64" in recipe


@needs_farense
@needs_mlx
@pytest.mark.long
def test_mlx_lm_and_peft_write_the_same_text_with_the_adapter(finished: Path, tiny_base: Path) -> None:
    """Greedily, both over the base as it is, by neither of which afina was written."""
    import torch
    from mlx_lm import load, stream_generate
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    by_peft = PeftModel.from_pretrained(base, finished / "adapter").eval()
    by_mlx, own_tokenizer = load(str(tiny_base), adapter_path=str(finished / "adapter/mlx-lm"))

    def peft_writes(ids: torch.Tensor) -> list[int]:
        written = by_peft.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        return written[0, ids.shape[1] :].tolist()

    changed = []
    for question in ("Onde nasceu Hassan Nader?", "Qual é o nome completo de Zita?", "Em que posição jogava Adelmiro?"):
        ids = tokenizer(question, return_tensors="pt").input_ids
        said = [each.token for each in stream_generate(by_mlx, own_tokenizer, prompt=ids[0].tolist(), max_tokens=16)]
        assert said == peft_writes(ids)
        with by_peft.disable_adapter():
            changed.append(peft_writes(ids) != said)
    assert any(changed), "the adapter changes what is written"


@needs_farense
@needs_mlx
@pytest.mark.long
def test_mlx_lm_answers_as_chat_does_after_the_steps_of_the_page(
    finished: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """docs/apple.md: the base quantized by mlx-lm as the run did, with the run's tokenizer, and the adapter on it."""
    from mlx_lm import convert, generate, load

    made, adapter = tmp_path / "in-4-bits", finished / "adapter"
    convert(str(tiny_base), str(made), quantize=True, q_bits=4, q_group_size=64)
    for file in (*adapter.glob("tokenizer*"), adapter / "chat_template.jinja"):
        shutil.copy(file, made)
    model, tokenizer = load(str(made), adapter_path=str(adapter / "mlx-lm"))
    question = "Onde nasceu Hassan Nader?"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    asked = ("chat", finished, "--ask", question, "--max-new-tokens", "8", "--json")
    (answer,) = json.loads(start_afina(*asked, folder=finished.parent.parent).stdout).values()
    assert generate(model, tokenizer, prompt=ids, max_tokens=8).strip() == answer != ""


# ---- the notebook


def cells(kind: str) -> list[dict[str, Any]]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_the_notebook_has_ten_cells_that_are_not_run_yet() -> None:
    assert len(cells("code")) == 10
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    for number, cell in enumerate(cells("markdown")[1:], start=1):
        assert "".join(cell["source"]).startswith(f"## {number}. "), "a text before each"


@needs_farense
@needs_mlx
@pytest.mark.long
@pytest.mark.skipif(find_spec("nbclient") is None, reason="needs nbclient, which is not installed")
def test_the_notebook_goes_from_the_audit_to_a_conversation(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    place = tmp_path / "notebooks"
    place.mkdir()
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    settings = [f"base={tiny_base}", *FEW, "train.epochs=1", *TINY.split()]
    monkeypatch.setenv("AFINA_SETTINGS", shlex.join(settings))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(place)}}).execute()
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = ["".join(out.get("text", "") for out in cell.outputs) for cell in ran]
    assert "python" in printed[0] and "memory" in printed[3]
    assert "learned:" in printed[6] and "depois:" in printed[7]
    assert "farense-mlx: finished" in printed[8]
    assert "base:" in printed[9] and len(printed[9].splitlines()) >= 2, "the base answers beside it"
    pictures = [out for cell in ran for out in cell.outputs if "image/png" in out.get("data", {})]
    assert pictures, "the curves are shown"
