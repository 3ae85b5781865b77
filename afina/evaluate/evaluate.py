"""Measure the base and the trained model on the same questions, and judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.dataset.example import Example
from afina.evaluate.loss import LossScore, PairScore, held_out_loss, held_out_pairs
from afina.evaluate.probes import ProbeSet, Question, ask, exact_match
from afina.evaluate.verdict import ProbeScore, Verdict, judge
from afina.model.generate import Answer
from afina.model.generate_kept import KeptAnswers
from afina.recipe import Recipe
from afina.run import Progress, no_progress, write_json, write_whole
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row

OpenModel = Callable[[], AbstractContextManager[Any]]
"""Opens a model in evaluation mode for the time of a ``with`` block."""


@dataclass(frozen=True)
class Measured:
    """What one model did."""

    loss: LossScore | None
    pairs: PairScore | None
    answers: dict[str, list[Answer]]


def evaluate(
    before: OpenModel,
    after: OpenModel,
    renderer: Renderer,
    recipe: Recipe,
    held_out: Sequence[Row],
    held_out_examples: Sequence[Example],
    probes: Sequence[ProbeSet],
    folder: Path,
    progress: Progress = no_progress,
    kept: tuple[KeptAnswers | None, KeptAnswers | None] = (None, None),
    say: Callable[[str], None] | None = None,
) -> Verdict:
    """Measure both models; writes ``predictions.jsonl``, ``samples.jsonl`` and, last, ``scores.json``.

    Args:
        kept: answers from before of the model before and after training.
        say: is told what is out of the ordinary in how they were made.
    """
    samples = [_question(example) for example in held_out_examples if example.messages][: recipe.evaluate.samples]
    asked = {str(number): probe.questions for number, probe in enumerate(probes)} | {"samples": tuple(samples)}
    measured = [
        _measure(open_model, renderer, recipe, held_out, asked, progress, name, answers, say)
        for name, open_model, answers in (("base", before, kept[0]), ("trained", after, kept[1]))
    ]
    first, second = measured
    scores = [
        ProbeScore(probe.name, probe.role, _right(probe, first, str(n)), _right(probe, second, str(n)))
        for n, probe in enumerate(probes)
    ]
    rows = [
        _row(question, one, two) | {"probe": probe.name, "role": probe.role}
        for n, probe in enumerate(probes)
        for question, one, two in zip(probe.questions, first.answers[str(n)], second.answers[str(n)], strict=True)
    ]
    shown = [
        _row(question, one, two)
        for question, one, two in zip(samples, first.answers["samples"], second.answers["samples"], strict=True)
    ]
    _write_rows(folder / "predictions.jsonl", rows)
    _write_rows(folder / "samples.jsonl", shown)
    pairs = (first.pairs, second.pairs) if first.pairs and second.pairs else None
    verdict = judge(scores, first.loss, second.loss, recipe.evaluate.limits, pairs=pairs)
    every = [answer for answers in second.answers.values() for answer in answers]
    write_json(
        folder / "scores.json",
        {
            "verdict": verdict.as_json(),
            "loss": {"before": first.loss.as_json(), "after": second.loss.as_json()}
            if first.loss and second.loss
            else None,
            "pairs": {"before": pairs[0].as_json(), "after": pairs[1].as_json()} if pairs else None,
            "probes": [score.as_json() for score in scores],
            "guardrails": {
                "answers": len(every),
                "never_stopped": sum(not answer.stopped for answer in every),
                "empty": sum(not answer.text for answer in every),
            },
        },
    )
    return verdict


def _measure(
    open_model: OpenModel,
    renderer: Renderer,
    recipe: Recipe,
    held_out: Sequence[Row],
    asked: dict[str, tuple[Question, ...]],
    progress: Progress,
    name: str,
    kept: KeptAnswers | None,
    say: Callable[[str], None] | None,
) -> Measured:
    tokenizer = renderer.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    with open_model() as model:
        device = next(model.parameters()).device
        options: Any = {"pad_id": pad, "device": device, "batch_tokens": recipe.train.batch_tokens}
        plain, pairs = ([row for row in held_out if bool(row.rejected) is wanted] for wanted in (False, True))
        loss = held_out_loss(model, plain, **options) if plain else None
        preferred = held_out_pairs(model, pairs, **options) if pairs else None
        every = [question for questions in asked.values() for question in questions]

        def counted(done: int, total: int | None, what: str) -> None:
            progress(done, total, f"{what} of the {name}")

        limit = recipe.evaluate.max_new_tokens
        given = iter(ask(model, renderer, every, max_new_tokens=limit, kept=kept, progress=counted, say=say))
        answers = {key: [next(given) for _ in questions] for key, questions in asked.items()}
    return Measured(loss, preferred, answers)


def _right(probe: ProbeSet, measured: Measured, key: str) -> tuple[bool, ...]:
    pairs = zip(measured.answers[key], probe.questions, strict=True)
    return tuple(exact_match(answer.text, question.reference) for answer, question in pairs)


def _question(example: Example) -> Question:
    return Question(example.messages[:-1], example.answer, f"{example.path}:{example.line}")


def _row(question: Question, before: Answer, after: Answer) -> dict[str, Any]:
    path, _, line = question.where.rpartition(":")
    return {
        "prompt": question.prompt,
        "reference": question.reference,
        "base": before.text,
        "adapter": after.text,
        "base_correct": exact_match(before.text, question.reference),
        "adapter_correct": exact_match(after.text, question.reference),
        "adapter_stopped": after.stopped,
        "from": {"path": path, "line": int(line)},
    }


def _write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
