"""A small base behind the real server, with room for conversations and with templates of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
from test_serve import run_server, url_of
from tiny import make_base
from waiting import LONGEST

from afina.serve.driver import Driver
from afina.serve.opened import find_target, open_models

TOOLS_TEMPLATE = """\
{%- if tools %}<|system|>You may call:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
To call, write <tool_call>
{"name": ..., "arguments": ...}
</tool_call>{{ eos_token }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|user|><tool_response>
{{ message.content }}
</tool_response>{{ eos_token }}
{%- else %}<|{{ message.role }}|>{{ message.content }}
{%- for call in message.tool_calls or [] %}
{{- "\\n" if message.content or not loop.first }}<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>
{%- endfor %}{{ eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
"""As Hermes and Qwen write tools, calls and results."""


class Asked:
    """A server that runs, and its engine's driver."""

    def __init__(self, url: str, driver: Driver, models: Any) -> None:
        self.url, self.driver, self.models = url, driver, models
        self.headers = {"Authorization": "Bearer key"}

    @cached_property
    def http(self) -> httpx.Client:
        """With the key, and the connection kept: a new client a request costs more than its answer."""
        return httpx.Client(headers=self.headers, timeout=LONGEST)

    @cached_property
    def client(self) -> openai.OpenAI:
        """OpenAI's own."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="key", max_retries=0)


@contextmanager
def serving(folder: Path, *, template: str | None = None, context: int = 1024, **options: Any) -> Iterator[Asked]:
    """A base named ``base`` with room for `context` tokens."""
    # Untied and drawn wide: it says something else to each prompt, where a tied one repeats the last token.
    base = make_base(folder / "base", tie_word_embeddings=False, initializer_range=0.4)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    models, _ = open_models(find_target(str(base)), {})
    if template is not None:
        models.tokenizer.chat_template = template
    server, driver = run_server(models, **options)
    try:
        yield Asked(url_of(server), driver, models)
    finally:
        server.should_exit = True
