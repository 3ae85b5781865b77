"""What the untrained base answers with passages in its prompt, and what that costs beside the trained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.evaluate.choice import Choice
from afina.evaluate.choice_ranks import longest_row, rank_choices
from afina.evaluate.coverage import held_terms
from afina.evaluate.probes import ProbeSet, Question, ask
from afina.evaluate.retrieval import (
    ASKED_OF_PASSAGES,
    AskedWith,
    DocumentPassage,
    Flags,
    Item,
    ProbeWith,
    Search,
    compare,
    put_passages,
)
from afina.evaluate.scores import RetrievalScores
from afina.evaluate.verdict import ProbeScore
from afina.model.generate.generate_torch import Answer
from afina.model.generate.stored_answers import KeptAnswers
from afina.model.open_model import OpenModel
from afina.model.readers import reader_of
from afina.recipe import Recipe, Retrieval
from afina.run import Progress, no_progress
from afina.text.answer_flaws import after_thinking
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of

TIMED = 8
"""Questions that are answered once more, together, to see how long an answer takes: answers kept from before take no
time."""


FOUND, SECTION = "found", "section"
"""Which passages stand in a prompt: those that the search found, or the section that is asked about."""


@dataclass(frozen=True)
class PassageAnswer:
    """What the base made of one question with passages."""

    flags: Flags
    """What it has right; of coverage each key term."""
    stored: Mapping[str, Any]
    """As a line of ``retrieval.jsonl`` has it."""


@dataclass(frozen=True)
class RetrievalAnswers:
    """Everything that was asked with passages, and what came of it; the training is held against it later."""

    wanted: Retrieval
    searched: int
    probes: tuple[tuple[ProbeWith, tuple[PassageAnswer, ...], tuple[PassageAnswer, ...]], ...]
    """Each probe with what the base made of it: with the passages found, and with the section that is asked about."""
    tokens: tuple[float, float]
    seconds: tuple[float, float] | None

    def against(self, probes: Sequence[ProbeSet], scores: Sequence[ProbeScore]) -> RetrievalScores:
        """Beside what the training did.

        Args:
            scores: of the probes, in their order.
        """
        score_of = {id(probe): score for probe, score in zip(probes, scores, strict=True)}
        compared = [
            compare(each, _flags_of(found), _flags_of(section), score_of[id(each.probe)])
            for each, found, section in self.probes
            if each.found
        ]
        asked = [each for each, *_ in self.probes]
        return RetrievalScores(
            self.wanted.passages,
            self.searched,
            tuple(compared),
            self.tokens,
            self.seconds,
            fewer=sum(each.fewer for each in asked),
            left_out=sum(each.left_out for each in asked),
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of ``retrieval.jsonl``: which question of which probe (counted from 0, of those asked so), which
        passages, whether these hold what is asked for, and the answer."""
        return [
            {"set": number, "probe": each.probe.name, "role": each.probe.role, "passages": which}
            | {"question": one.number, "holding": list(one.holding), **answer.stored}
            for number, (each, found, section) in enumerate(self.probes)
            for which, asked, answers in ((FOUND, each.found, found), (SECTION, each.section, section))
            for one, answer in zip(asked, answers, strict=True)
        ]


def _flags_of(answers: Sequence[PassageAnswer]) -> list[Flags]:
    return [answer.flags for answer in answers]


def probes_of_passages(probes: Sequence[ProbeSet]) -> list[ProbeSet]:
    """Those that are asked with passages, in their order."""
    return [probe for probe in probes if probe.role in ASKED_OF_PASSAGES and (probe.questions or probe.choices)]


@dataclass(frozen=True)
class AskingBase:
    """How the base is asked.

    Args:
        sees: tokens that it sees at most, its answer included; None: no limit is known.
        pad_id: the token that fills up rows.
        kept: answers of the base from before.
        say: is told what is out of the ordinary in how answers are made.
    """

    renderer: Renderer
    recipe: Recipe
    sees: int | None
    pad_id: int
    kept: KeptAnswers | None = None
    progress: Progress = no_progress
    say: Callable[[str], None] | None = None

    def fits(self, item: Item) -> bool:
        """Whether a question has room."""
        if self.sees is None:
            return True
        if isinstance(item, Choice):
            return longest_row(self.renderer, item) <= self.sees
        return self.length(item) + self.recipe.evaluate.max_new_tokens <= self.sees

    def length(self, item: Item) -> int:
        """Tokens of a question's prompt."""
        if isinstance(item, Choice):
            return len(self.renderer.prompt([{"role": "user", "content": item.prompt}]))
        return len(self.renderer.prompt(item.messages, item.tools))


