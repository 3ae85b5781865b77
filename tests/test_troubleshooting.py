"""docs/troubleshooting.md: whoever searches it for the words of a message finds that message, whichever it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from advice_sites import HOLE
from message_page import TOPICS, as_code, lists, topic_of
from message_sites import CLASSES, OTHERS, every_message
from parsed import FILES

from afina.errors import AfinaError
from afina.model.base import find_base
from afina.page_marks import put_between, split_at_marks
from afina.plan.device import find_device
from afina.recipe import Source, check_recipe, load_recipe
from afina.recipe.starter import starter
from afina.sources import Ledger, read_source

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"


@cache
def entries() -> tuple[str, ...]:
    """The messages that the page lists, as their authors wrote them."""
    _, listed, _ = split_at_marks(PAGE.read_text(encoding="utf-8"), "messages")
    found = re.findall(r"^- (`+)( ?)(.*?)\2\1(?:: |$)", listed, re.MULTILINE)
    return tuple(what for _, _, what in found)


def constant(what: str) -> str:
    """The letters of a message that are no hole."""
    return "".join(re.findall(r"[A-Za-z]", what.replace(HOLE, "")))


@cache
def patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (what, re.compile(".*".join(re.escape(part) for part in what.split(HOLE)), re.DOTALL)) for what in entries()
    )


def find(message: str) -> str:
    """The entry of the page whose words are those of a message, or of its first part; empty where there is none. Of
    several the one with the most words of its own; one with a word or two would be found for everything."""
    message = " ".join(message.split())
    found = [what for what, pattern in patterns() if len(constant(what)) >= 6 and pattern.fullmatch(message)]
    found += [what for what, pattern in patterns() if len(constant(what)) >= 12 and pattern.match(message)]
    return max(found, key=lambda what: len(constant(what)), default="")


def said_by(do: Callable[[], Any]) -> list[str]:
    """What is wrong, in the words of the error that comes."""
    with pytest.raises(AfinaError) as caught:
        do()
    return [problem.what for problem in caught.value.problems]


def test_the_page_is_fresh() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == put_between(text, "messages", lists()), "run `make docs`"


def test_every_message_of_the_package_is_on_the_page() -> None:
    said, listed = [" ".join(each.what.split()) for each in every_message() if each.said], set(entries())
    assert [what for what in said if what not in listed] == []
    assert len(listed) > 700


def test_every_error_that_is_raised_was_read() -> None:
    """Looked for in another way: the first words behind `raise`, by a pattern."""
    raised = re.compile(rf"\braise (?:{'|'.join(CLASSES)})\(\n? *f?[\"'](?P<text>[^\"'{{}}\n]{{12,}})")
    lost, seen = [], 0
    for file in FILES:
        for match in raised.finditer(file.read_text(encoding="utf-8")):
            seen += 1
            words = " ".join(match["text"].replace("\\", "").split())
            if not any(words in what for what in entries()):
                lost.append(f"{file.name}: {words}")
    assert not lost and seen > 100


def test_every_kind_of_error_is_known() -> None:
    """A class of its own for errors or problems has to be named where messages are read from the source."""
    kinds = re.compile(rf"^class (\w+)\((?:{'|'.join([*CLASSES, *OTHERS])})\b", re.MULTILINE)
    found = {name for file in FILES for name in kinds.findall(file.read_text(encoding="utf-8"))}
    assert {"KeyProblem", "StudioRefusal"} <= found <= {*CLASSES, *OTHERS}


def test_every_module_has_a_topic() -> None:
    """`Elsewhere` is where messages of a new room stand until somebody says what they are about."""
    assert {topic_of(each.module) for each in every_message()} <= {title for title, _ in TOPICS}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("no text", "`no text`"), ("no `x`", "`` no `x` ``"), ("``x``", "``` ``x`` ```")],
)
def test_a_message_is_shown_letter_by_letter(text: str, shown: str) -> None:
    assert as_code(text) == shown


def test_the_messages_at_the_head_are_messages() -> None:
    """Each that the head quotes, in bold between backticks, has its words on the list below."""
    head, _, _ = split_at_marks(PAGE.read_text(encoding="utf-8"), "messages")
    quoted = re.findall(r"\*\*`([^`]+)`", head)
    assert len(quoted) >= 30
    lists = " ".join(" ".join(each.split()) for each in (*entries(), *SAID_ELSEWHERE))
    lost = [each for each in quoted for part in each.split(HOLE) if part.strip(" :") and part.strip(" :") not in lists]
    assert not lost


SAID_ELSEWHERE = (
    # messages whose words come from a table or from a training's log
    "learned: no", "broke: ", "empty_prompt", "a weight is NaN or infinite",
    "the loss is exactly zero: there is nothing left to learn", "went back … times, the rate is down to",
)  # fmt: skip


# ---- messages that are really raised

GIVEN: dict[str, Any] = {"name": "x", "base": "Qwen/Qwen3-0.6B", "sources": [{"path": "a.md"}]}
RECIPES: dict[str, dict[str, Any]] = {
    "unknown key": {"trian": {}},
    "unknown key inside": {"train": {"learning_rat": 1e-4}},
    "no such file": {"sources": [{"path": "nowhere/*.md"}]},
    "no such folder": {"root": "/no/such/folder"},
    "no such base": {"base": "/no/such/base"},
    "no base": {"base": None},
    "a base for scratch": {"train": {"method": "scratch"}},
    "method": {"train": {"method": "ppo"}},
    "warmup and decay": {"train": {"schedule": "wsd", "warmup": 0.6, "decay": 0.6}},
    "decay alone": {"train": {"decay": 0.1}},
    "muon": {"train": {"optimizer": "muon"}},
    "phrasings": {"dataset": {"questions": {"phrasings": 8}, "hold_out_phrasings": 8}},
    "replay share": {"dataset": {"replay_share": 1.0}},
    "variant": {"adapter": {"kind": "qlora", "variant": "pissa"}},
    "loftq": {"adapter": {"kind": "lora", "variant": "loftq"}},
    "no adapter": {"adapter": {"kind": "none", "num_layers": 2}},
    "teacher": {"dataset": {"teacher": {"model": "m"}}},
    "teacher's address": {"dataset": {"teacher": {"model": "m", "url": "localhost"}}},
    "stage": {"sources": [{"path": "a.md", "stage": "first"}]},
    "hub": {"sources": [{"path": "hf://a/b"}]},
    "heads": {"base": None, "train": {"method": "scratch"}, "scratch": {"hidden": 100, "heads": 3}},
    "vocab": {"base": None, "train": {"method": "scratch"}, "scratch": {"vocab": 10}},
}
ROWS: dict[str, str] = {
    "no JSON": '{"prompt": "a", "completion": "b"',
    "unknown columns": '{"frage": "a", "antwort": "b"}',
    "a list": "[1, 2]",
    "a number": '{"prompt": 3, "completion": "b"}',
    "role": '{"messages": [{"role": "wizard", "content": "a"}]}',
    "no answer": '{"messages": [{"role": "user", "content": "a"}]}',
    "no content": '{"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}',
    "images": '{"prompt": "a", "completion": "b", "images": ["x.png"]}',
    "weight": '{"prompt": "a", "completion": "b", "weight": 0.5}',
    "no turns": '{"messages": []}',
    "no list": '{"messages": "hello there"}',
    "calls": '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": '
    '[{"function": {"name": "f", "arguments": "x=1"}}]}]}',
    "surrogate": '{"prompt": "\\ud83d", "completion": "b"}',
    "twice": '{"prompt": "a", "prompt": "c", "completion": "b"}',
    "a comma": '{"prompt": "a", "completion": "b",}',
    "Python": "{'prompt': 'a', 'completion': None}",
}  # fmt: skip
BROKEN: dict[str, tuple[str, bytes]] = {
    "empty": ("a.md", b""),
    "latin-1": ("a.md", "# Clube\n\nO médio e o avançado.\n".encode("latin-1")),
    "binary": ("a.md", b"a\0b" * 9),
    "no PDF": ("a.pdf", b"%PDF-1.4 nothing"),
    "no Word": ("a.docx", b"nothing"),
    "no EPUB": ("a.epub", b"nothing"),
    "no notebook": ("a.ipynb", b"{}"),
    "no rows": ("a.csv", b""),
    "cells": ("a.csv", b"prompt,completion\na,b,c\n"),
    "twice a column": ("a.csv", b"prompt,prompt\na,b\n"),
    "nothing readable": ("a.png", b"\x89PNG"),
}


def raised(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Cases, and what the errors say that they end in."""
    (folder / "a.md").write_text("# A\n\nOne.\n", encoding="utf-8")
    for name, change in RECIPES.items():
        yield f"recipe: {name}", said_by(lambda change=change: check_recipe(GIVEN | {"root": str(folder)} | change))
    for name, row in ROWS.items():
        yield f"row: {name}", said_by(lambda row=row: read(folder, "rows.jsonl", row.encode()))
    for name, (file, content) in BROKEN.items():
        yield f"file: {name}", said_by(lambda file=file, content=content: read(folder / "files", file, content))
    (folder / "broken.yaml").write_text("a: [1\n", encoding="utf-8")
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    for name, do in {
        "no recipe": lambda: load_recipe(folder / "none.yaml"),
        "no YAML": lambda: load_recipe(folder / "broken.yaml"),
        "override": lambda: load_recipe(folder / "broken.yaml", ["train.epochs"]),
        "starter": lambda: starter("poems"),
        "device": lambda: find_device("RTX 9999"),
        "base": lambda: find_base("./no/such/base", say=print),
        "empty base": lambda: find_base(str(base), say=print),
        "package": lambda: find_base("package:no-such-package", say=print),
    }.items():
        yield name, said_by(do)


def read(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    for file in folder.glob("a.*"):
        file.unlink()
    (folder / name).write_bytes(content)
    list(read_source(Source(path=name), 0, folder, Ledger()))


def test_messages_that_come_are_found(tmp_path: Path) -> None:
    cases = [(name, what) for name, every in raised(tmp_path) for what in every]
    lost = [f"{name}: {what}" for name, what in cases if not find(what)]
    assert len(cases) > 50
    assert not lost, "\n".join(lost)
