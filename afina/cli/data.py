"""``afina data``: build, audit and look at a dataset."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.cli.arguments import AsJson, Overrides, Public, Push, RecipeFile, RunFolder, RunsFolder, SendPrivate
from afina.cli.opened import load, reopened, walk_of
from afina.cli.output import say, show

if TYPE_CHECKING:
    from afina.recipe import Recipe
    from afina.text.example import Example
    from afina.tokenizer.chat import Renderer
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
        if loaded.base and loaded.dataset.teacher and loaded.dataset.teacher.is_base:
            from afina.model.base import find_base, hash_model
            from afina.walk.base_teacher import base_named

            loaded = base_named(loaded, hash_model(find_base(loaded.base, revision=loaded.base_revision, say=say)))
        found = estimate_teacher(loaded, runs / TEACHER_FOLDER)
        show(asdict(found), as_json, found.describe(loaded))
        return
    with walk_of(recipe, overrides, runs) as walk:
        ask_teacher_again(walk)
        summary = do_stages(replace(walk, verb_shows=True), "recipe", "dataset")
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
        str | None,
        typer.Option(
            help="A base's folder or GGUF, for files: its tokenizer counts, not its weights. A recipe names its own."
        ),
    ] = None,
    check_code: Annotated[
        list[str] | None, typer.Option(help="Language and compiler, e.g. zig=ziglang==0.14.0 or python=3.11.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of a recipe, e.g. train.max_length=512 (with --base).")
    ] = None,
    write_clean: Annotated[
        Path | None,
        typer.Option(help="Write a copy of a JSONL file without what the policies drop (--set), and a list of that."),
    ] = None,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Say what is wrong with data: a recipe's dataset, or any file. Exit code 3 when a finding is fatal."""
    from afina.dataset.audit.audit import audit_dataset, audit_files
    from afina.dataset.audit.describe import describe_audit
    from afina.progress import StageProgress
    from afina.recipe import recipe_of

    code = {}
    if check_code:
        from afina.sandbox.compilers import parse_choices

        code = parse_choices(check_code)
    if write_clean and (len(paths) != 1 or paths[0].suffix in (".yaml", ".yml")):
        from afina.errors import RecipeError

        fix = "name one JSONL file; of a recipe `afina data build` writes the clean dataset"
        raise RecipeError("a clean copy is made of one file", fix, "--write-clean")
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        from afina.walk.walk import do_stages

        chosen = [f"dataset.check_code.{language}={compiler!r}" for language, compiler in code.items()]
        with walk_of(paths[0], [*(settings or []), *chosen], runs) as walk:
            # before anything is built: it may be no base
            tokens = token_view_of(described(base) or base_of(walk), walk.recipe)
            do_stages(walk, "recipe", "dataset")
            audit = audit_dataset(walk.folder / "dataset", walk.recipe, tokens)
            accepted = walk.recipe.dataset.accept
    else:
        tokens = token_view_of(described(base), recipe_of(settings or []))
        with StageProgress("audit") as progress:
            audit = audit_files(paths, validation, progress, tokens=tokens, check_code=code)
        accepted = []
    fatal = audit.fatal([*accepted, *(accept or [])])
    show(audit.as_json(), as_json, describe_audit(audit))
    if write_clean:
        from afina.dataset.audit.clean_copy import write_clean as write_copy

        with StageProgress("clean copy") as progress:
            copy = write_copy(paths[0], write_clean, settings or [], progress)
        say(copy.describe())
    if fatal:
        raise typer.Exit(3)


def data_diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A dataset folder, a run, or any file or folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The other.")],
    as_json: AsJson = False,
) -> None:
    """Say what changed between two datasets: rows added, removed, changed, moved across the split."""
    from afina.dataset.audit.difference import difference
    from afina.progress import StageProgress

    with StageProgress("diff") as progress:
        found = difference(before, after, progress)
    show(found.as_json(), as_json, found.describe())


