"""``afina run``, ``plan`` and ``train``: the walk, what it will take, and the walk as far as training."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import Anyway, AsJson, Overrides, RecipeFile, RunsFolder, Yes
from afina.cli.completions import complete_key, complete_plan
from afina.cli.opened import training_walk, walk_of, with_anyway
from afina.cli.output import confirm, end_by, say, show
from afina.cli.plan_options import check_options


def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    anyway: Anyway = False,
    yes: Yes = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """From files to verdict: dataset, audit, plan, training, evaluation, report. Goes on where it stopped."""
    from afina.walk.describe import describe_scores
    from afina.walk.walk import walk_through

    with training_walk(recipe, with_anyway(overrides, anyway), runs, confirm(yes or as_json)) as walk:
        verdict = walk_through(walk)["evaluate"]
        show(verdict | {"run": str(walk.folder)}, as_json, describe_scores(walk.folder))
        say(f"report: {walk.folder / 'report.html'}")
    end_by(verdict)


def plan(
    called: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|scratch|scaling",
            help="The recipe; `scratch`: a model from nothing; `scaling`: what finished runs tell of larger ones.",
            autocompletion=complete_plan,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Overrides, e.g. train.epochs=2; with scaling: the runs' folders.",
            autocompletion=complete_key,
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help='Another device, e.g. "RTX 4090"; several times for several of them.')
    ] = None,
    all_devices: Annotated[
        bool, typer.Option("--all", help="Every known device, the cheapest that fits first.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="How many of the device.")] = 1,
    parallel: Annotated[str, typer.Option(help="How several share the work: ddp or fsdp.")] = "ddp",
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the cheapest settings that fit into the recipe.")
    ] = False,
    trial: Annotated[bool, typer.Option("--trial", "--probe", help="Run three trial steps here first.")] = False,
    serve: Annotated[str | None, typer.Option(help="Plan serving: vllm, transformers, mlx or llamacpp.")] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --serve: tokens of one user, prompt and answer; 4096, or what the model sees, if not given.",
        ),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="With --serve: how many at a time.")] = 1,
    weights: Annotated[str, typer.Option(help="With --serve: 16bit, nf4, awq-int4, mlx-4-64, gguf-q8_0 ...")] = "16bit",
    lora_slots: Annotated[int, typer.Option(min=0, help="With --serve: adapters that vLLM holds at once.")] = 0,
    parameters: Annotated[
        str | None, typer.Option(help="With scratch (7B if not given) and scaling (1B): parameters.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Tokens of an epoch, e.g. 2M, instead of those of the files. With scratch and scaling: in all, 20 per "
            "parameter if not given."
        ),
    ] = None,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Say whether a job fits, how long it takes and what it costs, before anything runs; what would fit; serving."""
    from afina.walk.plan_answers import PlanAsked, answer

    check_options(called)
    asked = PlanAsked(
        recipe, overrides or [], device or [], runs, all_devices, gpus, parallel, apply, parameters, tokens
    )
    asked.set_serving(serve, context=context, users=users, weights=weights, lora_slots=lora_slots)
    if trial:
        from afina.plan.check import describe
        from afina.walk.base import check_base
        from afina.walk.planning import trial_plan
        from afina.walk.walk import do_stages

        with walk_of(Path(recipe), overrides, runs) as walk:
            check_base(walk)
            do_stages(walk, "recipe", "dataset", "tokenizer", "tokens")
            made = trial_plan(walk)
            show(made.as_json(), as_json, describe(made))
        return
    found = answer(asked)
    show(found.values, as_json, found.text)
    for line in found.remarks:
        say(line)
    if found.refused:
        raise found.refused


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    anyway: Anyway = False,
    yes: Yes = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """As far as training: dataset, audit, plan, train."""
    from afina.outcome import find_outcome
    from afina.walk.walk import walk_through

    with training_walk(recipe, with_anyway(overrides, anyway), runs, confirm(yes or as_json)) as walk:
        result, found = walk_through(walk, until="train")["train"], find_outcome(walk.folder, walk.recipe)
        show(result, as_json, f"{result['steps']} steps, {result['tokens']} tokens -> {found.folder}")
