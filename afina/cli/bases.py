"""``afina base``: look at a base before anything is done with it, and write it as a folder."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, RunsFolder
from afina.cli.output import say, show

BaseName = Annotated[
    str, typer.Argument(metavar="BASE", help="A folder, a GGUF file, package:NAME that holds one, or a hub id.")
]


def base_show(
    base: BaseName,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Put a few general questions to it.")] = True,
    as_json: AsJson = False,
) -> None:
    """What a base is, its size, how it talks, how it can be trained, what was proven of its architecture, and what it
    already answers."""
    from afina.base_answers import ask_base
    from afina.base_page import base_page
    from afina.progress import StageProgress

    page = base_page(base)
    if not ask or not page.has_weights:
        show(page.as_json(), as_json, page.describe())
        return
    if not as_json:
        show(None, False, page.describe())
    with StageProgress("questions", quiet=as_json) as progress:
        found = ask_base(base, page.shape, progress=progress, say=say)
    show(page.as_json() | found.as_json(), as_json, found.describe())


def base_replay(
    base: BaseName,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The JSONL file to write.")],
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A text file, a question on each line, instead of afina's 64.")
    ] = None,
    language: Annotated[str, typer.Option("--language", help="Of afina's questions: en or pt.")] = "en",
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Write what a base itself answers to everyday questions, as rows for a source with `replay: true`: mixed into a
    training, they keep it from forgetting."""
    from afina.base_replay import base_replay as ask
    from afina.base_replay import everyday_prompts
    from afina.errors import RecipeError
    from afina.evaluate.prompts import read_prompts
    from afina.progress import StageProgress

    if to.exists():
        raise RecipeError(f"{to} is there already", "choose another name, or remove it")
    asked = read_prompts(prompts) if prompts else everyday_prompts(language)
    with StageProgress("questions", quiet=as_json) as progress:
        found = ask(base, asked, runs, progress=progress, say=say)
    found.write(to)
    show(found.as_json(), as_json, f"{to}: {found.describe()}")


def base_import(
    base: BaseName,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="The folder to write; it must not be there yet.")],
    as_json: AsJson = False,
) -> None:
    """Write a base as a Hugging Face folder: a GGUF as safetensors, anything else as it is."""
    from afina.model.base_copy import copy_base

    found = copy_base(base, to, say=say)
    show(found, as_json, f"{found['folder']}: {found['what']}; name it as `base`")
