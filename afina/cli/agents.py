"""``afina mcp``: audit, plan, verdict and runs for agents."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import RunsFolder


def mcp(
    runs: RunsFolder = Path("runs"),
    roots: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="FOLDER", help="Folders that agents may have read; this one if none."),
    ] = None,
    allow_runs: Annotated[
        bool,
        typer.Option("--allow-runs", help="Let agents start runs, and have asked what costs, downloads or compiles."),
    ] = False,
) -> None:
    """Serve agents by the Model Context Protocol, over standard input and output: audit, plan, runs, verdict, run."""
    from afina.mcp_server.server import serve_agents

    serve_agents(runs, roots or [], allow_runs=allow_runs)
