"""``afina why``: what each source did, and the training rows behind an answer."""

from typing import Annotated

import typer

from afina.cli.arguments import AsJson, Places, RunFolder
from afina.cli.opened import reopened
from afina.cli.output import show


def why(
    run: RunFolder,
    question: Annotated[
        str | None,
        typer.Argument(metavar="[QUESTION]", help="Whose answer is explained; without it, the sources alone."),
    ] = None,
    places: Places = None,
    answer: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The answer to explain; the model's own where not given.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="Rows to show: 10 where not given, 3 of each wrong answer.", show_default=False)
    ] = None,
    against: Annotated[bool, typer.Option("--against", help="The rows that speak against the answer.")] = False,
    misses: Annotated[bool, typer.Option("--misses", help="The rows behind each wrong answer of its probes.")] = False,
    through_training: Annotated[
        bool,
        typer.Option(
            "--through-training",
            help="Score the rows by differentiating the run's own training, done again: slow, exact to first order.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what each source of a run did to the losses, and which training rows are behind an answer."""
    from afina.why.table import describe_misses, describe_why
    from afina.why.why import check_signs, explain, explain_misses

    check_signs(question, against=against, misses=misses, through_training=through_training)
    with reopened(run, places) as walk:
        if misses:
            wrong = explain_misses(walk, question, answer, 3 if top is None else top)
            show(wrong.as_json(), as_json, describe_misses(wrong))
            return
        found = explain(walk, question, answer, 10 if top is None else top, through_training=through_training)
        show(found.as_json(), as_json, describe_why(found, against=against))
