"""What goes into the generation engine and what comes out of it. Plain values, loaded without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

BASE = "__base__"
"""Names the base without any adapter; PEFT's own word for it in a batch of several."""

Finish = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A written token, its natural log probability, and the likeliest tokens at its place with theirs.

    Probabilities are the model's own: temperature and top_p do not enter.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to write, and how."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    max_new_tokens: int
    adapter: str | None = None
    """A PEFT adapter's name, :data:`BASE` for none; None takes the model as it stood when the engine was made."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer and are not part of it."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    """Of sampling; None draws another answer every time."""
    logprobs: int | None = None
    """None: none. 0: of the tokens written. k: of the k likeliest at each place, too."""
    grammar: str | None = None
    """What the answer must look like, see :mod:`afina.model.generate.grammar`; it ends where nothing can follow."""
    stream: bool = False
    """Whether :attr:`Produced.text` is wanted at every step; the text at the end is always there."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All that came of a request."""

    tokens: list[int]
    """What was written, without the stop token."""
    text: str
    """Its text, cut before a stop string."""
    finish: Finish
    """``stop`` at a stop token or string, ``length`` at ``max_new_tokens``, ``cancelled``; ``failed``: logits were
    NaN, or no token fits the grammar (any more)."""
    prompt_tokens: int
    written: int
    """Tokens that the model wrote, the stop token included."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    lead: float | None = None
    """Smallest lead of a greedy choice over the second likeliest token, in logits; None when sampled."""


@dataclass(frozen=True, slots=True)
class Produced:
    """What one step gave to one request."""

    id: int
    tokens: list[int]
    """The new token; empty where it was the stop token, or the request was cancelled."""
    text: str = ""
    """With ``stream``: text that is ready to be shown. All of a request's pieces come to :attr:`Finished.text`."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    done: Finished | None = None
    """There with a request's last piece."""


@dataclass(slots=True)
class Stats:
    """Counts since the engine was made."""

    requests: int = 0
    read: int = 0
    """Prompt tokens."""
    written: int = 0
    steps: int = 0
    near_ties: int = 0
    """Greedy choices too near to call in a batch, decided alone."""
    alone: int = 0
    """Requests that could not share a forward with rows of other lengths from the start."""
