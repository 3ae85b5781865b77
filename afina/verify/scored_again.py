"""Are the scores those of the stored answers? Graded and counted again, by the code that evaluation uses.

What stands beside the answers to the probes (endings, losses, safety, retrieval, tasks, texts behind prompts) is
:mod:`afina.verify.beside_again`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.evaluate.choice import Choice, Ranked
from afina.evaluate.evaluate import ProbeAnswers, answer_row, look_at, score_answers, score_choices
from afina.evaluate.guardrails import count, weigh
from afina.evaluate.intervals import FEWEST_TURNED
from afina.evaluate.loss import LossScore, PairScore
from afina.evaluate.probes import SAMPLES
from afina.evaluate.room import circles
from afina.evaluate.scores import SIDES, TERMS_MADE_UP, BeforeAndAfter, Scores, read_scores
from afina.evaluate.skills import NAME as SKILLS
from afina.evaluate.skills import SkillItem, skill_items
from afina.evaluate.task_metrics import MODELS
from afina.evaluate.verdict import ProbeScore, judge
from afina.model.generate.generate_torch import Answer
from afina.recipe import Recipe
from afina.recipe.methods import in_words
from afina.record import LARGEST, Record, is_number
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of
from afina.verify.held_against import same
from afina.verify.proof import BASE_SKILLS, Proof
from afina.verify.questions import CommittedProbes

MADE_UP = TERMS_MADE_UP.key
NEAR = 1e-4
"""Scores of sentences are stored with four digits: what is nearer cannot be told."""


def stored_rows(proof: Proof) -> list[Record]:
    """Rows of the probes' questions, and then of the samples: in the order of the commitment."""
    return [*proof.rows("predictions.jsonl"), *proof.rows("samples.jsonl")]


@dataclass(frozen=True)
class CountedAgain:
    """The stored answers, graded and counted again."""

    asked: list[ProbeAnswers]
    """To the questions committed to, in their order."""
    scores: list[ProbeScore]
    """Of the probes committed to, in their order, and of the skills behind them."""
    folds: tuple[str, ...]
    """What the tokenizer folds, which decides what its figures compare with."""


def count_again(proof: Proof, committed: CommittedProbes, renderer: Renderer, dataset: Path | None) -> CountedAgain:
    """Grade and count.

    Args:
        committed: the questions, to which the answers belong one by one.
        dataset: the whole committed dataset folder, where it is at hand.

    Raises:
        AfinaError: a file is damaged.
    """
    asked = _asked(committed, stored_rows(proof), renderer)
    scores = list(_probe_scores(proof, committed, asked, dataset))
    return CountedAgain(asked, scores, folds_of(renderer.tokenizer))


def score_again(
    proof: Proof,
    committed: CommittedProbes,
    recipe: Recipe,
    counted: CountedAgain,
    missed_beside: Sequence[str],
    *,
    from_nothing: bool,
    in_these_words: bool,
) -> Iterator[str]:
    """What of the stored scores is not what the stored answers give, each in a sentence.

    Args:
        committed: the questions, to which the answers belong one by one.
        recipe: its limits.
        missed_beside: limits that safety and the texts behind prompts miss.
        from_nothing: whether random weights were trained, which are nobody's base.
        in_these_words: whether this code wrote the verdict's sentences, which then have to be the same.

    Raises:
        AfinaError: a file is damaged.
    """
    stored = read_scores(proof.folder)
    if stored is None or stored.verdict is None:
        yield "scores.json: there is no verdict"
        return
    asked, scores = counted.asked, counted.scores
    if stored.folds != counted.folds:
        said, does = (in_words(each, "and") or "nothing" for each in (stored.folds, counted.folds))
        yield f"scores.json: `folds` says that the tokenizer folds {said}, and it folds {does}"
    for row, each in zip(stored_rows(proof), asked, strict=True):
        yield from _wrongly_marked(row, each)
    for row in proof.rows("skills.jsonl"):
        yield from _skill_wrongly_marked(row)
    for (_, choice), row in zip(committed.choices, proof.rows("choices.jsonl"), strict=True):
        yield from _choice_wrongly_marked(choice, row)
    yield from _differences([each.result().as_json() for each in scores], [each.as_json() for each in stored.probes])
    yield from _guarded_otherwise(stored, asked, recipe)
    yield from _judged_otherwise(
        stored, counted, missed_beside, recipe, from_nothing=from_nothing, in_these_words=in_these_words
    )


def has_skills_to_lose(proof: Proof) -> bool:
    """Whether the base did enough as it was asked before the training for skills to be judged."""
    asked = proof.rows(BASE_SKILLS)
    return sum(skill_of(row).grade(_answer(row, "base")).said for row in asked) >= FEWEST_TURNED


