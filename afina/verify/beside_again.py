"""What stands beside the answers to the probes: endings, losses, safety, retrieval, tasks and texts behind prompts,
counted and computed again as far as the export and the dataset at hand tell them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from afina.errors import AfinaError
from afina.evaluate.scores import RETRIEVAL_FILE, Scores
from afina.recipe import Recipe
from afina.record import Record, read_record
from afina.run import Progress
from afina.tokenizer.chat import Renderer
from afina.verify.asked_again import AskedAgain, AskedRow, OpenedAgain, ask_again
from afina.verify.continuations_again import StoredTexts, TextsAgain, continuations_counted
from afina.verify.endings_again import endings_again
from afina.verify.held_against import HeldAgainst
from afina.verify.losses_again import PARTS, LossesOfModel, RowsAgain, hold_losses, losses_of, rows_again
from afina.verify.proof import Proof
from afina.verify.questions import CommittedProbes
from afina.verify.retrieval_again import RetrievalAgain, StoredRetrieval, retrieval_counted, stored_retrieval
from afina.verify.safety_again import SecretsAgain, StoredSafety, safety_counted, safety_rows, stored_safety
from afina.verify.scored_again import CountedAgain
from afina.verify.tasks_again import tasks_again

ENDINGS, LOSSES, SAFETY, RETRIEVAL = "endings", "losses", "safety", "retrieval"
TASKS, CONTINUATIONS, JUDGE = "tasks", "continuations", "judge"
BY_DATASET = "not in an export (--dataset FOLDER)"
EARLIER = "the afina that committed did not promise by which settings these were measured"
BY_AN_ENDPOINT = "what a judge said: an endpoint's words, which nothing here can ask for again"
BASE, TRAINED = "base", "adapter"
"""The models, as rows call them."""

Promised = TypeVar("Promised")


@dataclass
class BesideAgain:
    """All of them of one export, each held against what is computed here.

    Args:
        promised: the commitment.
        again: the settings committed to; empty for an earlier afina's commitment.
        data: the committed dataset folder, where it is at hand.
        base: the base's folder, where it is here.
        from_nothing: whether random weights were trained.
        questions: ask only so many of a kind, drawn by chance.
    """

    proof: Proof
    promised: Record
    committed: CommittedProbes
    recipe: Recipe
    renderer: Renderer
    again: Record
    data: Path | None
    base: Path | None
    from_nothing: bool
    questions: int | None
    held: dict[str, HeldAgainst]
    _scores: Scores = field(default_factory=Scores)
    _safety: StoredSafety | None = None
    _safety_rows: Sequence[AskedRow] = ()
    _safety_again: AskedAgain = field(default_factory=AskedAgain)
    _retrieval: StoredRetrieval | None = None
    _rows: RowsAgain | None = None
    _losses: dict[str, LossesOfModel] = field(default_factory=dict)
    _tasks: Sequence[AskedRow] = ()
    _texts: StoredTexts | None = None
    _again: dict[str, AskedAgain] = field(default_factory=dict)
    """What came of asking for endings, tasks and texts."""

    @property
    def whole_data(self) -> Path | None:
        """The dataset folder, where all that its words stand in is at hand, and is what was committed to: what names of
        files made its test belongs to it, which an earlier afina did not commit to."""
        if self.data is None or (summary := read_record(self.data / "dataset.json")) is None:
            return None
        promised, has_test = self.promised.record("dataset"), (self.data / "test.jsonl").is_file()
        if "test" in promised:
            return self.data if has_test == (promised.text("test") is not None) else None
        return None if has_test or "test" in summary else self.data

    def count(self, stored: Scores, counted: CountedAgain) -> list[str]:
        """Count what the stored answers tell.

        Returns:
            The limits that these miss.
        """
        self._scores, values = stored, stored.as_json()
        tasks = self._promised("tasks", self.promised.records)
        there = {
            ENDINGS: stored.guardrails is not None,
            TASKS: bool(stored.tasks or tasks),
            CONTINUATIONS: bool(values["continuations"] or self._promised("prompts", self.promised.record)),
            JUDGE: bool(values["judge"]),
            LOSSES: any(values[key] for key in PARTS) or (bool(self.again) and self.data is not None),
            SAFETY: bool(values["safety"]) or bool(self.again),
            RETRIEVAL: stored.retrieval is not None or bool(self.again.record("retrieval")),
        }
        self.held |= {name: HeldAgainst() for name, is_there in there.items() if is_there}
        if JUDGE in self.held:
            self.held[JUDGE].left.append(BY_AN_ENDPOINT)
        if TASKS in self.held:
            self._count_tasks(tasks)
        misses = self._count_texts() if CONTINUATIONS in self.held else []
        if not self.again:
            for name in (LOSSES, SAFETY, RETRIEVAL):
                if name in self.held:
                    self.held[name].left.append(EARLIER)
            return misses
        misses = [*self._count_safety(counted), *misses]
        if RETRIEVAL in self.held:
            self._count_retrieval(counted)
        if LOSSES in self.held and self.data is None:
            self.held[LOSSES].left.append(f"the rows that were held out are {BY_DATASET}")
        return misses

    def _promised(self, key: str, of: Callable[[str], Promised]) -> Promised | None:
        """What was committed to under a key; None by an earlier afina."""
        return of(key) if key in self.promised else None

    def _count_tasks(self, promised: Sequence[Record] | None) -> None:
        found = self.held[TASKS]
        try:
            rows = tasks_again(self.proof, self._scores, promised, self.recipe.dataset.language, found)
        except AfinaError as error:
            found.wrong += _said(error)
            return
        self._tasks = self._drawn(rows, found)

    def _count_texts(self) -> list[str]:
        found, limits = self.held[CONTINUATIONS], self.recipe.evaluate.limits.guardrails
        prompts = self._promised("prompts", self.promised.record)
        judged_by = limits if self.from_nothing else None  # what a base does by itself no training caused
        try:
            self._texts = continuations_counted(
                self.proof, self._scores, prompts, self.renderer, self.whole_data, judged_by, found
            )
        except AfinaError as error:
            found.wrong += _said(error)
        return self._texts.misses if self._texts else []

    def _drawn(self, rows: Sequence[AskedRow], found: HeldAgainst) -> Sequence[AskedRow]:
        """The rows, or so many of them as are asked for, drawn by chance now."""
        if self.questions is None or self.questions >= len(rows):
            return rows
        found.left.append(f"{len(rows) - self.questions} answers that were not drawn (--questions)")
        return random.SystemRandom().sample(rows, self.questions)

    def _count_safety(self, counted: CountedAgain) -> list[str]:
        found = self.held[SAFETY]
        try:
            self._safety = stored_safety(self.proof, self.recipe, self.renderer, found)
            if self._safety is None:
                return []
            safety = safety_counted(self.proof, self._scores, self._safety, counted.asked, self.recipe, found)
        except AfinaError as error:
            self._safety = None
            found.wrong += _said(error)
            return []
        if self.data is None and (self.recipe.safety.known_strings or self.recipe.safety.canaries):
            found.left.append(f"what is given back of the training rows: these are {BY_DATASET}")
        if self.again.record("safety").flag("strings"):
            found.left.append("whether the strings of the recipe's own file are given back: no export names them")
        return safety.misses(self.recipe.safety.limits)

    def _count_retrieval(self, counted: CountedAgain) -> None:
        found, stored = self.held[RETRIEVAL], self._scores.retrieval
        if stored is None:
            if self.proof.rows(RETRIEVAL_FILE):
                found.wrong.append(f"scores.json: `retrieval` is left out, and {RETRIEVAL_FILE} holds its answers")
            found.left.append("why it was not measured: the verdict's notes say so, and no answer tells")
            return
        try:
            rows = stored_retrieval(self.proof, self.committed.probes, any_case="case" in counted.folds)
            retrieval_counted(stored, rows, self.committed.probes, counted.scores, self.recipe, found)
        except AfinaError as error:
            found.wrong += _said(error)
            return
        self._retrieval = rows
        if self.data is None:
            found.left.append(f"how the base answers with passages: the documents are {BY_DATASET}")

    def ask(
        self, name: str, model: Any, opened: OpenedAgain, progress: Progress, asked: Sequence[AskedRow], *, whole: bool
    ) -> None:
        """Ask one of the models.

        Args:
            name: :data:`BASE` or :data:`TRAINED`.
            asked: the answers to probes and samples that are asked again.
            whole: whether these are all.
        """
        if ENDINGS in self.held:
            found, room = self.held[ENDINGS], self._scores.guardrails.room if self._scores.guardrails else None
            told = room[0 if name == BASE else 1] if room and whole else None
            self._add(
                ENDINGS,
                endings_again(model, self.renderer, asked, name, told, self.recipe, opened.limit, found, progress),
            )
        if self._tasks:
            self.held[TASKS].computed = True
            self._add(TASKS, ask_again(model, self.renderer, self._tasks, name, opened.limit, progress))
        if name == TRAINED and self._texts is not None:
            writes = TextsAgain(model, self.renderer, opened.limit, opened.kl, self.questions, progress)
            self._add(CONTINUATIONS, writes.write(self._texts, self.held[CONTINUATIONS]))
        if not self.again:
            return
        if self._safety is not None:
            self._ask_safety(name, model, opened, progress)
        if self.data is None:
            return
        if self._rows is None and not self.held[LOSSES].wrong:
            try:
                self._rows = rows_again(self.data, self.renderer, self.recipe, self.again)
            except AfinaError as error:
                self.held[LOSSES].wrong += _said(error)
        if self._rows is not None:
            self._losses[name] = losses_of(
                model, self._rows, self.renderer, self.recipe, from_nothing=self.from_nothing
            )
        stored = self._scores.retrieval
        if name == BASE and self.base is not None and self._retrieval is not None and stored is not None:
            found = self.held[RETRIEVAL]
            again = RetrievalAgain(
                self.base, self.data, self.renderer, self.recipe, opened.limit, self.questions, progress
            )
            found.answers(again.ask(model, stored, self._retrieval, found))

    def _ask_safety(self, name: str, model: Any, opened: OpenedAgain, progress: Progress) -> None:
        found, rows = self.held[SAFETY], self._safety
        assert rows is not None
        if not found.computed:
            every = safety_rows(rows, self.renderer, self.recipe.evaluate.max_new_tokens)
            self._safety_rows = self._drawn(every, found)
        found.computed = True
        if self._safety_rows:
            self._safety_again.add(ask_again(model, self.renderer, self._safety_rows, name, opened.limit, progress))
        if self.data is None:
            return
        asks = SecretsAgain(
            model, self.renderer, name, opened.limit, opened.kl, self.recipe.train.batch_tokens, progress
        )
        train = self.data / "train.jsonl"
        if not self.again.record("safety").flag("strings"):
            asks.known(train, rows, self.recipe, found)
        if self.recipe.safety.canaries:
            side = "before" if name == BASE else "after"
            asks.canaries(train, self._scores.safety.record("canaries"), side, found)

    def _add(self, kind: str, again: AskedAgain) -> None:
        self._again.setdefault(kind, AskedAgain()).add(again)

    def conclude(self, opened: OpenedAgain) -> None:
        """Hold against each other what both models were asked for."""
        if self._losses:
            assert self._rows is not None
            mine, held = (self._losses.get(BASE), self._losses[TRAINED]), self.held[LOSSES]
            try:
                hold_losses(self._scores, self._rows, mine, opened.kl, held)
            except AfinaError as error:  # a figure that is none
                held.wrong += _said(error)
        for kind, again in self._again.items():
            self.held[kind].answers(again)
        if SAFETY in self.held:
            self.held[SAFETY].answers(self._safety_again)
        if opened.base is None:
            for name in (ENDINGS, TASKS, SAFETY, RETRIEVAL):
                if name in self.held and (self.again or name in self._again):
                    self.held[name].left.append("what the base does: it is not here (--base BASE)")

    def leave(self, why: str) -> None:
        """Nothing is asked: say why."""
        for name, each in self.held.items():
            each.left += [why] if name != JUDGE else []


def _said(error: AfinaError) -> list[str]:
    return [f"{each.where}: {each.what}" if each.where else each.what for each in error.problems]
