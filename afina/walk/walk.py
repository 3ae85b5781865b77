"""The walk: sources -> dataset -> audit -> tokens -> plan -> train -> evaluate -> report, into one folder.

:data:`WALK` is its order. Every verb of the command line that works in a run's folder does some of these stages.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from afina.errors import Problem
from afina.evaluate.choice import CHOICES_FILE
from afina.evaluate.prompts import CONTINUATIONS_FILE
from afina.evaluate.scores import RETRIEVAL_FILE
from afina.outcome import OUTCOME_KINDS, outcome_kind
from afina.recipe import Recipe
from afina.verify.commitment import FILES as COMMITTED
from afina.walk.audit import audit, audit_inputs, fatal_problems, refuse_fatal_findings
from afina.walk.base import check_base, check_chat
from afina.walk.benchmarks import BENCHMARKS
from afina.walk.context import Context
from afina.walk.dataset import build, build_inputs, write_recipe
from afina.walk.evaluate import evaluate, evaluate_inputs
from afina.walk.gone import still_there
from afina.walk.manifest import write_manifest
from afina.walk.planning import look_ahead, plan_inputs
from afina.walk.reference import REFERENCE, judge_by_reference, judged_training, reference_inputs
from afina.walk.report import report
from afina.walk.rows import TOKENS, tokens_inputs, write_tokens
from afina.walk.safety import ROWS_FILE
from afina.walk.skills import BASE_FILE as BASE_SKILLS
from afina.walk.skills import ROWS_FILE as SKILLS
from afina.walk.skills import ask_base, skills_inputs
from afina.walk.stages import Stage, do_stage
from afina.walk.start import start_of
from afina.walk.tokenizer import tokenizer_inputs, train_tokenizer
from afina.walk.train import release_ranks, train, train_inputs

TEMPER, TEMPERED = "temper", "temper.json"
"""What `afina temper` leaves in the run's folder: answers at each setting, curve and adapter; what was found."""


def _result_in(folder: str, recipe: Recipe) -> list[str]:
    return [folder + outcome_kind(recipe)]


WALK: tuple[Stage, ...] = (
    Stage("recipe", write_recipe, ["recipe.yaml"]),
    Stage("dataset", build, ["dataset"], build_inputs),
    Stage("audit", audit, ["audit.json"], audit_inputs, then=refuse_fatal_findings),
    Stage(
        "tokenizer",
        train_tokenizer,
        ["tokenizer"],
        tokenizer_inputs,
        wanted=lambda recipe: recipe.base is None,
    ),
    Stage(TOKENS, write_tokens, [TOKENS], tokens_inputs),
    Stage("plan", look_ahead, ["plan.json"], plan_inputs),
    Stage("skills", ask_base, [BASE_SKILLS], skills_inputs, wanted=lambda recipe: recipe.most_skills > 0),
    Stage(
        "first",
        partial(train, name="first"),
        partial(_result_in, "first/"),
        partial(train_inputs, name="first"),
        wanted=lambda recipe: recipe.train.first is not None,
        also=["first/checkpoints", *(f"first/{name}" for name in COMMITTED)],
        others=[f"first/{kind}" for kind in OUTCOME_KINDS],
        costs_hours=True,
    ),
    Stage(
        "reference",
        judge_by_reference,
        [REFERENCE],
        reference_inputs,
        wanted=lambda recipe: judged_training(recipe) is not None,
    ),
    Stage(
        "train",
        partial(train, name="train"),
        partial(_result_in, ""),
        partial(train_inputs, name="train"),
        also=["checkpoints", *COMMITTED],
        others=OUTCOME_KINDS,
        costs_hours=True,
        then=release_ranks,
    ),
    Stage(
        "evaluate",
        evaluate,
        [
            "predictions.jsonl",
            "samples.jsonl",
            CHOICES_FILE,
            CONTINUATIONS_FILE,
            "scores.json",
            "task_predictions.jsonl",
            ROWS_FILE,
            SKILLS,
        ],
        evaluate_inputs,
        # The answers with passages are not among those hashed: of an evaluation before they were written they are not
        # there, and it stands.
        also=[BENCHMARKS, TEMPERED, TEMPER, RETRIEVAL_FILE],
    ),
    Stage("manifest", write_manifest, ["manifest.json"]),
    Stage("report", report, ["report.html", "finished.json"]),
)


def walk_through(context: Context, *, until: str = "report") -> dict[str, dict[str, Any]]:
    """Go through the stages in their order, up to and with `until`.

    Returns:
        The result of each, by its name; ``evaluate`` has the verdict's values.
    """
    names = [stage.name for stage in WALK]
    last = names.index(until)
    if last >= names.index("plan"):  # before the dataset is built and a teacher paid
        check_base(context)
        start_of(context)
        if "dataset" not in context.run.stages:
            check_chat(context)
    if until == names[-1]:
        _check_before(context)
    return {
        stage.name: do_stage(context, stage, WALK[number:]) for number, stage in enumerate(WALK[: last + 1], start=1)
    }


def look_at_dataset(context: Context) -> list[Problem]:
    """Do the stage ``audit`` of a dataset that is built; what a training would stop at."""
    stage = next(stage for stage in WALK if stage.name == "audit")
    do_stage(context, replace(stage, then=None))
    return fatal_problems(context.folder, context.recipe)


def do_stages(context: Context, *names: str) -> dict[str, Any]:
    """Do these stages of :data:`WALK`, each where it has to be done; the result of the last."""
    found: dict[str, Any] = {}
    for number, stage in enumerate(WALK, start=1):
        if stage.name in names:
            found = do_stage(context, stage, WALK[number:])
    return found


def _check_before(context: Context) -> None:
    """Say what is missing for the later stages before hours of training, not after."""
    from afina.evaluate.code_answers import check_compilers
    from afina.evaluate.prompts import prompts_file, read_prompts
    from afina.evaluate.safety.known import read_strings, strings_file
    from afina.train.trackers import check_installed

    (context.folder / "finished.json").unlink(missing_ok=True)
    check_installed(context.recipe.train.trackers)
    if "evaluate" not in context.run.stages:
        check_compilers(context.recipe)
        if file := prompts_file(context.recipe):
            read_prompts(file)
        recipe = still_there(context).recipe
        read_strings(strings_file(recipe))
        if recipe.evaluate.tasks:
            from afina.evaluate.tasks import read_tasks  # and torch, which there is time for later

            read_tasks(recipe, ())