def ask_with_passages(
    models: tuple[OpenModel, OpenModel],
    probes: Sequence[ProbeSet],
    passages: Sequence[DocumentPassage],
    asking: AskingBase,
) -> RetrievalAnswers | None:
    """Ask the base every probe that tells of learning, with passages in the prompt; None where there is nothing to ask.

    Args:
        models: before training, which is asked, and after it, whose seconds are taken.
    """
    wanted = asking.recipe.evaluate.retrieval
    told = probes_of_passages(probes)
    if wanted is None or not told or not passages:
        return None
    asked = put_into(told, passages, wanted, asking)
    timed = _evenly([(each.probe.questions[one.number], one.item) for each in asked if each.probe.questions
                     for one in each.found], TIMED)  # fmt: skip
    with models[0]() as base:
        found = [
            (each, tuple(_answers(base, each.found, asking)), tuple(_answers(base, each.section, asking)))
            for each in asked
        ]
        with_passages = _seconds(base, [two for _, two in timed], asking)
    with models[1]() as trained:
        alone = _seconds(trained, [one for one, _ in timed], asking)
    seconds = (alone, with_passages) if alone is not None and with_passages is not None else None
    return RetrievalAnswers(wanted, len(passages), tuple(found), mean_tokens(asked, asking), seconds)


def put_into(
    told: Sequence[ProbeSet], passages: Sequence[DocumentPassage], wanted: Retrieval, asking: AskingBase
) -> list[ProbeWith]:
    """Probes with the passages that a search finds for each of their questions."""
    search = Search(passages)
    return [
        put_passages(
            probe,
            search,
            passages=wanted.passages,
            most=wanted.questions,
            language=asking.recipe.dataset.language,
            fits=asking.fits,
        )
        for probe in told
    ]


def mean_tokens(asked: Sequence[ProbeWith], asking: AskingBase) -> tuple[float, float]:
    """Tokens of a prompt, on average: without passages, and with those found."""
    prompts = [(_alone(each.probe, one.number), one.item) for each in asked for one in each.found]
    lengths = [[asking.length(pair[side]) for pair in prompts] for side in (0, 1)]
    mean = [sum(side) / max(1, len(side)) for side in lengths]
    return mean[0], mean[1]


def _alone(probe: ProbeSet, number: int) -> Item:
    return probe.choices[number] if probe.choices else probe.questions[number]


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    return list(items) if len(items) <= most else [items[at * len(items) // most] for at in range(most)]


def _answers(model: Any, asked: Sequence[AskedWith], asking: AskingBase) -> list[PassageAnswer]:
    """What the model makes of each question."""
    items = [each.item for each in asked]
    if choices := [each for each in items if isinstance(each, Choice)]:
        ranked = rank_choices(
            reader_of(model),
            asking.renderer,
            choices,
            asking.recipe.dataset.language,
            pad_id=asking.pad_id,
            batch_tokens=asking.recipe.train.batch_tokens,
            kept=asking.kept,
            progress=asking.progress,
        )
        return [
            PassageAnswer(
                (each.right,), {"base_correct": each.right, "base_scores": [round(score, 4) for score in each.scores]}
            )
            for each in ranked
        ]
    questions = [each for each in items if isinstance(each, Question)]
    answers = ask(
        model,
        asking.renderer,
        questions,
        max_new_tokens=asking.recipe.evaluate.max_new_tokens,
        kept=asking.kept,
        progress=asking.progress,
        say=asking.say,
    )
    any_case = "case" in folds_of(asking.renderer.tokenizer)  # as the answers that these are held against
    return [_answered(*pair, any_case=any_case) for pair in zip(questions, answers, strict=True)]


def _answered(question: Question, answer: Answer, *, any_case: bool) -> PassageAnswer:
    flags = answer_flags(question, answer.text, any_case=any_case)
    stored = {"base": answer.text, "base_stopped": answer.stopped, "base_counts": list(flags)}
    return PassageAnswer(flags, stored)


def answer_flags(question: Question, answer: str, *, any_case: bool) -> Flags:
    """What an answer has right; of coverage each key term.

    Args:
        any_case: whether capitals count for nothing, as where a tokenizer has none.
    """
    said = after_thinking(answer)
    return (
        tuple(held_terms(said, question.terms)) if question.terms else (question.grade(said, any_case=any_case).said,)
    )


def _seconds(model: Any, questions: Sequence[Any], asking: AskingBase) -> float | None:
    """Mean seconds for an answer, all asked together, after one that is not counted."""
    if not questions:
        return None
    limit = asking.recipe.evaluate.max_new_tokens
    ask(model, asking.renderer, questions[:1], max_new_tokens=1)
    started = time.perf_counter()
    ask(model, asking.renderer, questions, max_new_tokens=limit)
    return (time.perf_counter() - started) / len(questions)
