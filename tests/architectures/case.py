"""One family's tiny base, the rows that it learns, and the runs that went through the walk with it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from afina.model.load_torch import attach_adapter, load_base
from afina.progress import StageProgress
from afina.recipe import Recipe
from afina.run import Run
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row, encode_examples
from afina.tokenizer.load import load_tokenizer
from afina.train.backend_torch import TorchBackend
from afina.walk.context import Context
from afina.walk.walk import walk_through
from architectures.families import Family, make_base

CPU = torch.device("cpu")
SYSTEM = "Responde só com o nome da terra e de quem lá nasceu"
ANSWERS = {
    "Onde nasceu Ana?": "Ana de Faro",
    "Onde nasceu Rui Zé Eva Gil de Tavira e de Lagos?": "Faro",
    "Onde nasceu Ivo?": "Olhão, Loulé, Lagos, Silves, Tavira, Faro, Olhão, Loulé",
    "Onde?": "Em Silves",
    "Onde nasceu Gil de Loulé, Zé de Silves e Eva de Olhão?": "Gil de Faro, Zé de Lagos, Eva de Tavira",
    "Onde nasceu Eva?": "Loulé",
    "Onde nasceu Rui?": "Rui de Lagos",
    "Onde nasceu Gil?": "Gil de Tavira",
    "Onde nasceu Zé?": "Zé de Olhão",
    "Onde nasceu Ana de Silves?": "Silves",
}
"""With the same beginning and of several lengths: longer than every window, and on both sides of 64 tokens, where
longrope changes its frequencies."""
TRAIN = {"method": "sft", "max_length": 128, "batch_tokens": 1024, "epochs": 20, "learning_rate": 2e-2}
PROBE = {"path": "probes.jsonl", "role": "retention"}


def conversation(question: str, answer: str = "") -> list[dict[str, str]]:
    turns = [("system", SYSTEM), ("user", question), *([("assistant", answer)] if answer else [])]
    return [{"role": role, "content": content} for role, content in turns]


@contextlib.contextmanager
def _no_display(stage: str) -> Iterator[StageProgress]:
    yield StageProgress(stage, quiet=True)


class Case:
    """A family's base in a folder of its own, and what the columns share."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family, self.folder = family, folder
        self.base = make_base(family, folder / "base")
        rows = [json.dumps({"messages": conversation(*each)}, ensure_ascii=False) for each in ANSWERS.items()]
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (folder / "probes.jsonl").write_text("\n".join(rows[:2]) + "\n", encoding="utf-8")

    def recipe(self, name: str = "lora", **parts: Any) -> Recipe:
        return Recipe.model_validate(
            {
                "name": name,
                "base": str(self.base),
                "root": str(self.folder),
                "sources": [{"path": "rows.jsonl"}],
                "dataset": {"validation": 0.2},
                "adapter": {"rank": 8, "alpha": 16} | parts.pop("adapter", {}),
                "train": TRAIN | parts.pop("train", {}),
                "evaluate": {"questions": 3, "samples": 2, "max_new_tokens": 12, "probes": [PROBE]},
            }
        )

    def walked(self, name: str, until: str = "report", **parts: Any) -> Path:
        """The folder of a run that went through the walk."""
        with Run.open(self.folder / "runs" / name, self.recipe(name, **parts), lambda _: None) as run:
            walk_through(Context(run, _no_display), until=until)
        return run.folder

    @cached_property
    def run(self) -> Path:
        """A LoRA on every linear layer, trained and measured."""
        return self.walked("lora")

    @property
    def adapter(self) -> Path:
        return self.run / "adapter"

    # ---- below the walk

    @cached_property
    def renderer(self) -> Renderer:
        recipe = self.recipe()
        return Renderer(load_tokenizer(str(self.base), recipe.chat), recipe.chat)

    @cached_property
    def rows(self) -> Sequence[Row]:
        examples = [
            Example(messages=tuple(conversation(*each)), path="rows.jsonl", line=line)  # type: ignore[arg-type]
            for line, each in enumerate(list(ANSWERS.items())[:6], start=1)
        ]
        return encode_examples(examples, self.renderer, self.recipe()).rows

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Of lengths from a few tokens to more than a window, the last to be continued beyond longrope's 64."""
        beginnings = [SYSTEM[: 17 * number] for number in range(4)]
        return [
            self.renderer.prompt([{"role": "system", "content": system}, {"role": "user", "content": question}])
            for system, question in zip(beginnings, ANSWERS, strict=False)
        ]

    def opened(self, **options: Any) -> Any:
        return load_base(self.base, self.recipe(), CPU, **options)

    def adapted(self, seed: int = 0) -> Any:
        """With a LoRA on every linear layer whose B is drawn, as if it had learned something."""
        model = attach_adapter(self.opened(), self.recipe().adapter, seed).eval()
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight += 0.1 * torch.randn_like(weight)
        return model

    def backend(self, model: Any, said: list[str], **settings: Any) -> TorchBackend:
        pad = self.renderer.tokenizer.pad_token_id
        return TorchBackend(model, self.recipe(train=settings).train, pad_id=pad, device=CPU, say=said.append)
