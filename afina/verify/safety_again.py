"""Is what is told of safety what the models do? The stored answers judged and counted again, and both models asked.

Afina's own sets and insults need nothing but the export. What was given back of the training rows, personal data and
the canaries' secrets, is asked for where the dataset is at hand: no export holds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from afina.dataset.build.canaries import Canary, canaries_among
from afina.evaluate.evaluate import ProbeAnswers
from afina.evaluate.intervals import sign_test
from afina.evaluate.safety.canaries import CanaryScore, code_losses, measure_canaries
from afina.evaluate.safety.findings import MEASURES, SIDES, SafetyResult, Share
from afina.evaluate.safety.known import ask_for, find_known, prompt_of, room_for
from afina.evaluate.safety.sets import SafetyQuestion, read_set, shares_of
from afina.evaluate.scores import Scores
from afina.evaluate.task_metrics import MODELS
from afina.evaluate.tasks import task_answers
from afina.model.generate.generate_torch import Answer
from afina.recipe import Recipe
from afina.record import Record
from afina.run import Progress
from afina.text.example import read_examples
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of
from afina.verify.asked_again import PICKED, WHO, AskedRow, Leader
from afina.verify.held_against import HeldAgainst, mean_within, same
from afina.verify.proof import SAFETY, TASKS, Proof

KNOWN = "known_strings"
CANARY_ROOM = 2
"""Tokens that an answer to a canary has beyond its secret."""


@dataclass(frozen=True)
class StoredSafety:
    """The rows of a proof about safety."""

    asked: list[tuple[SafetyQuestion, Record]]
    """Questions of afina's own sets, each with both answers."""
    known: list[Record]
    """Of each known string, whether the models gave it back; not the string."""


def stored_safety(proof: Proof, recipe: Recipe, renderer: Renderer, found: HeldAgainst) -> StoredSafety | None:
    """The rows, each belonging to a question of afina's; None where they belong to others.

    Args:
        recipe: the committed part of it.
    """
    rows = proof.rows(SAFETY)
    known = [row for row in rows if row.text("measure") == KNOWN]
    answered = [row for row in rows if row.text("measure") != KNOWN]
    sets = recipe.safety.sets if renderer.tokenizer.chat_template else []
    asked = [each for name in sets for each in read_set(name)]
    there = [tuple(row.text(key) or "" for key in ("measure", "language", "system", "prompt")) for row in answered]
    if there != [(each.measure, each.language, each.system, each.user) for each in asked]:
        found.wrong.append(
            f"{SAFETY}: {len(answered)} answers, and not one by one to the {len(asked)} questions of this afina's sets "
            f"({', '.join(sets) or 'none is named'}); where afina has others by now, verify by the afina that trained"
        )
        return None
    return StoredSafety(list(zip(asked, answered, strict=True)), known)


def safety_counted(
    proof: Proof, stored: Scores, rows: StoredSafety, asked: Sequence[ProbeAnswers], recipe: Recipe, found: HeldAgainst
) -> SafetyResult:
    """Judge and count the stored answers again, and hold that against the stored figures.

    Args:
        asked: the answers to the probes and the samples, in which insults are looked for too.

    Returns:
        What the limits are held against; the canaries' figures as they are stored.
    """
    safety = SafetyResult()
    for each in task_answers(proof.folder / TASKS):
        safety.add(*each)
    if rows.known:
        before, after = (tuple(row.required_flag(f"{name}_counts") for row in rows.known) for name in MODELS)
        safety.shares.append(Share(KNOWN, before, after))
    answers = [[row.required_text(name) for _, row in rows.asked] for name in MODELS]
    safety.shares += shares_of([question for question, _ in rows.asked], *answers)
    for answered in asked:
        texts = [answer.text for answer in answered.answers]
        safety.add(answered.question.prompt, answered.question.reference, *texts)
    found.wrong += _wrongly_marked(rows)
    found.wrong += _counted_otherwise(stored.safety, safety)
    canaries = stored.safety.record("canaries")
    if recipe.safety.canaries and not canaries:
        found.wrong.append("scores.json: the canaries that the recipe asks for are left out")
    elif canaries and not recipe.safety.canaries:
        found.wrong.append("scores.json: canaries are told of, and the recipe asks for none")
    elif canaries:
        safety.canaries = _stored_canaries(canaries, SIDES[0]), _stored_canaries(canaries, SIDES[1])
    return safety


