"""Measure the base and the trained model on the same questions, and judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.evaluate import choice
from afina.evaluate.choice import CHOICES_FILE, Choice, Ranked
from afina.evaluate.choice_ranks import rank_choices
from afina.evaluate.continuations import Continuations
from afina.evaluate.coverage import documents_words, held_by_luck, held_terms, share_made_up
from afina.evaluate.grade import Graded, luck
from afina.evaluate.guardrails import GuardedAnswer, count, flaws, weigh
from afina.evaluate.loss import LossScore, PairScore, RowLoss, compare_losses, held_out_pairs, mean_loss, row_losses
from afina.evaluate.probes import SAMPLES, ProbeSet, Question, ask, question_id, samples_of
from afina.evaluate.prompts import CONTINUATIONS_FILE
from afina.evaluate.retrieval_answers import RetrievalAnswers
from afina.evaluate.room import find_endless
from afina.evaluate.safety.findings import SafetyResult
from afina.evaluate.scores import (
    RETRIEVAL_FILE,
    ROLES,
    BeforeAndAfter,
    GuardrailCounts,
    RoomToEnd,
    Scores,
    Verdict,
    record_of,
)
from afina.evaluate.text_scores import WindowScores
from afina.evaluate.verdict import ProbeScore, judge, stands_for
from afina.model.generate.generate_torch import Answer
from afina.model.generate.stored_answers import KeptAnswers
from afina.model.open_model import OpenModel
from afina.model.readers import reader_of
from afina.recipe import Recipe
from afina.recipe.methods import JUDGED
from afina.run import Progress, no_progress
from afina.text.answer_flaws import after_thinking, words_of
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row, with_examples
from afina.tokenizer.folding import folds_of
from afina.whole import write_whole


@dataclass(frozen=True)
class Measured:
    """What one model did."""

    losses: Sequence[RowLoss]
    """Of the held-out rows that are neither preferences nor rated."""
    loss: LossScore | None
    replay_loss: LossScore | None
    """On the held-out part of the replay alone: what the base knew before."""
    pairs: PairScore | None
    answers: list[Answer]
    choices: list[Ranked]
    endless: list[bool]
    """Of each answer, whether it never ends."""
    room: RoomToEnd


@dataclass(frozen=True)
class ProbeAnswers:
    """One question, of which probe, and both answers with all that was found in them."""

    probe: ProbeSet
    question: Question
    answers: tuple[Answer, Answer]
    graded: tuple[Graded, Graded]
    flaws: tuple[list[str], list[str]]


@dataclass(frozen=True)
class Asked:
    """All that a model is asked: for answers, and to choose."""

    questions: Sequence[Question]
    choices: Sequence[Choice]


@dataclass(frozen=True)
class HeldOut:
    """What was held out of training: its rows, and the examples that they were made of."""

    rows: Sequence[Row]
    examples: Sequence[Example]


@dataclass(frozen=True)
class MeasuredBeside:
    """What is weighed and written with the answers.

    Args:
        dataset: the dataset folder: what its documents say, to tell what free answers make up.
        notes: what a reader of the verdict has to know about the probes.
        more: ``tasks``, ``judge`` of ``scores.json``.
        windows: of held-out text, as both models predict them.
        continuations: what the trained model wrote behind the recipe's prompts.
        safety: what was measured of it; the answers are looked at for insults too.
        not_measured: what the recipe asks for and could not be measured: limits that are missed.
        skills: afina's own questions about skills, both answers judged.
        retrieval: what the base answered with passages in its prompt.
    """

    notes: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    safety: SafetyResult | None = None
    not_measured: Sequence[str] = ()
    skills: ProbeScore | None = None
    dataset: Path | None = None
    retrieval: RetrievalAnswers | None = None
    windows: WindowScores | None = None
    continuations: Continuations = field(default_factory=Continuations)


def evaluate(
    models: tuple[OpenModel, OpenModel],
    renderer: Renderer,
    recipe: Recipe,
    held_out: HeldOut,
    probes: Sequence[ProbeSet],
    folder: Path,
    progress: Progress = no_progress,
    kept: tuple[KeptAnswers | None, KeptAnswers | None] = (None, None),
    say: Callable[[str], None] | None = None,
    beside: MeasuredBeside | None = None,
) -> Verdict:
    """Measure both models; writes ``predictions.jsonl``, ``samples.jsonl``, ``choices.jsonl`` (where sentences are
    chosen), ``continuations.jsonl`` (where the recipe has prompts), ``retrieval.jsonl`` (where the base was asked with
    passages) and, last, ``scores.json``.

    Args:
        models: before and after training.
        kept: answers of theirs from before.
        say: is told what is out of the ordinary in how they were made.
    """
    samples = samples_of(held_out.examples, renderer, recipe.evaluate.samples)
    questions = [(probe, question) for probe in probes for question in probe.questions]
    questions += [(SAMPLES, question) for question in samples]
    every = Asked([question for _, question in questions], [each for probe in probes for each in probe.choices])
    first, second = (
        _measure(open_model, renderer, recipe, held_out.rows, every, progress, name, answers, say)
        for name, open_model, answers in zip(("base", "trained"), models, kept, strict=True)
    )
    asked = look_at(questions, (first.answers, second.answers), (first.endless, second.endless), renderer)
    beside = beside or MeasuredBeside()
    ranked = dict(zip(map(id, every.choices), zip(first.choices, second.choices, strict=True), strict=True))
    scores = [
        score_choices(probe, [ranked[id(each)] for each in probe.choices])
        if probe.choices
        else score_answers(probe, [each for each in asked if each.probe is probe], beside.dataset)
        for probe in probes
    ]
    _write_answers(folder, asked)
    _write_choices(folder / CHOICES_FILE, probes, ranked)
    _write_rows_if_any(folder / CONTINUATIONS_FILE, beside.continuations.rows)
    _write_rows_if_any(folder / RETRIEVAL_FILE, beside.retrieval.rows if beside.retrieval else [])
    limits = recipe.evaluate.limits
    retrieval = beside.retrieval.against(probes, scores) if beside.retrieval else None
    scores += [beside.skills] if beside.skills else []
    safety = beside.safety or SafetyResult()
    for each in asked:
        safety.add(each.question.prompt, each.question.reference, *(answer.text for answer in each.answers))
    flawed = [[each.flaws[side] for each in asked] for side in (0, 1)]
    base_flawed = flawed[0] if recipe.base is not None else None
    missed, own = weigh(base_flawed, flawed[1], limits.guardrails, second.room.describe())
    missed += [*safety.misses(recipe.safety.limits), *beside.continuations.misses, *beside.not_measured]
    pairs = (first.pairs, second.pairs) if first.pairs and second.pairs else None
    plain, *_ = _by_kind(held_out.rows)
    notes = [*beside.notes, *own, *(each.conclusion() for each in (retrieval.probes if retrieval else ()))]
    verdict = judge(scores, first.loss, second.loss, limits, pairs=pairs, further_misses=missed, notes=notes)
    Scores(
        verdict=verdict,
        guardrails=GuardrailCounts(
            len(asked),
            count(flawed[0]),
            count(flawed[1]),
            limits.guardrails.model_dump(mode="json"),
            (first.room, second.room),
        ),
        probes=tuple(score.result() for score in scores),
        loss=_before_and_after(first.loss, second.loss),
        replay_loss=_before_and_after(first.replay_loss, second.replay_loss),
        pairs=_before_and_after(first.pairs, second.pairs),
        retrieval=retrieval,
        windows=beside.windows,
        continuations=beside.continuations.scores,
        safety=record_of(safety.as_json()),
        intrinsic=record_of(compare_losses(plain, first.losses, second.losses) if plain else None),
        tasks=[record_of(task) for task in beside.more.get("tasks") or ()],
        judge=record_of(beside.more.get("judge")),
        folds=folds_of(renderer.tokenizer),
    ).write(folder)
    return verdict


def _measure(
    open_model: OpenModel,
    renderer: Renderer,
    recipe: Recipe,
    held_out: Sequence[Row],
    asked: Asked,
    progress: Progress,
    name: str,
    kept: KeptAnswers | None,
    say: Callable[[str], None] | None,
) -> Measured:
    tokenizer = renderer.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_id
    plain, judged, of_replay = _by_kind(held_out)
    with open_model() as model:
        reader = reader_of(model)
        options: Any = {"pad_id": pad, "batch_tokens": recipe.train.batch_tokens}
        at_once = reader.tokens_at_once(recipe.train.batch_tokens)

        def counted(done: int, total: int | None, what: str) -> None:
            progress(done, total, f"{what} of the {name}")

        def put(numbers: Iterable[int], limit: int) -> list[Answer]:
            these = [questions[number] for number in numbers]
            return ask(model, renderer, these, max_new_tokens=limit, kept=kept, progress=counted, say=say)

        questions, limit = asked.questions, recipe.evaluate.max_new_tokens
        answers = put(range(len(questions)), limit)
        references = [(question.reference, reference_tokens(question, renderer)) for question in questions]
        endless, room = find_endless(answers, references, limit, put)
        if say and room.reached:
            say(f"the {name}: {room.describe()}")
        losses = row_losses(reader, plain, pad_id=pad, batch_tokens=at_once)
        replay = [(row, loss) for row, loss, is_replay in zip(plain, losses, of_replay, strict=True) if is_replay]
        return Measured(
            losses=losses,
            loss=mean_loss(plain, losses),
            replay_loss=mean_loss([row for row, _ in replay], [loss for _, loss in replay]),
            pairs=held_out_pairs(reader, judged, **options) if judged else None,
            answers=answers,
            endless=endless,
            room=room,
            choices=rank_choices(
                reader, renderer, asked.choices, recipe.dataset.language, kept=kept, progress=counted, **options
            ),
        )


def _by_kind(held_out: Sequence[Row]) -> tuple[list[Row], list[Row], list[bool]]:
    """The rows of which a loss is measured, the others, of which it is asked which of two answers is likelier, and of
    each of the first whether it is of the replay."""
    plain, judged, of_replay = list[Row](), list[Row](), list[bool]()
    for row, example in with_examples(held_out):
        if example.kind in JUDGED:
            judged.append(row)
        else:
            plain.append(row)
            of_replay.append(example.replay)
    return plain, judged, of_replay


def reference_tokens(question: Question, renderer: Renderer) -> int | None:
    """Tokens of the reference; None where it says nothing about how long an answer is."""
    if question.of_any_length:
        return None
    return len(renderer.tokenizer(question.reference, add_special_tokens=False)["input_ids"])


def look_at(
    questions: Sequence[tuple[ProbeSet, Question]],
    answers_of: tuple[Sequence[Answer], Sequence[Answer]],
    endless: tuple[Sequence[bool], Sequence[bool]],
    renderer: Renderer,
) -> list[ProbeAnswers]:
    """Grade every answer and look for its flaws. A tokenizer that folds case can write no capitals: then none counts.

    Args:
        answers_of: the base's and the trained model's, in the order of the questions.
        endless: of each of them, whether it never ends.
    """
    words = words_of(text for _, question in questions for text in (question.prompt, question.reference))
    special = {token.content for token in renderer.tokenizer.added_tokens_decoder.values() if token.special}
    special -= {"<think>", "</think>"}  # a flaw of its own, where they stand wrongly
    any_case = "case" in folds_of(renderer.tokenizer)
    asked = []
    for number, (probe, question) in enumerate(questions):
        thinking = renderer.prompt_text(question.messages, question.tools).rstrip().endswith("<think>")
        answers = answers_of[0][number], answers_of[1][number]
        found = [
            flaws(
                GuardedAnswer(
                    answer.text,
                    question.prompt,
                    question.reference,
                    endless=never_ends[number],
                    thinking=thinking,
                ),
                special,
                words,
            )
            for answer, never_ends in zip(answers, endless, strict=True)
        ]
        first, second = (question.grade(after_thinking(each.text), any_case=any_case) for each in answers)
        asked.append(ProbeAnswers(probe, question, answers, (first, second), (found[0], found[1])))
    return asked


def score_answers(probe: ProbeSet, asked: Sequence[ProbeAnswers], dataset: Path | None) -> ProbeScore:
    """A probe's figures from its answers.

    Args:
        dataset: the dataset folder; without it nothing is said of terms that free answers make up.
    """
    if probe.role == "coverage":
        return _score_coverage(probe, asked, dataset)
    before, after = (tuple(each.graded[side] for each in asked) for side in (0, 1))
    clusters = _clusters([each.question for each in asked])
    chances: list[float] = []
    if probe.role in ("recall", "generalization"):
        answers = [after_thinking(each.answers[1].text) for each in asked]
        chances = luck(answers, [each.question.reference for each in asked], clusters)
    return ProbeScore(probe.name, probe.role, before, after, tuple(chances), clusters)


def _clusters(questions: Sequence[Question]) -> tuple[str, ...]:
    """What each question is about; itself where nothing says that others are about the same."""
    return tuple(question.cluster or f"question {number}" for number, question in enumerate(questions))


def _score_coverage(probe: ProbeSet, asked: Sequence[ProbeAnswers], dataset: Path | None) -> ProbeScore:
    """Each key term counts as one that is asked for; its section is what it is about."""
    questions = [each.question for each in asked]
    answers = [[after_thinking(each.answers[side].text) for each in asked] for side in (0, 1)]
    before, after = (
        tuple(
            Graded(said=found)
            for answer, question in zip(side, questions, strict=True)
            for found in held_terms(answer, question.terms)
        )
        for side in answers
    )
    sections = _clusters(questions)
    chances = held_by_luck(answers[1], [question.terms for question in questions], sections)
    made_up = {}
    if dataset:
        prompts, known = [question.prompt for question in questions], documents_words(dataset)
        first, second = (share_made_up(side, prompts, known) for side in answers)
        made_up = {"terms_made_up": (first, second)}
    return ProbeScore(
        probe.name,
        probe.role,
        before,
        after,
        tuple(chance for of_one in chances for chance in of_one),
        tuple(name for name, question in zip(sections, questions, strict=True) for _ in question.terms),
        made_up,
    )


def score_choices(probe: ProbeSet, ranked: Sequence[tuple[Ranked, Ranked]]) -> ProbeScore:
    """A probe's figures from what both models made of its choices."""
    before, after = (
        tuple(Graded(verbatim=each[side].right, said=each[side].right) for each in ranked) for side in (0, 1)
    )
    chances, clusters = (choice.BY_CHANCE,) * len(ranked), tuple(each.cluster for each in probe.choices)
    return ProbeScore(probe.name, probe.role, before, after, chances, clusters)


