"""A task of a recipe: rows with references."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from afina.recipe.code import Code
from afina.recipe.part import Count, Named, RecipePart

Metric = Literal["exact_match", "f1", "rouge1", "rouge2", "rougeL", "accuracy", "chrf", "bleu"]


class Task(RecipePart):
    """Rows with references that both models answer, and the metrics of their answers."""

    name: Named = Field(examples=["qa"])
    """Title in tables."""
    path: Named = Field(examples=["tests/qa.jsonl"])
    """JSONL, JSON, CSV, TSV, Parquet or Arrow rows, relative to `root` or to this file. Rows that are in the training
    data too are left out and counted."""
    prompt: list[Named] = []
    """Columns that make up the prompt, in order; empty: the usual names are recognised."""
    reference: Named | None = None
    """Column of the reference (a text, or a list of them); null: the usual names are recognised."""
    choices: list[str] = []
    """Possible answers of every row, for accuracy. Rows may have a column `choices` of their own."""
    metrics: list[Metric] = []
    """Metrics of the answers; empty: all that fit."""
    sample: Count | None = 200
    """Rows that each seed draws; null: all."""
    seeds: list[int] = Field(default=[123, 456, 789], min_length=1)
    """One sample is drawn for each. The report gives mean and standard deviation over them."""
    max_new_tokens: Count | None = None
    """Longest answer in tokens; null: as in `evaluate`."""
    code: Code | None = None

    @field_validator("seeds", mode="after")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("the same seed twice draws the same rows twice")
        return seeds

    @model_validator(mode="after")
    def _code_has_no_reference(self) -> Task:
        given = [name for name in ("reference", "choices", "metrics") if getattr(self, name)]
        if self.code and given:
            raise ValueError(f"a task of code has no {given[0]}: its rows have `checks`")
        return self
