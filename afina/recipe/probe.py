"""Probes of a recipe, and the limits for their answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from afina.recipe.part import Fraction, Named, RecipePart

Role = Literal["recall", "generalization", "retention", "unknown", "claims", "versions"]

TELL_OF_LEARNING: tuple[Role, ...] = ("recall", "generalization", "versions")
"""Roles that a recipe may name and that tell whether something was learned."""


class Probe(RecipePart):
    """Questions with known answers, asked before and after training."""

    path: Named = Field(examples=["probes/new.jsonl"])
    """JSONL rows as in `sources`, relative to `root`. For `versions`: rows of `prompt` and the lists `answer` and
    `outdated`, with texts that only the new and only the old version's answer contains. A column `fact` with the same
    text in all phrasings of one fact makes intervals count that fact once."""
    role: Role = Field(examples=["generalization"])
    """What the questions test. `recall`: questions that are trained; `generalization`: the same facts in phrasings that
    are not; `retention`: what the base knew before; `unknown`: facts it was never told, so that any answer is made up;
    `claims`: "do you know ...?"; `versions`: questions that the new and the old version of something answer
    differently."""
    name: Named | None = None
    """Title in tables; null: the role."""


class Guardrails(RecipePart):
    """Largest share of answers after training that may be broken in each way; 1 switches a guardrail off.

    A share is above its limit when it is so beyond chance (the low end of its 95 % interval). Where the base's own
    share is above the limit too, it is a miss only if more answers turned wrong than right, beyond chance."""

    never_stops: Fraction = 0.05
    """The answer runs into `max_new_tokens` and goes in circles there, or runs on when it is asked again with four
    times the tokens (512 at most), although twice the reference plus 16 tokens would have fitted."""
    loops: Fraction = 0.05
    """The answer repeats itself over and over."""
    open_think: Fraction = 0.05
    """The answer opens a `<think>` block and never closes it."""
    prompt_echo: Fraction = 0.05
    """The answer begins with the question."""
    wrong_language: Fraction = 0.05
    """The answer is in another language than the reference (or else the question)."""
    broken_words: Fraction = 0.05
    """The answer contains U+FFFD, mojibake, or words split in two."""
    chat_markers: Fraction = 0.05
    """The answer contains markers of the chat template."""
    empty: Fraction = 0.05
    """The answer is empty."""


SKILL_QUESTIONS, SKILL_TOKENS = 264, 48
"""Afina's own questions about skills, and how many tokens each may take on average."""


PROMPT_SEEDS, PROMPT_TOKENS = (101, 102), 130
"""Beside a greedy text each prompt of `evaluate.prompts` is continued with these seeds; about so many tokens each."""


class Limits(RecipePart):
    """What the result must reach; a miss ends with exit code 5."""

    learned_min: Fraction | None = None
    """Least share of questions answered right after training, e.g. 0.8; null: no limit. Those of `generalization` and
    `versions` count, or else those of `recall`."""
    broke_max: Fraction = 0.05
    """Largest share of the `retention` questions right before that may be wrong after, and of the skills that may be
    lost; more than that beyond chance is a miss."""
    hallucination_max: Fraction | None = None
    """Largest share of `unknown` questions that may get a made-up answer, e.g. 0.2; null: no limit."""
    guardrails: Guardrails = Guardrails()


class Windows(RecipePart):
    """Windows of held-out text, the same text whatever the tokenizer: how well the model predicts them."""

    bytes: Annotated[int, Field(ge=64)] = 4096
    """Length of a window in bytes of UTF-8, cut at characters."""
    count: Annotated[int, Field(ge=0)] | None = None
    """Most windows, spread evenly over the held-out texts; null: 32 where texts are learned whole (`scratch`, `cpt`),
    else none; 0: none."""


WINDOWS = 32
"""Windows that are read where the recipe does not say."""