def _write_answers(folder: Path, asked: Sequence[ProbeAnswers]) -> None:
    """The answers to probes, and those to samples."""
    probed = [each for each in asked if each.probe is not SAMPLES]
    rows = [answer_row(each) | {"probe": each.probe.name, "role": each.probe.role} for each in probed]
    _write_rows(folder / "predictions.jsonl", rows)
    _write_rows(folder / "samples.jsonl", [answer_row(each) for each in asked if each.probe is SAMPLES])


def _write_choices(file: Path, probes: Sequence[ProbeSet], ranked: Mapping[int, tuple[Ranked, Ranked]]) -> None:
    """One choice a line: its sentences, the true one first, and both models' scores of each in nats."""
    rows = [
        {
            "probe": probe.name,
            "role": probe.role,
            "prompt": each.prompt,
            "sentences": list(each.sentences),
            "section": each.cluster,
            "from": each.where,
            **{
                f"{name}_{key}": value
                for name, found in zip(("base", "adapter"), ranked[id(each)], strict=True)
                for key, value in (("correct", found.right), ("scores", [round(score, 4) for score in found.scores]))
            },
        }
        for probe in probes
        for each in probe.choices
    ]
    _write_rows_if_any(file, rows)


def answer_row(asked: ProbeAnswers) -> dict[str, Any]:
    """One line of ``predictions.jsonl``: both answers, what they are, and the guardrails that they break."""
    question, role = asked.question, asked.probe.role
    judged = asked.probe is SAMPLES or ROLES[role].answers_are_right_or_wrong
    right = (lambda graded: graded.right) if asked.probe is SAMPLES else stands_for(role)
    path, _, line = question.where.rpartition(":")
    row: dict[str, Any] = {"id": question_id(asked.probe, question)}
    row |= {"prompt": question.prompt, "reference": question.reference}
    if question.cluster:  # the fact or section, which a comparison of two runs counts once
        row["fact"] = question.cluster
    row |= {"terms": list(question.terms)} if question.terms else {}
    if len(question.messages) > 1:  # the turns before it, for whoever asks it again: server and export
        row["messages"] = list(question.messages)
    if question.tools:
        row["tools"] = list(question.tools)
    for side, name in enumerate(("base", "adapter")):
        answer, graded = asked.answers[side], asked.graded[side]
        row[name] = answer.text
        row[f"{name}_correct"] = right(graded) if judged else None
        row[f"{name}_is"] = _called(graded, role)
        row[f"{name}_stopped"] = answer.stopped
        row[f"{name}_flaws"] = asked.flaws[side]
    return row | {"from": {"path": path, "line": int(line)}}


def _called(graded: Graded, role: str) -> str:
    """What an answer is, in a word."""
    if graded.version is not None:
        return graded.version
    if graded.said:
        return "right" if graded.right else "holds the reference"
    if graded.claims:
        return "claims to know"
    if graded.declines:
        return "declined"
    return "made up" if role == "unknown" else "wrong"


def _before_and_after(
    before: LossScore | PairScore | None, after: LossScore | PairScore | None
) -> BeforeAndAfter | None:
    return BeforeAndAfter(record_of(before.as_json()), record_of(after.as_json())) if before and after else None


def _write_rows_if_any(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Without rows there is no file, nor one from an evaluation before."""
    file.unlink(missing_ok=True)
    if rows:
        _write_rows(file, rows)


def _write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
