"""Probes of a recipe, and what their answers have to reach."""

from __future__ import annotations

from typing import Literal

from afina.recipe.part import Fraction, RecipePart

Role = Literal["recall", "generalization", "retention", "unknown", "claims", "versions"]


class Probe(RecipePart):
    """Questions with known answers, asked before and after training."""

    path: str
    """JSONL rows as in `sources`, relative to `root`; for `versions` rows of `prompt` and the lists `answer` and
    `outdated`: texts that only the new and only the old version's answer holds."""
    role: Role
    """`recall`: questions trained; `generalization`: same facts, phrasings never trained; `retention`: what the base
    knew before; `unknown`: facts never told to it, so that what it says is made up; `claims`: "do you know ...?";
    `versions`: questions that the new and the old version of something answer otherwise."""
    name: str | None = None
    """Title in tables; the role where not given."""


class Guardrails(RecipePart):
    """Largest shares of the answers after training that may be as they should not be; 1 switches one off.

    A share counts as above its limit when it is so beyond chance (the low end of its 95 % interval)."""

    never_stops: Fraction = 0.05
    """Reaches `max_new_tokens` although twice the reference and 16 tokens more would have fitted."""
    loops: Fraction = 0.05
    """Says the same again and again."""
    open_think: Fraction = 0.05
    """Begins to think (`<think>`) and never ends."""
    prompt_echo: Fraction = 0.05
    """Begins with the question."""
    wrong_language: Fraction = 0.05
    """Another language than the reference's, or else the question's."""
    broken_words: Fraction = 0.05
    """U+FFFD, text decoded wrongly, or words split in two."""
    chat_markers: Fraction = 0.05
    """Marks of the chat template stand in the text."""
    empty: Fraction = 0.05
    """Nothing at all."""


class Limits(RecipePart):
    """What the result must reach; a miss ends in exit code 5."""

    learned_min: Fraction | None = None
    """Least exact match on `generalization` and `versions` (or else `recall`) after training."""
    broke_max: Fraction = 0.05
    """Largest share of the `retention` answers right before that may be wrong after."""
    hallucination_max: Fraction | None = None
    """Largest share of the `unknown` questions that may be answered with something made up after training."""
    guardrails: Guardrails = Guardrails()
