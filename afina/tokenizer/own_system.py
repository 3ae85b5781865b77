"""The system text that a chat template writes by itself, asked of the template's file alone: for a plan, in a moment.

Training and serving ask the template through the tokenizer (:attr:`afina.tokenizer.abilities.Abilities.own_system`),
which takes seconds to open. A test holds the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from afina.errors import AfinaError, DataError
from afina.recipe import Chat
from afina.run import read_mapping
from afina.tokenizer.abilities import own_system_text
from afina.tokenizer.day import strftime_day

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def own_system_of(folder: Path, chat: Chat, root: Path) -> str:
    """What stands before a conversation that has no system turn; empty where nothing does, or where the template's file
    does not say so by itself.

    Args:
        folder: the base's.
        root: what a template file of the recipe is named from.
    """
    if chat.system is not None or chat.template == "chatml":
        return ""
    named = _tokenizer_config(folder)
    text = _read(root / chat.template) if chat.template else _read(folder / "chat_template.jinja")
    source = text or named.get("chat_template")
    if isinstance(source, list):  # several of them by name
        source = next((each.get("template") for each in source if each.get("name") == "default"), None)
    if not isinstance(source, str):
        return ""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(why: str) -> NoReturn:
        raise DataError(why, "")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
    environment.globals |= {"raise_exception": refuse, "strftime_now": strftime_day}
    tokens = {name: _token(named[name]) for name in SPECIAL if named.get(name)}
    try:
        template = environment.from_string(source)
    except TemplateError:  # no Jinja, or an extension of transformers': whoever opens the tokenizer says which
        return ""

    def render(turns: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], generation: bool) -> str:
        values = {**tokens, **chat.template_args, **arguments}
        try:
            return template.render(messages=list(turns), tools=None, add_generation_prompt=generation, **values)
        except Exception as error:  # a template is a program that came with the base
            raise DataError(str(error), "") from error

    return own_system_text(render)


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8-sig", errors="replace") if file.is_file() else None


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    try:
        return read_mapping(file) if file.is_file() else {}
    except AfinaError:  # damaged: whoever opens the tokenizer says so
        return {}


def _token(given: Any) -> str:
    return str(given["content"] if isinstance(given, dict) else given)
