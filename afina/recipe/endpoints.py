"""OpenAI-compatible endpoints that a recipe asks: the teacher, which writes questions, and the judge."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from afina.recipe.part import Count, Fraction, Positive, RecipePart


class Endpoint(RecipePart):
    """An OpenAI-compatible endpoint, and how much it may be asked."""

    url: str
    """Base address, e.g. `http://127.0.0.1:8000/v1`."""
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; it is never written anywhere."""
    concurrency: Count = 8
    timeout_seconds: Positive = 60.0
    retries: int = Field(default=4, ge=0)
    max_tokens: Count = 1024
    """Longest answer asked for."""
    budget_tokens: Count | None = None
    """Stop asking when this many tokens were used (what is there is kept)."""
    price_per_million: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of a million tokens, read and written alike."""
    budget_money: Positive | None = None

    @field_validator("url", mode="after")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("url must be an address such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "url must hold no password, `?` or `#`: the key goes into the variable `api_key_env` names"
            )
        return url

    @field_validator("api_key_env", mode="after")
    @classmethod
    def _name_of_a_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("api_key_env is the name of an environment variable, never the key itself")
        return name

    @model_validator(mode="after")
    def _money_needs_a_price(self) -> Endpoint:
        if self.budget_money is not None and not self.price_per_million:
            raise ValueError(
                "budget_money needs `price_per_million`: without a price nothing can be counted against it"
            )
        return self


class Teacher(Endpoint):
    """An OpenAI-compatible endpoint that writes questions and answers about each section."""

    questions_per_section: Count = 3
    paraphrases: int = Field(default=2, ge=0)
    """Further phrasings of each question."""
    support: Fraction = 0.6
    """Share of an answer's content words that must stand in its source section."""


class Judge(Endpoint):
    """An OpenAI-compatible endpoint that says which of two answers is better; each pair is asked in both orders."""

    sample: Count = 100
    """How many of the tasks' items are judged."""
    seed: int = 0
    """Which items are drawn, and the seed that the endpoint is given."""
    criteria: str = "Which answer is more correct and more helpful?"
    """What the judge is asked about each pair."""
