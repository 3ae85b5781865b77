"""Is the comparison with retrieval what the answers give? Counted again, and with the dataset at hand asked again.

The stored rows hold the base's answers and no passages. These are found again in the committed dataset, by the same
search, and put before the committed questions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from afina.evaluate.choice import Choice
from afina.evaluate.probes import ProbeSet, Question
from afina.evaluate.retrieval import AskedWith, Flags, ProbeWith, compare, read_passages
from afina.evaluate.retrieval_answers import (
    FOUND,
    SECTION,
    AskingBase,
    answer_flags,
    mean_tokens,
    probes_of_passages,
    put_into,
)
from afina.evaluate.scores import RETRIEVAL_FILE, RetrievalScores
from afina.evaluate.verdict import ProbeScore
from afina.model.generate.generate_torch import Answer
from afina.model.shape_read import shape_of_folder
from afina.recipe import Recipe
from afina.record import Record
from afina.run import Progress
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of
from afina.verify.asked_again import AskedAgain, AskedRow, ask_again, choose_again
from afina.verify.held_against import HeldAgainst, same
from afina.verify.proof import Proof
from afina.verify.scored_again import ranked_by

NAME = "base"
"""As rows call the model that is asked."""


@dataclass(frozen=True)
class AnsweredWith:
    """A stored answer to a question with passages in its prompt."""

    number: int
    """Which question of the probe."""
    holding: Flags
    flags: Flags
    """What the answer has right."""
    row: Record


@dataclass(frozen=True)
class StoredRetrieval:
    """The rows of a proof about retrieval, by probe."""

    probes: list[tuple[ProbeSet, list[AnsweredWith], list[AnsweredWith]]]
    """With the passages found, and with the section that is asked about."""


def stored_retrieval(proof: Proof, probes: Sequence[ProbeSet], *, any_case: bool) -> StoredRetrieval:
    """The rows, each belonging to a committed question.

    Args:
        probes: all that were committed to.
        any_case: whether capitals count for nothing, as where the tokenizer has none.

    Raises:
        AfinaError: a row is damaged, or belongs to no question.
    """
    told = probes_of_passages(probes)
    held: list[tuple[ProbeSet, list[AnsweredWith], list[AnsweredWith]]] = [(probe, [], []) for probe in told]
    for row in proof.rows(RETRIEVAL_FILE):
        number = row.required_whole("set")
        if not 0 <= number < len(told):
            raise row.wrong("set", f"from 0 to {len(told) - 1}: a probe that is asked with passages", number)
        probe, found, section = held[number]
        if (row.text("probe"), row.text("role")) != (probe.name, probe.role):
            raise row.wrong("probe", f"{probe.name} ({probe.role}), as committed to", row.text("probe"))
        if (which := row.text("passages")) not in (FOUND, SECTION):
            raise row.wrong("passages", f"{FOUND} or {SECTION}", which)
        into = found if which == FOUND else section
        answered = _answered(row, probe, any_case)
        if into and answered.number <= into[-1].number:
            raise row.wrong("question", "a later one than that of the row before", answered.number)
        into.append(answered)
    return StoredRetrieval(held)


def _answered(row: Record, probe: ProbeSet, any_case: bool) -> AnsweredWith:
    items: Sequence[Any] = probe.choices or probe.questions
    number = row.required_whole("question")
    if not 0 <= number < len(items):
        raise row.wrong("question", f"one of the {len(items)} of {probe.name}, counted from 0", number)
    item = items[number]
    if isinstance(item, Choice):
        return AnsweredWith(number, _flags(row, "holding", 1), (ranked_by(item, row, NAME).right,), row)
    counted = answer_flags(item, row.required_text(NAME), any_case=any_case)
    return AnsweredWith(number, _flags(row, "holding", len(counted)), counted, row)


def _flags(row: Record, key: str, count: int) -> Flags:
    given = row.values.get(key)
    if not isinstance(given, list) or len(given) != count or not all(isinstance(each, bool) for each in given):
        raise row.wrong(key, f"a list of {count} times true or false", given)
    return tuple(given)


def retrieval_counted(
    stored: RetrievalScores,
    rows: StoredRetrieval,
    probes: Sequence[ProbeSet],
    scores: Sequence[ProbeScore],
    recipe: Recipe,
    found: HeldAgainst,
) -> None:
    """Count the stored answers again, and hold that against the stored figures.

    Args:
        scores: of the probes, in their order.
        recipe: the committed part of it.
    """
    wanted = recipe.evaluate.retrieval
    if wanted is None or stored.passages != wanted.passages:
        asks = f"{wanted.passages} passages a prompt" if wanted else "no retrieval"
        found.wrong.append(f"scores.json: retrieval with {stored.passages} passages, and the recipe asks for {asks}")
        return
    score_of = {id(probe): score for probe, score in zip(probes, scores, strict=False)}
    told = [each for each in rows.probes if each[1]]
    for _, with_found, with_section in told:
        found.wrong += _wrongly_marked([*with_found, *with_section])
    if [probe.name for probe, *_ in told] != [each.name for each in stored.probes]:
        names = ", ".join(probe.name for probe, *_ in told) or "none"
        found.wrong.append(f"scores.json: retrieval tells of other probes than there are answers to: {names}")
        return
    for (probe, with_found, with_section), theirs in zip(told, stored.probes, strict=True):
        asked = ProbeWith(probe, tuple(_asked_with(probe, each) for each in with_found), (), 0, 0)
        flags = [each.flags for each in with_found]
        mine = asdict(compare(asked, flags, [each.flags for each in with_section], score_of[id(probe)]))
        found.wrong += _counted_otherwise(probe.name, mine, asdict(theirs))


def _asked_with(probe: ProbeSet, answered: AnsweredWith) -> AskedWith:
    items: Sequence[Any] = probe.choices or probe.questions
    return AskedWith(answered.number, items[answered.number], answered.holding)


def _wrongly_marked(answers: Sequence[AnsweredWith]) -> Iterator[str]:
    for each in answers:
        if (key := f"{NAME}_counts") in each.row and each.row.values[key] != list(each.flags):
            said = f"{each.row.values[key]!r:.80}, and the answer {each.row.text(NAME)!r:.60} gets {list(each.flags)}"
            yield f"{each.row.where}: `{key}` is {said}"
        elif (key := f"{NAME}_correct") in each.row and each.row.values[key] != each.flags[0]:
            said = f"{each.row.values[key]!r:.80}, and by its `{NAME}_scores` it is {each.flags[0]}"
            yield f"{each.row.where}: `{key}` is {said}"


def _counted_otherwise(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for key, value in mine.items():
        if not same(value, theirs[key]):
            said = f"{theirs[key]!r:.80}, the stored answers give {value!r:.80}"
            yield f"scores.json: retrieval: {name}: `{key}` is {said}"


@dataclass(frozen=True)
class RetrievalAgain:
    """Asks the base again, with the passages found again.

    Args:
        base: its folder.
        data: the committed dataset folder.
        limit: nats that are rounding.
        questions: ask only so many, drawn by chance.
    """

    base: Path
    data: Path
    renderer: Renderer
    recipe: Recipe
    limit: float
    questions: int | None
    progress: Progress

    def ask(self, model: Any, stored: RetrievalScores, rows: StoredRetrieval, found: HeldAgainst) -> AskedAgain:
        """Find the passages, hold what is counted of the prompts against what is stored, and ask.

        Args:
            model: the base, opened.

        Returns:
            What came of the answers.
        """
        wanted = self.recipe.evaluate.retrieval
        assert wanted is not None, "looked at before"
        found.computed = True
        found.left.append("how many seconds an answer took with and without passages: a clock tells that once")
        passages = read_passages(self.data)
        tokenizer, seen = self.renderer.tokenizer, shape_of_folder(self.base).max_positions or None
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.renderer.end_id
        asking = AskingBase(self.renderer, self.recipe, seen, int(pad))
        asked = put_into([probe for probe, *_ in rows.probes], passages, wanted, asking) if passages else []
        found.exactly("retrieval: `searched`", len(passages), stored.searched)
        found.exactly("retrieval: `fewer`", sum(each.fewer for each in asked), stored.fewer)
        found.exactly("retrieval: `left_out`", sum(each.left_out for each in asked), stored.left_out)
        found.exactly("retrieval: `tokens`", mean_tokens(asked, asking), stored.tokens)
        pairs = list(self._pairs(asked, rows, found))
        if self.questions is not None and self.questions < len(pairs):
            found.left.append(f"{len(pairs) - self.questions} answers that were not drawn (--questions)")
            pairs = random.SystemRandom().sample(pairs, self.questions)
        return self._asked(model, pairs)

    def _pairs(
        self, asked: Sequence[ProbeWith], rows: StoredRetrieval, found: HeldAgainst
    ) -> Iterator[tuple[AskedWith, AnsweredWith]]:
        """Each question as it is asked here, with its stored answer."""
        for each, (probe, *stored) in zip(asked, rows.probes, strict=False):
            for mine, theirs, which in zip((each.found, each.section), stored, (FOUND, SECTION), strict=True):
                held = [(one.number, one.holding) for one in mine]
                if held != [(one.number, one.holding) for one in theirs]:
                    found.wrong.append(
                        f"{RETRIEVAL_FILE}: {probe.name}: {len(theirs)} answers with passages ({which}), and here "
                        f"{len(mine)} questions are asked so; other questions, or other passages, than the search finds"
                    )
                    continue
                yield from zip(mine, theirs, strict=True)

    def _asked(self, model: Any, drawn: Sequence[tuple[AskedWith, AnsweredWith]]) -> AskedAgain:
        room, again = self.recipe.evaluate.max_new_tokens, AskedAgain()
        any_case = "case" in folds_of(self.renderer.tokenizer)
        questions = [
            AskedRow(one.item, stored.row, room, "retrieval", partial(_right, one.item, any_case))
            for one, stored in drawn
            if isinstance(one.item, Question)
        ]
        choices = [(one.item, stored.row) for one, stored in drawn if isinstance(one.item, Choice)]
        if questions:
            again.add(ask_again(model, self.renderer, questions, NAME, self.limit, self.progress))
        if choices:
            again.add(choose_again(model, self.renderer, choices, NAME, self.recipe, self.limit, self.progress))
        return again


def _right(question: Question, any_case: bool, answer: Answer) -> bool:
    return all(answer_flags(question, answer.text, any_case=any_case))
