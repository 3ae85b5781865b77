"""The command line: verbs. Each opens its room inside the function, so that ``--help`` is instant.

Results go to stdout (``--json`` for machines), progress and remarks to stderr, and the exit code
says how it ended: 0 done, 1 a defect of ours, 2 the command or recipe is wrong, 3 the data is
unfit, 4 it will not fit, 5 the result fails its checks.
"""

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from afina import __version__
from afina.cli import (
    agents,
    bases,
    data,
    explaining,
    improving,
    judging,
    launching,
    machine,
    proving,
    recipes,
    tempering,
    tokenizers,
    training,
    using,
    watching,
)
from afina.cli.examples import START, shown
from afina.cli.export import export
from afina.cli.keys import KeyCommand
from afina.cli.output import from_shell, nobody_reads, open_streams, say, show_error
from afina.cli.verb import Verb

if TYPE_CHECKING:
    from afina.errors import AfinaError


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Documents in, a proven language-model adapter out.",
    epilog=START,
)
data_app = typer.Typer(no_args_is_help=True, help="Build, audit, look at and send a dataset.")
base_app = typer.Typer(no_args_is_help=True, help="Look at a base, let it answer, and write one as a folder.")
recipe_app = typer.Typer(no_args_is_help=True, help="Write a starter recipe; print the schema.")
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, look at one, compare several.")
GROUPS = {"data": data_app, "base": base_app, "recipe": recipe_app, "tokenizer": tokenizer_app}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)

app.command(cls=KeyCommand)(training.run)
data_app.command("build", cls=KeyCommand)(data.data_build)
data_app.command("audit")(data.data_audit)
data_app.command("show")(data.data_show)
data_app.command("diff")(data.data_diff)
data_app.command("export")(data.data_export)
app.command()(training.plan)
app.command(cls=KeyCommand)(training.train)
app.command(cls=KeyCommand)(improving.improve)
app.command()(launching.launch)
app.command("eval")(judging.evaluate)
app.command()(tempering.temper)
app.command()(judging.score)
app.command()(judging.guardrails)
app.command()(judging.compare)
app.command()(explaining.why)
app.command()(using.chat)
app.command()(using.serve)
app.command()(export)
app.command()(proving.verify)
app.command()(judging.report)
app.command()(watching.watch)
app.command()(watching.plot)
app.command()(watching.studio)
app.command()(agents.mcp)
app.command()(machine.doctor)
app.command()(machine.demo)
base_app.command("show")(bases.base_show)
base_app.command("replay")(bases.base_replay)
base_app.command("import")(bases.base_import)
tokenizer_app.command("train")(tokenizers.tokenizer_train)
tokenizer_app.command("inspect")(tokenizers.tokenizer_inspect)
tokenizer_app.command("compare", cls=tokenizers.OnFiles)(tokenizers.tokenizer_compare)
recipe_app.command("init")(recipes.recipe_init)
recipe_app.command("schema")(recipes.recipe_schema)
for prefix, group in [("", app), *((f"{name} ", group) for name, group in GROUPS.items())]:
    for verb in group.registered_commands:
        verb.cls = verb.cls if verb.cls and issubclass(verb.cls, Verb) else Verb
        verb.epilog = shown(f"{prefix}{verb.name or getattr(verb.callback, '__name__', '')}")


@app.callback(invoke_without_command=True)
def show_version(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """The version, or the help where no verb is given."""
    if version:
        print(f"afina {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


def main() -> None:
    """Entry point: run the command line and turn errors into messages and exit codes."""

    open_streams()
    sys.argv[1:] = from_shell(sys.argv[1:])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # For plugins that a recipe has none of, pydantic would read the entry points of every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # CUDA counts the fastest card first, nvidia-smi by their slots: so the card that is planned for is the one that
    # computes.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # Threads of OpenMP that wait in a loop starve each other as soon as another program wants a core; threads that
    # sleep at once make short steps a third slower on an idle machine. They wait shortly, then sleep. It must be set
    # before torch is loaded. LOG.md has the figures.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    of_base = any(word.partition("=")[0] == "--base" for word in sys.argv)
    if sys.argv[1:2] == ["tokenizer"] or (sys.argv[1:2] == ["data"] and of_base):
        _do_without_torch()
    if len(sys.argv) == 1 or ("--" not in sys.argv and {"-h", "--help"} & {*sys.argv}):
        _do_without_markdown()
    elif "OMP_NUM_THREADS" not in os.environ:
        _compute_within_the_grant()
    code = 0
    try:
        code = _ended()
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()
    sys.exit(code)


def _do_without_torch() -> None:
    """Let transformers find no torch: such a verb opens a tokenizer and no model, and to import torch takes most
    of its time. Of a recipe, documents may be read by libraries that need it."""
    if not any(word.endswith((".yaml", ".yml")) for word in sys.argv):
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # Python's way to say: it is not there


def _compute_within_the_grant() -> None:
    """No more threads than a container or a service may run at a time: torch and llama.cpp count processors alone."""
    from afina.machine import processors, usable_processors

    if (threads := usable_processors()) < processors():
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _do_without_markdown() -> None:
    """Let rich come without its Markdown and its tracebacks, which typer imports for its help and shows in none of
    ours: a parser of Markdown and a highlighter of code took a third of the time of a ``--help``."""
    from afina.model.deferred import Deferred, defer

    defer({"rich.markdown": Deferred({"Markdown": _NotShown}), "rich.traceback": Deferred({"Traceback": _NotShown})})


class _NotShown:
    """Stands for a class of rich of which a help makes nothing."""


def _ended() -> int:
    """Do what the command line says; the exit code."""
    from afina.errors import LOOK, AfinaError, Problem, RecipeError, unreadable_path

    try:
        app()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except AfinaError as error:
        return _tell(error)
    except BrokenPipeError:
        raise
    except shutil.Error as error:  # of a folder that was copied: each file, its copy, and the system's words
        problems = [Problem(f"cannot be copied: {why}", LOOK, str(file)) for file, _, why in error.args[0]]
        return _tell(RecipeError(problems=problems))
    except OSError as error:  # a path that the person named or allowed; the system says which
        if error.filename is not None:
            return _tell(unreadable_path(error))
        if _stands_somewhere():
            raise
        return _tell(RecipeError("the folder that this was started in is there no more", "`cd` into one that is"))
    except KeyboardInterrupt:
        say("afina: interrupted; the same command goes on from the last whole state")
        return 130
    return 0


def _stands_somewhere() -> bool:
    """Whether the working folder was not removed meanwhile: relative paths count from nowhere then."""
    try:
        return bool(os.getcwd())  # noqa: PTH109  # pathlib's way is no other
    except FileNotFoundError:
        return False


def _tell(error: "AfinaError") -> int:
    """Say what is wrong and what to do; its exit code."""
    if "--json" in sys.argv:
        show_error(error)
    count = f" ({len(error.problems)} problems)" if len(error.problems) > 1 else ""
    say(f"afina: {type(error).__name__}{count}\n{error}")
    return error.exit_code
