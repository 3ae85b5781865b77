"""Small real models made on the spot, with the real architectures' configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from afina.recipe import Adapter, Chat, Recipe, Scratch, Source, Train
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row, encode_examples
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.train import train_tokenizer

TOWNS = ("Faro", "Olhão", "Lagos", "Tavira", "Loulé", "Silves")
NAMES = ("Ana", "Rui", "Zé", "Eva", "Gil", "Ivo")
ROWS = [(f"Onde nasceu {a} {b}?", f"{b} de {a}") for a in NAMES for b in TOWNS]


def make_tokenizer(folder: Path) -> Any:
    train_tokenizer("byte-bpe", [f"{question} {answer}" for question, answer in ROWS], 400, folder, 64)
    return load_tokenizer(str(folder), Chat())


def same_tensors(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether both hold the same tensors, bit for bit. Where both hold none, nothing was compared."""
    assert first and second, "nothing to compare"
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def asking(template: str | None = "any") -> Any:
    """Stands for a renderer where questions are made and none is asked: its template takes every conversation."""
    return SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template), prompt_text=lambda *_: "")


def make_base(folder: Path, seed: int = 0, *, tokenizer: Any = None, **config: Any) -> Path:
    """A Llama of 2 layers and its tokenizer (or another), in one folder, as transformers saves them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if tokenizer is None:
        tokenizer = make_tokenizer(folder)
    else:
        tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"tie_word_embeddings": True, "max_position_embeddings": 64}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            num_key_value_heads=2,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **(shape | config),
        )
    )
    model.save_pretrained(folder)
    return folder


def make_recipe(base: Path | str = "tiny", **parts: Any) -> Recipe:
    train = {"max_length": 64, "batch_tokens": 128, "epochs": 2, "learning_rate": 5e-3} | parts.pop("train", {})
    return Recipe(
        name="tiny",
        base=str(base),
        sources=[Source(path="x")],
        train=Train(**train),
        adapter=Adapter(rank=4, alpha=8, **parts.pop("adapter", {})),
        scratch=Scratch(vocab=400),
        **parts,
    )


def examples() -> list[Any]:
    from afina.text.example import Example

    made = [
        Example(
            messages=({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
            path="rows.jsonl",
            line=line,
        )
        for line, (question, answer) in enumerate(ROWS, start=1)
    ]
    return [*made, Example(text="Faro marcou. " * 4, path="a.md"), Example(text="Tavira é de Lagos", path="b.md")]


def make_rows(base: Path, recipe: Recipe) -> tuple[list[Row], Renderer]:
    renderer = Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)
    return encode_examples(examples(), renderer, recipe).rows, renderer
