"""The stage ``evaluate``: the model before and after training is measured and judged."""

from __future__ import annotations

import contextlib
from typing import Any

from afina.recipe.methods import in_words
from afina.text.example import read_examples
from afina.walk.asked import probes_asked
from afina.walk.base import base_files, renderer
from afina.walk.context import Context
from afina.walk.gone import files_read, still_there
from afina.walk.models import open_trained
from afina.walk.retrieval import measure_retrieval
from afina.walk.rows import encoded_rows
from afina.walk.safety import measure_safety
from afina.walk.skills import measure_skills
from afina.walk.stored_answers import describe_kept, kept_answers
from afina.walk.tasks import tasks_and_judge
from afina.walk.whole_texts import measure_continuations, measure_windows


def evaluate_inputs(context: Context) -> dict[str, Any]:
    """What the scores depend on."""
    recipe = context.recipe
    return {
        "trained": context.run.stages["train"]["outputs"],
        "dataset": context.dataset_hash,
        "tokens": context.tokens_hash,
        "base": base_files(context),
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "from_dataset": [*recipe.roles_from_dataset, recipe.dataset.language],
        "read": files_read(context),
        "safety": recipe.safety.model_dump(mode="json"),
        "skills": context.run.stages.get("skills", {}).get("outputs"),
    }


def evaluate(context: Context) -> dict[str, Any]:
    """Write ``predictions.jsonl``, ``samples.jsonl``, ``choices.jsonl``, ``continuations.jsonl``, ``scores.json``, and
    the rows of tasks, safety and skills.

    Returns:
        The verdict's values.
    """
    from afina.evaluate.code_answers import check_compilers
    from afina.evaluate.evaluate import HeldOut, MeasuredBeside
    from afina.evaluate.evaluate import evaluate as judge
    from afina.evaluate.tasks import read_tasks

    recipe, folder, chat = context.recipe, context.folder, renderer(context)
    check_compilers(recipe)
    held_out = [row for _, validation in encoded_rows(context).values() for row in validation.rows]
    there = still_there(context)
    for line in there.not_measured:
        context.tell(line)
    asked, asked_notes = probes_asked(context, there.recipe)
    tasks = read_tasks(there.recipe, read_examples(folder / "dataset/train.jsonl"))
    model, before = open_trained(context)
    kept = kept_answers(context)
    models = before, lambda: contextlib.nullcontext(model)
    more = tasks_and_judge(context, tasks, models, kept)
    safety = measure_safety(context, there.recipe, models, kept)
    skills, skill_notes = measure_skills(context, models[1], kept[1])
    retrieval, retrieval_notes = measure_retrieval(context, asked, models, kept)
    windows, window_notes = measure_windows(context, models)
    continuations = measure_continuations(context, there.recipe, models[1])
    with context.open_progress("evaluate") as progress:
        verdict = judge(
            models,
            chat,
            recipe,
            HeldOut(held_out, list(read_examples(folder / "dataset/validation.jsonl"))),
            asked,
            folder,
            progress,
            kept,
            context.tell,
            MeasuredBeside(
                [*asked_notes, *skill_notes, *retrieval_notes, *window_notes, *_folding_notes(chat.tokenizer)],
                more,
                safety,
                there.not_measured,
                skills,
                folder / "dataset",
                retrieval,
                windows,
                continuations,
            ),
        )
    context.tell(describe_kept(kept))
    return verdict.as_json()


def _folding_notes(tokenizer: Any) -> list[str]:
    """What a reader has to know of a tokenizer that folds."""
    from afina.tokenizer.folding import folds_of

    if not (folds := folds_of(tokenizer)):
        return []
    return [
        f"the tokenizer folds {in_words(folds, 'and')}: the model neither reads nor writes them, and its bits per byte "
        "compare with those of models that fold alike alone"
    ]
