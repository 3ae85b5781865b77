"""Skills: the base is asked before training, which says what a loss could be told by; the result is asked the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from afina.model.open_model import OpenModel
from afina.record import read_rows
from afina.units import show_share
from afina.walk.base import base_files, model_shape, renderer
from afina.walk.context import Context
from afina.walk.models import open_untrained
from afina.walk.stored_answers import answers_of_base, bits_of_base
from afina.whole import write_whole

if TYPE_CHECKING:
    from afina.evaluate.grade import Graded
    from afina.evaluate.skills import SkillItem
    from afina.evaluate.verdict import ProbeScore
    from afina.model.generate.generate_torch import Answer
    from afina.model.generate.stored_answers import KeptAnswers

BASE_FILE = "base-skills.jsonl"
"""Every question about skills that the base was asked before training, with its answer."""
ROWS_FILE = "skills.jsonl"
"""The same questions with both answers."""


def skills_inputs(context: Context) -> dict[str, Any]:
    """What the base's answers depend on, and how many it is asked."""
    from afina.evaluate.skills import items_hash

    recipe = context.recipe
    return {
        "base": base_files(context),
        "chat": recipe.chat.model_dump(mode="json"),
        "language": recipe.dataset.language,
        "most": recipe.most_skills,
        "broke_max": recipe.evaluate.limits.broke_max,
        "questions": items_hash(),
    } | bits_of_base(context)


