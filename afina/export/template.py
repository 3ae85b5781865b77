"""The chat template that travels with a model: what the recipe adds to it is written into it.

A recipe may give every conversation a system text and the template arguments (``enable_thinking: false``). Other
programs know neither, and would ask the model in words that it was not trained on. So both become the
template's own defaults; a caller's system text or argument still goes before them. A template that writes the day on
which it is rendered writes the one day that it was trained with.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from afina.errors import DataError
from afina.recipe import Chat
from afina.text.document import Message
from afina.tokenizer.chat import Renderer
from afina.tokenizer.day import on_one_day
from afina.tokenizer.template import NotRendered

CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "Olá, quem és?"},),
    (
        {"role": "user", "content": "One\n\ntwo: {{ braces }}"},
        {"role": "assistant", "content": "- three\n- four"},
        {"role": "user", "content": "E agora?"},
    ),
    ({"role": "system", "content": "Be brief.\nBe kind."}, {"role": "user", "content": "Why?"}),
    (
        {"role": "system", "content": "Sê breve."},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5"},
    ),
)
"""What templates are compared by."""


def baked_template(template: str, chat: Chat) -> str:
    """A template that writes without arguments what `template` writes with the recipe's.

    >>> baked_template("{{ x }}", Chat(template_args={"enable_thinking": False}))
    '{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}{{ x }}'
    """
    parts = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {json.dumps(value, ensure_ascii=False)} %}}{{%- endif %}}"
        for name, value in chat.template_args.items()
    ]
    if chat.system:
        system = json.dumps({"role": "system", "content": chat.system}, ensure_ascii=False)
        parts.append(
            "{%- if not messages or messages[0]['role'] != 'system' %}"
            f"{{%- set messages = [{system}] + messages %}}{{%- endif %}}"
        )
    return "".join(parts) + on_one_day(template)


def baked_tokenizer(renderer: Renderer) -> Any:
    """A copy of a renderer's tokenizer with the recipe's chat settings in its template.

    Raises:
        DataError: the template cannot carry them.
    """
    tokenizer = copy.deepcopy(renderer.tokenizer)
    if not tokenizer.chat_template:
        return tokenizer
    tokenizer.chat_template = baked_template(tokenizer.get_chat_template(), renderer.chat)
    plain = Renderer(tokenizer, Chat())
    if any(try_render(plain, each) != try_render(renderer, each) for each in CONVERSATIONS):
        raise DataError(
            "the recipe's system text or template arguments cannot be written into the chat template",
            "write them into a Jinja file of your own (`chat.template`) and train with it",
            "chat",
        )
    return tokenizer


def try_render(renderer: Renderer, messages: Sequence[Message]) -> str | None:
    """The prompt of a conversation; None where the template refuses it (many take no system text)."""
    try:
        return renderer.prompt_text(messages)
    except NotRendered:
        return None
