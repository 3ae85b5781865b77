"""Arguments and options that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, e.g. train.epochs=2 base=./model")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/demo.")]
Places = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Where things are now, e.g. base=./model; root, device.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Anyway = Annotated[bool, typer.Option("--anyway")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a long job.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Where runs are kept.")]
