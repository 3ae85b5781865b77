"""The command line: verbs. Each opens its room inside the function, so that ``--help`` is instant.

Results go to stdout (``--json`` for machines), progress and remarks to stderr, and the exit code
says how it ended: 0 done, 1 a defect of ours, 2 the command or recipe is wrong, 3 the data is
unfit, 4 it will not fit, 5 the result fails its checks.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina import __version__
from afina.cli_export import export

if TYPE_CHECKING:
    from afina.recipe import Recipe
    from afina.train.ranks import Ranks
    from afina.walk import Walk

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Documents in, a proven language-model adapter out.",
)
data = typer.Typer(no_args_is_help=True, help="Build, audit and look at a dataset.")
recipe_app = typer.Typer(no_args_is_help=True, help="Write a starter recipe; print the schema.")
app.add_typer(data, name="data")
app.add_typer(recipe_app, name="recipe")

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, e.g. train.epochs=2 base=./model")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/demo.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Start even where the plan says that it will not fit.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a long job.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Where runs are kept.")]


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    anyway: Anyway = False,
    yes: Yes = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """The whole walk: sources, dataset, audit, plan, train, evaluate, report. Starts again where it stopped."""
    from afina.walk import describe_scores

    with _training_walk(recipe, _started(overrides, anyway), runs) as walk:
        walk.confirm = _confirm(yes or as_json)
        verdict = walk.everything()
        _show(verdict | {"run": str(walk.folder)}, as_json, describe_scores(walk.folder))
        _say(f"report: {walk.folder / 'report.html'}")
    _end_by(verdict)


@data.command("build")
def data_build(
    recipe: RecipeFile,
    overrides: Overrides = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what the teacher would cost.")] = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
    engine: Annotated[
        str | None, typer.Option("--engine", help="own or datatrove: what reads and cleans; the same dataset.engine=.")
    ] = None,
) -> None:
    """Build the dataset only."""
    from afina.dataset.audit.describe import describe_summary

    overrides = [*(overrides or []), *([f"dataset.engine={engine}"] if engine else [])]
    if estimate:
        from afina.dataset.build.build import TEACHER_FOLDER, estimate_teacher

        loaded = _load(recipe, overrides)
        found = estimate_teacher(loaded, runs / TEACHER_FOLDER)
        _show(asdict(found), as_json, found.describe(loaded))
        return
    with _walk(recipe, overrides, runs) as walk:
        summary = walk.dataset(ask_again=True)
        _show(summary, as_json, describe_summary(summary))
        _say(f"dataset: {walk.folder / 'dataset'}")


@data.command("audit")
def data_audit(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH|RECIPE...", help="Data files, folders, or one recipe.")],
    validation: Annotated[Path | None, typer.Option(help="Held-out file, to look for leakage.")] = None,
    accept: Annotated[list[str] | None, typer.Option(help="Name of a fatal finding that is accepted.")] = None,
    base: Annotated[
        Path | None, typer.Option(help="A base's folder: its tokenizer counts, no weights are read.")
    ] = None,
    check_code: Annotated[
        list[str] | None, typer.Option(help="Language and compiler, e.g. zig=ziglang==0.14.0 or python=3.11.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of a recipe, e.g. train.max_length=512 (with --base).")
    ] = None,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Say what is wrong with data: a recipe's dataset, or any file. Exit code 3 when a finding is fatal."""
    from afina.dataset.audit.audit import audit_dataset, audit_files
    from afina.dataset.audit.describe import describe_audit
    from afina.progress import StageProgress
    from afina.recipe import recipe_of
    from afina.sandbox.compilers import parse_choices

    code = parse_choices(check_code or [])
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        chosen = [f"dataset.check_code.{language}={compiler!r}" for language, compiler in code.items()]
        with _walk(paths[0], [*(settings or []), *chosen], runs) as walk:
            walk.dataset()
            tokens = _token_view(base, walk.recipe)
            audit = audit_dataset(walk.folder / "dataset", walk.recipe, tokens)
            accepted = walk.recipe.dataset.accept
    else:
        tokens = _token_view(base, recipe_of(settings or [])) if base else None
        with StageProgress("audit") as progress:
            audit = audit_files(paths, validation, progress, tokens=tokens, check_code=code)
        accepted = []
    fatal = audit.fatal([*accepted, *(accept or [])])
    _show(audit.as_json(), as_json, describe_audit(audit))
    if fatal:
        raise typer.Exit(3)


