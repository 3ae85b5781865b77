"""How training would see a dataset: the tokenizer, the batches and the size of what is trained, for an audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afina.dataset.audit.token_audit import TokenView
from afina.errors import BaseError
from afina.model.back_ends import choose_back_end
from afina.model.base import look_at_base
from afina.model.base_damage import TOKENIZERS
from afina.model.base_kind import Program, kind_of
from afina.model.shape_read import shape_of_folder
from afina.recipe import Recipe
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import EncodedExample, encode_conversation
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.pieces import read_tokenizer
from afina.train.batches import plan_epoch


def token_view(base: Path, recipe: Recipe) -> TokenView:
    """The view that every audit takes with a base's tokenizer and a recipe's settings. No weights are read.

    Raises:
        BaseError: it is no base that can be trained, or its tokenizer cannot be opened.
    """
    if base.exists() and not (base.is_dir() and _holds_tokenizer_alone(base)):
        program: Program = "mlx" if choose_back_end(recipe).name == "mlx" else "transformers"
        kind = look_at_base(base, str(base), recipe.trust_remote_code, program=program, weights=False)
        if not kind.trains:
            raise BaseError(f"{kind.what}, over which nothing is trained", kind.instead, str(base))
    tokenizer = load_tokenizer(
        str(base), recipe.chat, root=Path(recipe.root), trust_remote_code=recipe.trust_remote_code
    )
    renderer = Renderer(tokenizer, recipe.chat)

    def encode(example: Example) -> EncodedExample:
        if not example.messages:
            return EncodedExample([renderer.text(example.text)])
        return encode_conversation(example, renderer, recipe)

    def marks_in(example: Example) -> list[str]:
        """Of a preference those of the worse answer too."""
        worse: list[Message] = [] if example.rejected is None else [{"role": "assistant", "content": example.rejected}]
        return renderer.marks_in((*example.messages, *worse), example.text, example.tools)

    def batches(lengths: Sequence[int]) -> list[list[int]]:
        return plan_epoch(lengths, batch_tokens=recipe.train.batch_tokens, seed=recipe.seed, epoch=0)

    return TokenView(
        encode=encode,
        batches=batches,
        end_ids=renderer.stop_ids(),
        marks_in=marks_in,
        pieces=read_tokenizer(tokenizer, str(base)) if tokenizer.is_fast else None,
        marks_in_text=recipe.chat.marks_in_text,
        plain_turn_marks=renderer.template.plain_turn_marks,
        bos_id=tokenizer.bos_token_id,
        begins_with_bos=renderer.begins_with_bos,
        max_length=recipe.train.max_length,
        on_too_long=recipe.dataset.on_too_long,
        on_not_rendered=recipe.dataset.on_not_rendered,
        own_system=renderer.template.abilities.own_system if tokenizer.chat_template else "",
        epochs=recipe.train.epochs,
        accumulate=recipe.train.accumulate,
        trained_parameters=_trained_parameters(base, recipe),
    )


def audited_settings(recipe: Recipe) -> dict[str, Any]:
    """What an audit's findings about tokens depend on, beside the dataset."""
    if recipe.base is None:
        return {}
    return {
        "base": [recipe.base, recipe.base_revision],
        "chat": recipe.chat.model_dump(mode="json"),
        "adapter": recipe.adapter.model_dump(mode="json", include={"kind", "rank", "targets"}),
        "train": recipe.train.model_dump(
            mode="json", include={"method", "max_length", "batch_tokens", "accumulate", "epochs"}
        ),
        "on_too_long": recipe.dataset.on_too_long,
        "on_not_rendered": recipe.dataset.on_not_rendered,
    }


def _holds_tokenizer_alone(folder: Path) -> bool:
    """Whether it is the tokenizer of a base whose other files are elsewhere."""
    return any((folder / name).is_file() for name in TOKENIZERS) and kind_of(folder).name == "no-model"


def _trained_parameters(base: Path, recipe: Recipe) -> int | None:
    """None where the folder holds a tokenizer alone."""
    config = base / "config.json"
    if not config.is_file():
        return None
    shape = shape_of_folder(base, trust_remote_code=recipe.trust_remote_code)
    if recipe.trains_all:
        return shape.parameters
    return shape.lora_parameters(recipe.adapter.rank, recipe.adapter.targets, experts=recipe.adapter.adapts_experts)
