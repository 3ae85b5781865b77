"""``afina data``: build, audit and look at a dataset."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli.arguments import AsJson, Overrides, RecipeFile, RunsFolder
from afina.cli.opened import load, reopened, walk_of
from afina.cli.output import say, show

if TYPE_CHECKING:
    from afina.recipe import Recipe
    from afina.walk.context import Context


def data_build(
    recipe: RecipeFile,
    overrides: Overrides = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what the teacher would cost.")] = False,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
    engine: Annotated[str | None, typer.Option("--engine")] = None,
) -> None:
    """Build the dataset only."""
    from afina.dataset.audit.describe import describe_summary
    from afina.walk.dataset import ask_teacher_again
    from afina.walk.walk import do_stages, look_at_dataset

    overrides = [*(overrides or []), *([f"dataset.engine={engine}"] if engine else [])]
    if estimate:
        from afina.dataset.build.build import TEACHER_FOLDER, estimate_teacher

        loaded = load(recipe, overrides)
        found = estimate_teacher(loaded, runs / TEACHER_FOLDER)
        show(asdict(found), as_json, found.describe(loaded))
        return
    with walk_of(recipe, overrides, runs) as walk:
        ask_teacher_again(walk)
        summary = do_stages(walk, "recipe", "dataset")
        show(summary, as_json, describe_summary(summary))
        say(f"dataset: {walk.folder / 'dataset'}")
        here = walk.recipe.base is None or base_of(walk) is not None
        if here and (problems := look_at_dataset(walk)):
            say("\n".join(["a training will stop at this:", *map(str, problems)]))


def data_audit(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH|RECIPE...", help="Data files, folders, or one recipe.")],
    validation: Annotated[Path | None, typer.Option(help="Held-out file, to look for leakage.")] = None,
    accept: Annotated[list[str] | None, typer.Option(help="Name of a fatal finding that is accepted.")] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="A base's folder, for files: its tokenizer counts, no weights are read. A recipe names its own."
        ),
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
    from afina.walk.walk import do_stages

    code = parse_choices(check_code or [])
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        chosen = [f"dataset.check_code.{language}={compiler!r}" for language, compiler in code.items()]
        with walk_of(paths[0], [*(settings or []), *chosen], runs) as walk:
            tokens = token_view_of(base or base_of(walk), walk.recipe)  # before anything is built: it may be no base
            do_stages(walk, "recipe", "dataset")
            audit = audit_dataset(walk.folder / "dataset", walk.recipe, tokens)
            accepted = walk.recipe.dataset.accept
    else:
        tokens = token_view_of(base, recipe_of(settings or [])) if base else None
        with StageProgress("audit") as progress:
            audit = audit_files(paths, validation, progress, tokens=tokens, check_code=code)
        accepted = []
    fatal = audit.fatal([*accepted, *(accept or [])])
    show(audit.as_json(), as_json, describe_audit(audit))
    if fatal:
        raise typer.Exit(3)


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
        from afina.walk.base import renderer
        from afina.walk.walk import do_stages

        with reopened(where, writes=False) as walk:
            do_stages(walk, "tokenizer")
            for example, _ in zip(read_examples(folder / "train.jsonl"), range(count), strict=False):
                print(show_tokens(example, renderer(walk), color=sys.stdout.isatty()), end="\n\n")
        return
    for text in show_examples(folder, count):
        print(text, end="\n\n")


def base_of(context: Context) -> Path | None:
    """The recipe's base; None, and said, where it is not here."""
    from afina.errors import BaseError
    from afina.walk.base import base_folder

    try:
        return base_folder(context)
    except BaseError as error:
        say(f"nothing is said about tokens: {error}")
        return None


def token_view_of(base: Path | None, recipe: Recipe) -> Any:
    """A base's tokenizer and the recipe's settings, for an audit; None without a base."""
    if base is None:
        return None
    from afina.train.measure import token_view

    return token_view(base, recipe)
