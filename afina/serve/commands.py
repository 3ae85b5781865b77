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
    target: Target, adapters: Mapping[str, Target], looked: Preflight, *, host: str, port: int
) -> list[str]:
    """``vllm serve`` for a base with adapters (checked against vLLM 0.32's own parser).

    A key is not among the words, where every user of the machine could read it: vLLM takes ``VLLM_API_KEY`` from the
    environment.
    """
    words = ["vllm", "serve", target.base, "--host", host, "--port", str(port)]
    words += ["--max-model-len", str(looked.context)]
    named = _named(target, adapters)
    if named:
        rank = next(each for each in VLLM_RANKS if each >= looked.rank)
        words += ["--enable-lora", "--max-loras", str(len(named)), "--max-lora-rank", str(rank), "--lora-modules"]
        words += [_lora_module(name, folder) for name, folder in named.items()]
        if target.recipe and target.recipe.base_revision:
            words += ["--revision", target.recipe.base_revision]
    else:
        words += ["--served-model-name", target.name]
    if target.recipe and target.recipe.trust_remote_code:
        words += ["--trust-remote-code"]
    if target.four_bit:
        words += ["--quantization", "bitsandbytes"]
    if (template := _template_file(target)) is not None:
        words += ["--chat-template", str(template)]
    if target.chat.template_args:
        words += ["--default-chat-template-kwargs", json.dumps(target.chat.template_args)]
    return words


def _lora_module(name: str, folder: Path) -> str:
    """vLLM splits NAME=PATH at every equals sign, and takes what holds a comma for JSON.

    >>> _lora_module("a", Path("runs/a")), _lora_module("a", Path("runs/x=1"))
    ('a=runs/a', '{"name": "a", "path": "runs/x=1"}')
    """
    if set("=,") & set(f"{name}{folder}"):
        return json.dumps({"name": name, "path": str(folder)})
    return f"{name}={folder}"


def _template_file(target: Target) -> Path | None:
    """The run's own template, where it is not the base's: the one stored beside the adapter, or the recipe's file."""
    if target.chat.template is None or target.adapter is None:
        return None
    stored = target.adapter / "chat_template.jinja"
    return stored if stored.is_file() else target.root / target.chat.template


def mlx_command(
    target: Target, adapters: Mapping[str, Target], *, host: str, port: int, api_key: str | None = None
) -> list[str]:
    """``mlx_lm.server`` for a model without PEFT adapters (checked against mlx-lm 0.32's own parser).

    Raises:
        RecipeError: adapters are asked for, which it wants in its own format; or a key, which it knows nothing of.
    """
    named = _named(target, adapters)
    if named:
        raise RecipeError(
            "mlx_lm.server reads adapters in its own format, not PEFT's",
            f"afina export {target.run or next(iter(named))} --to mlx, and serve that folder",
            "--engine mlx",
        )
    if api_key:
        raise RecipeError(
            "mlx_lm.server asks nobody for a key", "leave --api-key out and stay with 127.0.0.1", "--engine mlx"
        )
    words = [sys.executable, "-m", "mlx_lm", "server", "--model", target.base, "--host", host, "--port", str(port)]
    if target.chat.template_args:
        words += ["--chat-template-args", json.dumps(target.chat.template_args)]
    return words


def _named(target: Target, adapters: Mapping[str, Target]) -> dict[str, Path]:
    """Adapters' folders by name, the run's own first."""
    own = {target.name: target.adapter} if target.adapter else {}
    return own | {name: each.adapter or Path(each.base) for name, each in adapters.items()}


def show_command(words: list[str], api_key: str | None = None) -> str:
    r"""As a person would paste it; a key is named, not shown.

    >>> show_command(["vllm", "serve", "a b"], "secret")
    'VLLM_API_KEY="$AFINA_API_KEY" vllm serve \'a b\''
    """
    return ('VLLM_API_KEY="$AFINA_API_KEY" ' if api_key else "") + shlex.join(words)


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
                f"# aider --map-tokens 0 --model openai/{model}",
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
