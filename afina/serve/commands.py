"""The command lines of the servers that people already use, and the settings of their clients."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from afina.errors import RecipeError
from afina.serve.opened import Target
from afina.serve.preflight import VLLM_RANKS, Preflight

Client = Literal["aider", "continue", "openai"]


def vllm_command(
    target: Target, adapters: Mapping[str, Target], looked: Preflight, *, host: str, port: int, api_key: str | None
) -> list[str]:
    """``vllm serve`` for a base with adapters (flags of vLLM 0.11)."""
    words = ["vllm", "serve", target.base, "--host", host, "--port", str(port)]
    words += ["--max-model-len", str(looked.context)]
    named = _named(target, adapters)
    if named:
        rank = next(each for each in VLLM_RANKS if each >= looked.rank)
        words += ["--enable-lora", "--max-loras", str(len(named)), "--max-lora-rank", str(rank), "--lora-modules"]
        words += [f"{name}={folder}" for name, folder in named.items()]
    else:
        words += ["--served-model-name", target.name]
    if target.four_bit:
        words += ["--quantization", "bitsandbytes"]
    if target.chat.template not in (None, "chatml"):
        words += ["--chat-template", str(target.root / str(target.chat.template))]
    return words + (["--api-key", api_key] if api_key else [])


def mlx_command(target: Target, adapters: Mapping[str, Target], *, host: str, port: int) -> list[str]:
    """``mlx_lm.server`` for a base with at most one adapter.

    Raises:
        RecipeError: it serves one adapter at a time, and wants it in its own format.
    """
    named = _named(target, adapters)
    if named:
        raise RecipeError(
            "mlx_lm.server reads adapters in its own format, not PEFT's",
            f"afina export {target.run or next(iter(named))} --to mlx, and serve that folder",
            "--engine mlx",
        )
    words = [sys.executable, "-m", "mlx_lm", "server", "--model", target.base, "--host", host, "--port", str(port)]
    if target.chat.template_args:
        words += ["--chat-template-args", json.dumps(target.chat.template_args)]
    return words


def _named(target: Target, adapters: Mapping[str, Target]) -> dict[str, Path]:
    """Adapters' folders by name, the run's own first."""
    own = {target.name: target.adapter} if target.adapter else {}
    return own | {name: each.adapter or Path(each.base) for name, each in adapters.items()}


def show_command(words: list[str]) -> str:
    """As a person would paste it; a key is not shown.

    >>> show_command(["vllm", "serve", "a b", "--api-key", "secret"])
    "vllm serve 'a b' --api-key '***'"
    """
    hidden = ["***" if before == "--api-key" else word for before, word in zip(["", *words], words, strict=False)]
    return shlex.join(hidden)


def client_settings(client: Client, model: str, url: str, context: int) -> str:
    """What to put where, so that a client asks this server.

    >>> print(client_settings("openai", "demo", "http://127.0.0.1:8000", 2048))
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1
    export OPENAI_API_KEY=none   # the server's --api-key, where it has one
    # model: demo
    """
    place = f"{url.rstrip('/')}/v1"
    if client == "openai":
        return (
            f"export OPENAI_BASE_URL={place}\n"
            "export OPENAI_API_KEY=none   # the server's --api-key, where it has one\n"
            f"# model: {model}"
        )
    answer = max(16, context // 4)
    if client == "aider":
        settings = [
            f"- name: openai/{model}",
            "  edit_format: whole       # small models write whole files more safely than diffs",
            "  use_repo_map: false",
            "  use_temperature: 0.1",
            "  extra_params:",
            f"    max_tokens: {answer}",
        ]
        known = {
            f"openai/{model}": {
                "max_input_tokens": context - answer,
                "max_output_tokens": answer,
                "max_tokens": answer,
                "input_cost_per_token": 0,
                "output_cost_per_token": 0,
                "litellm_provider": "openai",
                "mode": "chat",
            }
        }
        return "\n".join(
            [
                f"export OPENAI_API_BASE={place}",
                "export OPENAI_API_KEY=none   # the server's --api-key, where it has one",
                "",
                "# .aider.model.settings.yml",
                *settings,
                "",
                "# .aider.model.metadata.json",
                json.dumps(known, indent=2),
                "",
                f"# aider --model openai/{model}",
            ]
        )
    return "\n".join(
        [
            "# ~/.continue/config.yaml",
            "models:",
            f"  - name: {model}",
            "    provider: openai",
            f"    model: {model}",
            f"    apiBase: {place}",
            "    apiKey: none            # the server's --api-key, where it has one",
            "    defaultCompletionOptions:",
            f"      contextLength: {context}",
            f"      maxTokens: {answer}",
            "      temperature: 0.1",
        ]
    )
