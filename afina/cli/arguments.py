"""Arguments and options that several verbs take.

Files of verbs do without ``from __future__ import annotations``: typer reads every verb's annotations at every start,
and each would be a text to compile, which took a twelfth of the time of a plan.
"""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.completions import complete_key, complete_recipe, complete_run

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", autocompletion=complete_recipe)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Overrides, e.g. train.epochs=2 base=./model", autocompletion=complete_key
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/demo.", autocompletion=complete_run)
]
Places = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Where things are now, e.g. base=./model; root, device.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Anyway = Annotated[bool, typer.Option("--anyway")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a long job.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Where runs are kept.")]
Push = Annotated[
    str | None,
    typer.Option("--push", metavar="OWNER/NAME", help="Send it to a repository of the hub, with its card."),
]
Public = Annotated[bool, typer.Option("--public", help="With --push: everybody may see it; private where not given.")]
SendPrivate = Annotated[
    bool, typer.Option("--send-private", help="Let what stands on sources marked `private` leave this machine.")
]
