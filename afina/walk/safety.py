"""Safety of both models: canaries, known strings, afina's own sets; insults in the answers to tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.model.open_model import OpenModel
from afina.recipe import Recipe
from afina.walk.base import pad_id, renderer
from afina.walk.context import Context
from afina.walk.stored_answers import Kept
from afina.whole import write_whole

if TYPE_CHECKING:
    from afina.evaluate.safety.findings import SafetyResult
    from afina.evaluate.safety.known import Known
    from afina.evaluate.safety.sets import SafetyQuestion
    from afina.model.generate.generate_torch import Answer

ROWS_FILE = "safety.jsonl"
"""Every question of the sets with both answers, and where each known string stands; never the strings themselves."""
SIDES = ("base", "adapter")


def measure_safety(context: Context, recipe: Recipe, models: tuple[OpenModel, OpenModel], kept: Kept) -> SafetyResult:
    """What a recipe's ``safety`` asks for, of the models before and after training; writes :data:`ROWS_FILE`.

    Args:
        recipe: the run's, without what cannot be measured now.
    """
    from afina.dataset.build.canaries import canaries_among
    from afina.evaluate.probes import ask
    from afina.evaluate.safety.canaries import measure_canaries
    from afina.evaluate.safety.findings import SafetyResult, Share
    from afina.evaluate.safety.known import ask_for, find_known
    from afina.evaluate.safety.sets import read_set, shares_of
    from afina.evaluate.tasks import PREDICTIONS_FILE, task_answers
    from afina.text.example import read_examples
    from afina.tokenizer.folding import folds_of

    chat, train = renderer(context), context.folder / "dataset/train.jsonl"
    safety = SafetyResult()
    for row in task_answers(context.folder / PREDICTIONS_FILE):
        safety.add(*row)
    canaries = canaries_among(read_examples(train)) if recipe.safety.canaries else []
    wants_known = bool(recipe.safety.known_strings or recipe.safety.strings)
    known = find_known(read_examples(train), recipe, folds_of(chat.tokenizer)) if wants_known else None
    can_ask = bool(chat.tokenizer.chat_template)
    asked = [each for name in recipe.safety.sets for each in read_set(name)] if can_ask else []
    questions = [each.question(takes_system=chat.template.takes_system) for each in asked]
    scores, given_back, answers = [], [], []
    with context.open_progress("safety") as progress:
        for opened, from_before in zip(models, kept, strict=True):
            with opened() as model:
                options: Any = {"kept": from_before, "progress": progress}
                if canaries:
                    size: Any = {"pad_id": pad_id(context), "batch_tokens": recipe.train.batch_tokens}
                    scores.append(measure_canaries(model, chat, canaries, **size, **options))
                # Not kept with the other answers: what is given back here should lie nowhere else.
                given_back.append(ask_for(model, chat, known.asked, progress) if known else [])
                answers.append(ask(model, chat, questions, max_new_tokens=recipe.evaluate.max_new_tokens, **options))
    if canaries:
        safety.canaries = scores[0], scores[1]
    else:
        safety.not_run.append("canaries (safety.canaries is 0)")
    if known and known.asked:
        safety.shares.append(Share("known_strings", tuple(given_back[0]), tuple(given_back[1])))
    else:
        why = "safety.known_strings is 0"
        if known:
            why = "none can be asked for" if known.not_asked else "no personal data stands in what is learned"
        safety.not_run.append(f"known strings ({why})")
    safety.notes += known.notes if known else []
    missing = [name for name in ("injection", "refusal") if not (can_ask and name in recipe.safety.sets)]
    if missing:
        why = "not in safety.sets" if can_ask else "the base has no chat template"
        safety.not_run.append(f"{', '.join(missing)} ({why})")
    if any(each.system for each in asked) and not chat.template.takes_system:
        safety.notes.append("the chat template takes no system message: its text stands before the question")
    safety.shares += shares_of(asked, *([answer.text for answer in side] for side in answers))
    _write_rows(context.folder / ROWS_FILE, asked, answers, known.asked if known else [], given_back)
    return safety


def _write_rows(
    file: Path,
    asked: Sequence[SafetyQuestion],
    answers: Sequence[Sequence[Answer]],
    known: Sequence[Known],
    given_back: Sequence[Sequence[bool]],
) -> None:
    """Answers and flags are those of the model before training, and of the one after."""
    rows = [
        {
            "measure": each.measure,
            "language": each.language,
            "system": each.system,
            "prompt": each.user,
            **{side: answer.text for side, answer in zip(SIDES, both, strict=True)},
            **{f"{side}_stopped": answer.stopped for side, answer in zip(SIDES, both, strict=True)},
            **{f"{side}_counts": each.counts(answer.text) for side, answer in zip(SIDES, both, strict=True)},
        }
        for each, *both in zip(asked, *answers, strict=True)
    ]
    for each, *flags in zip(known, *given_back, strict=True):
        path, _, line = each.where.rpartition(":")
        rows.append(
            {
                "measure": "known_strings",
                "kind": each.kind,
                **{f"{side}_counts": flag for side, flag in zip(SIDES, flags, strict=True)},
                "from": {"path": path, "line": int(line)},
            }
        )
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
