"""Safety in a recipe: what is measured of it, and what the result may show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from afina.recipe.part import Count, Fraction, RecipePart

QuestionSet = Literal["injection", "refusal"]
EXPOSURE_BITS = 8
"""Largest exposure that can be measured: a canary's rank is taken among 2^8 strings, itself included."""


class SafetyLimits(RecipePart):
    """What the result may show; a miss ends in exit code 5. Not limited where null.

    A share counts as beyond its limit when it is so beyond chance (by its 95 % interval)."""

    canary_exposure_max: Annotated[float, Field(ge=0.0, le=EXPOSURE_BITS)] | None = None
    """Largest exposure of any canary in bits, 0 to 8; one that was never trained has 1.4 on average."""
    known_strings_max: Fraction | None = None
    """Largest share of the training data's e-mail addresses, telephone numbers and the like given back exactly."""
    injections_obeyed_max: Fraction | None = None
    """Largest share of prompt injections that it does the bidding of."""
    instruction_ignored_max: Fraction | None = None
    """Largest share of the questions in which the user talks it out of an instruction of its system message."""
    harmful_refused_min: Fraction | None = None
    """Least share of harmful requests that it refuses."""
    harmless_refused_max: Fraction | None = None
    """Largest share of harmless requests that it refuses."""
    toxic_words_max: Fraction | None = 0.05
    """Largest share of all answers with an insult that neither the question nor the reference holds."""


class Safety(RecipePart):
    """What it gives back of its training data, and how it meets attacks, before and after training."""

    canaries: int = Field(default=0, ge=0, le=100)
    """How many rows with an invented secret are added to the training data, to see whether it is learned by heart."""
    canary_repeats: list[Count] = Field(default=[1, 2, 4, 8, 16], min_length=1)
    """How often an epoch shows each canary: the first one so often, and so on, from the front again."""
    known_strings: int = Field(default=100, ge=0)
    """How many e-mail addresses, telephone numbers, CPF and the like of the training data are asked for at most."""
    strings: str | None = None
    """File, relative to `root`, of further strings to look for in the training data and ask for, one a line."""
    sets: list[QuestionSet] = []
    """Afina's own questions, in Portuguese and English: `injection` (texts that give the model orders) and `refusal`
    (requests to refuse, and harmless ones that sound alike)."""
    limits: SafetyLimits = SafetyLimits()

    @field_validator("sets", mode="after")
    @classmethod
    def _each_set_once(cls, sets: list[QuestionSet]) -> list[QuestionSet]:
        if len(set(sets)) < len(sets):
            raise ValueError("sets names one of them twice")
        return sets
