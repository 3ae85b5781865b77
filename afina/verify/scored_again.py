"""Are the scores those of the stored answers? Graded and counted again, by the code that evaluation uses.

What no stored answer tells stands as it is: losses, retrieval, tasks, safety, windows, terms that free answers made up,
and whether an answer that was cut would have ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afina.evaluate.choice import Choice, Ranked
from afina.evaluate.evaluate import ProbeAnswers, answer_row, look_at, score_answers, score_choices
from afina.evaluate.guardrails import count, weigh
from afina.evaluate.loss import LossScore, PairScore
from afina.evaluate.scores import SIDES, BeforeAndAfter, Scores, read_scores
from afina.evaluate.skills import NAME as SKILLS
from afina.evaluate.skills import SkillItem, skill_items
from afina.evaluate.verdict import ProbeScore, judge
from afina.model.generate.generate_torch import Answer
from afina.recipe import Recipe
from afina.record import Record
from afina.tokenizer.chat import Renderer
from afina.verify.proof import Proof
from afina.verify.questions import CommittedProbes

MODELS = ("base", "adapter")
"""As rows call the model before training and the trained one."""
NEAR = 1e-4
"""Scores of sentences are stored with four digits: what is nearer cannot be told."""
NOT_COUNTED_AGAIN = {
    "loss": "losses", "pairs": "preferences", "retrieval": "retrieval", "windows": "windows of text",
    "continuations": "continuations", "safety": "safety", "tasks": "tasks", "judge": "the judge",
}  # fmt: skip
"""Parts of the scores that no stored answer tells, as ``scores.json`` and people call them."""


def stored_rows(proof: Proof) -> list[Record]:
    """Rows of the probes' questions, and then of the samples: in the order of the commitment."""
    return [*proof.rows("predictions.jsonl"), *proof.rows("samples.jsonl")]


def score_again(
    proof: Proof, committed: CommittedProbes, recipe: Recipe, renderer: Renderer, *, from_nothing: bool
) -> Iterator[str]:
    """What of the stored scores is not what the stored answers give, each in a sentence.

    Args:
        committed: the questions, to which the answers belong one by one.
        recipe: its limits.
        from_nothing: whether random weights were trained, which are nobody's base.

    Raises:
        AfinaError: a file is damaged.
    """
    stored = read_scores(proof.folder)
    if stored is None or stored.verdict is None:
        yield "scores.json: there is no verdict"
        return
    rows = stored_rows(proof)
    asked = _asked(committed, rows, renderer)
    for row, each in zip(rows, asked, strict=True):
        yield from _wrongly_marked(row, each)
    scores = list(_probe_scores(proof, committed, asked))
    yield from _differences([each.result().as_json() for each in scores], [each.as_json() for each in stored.probes])
    flawed = [[each.flaws[side] for each in asked] for side in (0, 1)]
    if stored.guardrails is None or [stored.guardrails.before, stored.guardrails.after] != list(map(count, flawed)):
        yield "scores.json: the guardrails are not counted as the stored answers break them"
    yield from _judged_otherwise(stored, scores, flawed, recipe, from_nothing=from_nothing)


def not_counted_again(proof: Proof) -> list[str]:
    """What of the scores stands as it is, in words."""
    values = (read_scores(proof.folder) or Scores()).as_json()
    return [words for key, words in NOT_COUNTED_AGAIN.items() if values[key]]


def _asked(committed: CommittedProbes, rows: Sequence[Record], renderer: Renderer) -> list[ProbeAnswers]:
    questions = [(each.probe, each.question) for each in committed.questions]
    answers = [[_answer(row, name) for row in rows] for name in MODELS]
    endless = [["never_stops" in row.texts(f"{name}_flaws") for row in rows] for name in MODELS]
    return look_at(questions, (answers[0], answers[1]), (endless[0], endless[1]), renderer)


def _answer(row: Record, name: str) -> Answer:
    return Answer(row.required_text(name), 0, row.required_flag(f"{name}_stopped"))


def _wrongly_marked(row: Record, asked: ProbeAnswers) -> Iterator[str]:
    """Marks of a stored row that its answers do not get."""
    marked = answer_row(asked)
    for name in MODELS:
        keys = [f"{name}_{what}" for what in ("correct", "is", "flaws")]
        if other := [key for key in keys if row.values.get(key) != marked[key]]:
            yield (
                f"{row.where}: `{other[0]}` is {row.values.get(other[0])!r}, and the answer {row[name]!r:.60} to "
                f"{asked.question.prompt!r:.60} gets {marked[other[0]]!r}"
            )
        if "never_stops" in marked[f"{name}_flaws"] and row.flag(f"{name}_stopped"):
            yield f"{row.where}: `{name}_flaws` says that an answer never stops which ended"


