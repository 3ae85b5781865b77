"""``afina tokenizer``: train a tokenizer, look at one, compare several."""

from pathlib import Path
from typing import Annotated, Any

import typer

from afina.cli.arguments import AsJson, RunsFolder
from afina.cli.opened import walk_of
from afina.cli.output import choice, say, show
from afina.cli.verb import Verb

TOKENIZER_HELP = "A folder, a base (folder, GGUF, package:NAME, hub id), a run, or SentencePiece's .model file."
Files = Annotated[list[Path] | None, typer.Argument(metavar="FILES...", help="Texts to cut: any files or folders.")]


class OnFiles(Verb):
    """A verb whose files may stand behind ``--`` as well: each is an ``--on``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Click's own, with the files named."""
        if "--" in args:
            place = args.index("--")
            args = [*args[:place], *(word for file in args[place + 1 :] for word in ("--on", file))]
        return super().parse_args(ctx, args)


def tokenizer_train(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RECIPE|FILES...", help="A recipe, or the files to learn from.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="The folder to write; it must not be there yet.")
    ],
    kind: Annotated[
        str | None, typer.Option(help="byte-bpe, bpe, unigram or character; else scratch.tokenizer.")
    ] = None,
    vocab: Annotated[int | None, typer.Option(help="Entries at most; else scratch.vocab.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Setting of the recipe, KEY=VALUE.")] = None,
    as_json: AsJson = False,
    runs: RunsFolder = Path("runs"),
) -> None:
    """Train a tokenizer: on the training examples of a recipe, cleaned as it says, or on files as they are."""
    from afina.progress import StageProgress
    from afina.recipe import TOKENIZERS, recipe_of
    from afina.tokenizer_page import describe_trained, texts_of_files, train_on

    chosen = [*(settings or [])]
    if kind:
        chosen.append(f"scratch.tokenizer={choice('--kind', kind, tuple(TOKENIZERS))}")
    if vocab:
        chosen.append(f"scratch.vocab={vocab}")
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        from afina.walk.tokenizer import dataset_texts
        from afina.walk.walk import do_stages

        with walk_of(paths[0], chosen, runs) as walk:
            do_stages(walk, "recipe", "dataset")
            recipe, texts = walk.recipe, dataset_texts(walk.folder / "dataset", "train")
            with StageProgress("tokenizer"):
                made = train_on(texts, recipe, out, say)
    else:
        recipe = recipe_of(chosen)
        with StageProgress("tokenizer") as progress:
            texts = texts_of_files(paths, say, progress)
            made = train_on(texts, recipe, out, say)
    show(made, as_json, describe_trained(made))


def tokenizer_inspect(
    tokenizer: Annotated[str, typer.Argument(metavar="TOKENIZER", help=TOKENIZER_HELP)],
    files: Files = None,
    as_json: AsJson = False,
) -> None:
    """What a tokenizer is, and how it cuts files: characters per token, bytes, short pieces, shredded words."""
    from afina.progress import StageProgress
    from afina.tokenizer_page import measure_tokenizers, texts_of_files

    with StageProgress("tokenizer") as progress:
        page = measure_tokenizers([tokenizer], texts_of_files(files, say, progress) if files else None, say)
    show(page.as_json()[0], as_json, page.describe())


def tokenizer_compare(
    tokenizers: Annotated[list[str], typer.Argument(metavar="TOKENIZER...", help=TOKENIZER_HELP)],
    on: Annotated[
        list[Path], typer.Option("--on", metavar="FILE", help="Texts to cut, several times; or all behind `--`.")
    ],
    as_json: AsJson = False,
) -> None:
    """Cut the same files with several tokenizers, side by side."""
    from afina.progress import StageProgress
    from afina.tokenizer_page import measure_tokenizers, texts_of_files

    with StageProgress("tokenizers") as progress:
        page = measure_tokenizers(tokenizers, texts_of_files(on, say, progress), say)
    show(page.as_json(), as_json, page.describe())
