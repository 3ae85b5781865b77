"""What the chat templates of twelve families do to eight kinds of conversation: writes docs/templates.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tiny import make_tokenizer

from afina.errors import DataError
from afina.recipe import Chat
from afina.text.document import Message, Tool
from afina.tokenizer.chat import Encoded, Renderer
from afina.tokenizer.day import TRAINED_DAY

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """A template and the special tokens that its tokenizer has."""

    name: str
    file: str
    end: str
    special: tuple[str, ...]
    begin: str = ""
    plain: tuple[str, ...] = ()
    """Tokens that are no special ones."""


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
QWEN = ("<tool_call>", "</tool_call>")
FAMILIES = {
    each.file: each
    for each in (
        Family("Qwen2.5", "qwen2.5", "<|im_end|>", CHATML, plain=QWEN),
        Family("Qwen3", "qwen3", "<|im_end|>", CHATML, plain=(*QWEN, "<think>", "</think>")),
        Family(
            "Llama 3.1",
            "llama-3.1",
            "<|eot_id|>",
            ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
            "<|begin_of_text|>",
        ),
        Family(
            "Mistral",
            "mistral",
            "</s>",
            ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
             "[/TOOL_RESULTS]"),
            "<s>",
        ),
        Family("Gemma 2", "gemma-2", "<eos>", ("<start_of_turn>", "<end_of_turn>"), "<bos>"),
        Family("Gemma 3", "gemma-3", "<eos>", ("<start_of_turn>", "<end_of_turn>"), "<bos>"),
        Family("Phi-3", "phi-3", "<|endoftext|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
        Family(
            "GLM-4",
            "glm-4",
            "<|endoftext|>",
            ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        ),
        Family(
            "DeepSeek-V3",
            "deepseek-v3",
            "<｜end▁of▁sentence｜>",
            ("<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
             "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>",
             "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
            "<｜begin▁of▁sentence｜>",
        ),
        Family(
            "gpt-oss",
            "gpt-oss",
            "<|return|>",
            ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>", "<|constrain|>"),
        ),
        Family(
            "Command-R",
            "command-r",
            "<|END_OF_TURN_TOKEN|>",
            ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
            "<BOS_TOKEN>",
        ),
        Family("SmolLM2", "smollm2", "<|im_end|>", CHATML),
    )
}  # fmt: skip

TIDE: Tool = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "High water at a port.",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]},
    },
}


def _said(role: Any, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


ASKED, ANSWERED = _said("user", "Onde nasceu Ana?"), _said("assistant", "Em Faro.")
AGAIN, LATER = _said("user", "E Rui?"), _said("assistant", "Em Lagos.")
CALL = {"id": "call00001", "type": "function", "function": {"name": "tide", "arguments": {"port": "Faro"}}}
SHAPES: dict[str, list[Message]] = {
    "single": [ASKED, ANSWERED],
    "multi-turn": [ASKED, ANSWERED, AGAIN, LATER],
    "system": [_said("system", "Sê breve."), ASKED, ANSWERED],
    "tools": [
        ASKED,
        _said("assistant", "", tool_calls=[CALL]),
        _said("tool", "alta às 15h02", tool_call_id="call00001", name="tide"),
        _said("assistant", "Às três."),
    ],
    "thoughts": [
        ASKED,
        _said("assistant", "Em Faro.", reasoning_content="Ana é do sul."),
        AGAIN,
        _said("assistant", "Em Lagos.", reasoning_content="Rui também."),
    ],
    "starts with assistant": [_said("assistant", "Olá."), ASKED, ANSWERED],
    "two users in a row": [ASKED, AGAIN, ANSWERED],
    "empty": [],
}


def tools_of(shape: str) -> list[Tool]:
    """The functions that a shape's answers may call."""
    return [TIDE] if shape == "tools" else []


def renderer_of(family: Family, folder: Path, **chat: Any) -> Renderer:
    """A small tokenizer with a family's template and tokens.

    Args:
        folder: where the tokenizer is kept.
    """
    tokenizer = make_tokenizer(folder)
    tokenizer.add_tokens(list(family.plain))
    special: dict[str, Any] = {"eos_token": family.end, "additional_special_tokens": list(family.special)}
    tokenizer.add_special_tokens(special | ({"bos_token": family.begin} if family.begin else {}))
    tokenizer.chat_template = (FOLDER / f"{family.file}.jinja").read_text(encoding="utf-8")
    return Renderer(tokenizer, Chat(**chat))


def learned_text(renderer: Renderer, row: Encoded) -> str:
    """The tokens of a row that are learned, as text; … where others stand between them."""
    parts: list[list[int]] = []
    for number, token in enumerate(row.ids):
        if row.mask[number] and row.mask[number - 1 : number] == [True]:
            parts[-1].append(token)
        elif row.mask[number]:
            parts.append([token])
    return " … ".join(renderer.tokenizer.decode(part) for part in parts)


def cell(renderer: Renderer, shape: str) -> tuple[str, str, str]:
    """Rows, learned tokens, and what they are or why there are none."""
    try:
        made = renderer.rows(SHAPES[shape], tools=tools_of(shape))
    except DataError as error:
        return "refused", "", error.problems[0].what
    texts = [f"`{learned_text(renderer, row)}`".replace("\n", "⏎").replace("|", "\\|") for row in made.rows]
    lost = sum(len(row.lost) for row in made.rows)
    notes = [made.why, f"{lost} of {sum(row.thoughts for row in made.rows)} thoughts not learned" if lost else ""]
    said = "; ".join([" and ".join(texts), *[note for note in notes if note]])
    return str(len(made.rows)), str(sum(row.targets for row in made.rows)), said


def table(folder: Path) -> str:
    """The whole page."""
    lines = [
        "# What chat templates do to a conversation",
        "",
        "Written by `make docs` from the templates in `tests/templates`, which do what those of the families do (none "
        "is a copy), with a small tokenizer that has their special tokens. Rows: how many a conversation becomes "
        "(`chat.turns` not set). Learned: tokens that the loss is taken on, of that small tokenizer, and their text (⏎ "
        "is a line feed, … stands for what is not learned between two answers). Where a family refuses a shape, the "
        "rows are listed with these words, all at once; `dataset.on_not_rendered: drop` leaves them out, "
        "`chat.system_turn: fold` puts a system text before the first question. The table is a test's "
        "(`tests/test_templates.py`), and so is that each row is what serving would render before its answers, plus "
        "the answers. A template that writes the day on which it is asked (Llama 3.2, SmolLM3, gpt-oss) writes "
        f"{TRAINED_DAY} in training, evaluation, serving and exports: a model that learned on one day would be asked "
        "in other words on the next. Where the template takes a `date_string`, `chat.template_args` may give another "
        "day.",
    ]
    for family in FAMILIES.values():
        renderer = renderer_of(family, folder / family.file)
        stops = [f"`{token}`" for token in renderer.tokenizer.convert_ids_to_tokens(renderer.stop_ids())]
        lines += ["", f"## {family.name}", "", f"Ends an answer: {', '.join(stops)}."]
        if own := renderer.template.abilities.own_system:
            lines.append(f"Own system text: `{own.splitlines()[0]}`.")
        lines += ["", "| shape | rows | learned | which, or why not |", "|---|---|---|---|"]
        lines += [f"| {shape} | {' | '.join(cell(renderer, shape))} |" for shape in SHAPES]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        Path(sys.argv[1]).write_text(table(Path(place)), encoding="utf-8")
