"""Rows for a source with `replay: true`: what a base itself answers to everyday questions.

Nothing in its own answers is new to it, so they hold it where it is while it learns something else. Left out is what
would teach it to write on and on: answers that did not end by themselves, that go in circles, or that are empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.model.base import find_base, hash_model
from afina.model.generate.stored_answers import ANSWERS_FOLDER, KeptAnswers
from afina.recipe import Chat, Recipe, Source
from afina.run import Progress, hash_value, no_progress, parse_json
from afina.text.answer_flaws import loops
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.whole import write_whole

LONGEST_ANSWER = 160
"""Tokens; what is longer has no end of its own, and is no replay."""
FEWEST = 4
"""Fewer rows hold nothing."""
FLAWS = ("did not end", "went in circles", "said nothing")


def flaw_of(answer: str, *, ended: bool) -> str:
    """Which of :data:`FLAWS` an answer of a base has, that would be learned with it; empty for none.

    Args:
        ended: whether it ended by itself.

    >>> flaw_of("Em Faro.", ended=True), flaw_of("Em Faro, que", ended=False), flaw_of(" ", ended=False)
    ('', 'did not end', 'said nothing')
    """
    if not answer.strip():
        return "said nothing"
    if loops(answer):
        return "went in circles"
    return "" if ended else "did not end"


@dataclass(frozen=True, slots=True)
class BaseReplay:
    """What became of the questions."""

    rows: tuple[dict[str, str], ...]
    """`prompt` and `completion`, in the order of the questions."""
    asked: int
    left_out: dict[str, int]
    """Why an answer is no row -> how many."""

    def describe(self) -> str:
        """
        >>> BaseReplay(({"prompt": "a", "completion": "b"},), 4, {"did not end": 2, "went in circles": 1}).describe()
        '1 of 4 answers; left out: 2 did not end, 1 went in circles'
        """
        why = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        return f"{len(self.rows)} of {self.asked} answers" + (f"; left out: {why}" if why else "")

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"rows": len(self.rows), "asked": self.asked, "left_out": self.left_out}

    def write(self, file: Path) -> None:
        """A row on each line."""
        write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


def everyday_prompts(language: str) -> list[str]:
    """Everyday questions, none of which afina asks when it looks for what was forgotten.

    Args:
        language: its tag, such as `en` or `pt-BR`.

    Raises:
        RecipeError: there are none in this language.

    >>> everyday_prompts("pt-BR")[0], len(everyday_prompts("en"))
    ('Explique em duas frases por que o céu é azul.', 64)
    """
    known = parse_json(files("afina").joinpath("everyday.json").read_text(encoding="utf-8"))
    if (found := known.get(language[:2].lower())) is None:
        raise RecipeError(
            f"there are no everyday questions in {language!r}",
            f"use one of {', '.join(known)}, or name a file of your own questions: --prompts FILE",
            "--language",
        )
    return [str(each) for each in found]


def base_replay(
    base: str,
    prompts: Sequence[str],
    runs: Path,
    *,
    progress: Progress = no_progress,
    say: Callable[[str], None],
) -> BaseReplay:
    """Put questions to a base; greedy answers of at most :data:`LONGEST_ANSWER` tokens.

    Args:
        runs: where answers are kept, beside those of evaluations: a second start asks nothing.

    Raises:
        BaseError: it has no chat template, or hardly an answer of it ends by itself.
    """
    from afina.model.generate.generate_torch import generate
    from afina.model.load_torch import load_base, pick_device

    folder = find_base(base, say=say)
    tokenizer = load_tokenizer(str(folder), Chat())
    if not tokenizer.chat_template:
        raise BaseError(
            "it has no chat template, so that no question can be put to it",
            "name a base that answers; the replay of one that does not is text like that which it was trained on",
            base,
        )
    renderer = Renderer(tokenizer, Chat())
    kept = KeptAnswers(
        runs / ANSWERS_FOLDER, hash_value({"base": hash_model(folder), "four_bit": False, "adapter": None})
    )
    recipe = Recipe(name="replay", base=base, sources=[Source(path=".")])
    model = load_base(folder, recipe, pick_device("auto"))
    asked = [renderer.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    answers = generate(model, renderer, asked, max_new_tokens=LONGEST_ANSWER, kept=kept, progress=progress, say=say)
    rows: list[dict[str, str]] = []
    left_out = dict.fromkeys(FLAWS, 0)
    for prompt, answer in zip(prompts, answers, strict=True):
        if flaw := flaw_of(answer.text, ended=answer.stopped):
            left_out[flaw] += 1
        else:
            rows.append({"prompt": prompt, "completion": answer.text})
    found = BaseReplay(tuple(rows), len(prompts), left_out)
    if len(rows) < FEWEST:
        raise BaseError(
            f"its answers are no replay: {found.describe()} (at most {LONGEST_ANSWER} tokens)",
            "name a base that answers and ends, or ask it more (--prompts FILE); without any, leave `replay` out",
            base,
        )
    return found
