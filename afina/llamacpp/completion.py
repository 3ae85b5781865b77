"""A request of ours as llama.cpp's ``POST /completion`` takes it, and its answer as ours. Token ids both ways.

llama.cpp reads no template and splits no text here: the prompt's ids are those that training and evaluation use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from afina.errors import RecipeError
from afina.model.generate.request import BASE, Request, TokenLogprob

SEEDS = 2**32 - 1
"""llama.cpp's seeds are below; this one draws another answer every time."""
LEAST = -9999.0
"""Stands for a probability of zero."""


def completion_body(request: Request, adapters: int, *, streamed: bool) -> dict[str, Any]:
    """The JSON of a request.

    Args:
        adapters: how many the server has; ``request.adapter`` is the place of one, as text, or the base.

    Raises:
        RecipeError: the answer is to have a form that llama.cpp's server does not hold it to.

    >>> body = completion_body(Request(prompt=[5, 6], max_new_tokens=3, adapter="1"), 2, streamed=False)
    >>> body["prompt"], body["lora"]
    ([5, 6], [{'id': 0, 'scale': 0.0}, {'id': 1, 'scale': 1.0}])
    """
    chosen = None if request.adapter in (None, BASE) else int(request.adapter or 0)
    body: dict[str, Any] = {
        "prompt": list(request.prompt),
        "n_predict": request.max_new_tokens,
        "stream": streamed,
        "return_tokens": True,
        "cache_prompt": True,
        # every adapter by name: one that is left out keeps what the server was started with
        "lora": [{"id": number, "scale": float(number == chosen)} for number in range(adapters)],
        # nothing but what was asked for: llama.cpp's own defaults cut and penalize
        "samplers": ["temperature", "top_p"] if request.temperature > 0 else ["top_k"],
        "top_k": 1,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": SEEDS if request.seed is None else request.seed % SEEDS,
    }
    if request.logprobs is not None:
        body |= {"n_probs": max(1, request.logprobs), "post_sampling_probs": False}
    if request.grammar is not None:
        body["json_schema"] = _schema_of(request.grammar)
    return body


def _schema_of(grammar: str) -> dict[str, Any]:
    """The JSON schema of a form, see :func:`afina.model.generate.grammar.json_grammar`."""
    (form,) = json.loads(grammar)["grammars"]
    if "json_schema" not in form:
        raise RecipeError(
            "an answer that must call a tool is held to its form by afina's own engine alone",
            "set tool_choice to auto, or serve with --engine local",
            "tool_choice",
        )
    schema: dict[str, Any] = form["json_schema"]
    return schema


def logprobs_of(found: Sequence[Mapping[str, Any]], top: int) -> list[TokenLogprob]:
    """llama.cpp's ``completion_probabilities``, with the `top` likeliest of each place.

    >>> logprobs_of([{"id": 4, "logprob": -0.5, "top_logprobs": [{"id": 4, "logprob": -0.5}]}], 0)
    [TokenLogprob(token=4, logprob=-0.5, top=())]
    """
    return [
        TokenLogprob(
            each["id"],
            _finite(each["logprob"]),
            tuple((other["id"], _finite(other["logprob"])) for other in each["top_logprobs"][:top]),
        )
        for each in found
    ]


def _finite(logprob: float | None) -> float:
    return LEAST if logprob is None else max(float(logprob), LEAST)