def data_export(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Folder to write; RUN/export/dataset where not given.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the texts, for the card.")] = None,
    push: Push = None,
    public: Public = False,
    send_private: SendPrivate = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's dataset with a card, as the hub keeps datasets, and send it there."""
    from afina.export.dataset_folder import export_dataset
    from afina.export.push import push_target

    target = push_target(push, public=public, send_private=send_private)
    made = export_dataset(run, out, licence=licence, push=target, say=say)
    show(made, as_json, f"{made['folder']}: " + ", ".join(f"{split} {rows}" for split, rows in made["rows"].items()))


def data_show(
    where: Annotated[
        Path, typer.Argument(metavar="RUN|DATASET|PATH", help="A run's folder, a dataset folder, or any data.")
    ],
    count: Annotated[int, typer.Option(help="How many examples.")] = 5,
    first: Annotated[int, typer.Option(min=1, help="The first one shown, counted from 1.")] = 1,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="FILE:LINE", help="Only what stands at a place, as an audit of PATH names it."),
    ] = None,
    tokens: Annotated[
        bool, typer.Option(help="Token by token, what is learned marked (of a run, or with --base).")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="A base's folder or GGUF, for data without a run: its tokenizer, no weights.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of a recipe, e.g. chat.template=chatml (with --base).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print examples as the model will see them."""
    from afina.errors import RecipeError

    run, dataset = (where / "recipe.yaml").is_file(), _dataset_folder(where)
    if tokens and base is None and not run:
        raise RecipeError("tokens need a tokenizer", "name a base's folder: --base BASE", str(where))
    if not (tokens or at or as_json) and dataset:
        from afina.dataset.audit.show import show_examples

        for text in itertools.islice(show_examples(dataset, first - 1 + count), first - 1, None):
            print(text, end="\n\n")
        return
    with contextlib.ExitStack() as opened:
        renderer = _renderer_of(where, base, settings or [], opened) if tokens else None
        if at:
            shown = _at_places(where, dataset, at)
        else:
            shown = ((example, {}) for example in _examples_of(where, dataset, first, count))
        if as_json:
            show({"examples": [_as_values(example, about, renderer) for example, about in shown]}, as_json, "")
            return
        for example, about in shown:
            print(_as_text(example, renderer) if example else f"{about['at']}: {about['line']}", end="\n\n")


def _dataset_folder(where: Path) -> Path | None:
    """The dataset of a run, whether it is there or not, or the folder of one; None for other data."""
    if (where / "stages.json").is_file() or (where / "dataset/train.jsonl").is_file():
        return where / "dataset"
    return where if (where / "train.jsonl").is_file() and (where / "dataset.json").is_file() else None


def _examples_of(where: Path, dataset: Path | None, first: int = 1, count: int | None = None) -> Iterator["Example"]:
    """Those of a dataset, or of any data; what could not be read on the way is said."""
    end = None if count is None else first - 1 + count
    if dataset:
        from afina.text.example import read_examples

        yield from itertools.islice(read_examples(dataset / "train.jsonl"), first - 1, end)
        return
    from afina.dataset.audit.read_files import AuditReading, read_files
    from afina.errors import RecipeError

    if not where.exists():
        raise RecipeError("there is no such file or folder", "check the path", str(where))
    reading = AuditReading()
    yield from itertools.islice(read_files(where, reading), first - 1, end)
    for problem in reading.problems:
        say(str(problem))


def _at_places(where: Path, dataset: Path | None, at: list[str]) -> Iterator[tuple["Example | None", dict[str, Any]]]:
    """What stands at each place, which is told beside it; for a row that could not be read the line of its file."""
    from afina.dataset.audit.places import examples_at, raw_line, read_place

    for place, examples in examples_at(_examples_of(where, dataset), [read_place(each) for each in at]).items():
        yield from ((example, {"at": str(place)}) for example in examples)
        if not examples:
            yield None, {"at": str(place), "line": raw_line(place)}


def _as_text(example: "Example", renderer: "Renderer | None") -> str:
    from afina.dataset.audit.show import render
    from afina.tokenizer.show import show_tokens

    return render(example) if renderer is None else show_tokens(example, renderer, color=sys.stdout.isatty())


def _as_values(example: "Example | None", about: dict[str, Any], renderer: "Renderer | None") -> dict[str, Any]:
    """For ``--json``: the row as a dataset holds it, and its tokens where they are asked for."""
    if example is None:
        return about
    from afina.tokenizer.show import shown_sides

    sides = {} if renderer is None else {"tokens": [side.as_json() for side in shown_sides(example, renderer)]}
    return about | {"row": example.as_json()} | sides


def _renderer_of(where: Path, base: str | None, settings: list[str], opened: contextlib.ExitStack) -> "Renderer":
    """A base's tokenizer, or the one of a run."""
    if base is None:
        from afina.walk.base import renderer
        from afina.walk.walk import do_stages

        walk = opened.enter_context(reopened(where, writes=False))
        do_stages(walk, "tokenizer")
        return renderer(walk)
    from afina.recipe import recipe_of
    from afina.tokenizer.chat import Renderer
    from afina.tokenizer.load import load_tokenizer

    recipe = recipe_of(settings)
    return Renderer(load_tokenizer(str(described(base)), recipe.chat, root=Path(recipe.root)), recipe.chat)


def described(base: str | None) -> Path | None:
    """The folder, or hub id, with the tokenizer of a base that was named; None where none was."""
    if base is None:
        return None
    from afina.model.base import place_of

    return place_of(base, weights=False) or Path(base)


def base_of(context: "Context") -> Path | None:
    """The recipe's base; None, and said, where it is not here."""
    from afina.errors import BaseError
    from afina.walk.base import base_folder

    try:
        return base_folder(context)
    except BaseError as error:
        say(f"nothing is said about tokens: {error}")
        return None


def token_view_of(base: Path | None, recipe: "Recipe") -> Any:
    """A base's tokenizer and the recipe's settings, for an audit; None without a base."""
    if base is None:
        return None
    from afina.train.measure import token_view

    return token_view(base, recipe)