@data.command("show")
def data_show(
    where: Annotated[Path, typer.Argument(metavar="RUN|DATASET", help="A run's folder or a dataset folder.")],
    count: Annotated[int, typer.Option(help="How many examples.")] = 5,
    tokens: Annotated[bool, typer.Option(help="Token by token, what is learned marked (needs a run).")] = False,
) -> None:
    """Print examples as the model will see them."""
    from afina.dataset.audit.show import show_examples

    folder = where / "dataset" if (where / "dataset").is_dir() else where
    if tokens:
        from afina.text.example import read_examples
        from afina.tokenizer.show import show_tokens

        with _reopened(where) as walk:
            for example, _ in zip(read_examples(folder / "train.jsonl"), range(count), strict=False):
                print(show_tokens(example, walk.renderer, color=sys.stdout.isatty()), end="\n\n")
        return
    for text in show_examples(folder, count):
        print(text, end="\n\n")


@app.command()
def plan(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|scratch", help="The recipe; or `scratch`: a model from nothing.")
    ],
    overrides: Overrides = None,
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
    serve: Annotated[str | None, typer.Option(help="Plan serving: vllm, transformers or mlx.")] = None,
    context: Annotated[int, typer.Option(help="With --serve: tokens of one user, prompt and answer.")] = 4096,
    users: Annotated[int, typer.Option(min=1, help="With --serve: how many at a time.")] = 1,
    weights: Annotated[str, typer.Option(help="With --serve: 16bit, nf4, awq-int4, mlx-4-64 ...")] = "16bit",
    lora_slots: Annotated[int, typer.Option(help="With --serve: adapters that vLLM holds at once.")] = 0,
    parameters: Annotated[str, typer.Option(help="With scratch: parameters, e.g. 7B.")] = "7B",
    tokens: Annotated[
        str | None, typer.Option(help="With scratch: tokens, e.g. 140B; 20 per parameter if not given.")
    ] = None,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Say whether a job fits, how long it takes and what it costs, before anything runs; what would fit; serving."""
    from afina.walk.ask import PlanAsked, answer

    asked = PlanAsked(recipe, overrides or [], device or [], runs, all_devices, gpus, parallel, apply)
    asked.set_serving(serve, context=context, users=users, weights=weights, lora_slots=lora_slots)
    if trial:
        from afina.plan.check import describe

        with _walk(Path(recipe), overrides, runs) as walk:
            made = walk.trial_steps()
            _show(made.as_json(), as_json, describe(made))
        return
    found = answer(asked, parameters=parameters, tokens=tokens)
    _show(found.values, as_json, found.text)
    for line in found.remarks:
        _say(line)
    if found.refused:
        raise found.refused


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    anyway: Anyway = False,
    yes: Yes = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Up to and with training: dataset, audit, plan, train."""
    with _training_walk(recipe, _started(overrides, anyway), runs) as walk:
        walk.confirm = _confirm(yes or as_json)
        walk.dataset()
        walk.audit()
        walk.plan()
        result = walk.train()
        _show(result, as_json, f"{result['steps']} steps, {result['tokens']} tokens -> {walk.folder / walk.outcome}")


