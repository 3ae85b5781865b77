"""The commented recipes that ``afina recipe init`` writes, from the recipe's own fields.

The short one shows what a newcomer decides; the full one every key, with its default and its help. Both load to the
same recipe: a test holds that.
"""

from __future__ import annotations

import io
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from afina.errors import RecipeError
from afina.recipe.keys import keys_of
from afina.recipe.load import plain_name
from afina.recipe.methods import METHODS
from afina.recipe.part import RecipePart
from afina.recipe.parts import Recipe

_COLUMN = 36
"""Where help begins."""
_WIDTH = 120

_BASE = "Qwen/Qwen2.5-0.5B-Instruct"
_SHORT = ("dataset.language", "train.method", "train.epochs", "train.learning_rate", "train.max_length")


@dataclass(frozen=True)
class Starter:
    """A kind of starter: what it begins with, and which keys it sets and shows."""

    title: str
    prepare: str
    """The first step: which files go where."""
    values: Mapping[str, Any]
    """What is not as the recipe's default."""
    also: tuple[str, ...] = ()
    """Keys that the short form shows with their defaults, beside `values` and those of every kind."""


_STARTERS = {
    "docs": Starter(
        "A base model learns from your documents.",
        "Put this file beside the folder `docs`, or let `path` name where your files are.",
        {"name": "my-docs", "base": _BASE, "sources[].path": "docs"},
        ("dataset.questions.make", "evaluate.limits.learned_min", "evaluate.limits.broke_max"),
    ),
    "chat": Starter(
        "A base model learns to answer as your questions and answers do.",
        'Put this file beside `rows.jsonl`, with one {"prompt": ..., "completion": ...} a line (`messages` and '
        "`instruction`, `input`, `output` are known too).",
        {"name": "my-chat", "base": _BASE, "sources[].path": "rows.jsonl"},
        ("chat.system", "evaluate.limits.learned_min", "evaluate.limits.broke_max"),
    ),
    "preference": Starter(
        "A model learns which of two answers is the better one (DPO).",
        'Put this file beside `pairs.jsonl`, with one {"prompt": ..., "chosen": ..., "rejected": ...} a line. The base '
        "should answer well already; or give your answers too, and set `train.first` to {method: sft}.",
        {
            "name": "my-preference",
            "base": _BASE,
            "sources[].path": "pairs.jsonl",
            "train.method": "dpo",
            "train.epochs": 1.0,
            "train.learning_rate": METHODS["dpo"].usual_rate,
        },
        ("train.beta", "evaluate.limits.broke_max"),
    ),
    "scratch": Starter(
        "A small model of your own, from random weights and with its own tokenizer. Nothing is downloaded.",
        "Put this file beside the folder `docs`, or let `path` name where your files are.",
        {
            "name": "my-model",
            "sources[].path": "docs",
            "scratch.vocab": 4096,
            "train.method": "scratch",
            "train.epochs": 10.0,
            "train.learning_rate": METHODS["scratch"].usual_rate,
        },
        ("scratch.hidden", "scratch.layers", "scratch.heads", "scratch.tokenizer"),
    ),
}


def starter(kind: str, *, full: bool = False, file: str | None = None) -> str:
    """The starter for what you have: ``docs``, ``chat`` (rows of questions and answers), ``preference`` (rows with a
    better and a worse answer) or ``scratch``; with every key where `full`.

    Args:
        file: name of the file that it is for: the run is called as it, and comments name it.

    Raises:
        RecipeError: for any other word.

    >>> starter("docs").splitlines()[0]
    '# A base model learns from your documents.'
    """
    if kind not in _STARTERS:
        raise RecipeError(
            f"there is no starter {kind!r}",
            "docs: you have documents; chat: you have questions with answers; preference: with a better and a worse "
            "answer each; scratch: a new small model",
        )
    chosen = _STARTERS[kind]
    shown = None if full else basic_keys(kind)
    named = {"name": _run_name(file)} if file and _run_name(file) else {}
    rows = [("", ""), *_rows(Recipe, {**chosen.values, **named}, shown)]
    lines = [line for code, text in rows for line in _laid_out(code, text)]
    return "\n".join([*_head(chosen, kind, full, shlex.quote(file or "THIS_FILE")), *lines]) + "\n"


