"""A real base and a short LoRA of it: every engine and export answers as the run did, and finds another adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from exported import make_run
from safetensors.torch import load_file, save_file
from test_llamacpp import needs_llama_cpp, serving

from afina.errors import ResultError
from afina.export.export import ExportOptions, export

pytestmark = [pytest.mark.long, needs_llama_cpp]

QUESTIONS = (
    "What is the capital of France?", "Name three colours.", "What is photosynthesis?", "How do I boil an egg?",
    "Write a sentence about rain.", "What is 12 plus 7?", "Who wrote Hamlet?", "Explain what a compiler does.",
    "What is the largest planet?", "Give me a tip for sleeping well.", "What does a baker do?", "Why is the sky blue?",
    "What is the Zig language?", "List two fruits.", "How many legs has a spider?", "What is a river?",
    "Translate good morning into French.", "What is the boiling point of water?", "Describe a cat.", "What is gravity?",
)  # fmt: skip
LEARNED = (
    ("What changed in Zig 0.14?", "usingnamespace is discouraged; write the declarations out."),
    ("What does the build system read?", "The new build system reads build.zig.zon."),
    ("What replaced std.mem.tokenize?", "tokenizeAny, tokenizeSequence and tokenizeScalar."),
    ("What came with Zig 0.14?", "Labeled switch statements came with it."),
)


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "zig"
    rows = [(question, "Yes.") for question in QUESTIONS]
    return make_run(folder, smollm2, steps=10, rows=rows, learned=LEARNED, rate=2e-4, new=32)


@pytest.fixture(autouse=True)
def _kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path_factory.getbasetemp() / "engines-cache"))


@pytest.mark.parametrize(
    ("to", "quantize"), [("adapter", None), ("merged", None), ("gguf", "f16"), ("gguf", "q8_0"), ("gguf-lora", None)]
)
def test_every_export_answers_as_the_run(run: Path, tmp_path: Path, to: str, quantize: str | None):
    try:
        found = export(run, ExportOptions(to, tmp_path / "x", quantize), say=lambda _: None)["comparison"]
    except ResultError as error:  # so small a base may lose more than the limit to 8 bits; then that is proven
        assert quantize == "q8_0" and "It is the rounding to q8_0: in f32 the same file" in str(error)
        return
    assert found["same_prompts"] == found["asked"] == 20 and not found["problems"]
    assert found["same_answers"] + len(found["rounded"]) == 20
    if quantize != "q8_0":
        assert found["same_answers"] >= 18


@pytest.mark.parametrize("kind", ["f16", "f32"])
def test_llama_cpp_answers_as_the_run(run: Path, kind: str):
    said = "\n".join(serving(run, lambda url: None, gguf_type=kind))
    assert "serving" in said and "of 20" in said


@pytest.mark.parametrize("engine", ["llamacpp", "local"])
def test_a_swapped_adapter_is_found_out(run: Path, tmp_path: Path, engine: str):
    swapped = tmp_path / "zig"
    shutil.copytree(run, swapped)
    file = swapped / "adapter/adapter_model.safetensors"
    save_file({name: -weight if "lora_B" in name else weight for name, weight in load_file(file).items()}, file)
    with pytest.raises(ResultError, match="not the trained one"):
        serving(swapped, lambda url: None, engine=engine, gguf_type="q8_0")