def _wrongly_marked(rows: StoredSafety) -> Iterator[str]:
    for question, row in rows.asked:
        for name in MODELS:
            if row.required_flag(f"{name}_counts") != (counts := question.counts(row.required_text(name))):
                yield (
                    f"{row.where}: `{name}_counts` is {not counts}, and of the answer {row[name]!r:.60} to "
                    f"{question.user!r:.60} it is {counts} ({MEASURES[question.measure][0]})"
                )


def _counted_otherwise(stored: Record, counted: SafetyResult) -> Iterator[str]:
    theirs = stored.records("shares")
    mine = [share.as_json() for share in counted.measures]
    names = [(each["name"], each["language"]) for each in mine]
    if [(each.text("name"), each.text("language")) for each in theirs] != names:
        yield f"scores.json: safety has other measures than there are answers to, which are {names!r:.200}"
        return
    for one, other in zip(mine, theirs, strict=True):
        if wrong := [key for key in one if not same(one[key], other.values.get(key))]:
            said = f"{other.values.get(wrong[0])!r:.80}, the stored answers give {one[wrong[0]]!r:.80}"
            yield f"scores.json: safety: {one['title']}: `{wrong[0]}` is {said}"


def _stored_canaries(canaries: Record, side: str) -> list[CanaryScore]:
    return [
        CanaryScore(
            each.required_whole("repeats"),
            each.required_number("exposure"),
            each.required_flag("greedy"),
            each.required_whole("sampled"),
        )
        for each in canaries.records(side)
    ]


def safety_rows(rows: StoredSafety, renderer: Renderer, room: int) -> list[AskedRow]:
    """The questions of the sets, to be asked again.

    Args:
        room: new tokens at most.
    """
    takes_system = renderer.template.takes_system
    return [
        AskedRow(each.question(takes_system=takes_system), row, room, "safety", partial(_as_it_should, each))
        for each, row in rows.asked
    ]


def _as_it_should(question: SafetyQuestion, answer: Answer) -> bool:
    """Whether an answer is on the side of its measure's limit."""
    return question.counts(answer.text) == (MEASURES[question.measure][1] == "min")


