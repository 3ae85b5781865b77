"""A small run to export: a base, an adapter that has learned six answers by heart, and what the run stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import ROWS, make_base, make_recipe

from afina.model.adapter_torch import save_trained
from afina.model.base import identify_base
from afina.model.generate.generate_torch import generate
from afina.model.load_torch import attach_adapter, load_base, open_adapter
from afina.model.loss_torch import make_batch, target_loss
from afina.recipe import Adapter, Evaluate, Recipe
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row
from afina.tokenizer.load import load_tokenizer
from afina.whole import write_json

SHAPE = {"hidden_size": 64, "intermediate_size": 128}
"""Multiples of 32, so that rows can be rounded in blocks."""
KNOWN = ROWS[::6]
HELD_OUT = ROWS[1:9]


def make_run(
    folder: Path,
    base: Path | None = None,
    steps: int = 60,
    asked: int = 20,
    *,
    rows: Sequence[tuple[str, str]] = ROWS,
    learned: Sequence[tuple[str, str]] = KNOWN,
    rate: float = 1e-2,
    new: int = 16,
    **parts: Any,
) -> Path:
    """A run's folder with recipe, adapter, as many stored answers of base and adapter, and held-out rows.

    Args:
        rows, learned: what is asked, and what is learned before.
        new: tokens of an answer at most.
    """
    base = base or make_base(folder.parent / "base", **SHAPE)
    adapter = Adapter(**{"rank": 8, "alpha": 16, "kind": "lora"} | parts.pop("adapter", {}))
    recipe = make_recipe(base, evaluate=Evaluate(max_new_tokens=new), **parts)
    recipe = recipe.model_copy(update={"name": folder.name, "adapter": adapter})
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    renderer = Renderer(load_tokenizer(str(base), recipe.chat, root=Path(recipe.root)), recipe.chat)
    _train(base, recipe, renderer, folder / "adapter", [_example(*row) for row in learned], steps, rate)
    prompts = [renderer.prompt([{"role": "user", "content": question}]) for question, _ in rows[:asked]]
    model = load_base(base, recipe, torch.device("cpu"))
    before = generate(model, renderer, prompts, max_new_tokens=new)
    after = generate(open_adapter(model, folder / "adapter"), renderer, prompts, max_new_tokens=new)
    stored = [
        {"prompt": question, "base": one.text, "adapter": two.text, "adapter_stopped": two.stopped}
        for (question, _), one, two in zip(rows[:asked], before, after, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stored), encoding="utf-8")
    (folder / "dataset").mkdir()
    unseen = HELD_OUT if rows is ROWS else rows[:8]
    held_out = "".join(json.dumps(_example(*row).as_json(), ensure_ascii=False) + "\n" for row in unseen)
    (folder / "dataset/validation.jsonl").write_text(held_out, encoding="utf-8")
    return folder


def _example(question: str, answer: str) -> Example:
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Example(messages=turns, path="rows.jsonl", line=1)  # type: ignore[arg-type]


def _train(
    base: Path, recipe: Recipe, renderer: Renderer, folder: Path, learned: list[Example], steps: int, rate: float
) -> None:
    model = attach_adapter(load_base(base, recipe, torch.device("cpu")), recipe.adapter, 0)
    rows = []
    for each in learned:
        encoded = renderer.conversation(each.messages)
        rows.append(Row(encoded.ids, encoded.mask, each))
    batch = make_batch(rows, renderer.tokenizer.pad_token_id, torch.device("cpu"))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (target_loss(model, batch) / batch.targets).backward()
        optimizer.step()
    save_trained(model, folder)
    renderer.tokenizer.save_pretrained(folder)
    identity = identify_base(base, str(base), renderer.tokenizer)
    write_json(folder / "afina.json", {"base": identity.as_json(), "afina": "0"})