def _asked(committed: CommittedProbes, rows: Sequence[Record], renderer: Renderer) -> list[ProbeAnswers]:
    questions = [(each.probe, each.question) for each in committed.questions]
    answers = [[_answer(row, name) for row in rows] for name in MODELS]
    endless = [["never_stops" in row.texts(f"{name}_flaws") for row in rows] for name in MODELS]
    return look_at(questions, (answers[0], answers[1]), (endless[0], endless[1]), renderer)


def _answer(row: Record, name: str) -> Answer:
    return Answer(row.required_text(name), 0, row.required_flag(f"{name}_stopped"))


def _wrongly_marked(row: Record, asked: ProbeAnswers) -> Iterator[str]:
    """What a stored row says of its question and its answers, and is not so."""
    made = answer_row(asked)
    marked = {f"{name}_{what}": name for name in MODELS for what in ("correct", "is", "flaws")}
    for name in MODELS:
        if other := [key for key in marked if marked[key] == name and row.values.get(key) != made[key]]:
            yield (
                f"{row.where}: `{other[0]}` is {row.values.get(other[0])!r}, and the answer {row[name]!r:.60} to "
                f"{asked.question.prompt!r:.60} gets {made[other[0]]!r}"
            )
        ended, flaws = row.required_flag(f"{name}_stopped"), made[f"{name}_flaws"]
        if "never_stops" in flaws and ended:
            yield f"{row.where}: `{name}_flaws` says that an answer never stops which ended"
        if "never_stops" not in flaws and not ended and circles(row[name], asked.question.reference):
            yield f"{row.where}: `{name}_flaws` does not say that an answer never stops which was cut going in circles"
    made |= {} if asked.probe is SAMPLES else {"probe": asked.probe.name, "role": asked.probe.role}
    shown = {*made} - {"from", *marked} | {"fact", "terms", "messages", "tools"}
    if other := [key for key in sorted(shown) if not same(_plain(made.get(key)), row.values.get(key))]:
        said = f"{row.values.get(other[0])!r:.60}, and {made.get(other[0])!r:.60} was committed to"
        yield f"{row.where}: `{other[0]}` is {said}"


def _plain(value: Any) -> Any:
    """As JSON has it: questions are tuples of mappings."""
    return [dict(each) if isinstance(each, Mapping) else each for each in value] if isinstance(value, list) else value


def _skill_wrongly_marked(row: Record) -> Iterator[str]:
    item = skill_of(row)
    shown = {"prompt": item.turns[-1], "reference": item.example}
    if other := [key for key in shown if row.values.get(key) != shown[key]]:
        yield f"{row.where}: `{other[0]}` is {row.values.get(other[0])!r:.60}, and it was {shown[other[0]]!r:.60}"
    for name in MODELS:
        if row.values.get(f"{name}_correct") != (right := item.grade(_answer(row, name)).said):
            yield f"{row.where}: `{name}_correct` is {row.values.get(f'{name}_correct')!r}, and the answer gets {right}"


def _choice_wrongly_marked(choice: Choice, row: Record) -> Iterator[str]:
    """A mark that the stored scores of the sentences do not give."""
    for name, ranked in zip(MODELS, _ranked(choice, row), strict=True):
        if ranked.right != (chosen := row.required_flag(f"{name}_correct")):
            took = "the true sentence" if ranked.right else "another"
            yield f"{row.where}: `{name}_correct` is {chosen}, and by its `{name}_scores` it took {took}"


def _probe_scores(
    proof: Proof, committed: CommittedProbes, asked: Sequence[ProbeAnswers], dataset: Path | None
) -> Iterator[ProbeScore]:
    """Each probe's figures, in the order of ``scores.json``."""
    ranked = iter(zip(committed.choices, proof.rows("choices.jsonl"), strict=True))
    answers = iter(asked)
    for probe in committed.probes:
        if probe.choices:
            rows = [next(ranked) for _ in probe.choices]
            yield score_choices(probe, [_ranked(choice, row) for (_, choice), row in rows])
        else:
            yield score_answers(probe, [next(answers) for _ in probe.questions], dataset)
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
    return ranked_by(choice, row, MODELS[0]), ranked_by(choice, row, MODELS[1])