def to_set(kind: str) -> str:
    """The keys of a kind's starter that only its user knows, in words.

    >>> to_set("docs"), to_set("scratch")
    ('`base` and the `path` of your files', 'the `path` of your files')
    """
    base = "`base` and " if "base" in _STARTERS[kind].values else ""
    return f"{base}the `path` of your files"


def _run_name(file: str) -> str:
    """What a run is called of which the recipe is in `file`; empty where the name has nothing that a run's may have.

    >>> _run_name("meus-docs.yaml"), _run_name("Os meus manuais (versão 2).yaml"), _run_name("文書.yaml")
    ('meus-docs', 'Os-meus-manuais-versao-2', '')
    """
    return plain_name(Path(file).stem)


def starter_kinds() -> dict[str, str]:
    """The kinds of starters, each with its title."""
    return {kind: each.title for kind, each in _STARTERS.items()}


def basic_keys(kind: str) -> set[str]:
    """The keys that the short starter of a kind shows: what a newcomer decides.

    >>> sorted(basic_keys("docs"))[:3]
    ['base', 'dataset.language', 'dataset.questions.make']
    """
    chosen = _STARTERS[kind]
    return {*chosen.values, *_SHORT, *chosen.also}


def _head(chosen: Starter, kind: str, full: bool, file: str) -> Iterator[str]:
    yield f"# {chosen.title}"
    steps = (
        chosen.prepare,
        f"afina plan {file}: does it fit, how long does it take, what does it cost?",
        f"afina run {file}: builds the dataset, audits it, trains, measures, writes the report.",
    )
    for number, step in enumerate(steps, 1):
        yield from textwrap.wrap(step, _WIDTH, initial_indent=f"# {number}. ", subsequent_indent="#    ")
    if full:
        yield "# Every key is here; delete what you do not need. Lines after a # show what an empty key may hold."
    else:
        yield f"# All other keys have defaults: `afina recipe init {kind} --full` and docs/recipe.md show them."


def _rows(
    part: type[RecipePart], values: Mapping[str, Any], shown: set[str] | None, path: str = ""
) -> Iterator[tuple[str, str]]:
    """Each line of a part as YAML, not indented, and its help.

    Args:
        part: whose keys.
        values: by path, what is not as the default.
        shown: paths of the keys to write, with the first sentence of their help; None: all, with all of it.
        path: of the part.
    """
    for key in keys_of(part, path):
        inside = f"{key.path}[]" if key.many else key.path
        if shown is not None and not any(each == key.path or each.startswith(f"{inside}.") for each in shown):
            continue
        rows = list(_rows(key.part, values, shown, inside)) if key.part else []
        if key.many:
            rows = [(f"{'  ' if number else '- '}{line}", text) for number, (line, text) in enumerate(rows)]
        text = key.comment if shown is None else key.brief
        if key.always:
            yield from [("", "")] if not path else []
            yield f"{key.name}:", text
            yield from ((f"  {line}", text) for line, text in rows)
        else:
            yield f"{key.name}: {yaml_value(values.get(key.path, key.shown))}", text
            yield from ((f"#   {line}", text) for line, text in rows)


def _laid_out(line: str, text: str) -> Iterator[str]:
    """A line with its help in a column beside it, or below it where the line is too long."""
    texts = textwrap.wrap(text, _WIDTH - _COLUMN - 2, break_on_hyphens=False)
    if len(line) >= _COLUMN or not texts:
        yield line
    else:
        yield f"{line:{_COLUMN}}# {texts.pop(0)}"
    yield from (f"{'':{_COLUMN}}# {each}" for each in texts)


def yaml_value(value: Any) -> str:
    """A value on one line.

    >>> yaml_value(None), yaml_value(2e-5), yaml_value(["a b", 1]), yaml_value("04:00:00")
    ('null', '2e-05', '[a b, 1]', '04:00:00')
    """
    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = True, 4096
    yaml.dump([value], out)
    return out.getvalue().strip()[1:-1]
