"""``afina verify``: somebody else's verdict, checked."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson
from afina.cli.output import end_by, say, show


def verify(
    export: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="An export with its proof/, such as an adapter that was published.")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="The base under the adapter; the one that it names if not given.")
    ] = None,
    commitment: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", help="The fingerprint that was published before the training: the hash of commitment.json."
        ),
    ] = None,
    questions: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Ask only N of them, drawn by chance; all if not given.")
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The run's folder dataset/, to compute losses, safety and retrieval again."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that an export answers as its verdict says, to the questions fixed before training. Exit code 5 if not."""
    from afina.progress import StageProgress
    from afina.verify.verify import VerifyOptions
    from afina.verify.verify import verify as check

    with StageProgress("verify", quiet=as_json) as progress:
        found = check(export, VerifyOptions(base, commitment, questions, dataset), say=say, progress=progress)
    show(found.as_json(), as_json, found.describe())
    end_by(found.as_json())