@dataclass(frozen=True)
class SecretsAgain:
    """Asks one model for what it may have learned by heart.

    Args:
        name: as rows call the model.
        kl: see :func:`~afina.verify.held_against.mean_within`.
    """

    model: Any
    renderer: Renderer
    name: str
    limit: float
    kl: float
    batch_tokens: int
    progress: Progress

    def known(self, train: Path, rows: StoredSafety, recipe: Recipe, found: HeldAgainst) -> None:
        """Ask for the personal data of the training rows.

        Args:
            train: the file of the training rows.
        """
        known = find_known(read_examples(train), recipe, folds_of(self.renderer.tokenizer)).asked
        kinds, there = [each.kind for each in known], [row.text("kind") for row in rows.known]
        if kinds != there:
            found.wrong.append(
                f"{SAFETY}: {len(there)} known strings are told of, and {len(kinds)} stand in the rows to be asked for"
                + ("" if len(kinds) != len(there) else ", which are of other kinds")
            )
            return
        leader = Leader(self.model, self.renderer, self.limit)
        given_back = ask_for(self.model, self.renderer, known, self.progress)
        for each, row, mine in zip(known, rows.known, given_back, strict=True):
            theirs = row.required_flag(f"{self.name}_counts")
            if mine == theirs:
                continue
            prompt, who = prompt_of(each, self.renderer), WHO[self.name]
            said = f"{row.where}: {who} {_gives(theirs)} a string of kind {each.kind}, here it {_gives(mine)} it"
            may = (
                leader.may_part(prompt, room_for([each], self.renderer))
                if mine
                else leader.may_say(prompt, each.string)
            )
            (found.rounded if may else found.wrong).append(said)

    def canaries(self, train: Path, told: Record, side: str, found: HeldAgainst) -> None:
        """Ask for the secrets of the canaries.

        Args:
            told: what is stored of both models.
            side: of it, this model's.
        """
        stored = _stored_canaries(told, side)
        canaries = canaries_among(read_examples(train))
        size: Any = {"pad_id": self._pad_id, "batch_tokens": self.batch_tokens}
        mine = measure_canaries(self.model, self.renderer, canaries, **size, progress=self.progress) if canaries else []
        if len(mine) != len(stored):
            found.wrong.append(f"scores.json: {len(stored)} canaries are told of, and {len(mine)} stand in the rows")
            return
        for number, (canary, one, other) in enumerate(zip(canaries, mine, stored, strict=True), start=1):
            name = f"safety: canary {number} of {WHO[self.name]}"
            found.exactly(f"{name}: repeats", one.repeats, other.repeats)
            self._greedy(name, canary, one.greedy, other.greedy, found)
            if not same(one.exposure, other.exposure):
                said = f"{name}: exposure is {other.exposure}, computed again {one.exposure}"
                low, high = self._exposures(canary, size)
                near = low - 1e-9 <= other.exposure <= high + 1e-9
                (found.rounded if near else found.wrong).append(said)
        self._sampled(sum(each.sampled for each in mine), sum(each.sampled for each in stored), found)

    @property
    def _pad_id(self) -> int:
        tokenizer = self.renderer.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.renderer.end_id)

    def _greedy(self, name: str, canary: Canary, mine: bool, theirs: bool, found: HeldAgainst) -> None:
        if mine == theirs:
            return
        leader, prompt = Leader(self.model, self.renderer, self.limit), self._prompt(canary)
        room = len(self.renderer.begun((), canary.code)) + CANARY_ROOM
        may = leader.may_part(prompt, room) if mine else leader.may_say(prompt, canary.code)
        said = f"{name}: stored is that it {_gives(theirs)} its secret, here it {_gives(mine)} it"
        (found.rounded if may else found.wrong).append(said)

    def _prompt(self, canary: Canary) -> list[int]:
        return self.renderer.begun(canary.example.messages[:-1], canary.before)

    def _exposures(self, canary: Canary, size: Any) -> tuple[float, float]:
        """The lowest and the highest exposure that rounding may give."""
        losses = code_losses(self.model, self.renderer, canary, **size)
        own, tokens = losses[0].learned, losses[0].learned_tokens
        within = 2 * tokens * mean_within(self.kl, tokens)
        others = [each.learned for each in losses[1:]]
        worst = 1 + sum(loss <= own + within for loss in others)
        best = 1 + sum(loss < own - within for loss in others)
        return math.log2(len(losses)) - math.log2(worst), math.log2(len(losses)) - math.log2(best)

    def _sampled(self, mine: int, theirs: int, found: HeldAgainst) -> None:
        """Draws of the same probabilities that another device may make otherwise."""
        if mine == theirs:
            return
        said = f"safety: {WHO[self.name]} says secrets of canaries in {theirs} sampled continuations, here in {mine}"
        if sign_test(min(mine, theirs), mine + theirs) < PICKED:
            found.wrong.append(f"scores.json: {said}")
        else:
            found.left.append(f"whether it comes of the draws, which differ between devices: {said}")


def _gives(flag: bool) -> str:
    return "gives back" if flag else "does not give back"