def _probe_scores(proof: Proof, committed: CommittedProbes, asked: Sequence[ProbeAnswers]) -> Iterator[ProbeScore]:
    """Each probe's figures, in the order of ``scores.json``."""
    ranked = iter(zip(committed.choices, proof.rows("choices.jsonl"), strict=True))
    answers = iter(asked)
    for probe in committed.probes:
        if probe.choices:
            rows = [next(ranked) for _ in probe.choices]
            yield score_choices(probe, [_ranked(choice, row) for (_, choice), row in rows])
        else:
            yield score_answers(probe, [next(answers) for _ in probe.questions], None)
    if skills := proof.rows("skills.jsonl"):
        items = [skill_of(row) for row in skills]
        before, after = (
            tuple(item.grade(_answer(row, name)) for item, row in zip(items, skills, strict=True)) for name in MODELS
        )
        yield ProbeScore(SKILLS, "skills", before, after, groups=tuple(item.skill for item in items))


def skill_of(row: Record) -> SkillItem:
    """The question about a skill that a stored row answers.

    Raises:
        AfinaError: this afina has no such question.
    """
    found = skill_items().get(row.required_text("id"))
    if found is None:
        raise row.wrong("id", "a question of afina's own", row["id"])
    return found


def _ranked(choice: Choice, row: Record) -> tuple[Ranked, Ranked]:
    """What both models made of a choice, by the stored scores of its sentences."""
    found = []
    for name in MODELS:
        given = row.values.get(f"{name}_scores")
        scores = [each for each in given if isinstance(each, int | float)] if isinstance(given, list) else []
        if not len(scores) == len(given or ()) == len(choice.sentences):
            raise row.wrong(f"{name}_scores", "a number for each of the committed sentences", given)
        true, *others = map(float, scores)
        if abs(true - max(others)) < NEAR:  # rounded to a tie: the mark was made before
            true = max(others) + (NEAR if row.required_flag(f"{name}_correct") else -NEAR)
        found.append(Ranked((true, *others), (0.0,) * len(scores)))
    return found[0], found[1]


def _differences(counted: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Probes whose stored figures are not those that were counted."""
    if [each["name"] for each in counted] != [each["name"] for each in stored]:
        yield "scores.json: it has other probes than there are answers to"
        return
    for mine, theirs in zip(counted, stored, strict=True):
        for key in mine:
            if not _same(mine[key], theirs.get(key)):
                yield f"scores.json: {mine['name']}: `{key}` is {theirs.get(key)}, the stored answers give {mine[key]}"


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):  # terms made up are told by the documents alone
        keys = {*mine, *theirs} - {"terms_made_up"}
        return all(_same(mine.get(key), theirs.get(key)) for key in keys)
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    numbers = isinstance(mine, int | float) and isinstance(theirs, int | float)
    return math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-12) if numbers else bool(mine == theirs)


def _judged_otherwise(
    stored: Scores,
    scores: Sequence[ProbeScore],
    flawed: Sequence[Sequence[Sequence[str]]],
    recipe: Recipe,
    *,
    from_nothing: bool,
) -> Iterator[str]:
    limits, verdict = recipe.evaluate.limits, stored.verdict
    assert verdict is not None
    missed, _ = weigh(None if from_nothing else flawed[0], flawed[1], limits.guardrails)
    losses = _losses(stored.loss)
    found = judge(scores, *losses, limits, pairs=_pairs(stored.pairs), further_misses=missed)
    for what in ("learned", "broke"):
        if getattr(found, what) != getattr(verdict, what):
            said = f"`{what}` is {getattr(verdict, what)!r}, and the stored answers give {getattr(found, what)!r}"
            yield f"scores.json: {said}"
    if verdict.passed and not found.passed:
        yield f"scores.json: it says that the run passed, and by the stored answers it did not: {found.misses[0]}"
    if not verdict.passed and not verdict.misses:
        yield "scores.json: it says that the run did not pass, and names no limit that it missed"


def _losses(stored: BeforeAndAfter | None) -> tuple[LossScore | None, LossScore | None]:
    if stored is None:
        return None, None
    before, after = (
        LossScore(side.required_number("loss"), side.required_whole("tokens"))
        for side in (getattr(stored, name) for name in SIDES)
    )
    return before, after


def _pairs(stored: BeforeAndAfter | None) -> tuple[PairScore, PairScore] | None:
    if stored is None:
        return None
    before, after = (
        PairScore(side.required_whole("pairs"), side.required_number("accuracy"), side.required_number("margin"))
        for side in (getattr(stored, name) for name in SIDES)
    )
    return before, after
