"""OpenAI-compatible endpoints that a recipe asks: the teacher, which writes questions, and the judge."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from afina.recipe.part import Count, Fraction, Named, Positive, RecipePart

BASE_AS_TEACHER = "base"


def is_local(url: str) -> bool:
    """Whether an address is this machine's own: no proxy of the environment reaches it, nor should have its key.

    >>> is_local("http://127.0.0.1:8000/v1"), is_local("https://oracle.example/v1")
    (True, False)
    """
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


class Endpoint(RecipePart):
    """An OpenAI-compatible endpoint, and how much it may be asked."""

    needs_url: ClassVar[bool] = True
    url: str = Field(examples=["http://127.0.0.1:8000/v1"])
    """Base address, e.g. `http://127.0.0.1:8000/v1`."""
    model: Named = Field(examples=["my-model"])
    """Name of the model there."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. The key itself is never written anywhere."""
    concurrency: Count = 8
    """Requests at a time."""
    timeout_seconds: Positive = 60.0
    """Time limit of a request."""
    retries: int = Field(default=4, ge=0)
    """How often a failed request is repeated."""
    max_tokens: Count = 1024
    """Longest answer in tokens."""
    budget_tokens: Count | None = None
    """Stop asking after this many tokens and keep what is there; null: no limit."""
    price_per_million: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of a million tokens, prompt or answer."""
    budget_money: Positive | None = None
    """Stop asking at this cost and keep what is there; null: no limit."""

    @field_validator("url", mode="after")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        if not url and not cls.needs_url:
            return url
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
    """An OpenAI-compatible endpoint that writes questions and answers about each section of your documents; or the base
    itself (`{model: base}`)."""

    needs_url: ClassVar[bool] = False
    url: str = ""
    """Base address, e.g. `http://127.0.0.1:8000/v1`; none with `model: base`."""
    model: Named = Field(examples=["base"])
    """Name of the model there. `base`, without `url`: the recipe's own base, asked in this process. A small one may
    write little that its sections support: what was kept is counted."""
    questions_per_section: Count = 3
    """Questions about each section."""
    paraphrases: int = Field(default=2, ge=0)
    """More phrasings of each question."""
    support: Fraction = 0.6
    """Least share of an answer's content words that its section must contain."""

    @property
    def is_base(self) -> bool:
        """Whether the recipe's own base is asked."""
        return not self.url

    @model_validator(mode="after")
    def _only_the_base_has_no_address(self) -> Teacher:
        if not self.url and self.model.split(" ")[0] != BASE_AS_TEACHER:
            raise ValueError(f"the teacher {self.model} needs `url`; only `model: base` is asked in this process")
        return self


class Judge(Endpoint):
    """An OpenAI-compatible endpoint that judges which of two answers to a task is better, asked in both orders."""

    sample: Count = 100
    """How many of the tasks' rows are judged."""
    seed: int = 0
    """Seed that draws the rows and that the endpoint is given."""
    criteria: str = "Which answer is more correct and more helpful?"
    """What the judge is asked about each pair of answers."""