def ranked_by(choice: Choice, row: Record, name: str) -> Ranked:
    """What a model made of a choice, by the stored scores of its sentences.

    Args:
        name: as rows call it.

    Raises:
        AfinaError: the scores are none.
    """
    given: Any = row.values.get(f"{name}_scores")
    whole = isinstance(given, list) and len(given) == len(choice.sentences) and all(map(is_number, given))
    if not whole or not all(abs(each) <= LARGEST for each in given):
        raise row.wrong(f"{name}_scores", "a number for each of the committed sentences", given)
    true, *others = map(float, given)
    if abs(true - max(others)) < NEAR:  # rounded to a tie: the mark was made before
        true = max(others) + (NEAR if row.required_flag(f"{name}_correct") else -NEAR)
    return Ranked((true, *others), (0.0,) * len(given))


def _differences(counted: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Probes whose stored figures are not those that were counted."""
    if [each["name"] for each in counted] != [each["name"] for each in stored]:
        yield "scores.json: it has other probes than there are answers to"
        return
    for mine, theirs in zip(counted, stored, strict=True):
        for key in {**mine, **theirs}:
            # Terms made up are told by the documents alone: they are counted where these are at hand.
            left: frozenset[str] = frozenset() if MADE_UP in mine[SIDES[0]] else frozenset({MADE_UP})
            if not same(mine.get(key), theirs.get(key), left):
                said = f"{theirs.get(key)}, the stored answers give {mine.get(key)}"
                yield f"scores.json: {mine['name']}: `{key}` is {said}"


def _guarded_otherwise(stored: Scores, asked: Sequence[ProbeAnswers], recipe: Recipe) -> Iterator[str]:
    """Where the guardrails are not counted as the stored answers break them."""
    found = stored.guardrails
    if found is None:
        yield "scores.json: there are no guardrails"
        return
    flaws = [[each.flaws[side] for each in asked] for side in (0, 1)]
    if found.answers != len(asked) or [found.before, found.after] != list(map(count, flaws)):
        yield "scores.json: the guardrails are not counted as the stored answers break them"
    if not same(found.limits, recipe.evaluate.limits.guardrails.model_dump(mode="json")):
        yield "scores.json: the guardrails' limits are not those committed to"
    for side, room in enumerate(found.room or ()):
        cut = [each for each in asked if not each.answers[side].stopped]
        circling = sum(circles(each.answers[side].text, each.question.reference) for each in cut)
        if room.limit != recipe.evaluate.max_new_tokens:
            said = f"{room.limit}, and answers of at most {recipe.evaluate.max_new_tokens} tokens were committed to"
            yield f"scores.json: `guardrails.room.limit` is {said}"
        if (room.reached, room.circling) != (len(cut), circling):
            said = f"{len(cut)} of the stored answers were cut, {circling} of them going in circles"
            yield f"scores.json: `guardrails.room` counts {room.reached} and {room.circling}, and {said}"


def _judged_otherwise(
    stored: Scores,
    counted: CountedAgain,
    missed_beside: Sequence[str],
    recipe: Recipe,
    *,
    from_nothing: bool,
    in_these_words: bool,
) -> Iterator[str]:
    limits, verdict = recipe.evaluate.limits, stored.verdict
    assert verdict is not None
    room = stored.guardrails.room[1].describe() if stored.guardrails and stored.guardrails.room else ""
    flawed = [[each.flaws[side] for each in counted.asked] for side in (0, 1)]
    missed, own = weigh(None if from_nothing else flawed[0], flawed[1], limits.guardrails, room)
    losses, further = _losses(stored.loss), [*missed, *missed_beside]
    found = judge(counted.scores, *losses, limits, pairs=_pairs(stored.pairs), further_misses=further)
    for what in ("learned", "broke", "text"):
        if getattr(found, what) != getattr(verdict, what):
            said = f"`{what}` is {getattr(verdict, what)!r}, and the stored answers give {getattr(found, what)!r}"
            yield f"scores.json: {said}"
    if in_these_words and found.findings != verdict.findings:
        other = [each for each in verdict.findings if each not in found.findings]
        said = f"this is not among them: {other[0]!r:.160}" if other else "some are left out or in another order"
        yield f"scores.json: the findings are not those that the stored answers give: {said}"
    told = [*own, *(each.conclusion() for each in (stored.retrieval.probes if stored.retrieval else ()))]
    if in_these_words and (missing := [each for each in told if each not in verdict.notes]):
        yield f"scores.json: a note that its figures give is left out: {missing[0]!r:.160}"
    if verdict.passed and not found.passed:
        yield f"scores.json: it says that the run passed, and by the stored answers it did not: {found.misses[0]}"
    elif missing := [each for each in found.misses if in_these_words and each not in verdict.misses]:
        yield f"scores.json: a limit that the stored answers miss is left out: {missing[0]}"
    if verdict.passed == bool(verdict.misses):
        said = "passed, and names limits that it missed" if verdict.passed else "did not pass, and names no limit"
        yield f"scores.json: it says that the run {said}"


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
