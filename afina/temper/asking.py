"""What is asked at each setting, by the evaluation's own code: half of the questions chooses, the other half judges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import RecipeError
from afina.evaluate.scores import KEEPS, Scores, by_way, read_scores
from afina.model.generate.stored_answers import ANSWERS_FOLDER, KeptAnswers
from afina.model.open_model import without_adapter
from afina.record import read_rows
from afina.run import Progress, hash_value
from afina.temper.choose import OldAnswer
from afina.walk.base import renderer
from afina.walk.context import Context
from afina.walk.gone import still_there
from afina.walk.rows import encoded_rows
from afina.walk.skills import AskedSkill, asked_of_base, score_skills
from afina.walk.stored_answers import answers_of_base, weights_of_base

if TYPE_CHECKING:
    from afina.evaluate.evaluate import HeldOut
    from afina.evaluate.halves import Half, Halves
    from afina.evaluate.verdict import ProbeScore
    from afina.recipe import Recipe


@dataclass(frozen=True)
class Sheet:
    """The questions of a run in halves, with what has to be known of them."""

    recipe: Recipe
    """The run's, without what cannot be asked now."""
    halves: Halves
    skills: dict[Half, Sequence[AskedSkill]]
    held_out: HeldOut
    """Rows and examples: all of them judge."""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What the recipe asks for and nobody can ask: a limit that is missed."""


def read_sheet(context: Context) -> Sheet:
    """Read the questions of a run's evaluation, and part them.

    Raises:
        RecipeError: none that tells what was learned is about facts enough to choose by.
        DataError: a probe's rows are no questions.
    """
    from afina.evaluate.derive import derive_probes
    from afina.evaluate.evaluate import HeldOut
    from afina.evaluate.halves import split_probes
    from afina.evaluate.probes import read_probes
    from afina.text.example import read_examples

    there = still_there(context)
    derived = derive_probes(context.recipe, context.folder / "dataset", renderer(context))
    halves = split_probes([*read_probes(there.recipe), *derived.probes])
    if not any(by_way(halves.steer).values()):
        few = "; ".join(halves.notes) or "no probe asks for what is to be learned"
        raise RecipeError(
            f"there is nothing to choose a strength by: {few}",
            "name questions about more facts in `evaluate.probes` (role generalization), twelve at least",
            str(context.folder),
        )
    skills, notes = _part_skills(asked_of_base(context))
    notes = [*halves.notes, *notes, *_left_out(context.recipe)]
    if not skills["steer"] and not any(probe.role == "retention" for probe in halves.steer):
        notes.append("what the base knew is not asked while a strength is chosen: no such probe is large enough")
    rows = [row for _, validation in encoded_rows(context).values() for row in validation.rows]
    examples = list(read_examples(context.folder / "dataset/validation.jsonl"))
    return Sheet(
        there.recipe, halves, skills, HeldOut(rows, examples), (*derived.notes, *notes), tuple(there.not_measured)
    )


def _part_skills(asked: Sequence[AskedSkill] | None) -> tuple[dict[Half, Sequence[AskedSkill]], list[str]]:
    """Skills by half, each question by its name; all judge where a half would hold too few that the base does."""
    from afina.evaluate.halves import FEWEST, half_of

    asked = asked or []
    parted: dict[Half, Sequence[AskedSkill]] = {
        half: [each for each in asked if half_of(each.item.id) == half] for half in ("steer", "judge")
    }
    passed = {half: sum(each.graded.said for each in part) for half, part in parted.items()}
    if min(passed.values()) >= FEWEST:
        return parted, []
    whole = asked if sum(passed.values()) >= FEWEST else []
    told = f"skills: the base does {sum(passed.values())} of {len(asked)} as asked, too few to be parted"
    return {"steer": [], "judge": whole}, [f"{told}: {'all judge' if whole else 'none is asked'}"] if asked else []


def _left_out(recipe: Recipe) -> Iterator[str]:
    """What the evaluation measures beside the questions; it is not measured at every setting."""
    found = {
        "tasks": recipe.evaluate.tasks,
        "retrieval": recipe.evaluate.retrieval,
        "continuations": recipe.evaluate.prompts,
        "canaries": recipe.safety.canaries,
        "known strings": recipe.safety.strings,
        "safety sets": recipe.safety.sets,
    }
    if asked := [what for what, wanted in found.items() if wanted]:
        yield f"not asked here, and part of the recipe: {', '.join(asked)} (`afina eval` measures them after --write)"


def old_answers(folder: Path) -> Iterator[OldAnswer]:
    """Those of the probes of old knowledge that the base had right; what they are about as the halves have it."""
    from afina.evaluate.halves import cluster_of
    from afina.evaluate.probes import Question, stored_turns

    for row in read_rows(folder / "predictions.jsonl") or ():
        if row.text("role") in KEEPS and row.flag("base_correct"):
            asked = Question(stored_turns(row), row.required_text("reference"), "", cluster=row.text("fact") or "")
            yield OldAnswer(row.required_text("probe"), cluster_of(asked), not row.flag("adapter_correct"))


def _old_skills(asked: Sequence[AskedSkill], scored: ProbeScore | None) -> Iterator[OldAnswer]:
    """The skills that the base had."""
    for each, now in zip(asked, scored.graded_after if scored else (), strict=scored is not None):
        if each.graded.said:
            yield OldAnswer("skills", each.item.id, not now.said)


@dataclass
class HalfAsker:
    """Asks one opened model, whatever its dial says at the moment.

    Args:
        folder: gets a folder for each setting and half, with ``scores.json`` and every answer.
    """

    context: Context
    model: Any
    sheet: Sheet
    folder: Path
    hits: int = 0
    """Answers kept from before."""
    _said: set[str] = field(default_factory=set)
    _base: KeptAnswers | None = None

    def __post_init__(self) -> None:
        self._base = answers_of_base(self.context)

    def ask(
        self, half: Half, name: str, weights: dict[str, Any], progress: Progress
    ) -> tuple[Scores, tuple[OldAnswer, ...]]:
        """Ask the questions of a half, and judge the answers by the recipe's limits.

        Args:
            name: of the setting, for its folder.
            weights: what the answers follow from besides the base.

        Returns:
            The scores, and what became of each answer that the base had right.
        """
        from afina.evaluate.evaluate import HeldOut, MeasuredBeside, evaluate

        context, sheet = self.context, self.sheet
        kept = KeptAnswers(context.folder.parent / ANSWERS_FOLDER, hash_value(weights_of_base(context) | weights))
        folder = self.folder / f"{half}-{name.replace(' ', '_')}"
        folder.mkdir(parents=True, exist_ok=True)
        asked, judging = sheet.skills[half], half == "judge"
        skills = score_skills(context, self.model, asked, kept)[0] if asked else None

        evaluate(
            (partial(without_adapter, self.model), lambda: contextlib.nullcontext(self.model)),
            renderer(context),
            sheet.recipe,
            sheet.held_out if judging else HeldOut([], []),
            sheet.halves.judge if judging else sheet.halves.steer,
            folder,
            progress,
            (self._base, kept),
            self._say,
            MeasuredBeside(
                notes=sheet.notes if judging else (),
                not_measured=sheet.missing if judging else (),
                skills=skills,
                dataset=context.folder / "dataset",
            ),
        )
        self.hits += kept.hits
        scores = read_scores(folder)
        assert scores is not None, "it was just written"
        return scores, (*old_answers(folder), *_old_skills(asked, skills))

    def _say(self, text: str) -> None:
        """Each remark once, not at every setting."""
        if text not in self._said:
            self._said.add(text)
            self.context.tell(text)