@app.command("eval")
def evaluate(
    run: RunFolder,
    lm_eval: Annotated[
        str | None, typer.Option(metavar="TASK,...", help="Only these benchmarks of lm-eval: names, or YAML files.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="With --lm-eval: the first so many items of each task.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a trained run before and after, and judge it. Exit code 5 when the recipe's limits are missed."""
    from afina.walk import describe_scores

    if lm_eval:
        from afina.evaluate.benchmarks import describe_benchmarks
        from afina.walk.beside import measure_benchmarks

        with _reopened(run) as walk:
            rows = measure_benchmarks(walk, lm_eval.split(","), limit)
            _show(rows, as_json, describe_benchmarks(rows))
        return
    with _reopened(run) as walk:
        verdict = walk.evaluate()
        _show(verdict, as_json, describe_scores(run))
        _end_by(verdict)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows with outputs: JSONL, JSON, CSV or Parquet.")],
    prediction: Annotated[
        list[str] | None, typer.Option(help="Column that a model wrote, the base first; recognised where not given.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Column of what it should have written.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Column of what it was asked.")] = None,
    by: Annotated[str | None, typer.Option(help="Column to group by, e.g. task.")] = None,
    language: Annotated[str | None, typer.Option(help="pt, en or none: whose articles do not count.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only these, e.g. f1, rougeL, chrf.")] = None,
    choices: Annotated[str | None, typer.Option(help="The possible answers, for accuracy, e.g. A,B,C,D.")] = None,
    trained_on: Annotated[list[Path] | None, typer.Option(help="Training rows, to count those asked here too.")] = None,
    strip_leaks: Annotated[bool, typer.Option("--strip-leaks", help="Remove prompt text and chat markers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check stored outputs, then score them against their references."""
    from afina.evaluate.score import score_file
    from afina.evaluate.score_table import describe_score
    from afina.progress import StageProgress

    with StageProgress("score") as progress:
        found = score_file(
            file,
            predictions=prediction or [],
            reference=reference,
            prompt=prompt or [],
            by=by,
            language=language,
            metrics=metric or [],
            choices=choices.split(",") if choices else [],
            trained_on=trained_on or [],
            strip_leaks=strip_leaks,
            progress=progress,
        )
    _show(found.as_json(), as_json, describe_score(found))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of two or more runs.")],
    as_json: AsJson = False,
) -> None:
    """Put the figures of several runs side by side."""
    from afina.report.compare import compare_runs

    comparison = compare_runs(runs)
    _show(comparison.as_json(), as_json, comparison.describe())


@app.command()
def chat(
    run: RunFolder,
    question: Annotated[str | None, typer.Option("--ask", help="Ask one question and end.")] = None,
    compare_base: Annotated[bool, typer.Option("--compare", help="Show the base's answer too.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Talk to what a run trained."""
    from afina.evaluate.chat import Settings, answer_once, talk
    from afina.progress import read_line, show_answers

    with _reopened(run) as walk:
        model, before = walk.open_trained()
        before = before if compare_base else None
        if question is not None:
            answers = answer_once(model, before, walk.renderer, question, max_new_tokens, walk.tell)
            _show(answers, as_json, "\n".join(f"{who}: {said}" for who, said in answers.items()))
        else:
            settings = Settings(max_new_tokens=max_new_tokens)
            talk(model, before, walk.renderer, settings, read=read_line, say=_say, show=show_answers)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="RUN|BASE", help="A run's folder, or a base's folder or hub id.")],
    adapters: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="NAME=RUN", help="A further adapter of the same base.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, local, vllm or mlx.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="AFINA_API_KEY", help="Key that clients must give.", show_default=False)
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest context; what fits where not given.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Serve a context that may not fit.")] = False,
    change_adapters: Annotated[
        bool, typer.Option("--change-adapters", help="Let clients load and unload adapters of this machine.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Compare the answers with the run's once it serves.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, and print what would be run.")] = False,
    config: Annotated[str | None, typer.Option(help="Print a client's settings: aider, continue or openai.")] = None,
    check_url: Annotated[
        str | None, typer.Option("--check-url", metavar="URL", help="Compare a server that runs already with the run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a run or a base as OpenAI's API does, and prove that what answers is what was trained."""
    from afina.serve.opened import find_target
    from afina.serve.serve import ServeOptions, check_running, look_text, named_adapters, settings_text
    from afina.serve.serve import serve as start

    target, others = find_target(model), named_adapters(adapters or [])
    options = ServeOptions(
        engine=_choice("--engine", engine, ("auto", "local", "vllm", "mlx")),
        host=host,
        port=port,
        api_key=api_key,
        max_model_len=max_model_len,
        anyway=anyway,
        change_adapters=change_adapters,
        check=check,
    )
    if check_url is not None:
        found = check_running(target, check_url, options)
        _show(found.as_json(), as_json, found.describe())
        _end_by({"passed": not found.problems})
    elif config is not None:
        print(settings_text(_choice("--config", config, ("aider", "continue", "openai")), target, others, options))
    elif dry_run:
        values, text = look_text(target, others, options)
        _show(values, as_json, text)
    else:
        start(target, others, options, _say)


app.command()(export)


def _choice(option: str, given: str, known: tuple[str, ...]) -> Any:
    """One of `known`, or an error that names the nearest."""
    from afina.errors import RecipeError
    from afina.recipe import nearest

    if given not in known:
        close = nearest(given, known)
        raise RecipeError(f"{option} {given} is not known", f"use {close or ' or '.join(known)}", option)
    return given


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report.html again."""
    from afina.report.page import write_report

    print(write_report(run))


@app.command()
def doctor(as_json: AsJson = False, runs: RunsFolder = Path("runs")) -> None:
    """Look at this machine: Python, memory, disk, devices, libraries."""
    from afina.plan.doctor import describe_checks, examine

    checks = examine(runs)
    _show([check.as_json() for check in checks], as_json, describe_checks(checks))


@app.command()
def demo(
    replay: Annotated[bool, typer.Option(help="Mix in what the base knew, against forgetting.")] = True,
    ladder: Annotated[bool, typer.Option("--ladder", help="Five runs of known truth: is each judged so?")] = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """The whole walk on an invented world, in minutes, without network: a base, an adapter, a verdict."""
    from afina.demo.demo import run_demo, run_ladder

    if ladder:
        climbed = run_ladder(runs, opened=_opened, say=_say)
        _show(climbed, as_json, climbed["table"])
        _end_by(climbed)
        return
    verdict = run_demo(runs, replay=replay, opened=_opened, say=_say)
    _show(verdict, as_json, verdict["table"])
    _say(f"report: {verdict['run']}/report.html")
    _end_by(verdict)


@recipe_app.command("init")
def recipe_init(
    kind: Annotated[str, typer.Argument(metavar="docs|chat|preference|scratch", help="What you have.")],
    to: Annotated[Path | None, typer.Option("--to", help="File to write; to the screen where not given.")] = None,
) -> None:
    """Write a commented starter recipe."""
    from afina.errors import RecipeError
    from afina.run import write_whole
    from afina.starter import starter

    text = starter(kind)
    if to is None:
        print(text, end="")
    elif to.exists():
        raise RecipeError(f"{to} is there already", "choose another name, or remove it")
    else:
        write_whole(to, text)
        _say(f"wrote {to}; next: afina run {to}")


@recipe_app.command("schema")
def recipe_schema_() -> None:
    """Print the recipe's JSON schema, for editors."""
    from afina.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"afina {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


def main() -> None:
    """Entry point: run the command line and turn errors into messages and exit codes."""
    from afina.errors import AfinaError

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads of OpenMP that wait in a loop starve each other as soon as another program wants a core; threads that
    # sleep at once make short steps a third slower on an idle machine. They wait shortly, then sleep. It must be set
    # before torch is loaded. LOG.md has the figures.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        app()
    except AfinaError as error:
        if "--json" in sys.argv:
            print(json.dumps(error.as_json(), ensure_ascii=False, indent=2))
        count = f" ({len(error.problems)} problems)" if len(error.problems) > 1 else ""
        _say(f"afina: {type(error).__name__}{count}\n{error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("afina: interrupted; the same command goes on from the last whole state")
        sys.exit(130)


def _token_view(base: Path | None, recipe: Recipe) -> Any:
    """A base's tokenizer and the recipe's settings, for an audit; None without a base."""
    if base is None:
        return None
    from afina.train.measure import token_view

    return token_view(base, recipe)


def _load(file: Path, overrides: list[str] | None) -> Recipe:
    from afina.recipe import load_recipe

    return load_recipe(file, overrides or [])


@contextlib.contextmanager
def _walk(file: Path, overrides: list[str] | None, runs: Path) -> Iterator[Walk]:
    """The walk of a recipe, its run open in ``runs/<name>``."""
    recipe = _load(file, overrides)
    with _opened(recipe, runs / recipe.name) as walk:
        yield walk


@contextlib.contextmanager
def _training_walk(file: Path, overrides: list[str] | None, runs: Path) -> Iterator[Walk]:
    """The same where it may be one of several processes (torchrun): all but the first only train, and end here."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # a process by itself loads no torch before it needs it
        with _walk(file, overrides, runs) as walk:
            yield walk
        return
    from afina.train.ranks import joined
    from afina.walk.follow import follow

    with joined(_say) as ranks:
        recipe = _load(file, overrides)
        if not ranks.first:
            follow(recipe, runs / recipe.name, ranks)
            raise SystemExit(0)
        with _opened(recipe, runs / recipe.name, ranks) as walk:
            yield walk


@contextlib.contextmanager
def _reopened(folder: Path) -> Iterator[Walk]:
    """The walk of a run that is there, by the recipe saved in it."""
    from afina.errors import RecipeError

    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{folder} is no run: it holds no recipe.yaml", "name a folder such as runs/demo")
    with _opened(_load(folder / "recipe.yaml", None), folder) as walk:
        yield walk


@contextlib.contextmanager
def _opened(recipe: Recipe, folder: Path, ranks: Ranks | None = None) -> Iterator[Walk]:
    from afina.progress import StageProgress
    from afina.run import Run
    from afina.walk import Walk

    with Run.open(folder, recipe, _say) as opened:
        yield Walk(opened, StageProgress, ranks)


def _started(overrides: list[str] | None, anyway: bool) -> list[str]:
    return [*(overrides or []), *(["budget.anyway=true"] if anyway else [])]


def _confirm(yes: bool) -> Callable[[str], bool] | None:
    """Ask the person at the terminal; nobody where this is a script or the answer is given."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: typer.confirm(question, err=True)


def _say(text: str) -> None:
    from afina.progress import say

    say(text)


def _show(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str) if as_json else text)


def _end_by(verdict: dict[str, Any]) -> None:
    """Exit code 5 where the recipe's limits are missed."""
    from afina.errors import ResultError

    if not verdict["passed"]:
        raise typer.Exit(ResultError.exit_code)


Opened = Callable[["Recipe", Path], contextlib.AbstractContextManager["Walk"]]

if __name__ == "__main__":
    main()
