"""The chat template that travels with a model: what the recipe adds to it is written into it.

A recipe may give every conversation a system text and the template arguments (``enable_thinking: false``). Other
programs know neither, and would ask the model in words that it was not trained on. So both become the
template's own defaults; a caller's system text or argument still goes before them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from afina.errors import DataError
from afina.recipe import Chat
from afina.sources.document import Message
from afina.tokenizer.chat import Renderer

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
        f"{{%- if {name} is not defined %}}{{%- set {name} = {json.dumps(value)} %}}{{%- endif %}}"
        for name, value in chat.template_args.items()
    ]
    if chat.system:
        system = json.dumps({"role": "system", "content": chat.system}, ensure_ascii=False)
        parts.append(
            "{%- if not messages or messages[0]['role'] != 'system' %}"
            f"{{%- set messages = [{system}] + messages %}}{{%- endif %}}"
        )
    return "".join(parts) + template


def bake(tokenizer: Any, renderer: Renderer) -> None:
    """Write the recipe's chat settings into a tokenizer's template, and make sure that they act as they did.

    Raises:
        DataError: the template cannot carry them.
    """
    if not tokenizer.chat_template:
        return
    chat = renderer.chat
    right = [try_render(renderer, each) for each in CONVERSATIONS]
    template = baked_template(tokenizer.get_chat_template(), chat)
    tokenizer.chat_template = template
    plain = Renderer(tokenizer, Chat())
    if [try_render(plain, each) for each in CONVERSATIONS] != right:
        raise DataError(
            "the recipe's system text or template arguments cannot be written into the chat template",
            "write them into a Jinja file of your own (`chat.template`) and train with it",
            "chat",
        )


def try_render(renderer: Renderer, messages: Sequence[Message]) -> str | None:
    """The prompt of a conversation; None where the template refuses it (many take no system text)."""
    from jinja2.exceptions import TemplateError

    try:
        return renderer.prompt_text(messages)
    except TemplateError:
        return None