def ask_base(context: Context) -> dict[str, Any]:
    """The stage ``skills``: write :data:`BASE_FILE`, and say which loss can be told from chance.

    Returns:
        How many were asked and how many were as asked, by skill, and how many did not fit.
    """
    from afina.evaluate.skills import ask_until, in_turn, needed

    recipe = context.recipe
    items = in_turn(recipe.dataset.language)[: recipe.most_skills]
    fitting = [item for item in items if _fits(context, item)]
    answered: list[tuple[SkillItem, Answer]] = []
    if fitting:
        model = open_untrained(context)
        kept = answers_of_base(context)
        with context.open_progress("skills of the base") as progress:

            def ask(portion: Sequence[SkillItem]) -> Sequence[Answer]:
                found = _ask(context, model, portion, kept)
                progress(len(answered) + len(portion), len(fitting), "answers")
                return found

            answered += ask_until(fitting, needed(recipe.evaluate.limits.broke_max), ask)
    rows = []
    passed: Counter[str] = Counter()
    asked = Counter(item.skill for item, _ in answered)
    for item, answer in answered:
        right = item.grade(answer).said
        passed[item.skill] += right
        said = {
            "base": answer.text,
            "base_correct": right,
            "base_stopped": answer.stopped,
            "base_tokens": answer.tokens,
        }
        rows.append({"id": item.id, **said})
    write_whole(context.folder / BASE_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    found = {skill: [passed[skill], count] for skill, count in asked.items()}
    counts = {"asked": len(answered), "passed": passed.total(), "skills": found, "too_long": len(items) - len(fitting)}
    context.tell(_describe(counts, recipe.evaluate.limits.broke_max))
    return counts


def _describe(counts: dict[str, Any], broke_max: float) -> str:
    """What the base does, and what can be told of it later."""
    from afina.evaluate.intervals import FEWEST_TURNED, smallest_loss
    from afina.evaluate.skills import needed

    asked, passed = counts["asked"], counts["passed"]
    lines = []
    if counts["too_long"]:
        lines.append(f"skills: {counts['too_long']} questions do not fit what the base sees, and were not asked")
    if not asked:
        return "\n".join(lines or ["skills: the base has no chat template, so it was asked nothing"])
    skills = ", ".join(f"{skill} {right} of {of}" for skill, (right, of) in counts["skills"].items())
    lines.append(f"skills: the base does {passed} of {asked} as asked ({skills})")
    if passed < FEWEST_TURNED:
        lines.append("skills: too few to tell a loss: forgetting of skills will not be judged")
    else:
        lines.append(f"skills: a net loss of less than {show_share(smallest_loss(passed))} cannot be told from chance")
        if passed < needed(broke_max):
            lines[-1] += f"; the limit of {show_share(broke_max)} would need {needed(broke_max)} that the base does"
    return "\n".join(lines)


def _fits(context: Context, item: SkillItem) -> bool:
    """Whether the base can be asked, with room for the answer."""
    from afina.tokenizer.template import NotRendered

    chat, most = renderer(context), model_shape(context).max_positions
    if not chat.tokenizer.chat_template:
        return False
    try:
        prompt = chat.prompt(item.question(takes_system=chat.template.takes_system).messages)
    except NotRendered:
        return False
    return not most or len(prompt) + item.room <= most


def _ask(context: Context, model: Any, items: Sequence[SkillItem], kept: KeptAnswers | None) -> list[Answer]:
    from afina.model.generate.generate_torch import generate

    chat = renderer(context)
    prompts = [chat.prompt(item.question(takes_system=chat.template.takes_system).messages) for item in items]
    rooms = [item.room for item in items]
    return generate(model, chat, prompts, max_new_tokens=rooms, kept=kept, say=context.tell)


@dataclass(frozen=True)
class AskedSkill:
    """A question that the base was asked before training, and what it made of it."""

    item: SkillItem
    answer: Answer
    graded: Graded


def asked_of_base(context: Context) -> list[AskedSkill] | None:
    """What :data:`BASE_FILE` holds; None where the recipe asks for no skills, or the base was not asked.

    Raises:
        AfinaError: the file is damaged.
    """
    from afina.evaluate.skills import skill_items
    from afina.model.generate.generate_torch import Answer

    rows = read_rows(context.folder / BASE_FILE) if context.recipe.most_skills else None
    if rows is None:
        return None
    known, found = skill_items(), list[AskedSkill]()
    for row in rows:
        if row.required_text("id") not in known:
            raise row.wrong("id", "a question of afina's own", row["id"])
        answer = Answer(row.required_text("base"), row.required_whole("base_tokens"), row.required_flag("base_stopped"))
        item = known[row["id"]]
        found.append(AskedSkill(item, answer, item.grade(answer)))
    return found


def score_skills(
    context: Context, model: Any, before: Sequence[AskedSkill], kept: KeptAnswers
) -> tuple[ProbeScore, list[Answer]]:
    """Ask a model what the base was asked: both answers judged, and the model's."""
    from afina.evaluate.skills import NAME
    from afina.evaluate.verdict import ProbeScore

    answers = _ask(context, model, [each.item for each in before], kept)
    after = tuple(each.item.grade(answer) for each, answer in zip(before, answers, strict=True))
    groups = tuple(each.item.skill for each in before)
    return ProbeScore(NAME, "skills", tuple(each.graded for each in before), after, groups=groups), answers


def measure_skills(context: Context, result: OpenModel, kept: KeptAnswers) -> tuple[ProbeScore | None, list[str]]:
    """Ask the result what the base was asked; writes :data:`ROWS_FILE`.

    Returns:
        Both answers judged, and what has to be known of them; None where the base has too few skills to lose.
    """
    from afina.evaluate.intervals import FEWEST_TURNED
    from afina.evaluate.skills import NAME

    (context.folder / ROWS_FILE).unlink(missing_ok=True)
    before = asked_of_base(context)
    if before is None:
        return None, []
    passed = sum(each.graded.said for each in before)
    if passed < FEWEST_TURNED:
        return None, [f"skills were not judged: the base does {passed} of the {len(before)} that it was asked as asked"]
    with context.open_progress("skills of the result"), result() as model:
        score, answers = score_skills(context, model, before, kept)
    rows = [
        {
            "id": each.item.id,
            "prompt": each.item.turns[-1],
            "messages": list(each.item.question(takes_system=True).messages),
            "reference": each.item.example,
            "base": each.answer.text,
            "adapter": answer.text,
            "base_correct": each.graded.said,
            "adapter_correct": two.said,
            "base_stopped": each.answer.stopped,
            "adapter_stopped": answer.stopped,
            "probe": NAME,
            "role": "skills",
        }
        for each, answer, two in zip(before, answers, score.graded_after, strict=True)
    ]
    write_whole(context.folder / ROWS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return score, []
