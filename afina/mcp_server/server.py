"""The server's tools, by the official SDK, over standard input and output."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from afina import __version__
from afina.errors import AfinaError, RecipeError, unreadable_path
from afina.mcp_server import verbs
from afina.mcp_server.bounded import as_text, bounded
from afina.mcp_server.reach import Reach
from afina.run import parse_json

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

INSTRUCTIONS = (
    "afina turns documents and question lists into a proven language-model adapter. `audit` says what is wrong with "
    "data, `plan` what a training takes, `runs` and `verdict` what was learned and what was broken. An error says what "
    "is wrong, where, and what to do next."
)
STARTS = "`run` starts a training, which may take hours and cost money."
READS = "This server reads, and starts no training: `run` is refused."

Settings = Annotated[list[str] | None, Field(description="Settings of the recipe as KEY=VALUE, e.g. train.epochs=2.")]
RecipePath = Annotated[str, Field(description="The recipe, a YAML file below a root.")]
RunName = Annotated[str, Field(description="Name of a run, or its folder.")]


def told(ask: Callable[[], Any]) -> Any:
    """What a tool gives: its values, as JSON in the text too; an error of ours in words, and as values. Neither is
    longer than an agent can read."""
    from mcp_types import CallToolResult, TextContent

    try:
        found = ask()
        values, failed = bounded(found if isinstance(found, dict) else {"result": found}), False
    except (AfinaError, verbs.VerbFailed) as error:
        values, failed = bounded(verbs.wrong(error)), True
    except OSError as error:
        if error.filename is None:
            raise
        values, failed = verbs.wrong(unreadable_path(error)), True
    text = as_text(values)
    return CallToolResult(
        content=[TextContent(type="text", text=values["text"] if failed else text)],
        structured_content=parse_json(text),
        is_error=failed,
    )


@dataclass(frozen=True)
class AgentTools:
    """Each method is a tool; its docstring is what an agent is told of it."""

    reach: Reach

    def audit(
        self,
        paths: Annotated[list[str], Field(description="Data files and folders below a root, or one recipe.")],
        base: Annotated[str | None, Field(description="A base's folder, whose tokenizer counts.")] = None,
        settings: Settings = None,
    ) -> Any:
        """Say what is wrong with data: findings, the worst first, each with places and what to do."""
        return told(lambda: verbs.audit(self.reach, paths, base, settings or []))

    def plan(
        self,
        recipe: RecipePath,
        settings: Settings = None,
        device: Annotated[str | None, Field(description='Another device, e.g. "RTX 4090".')] = None,
    ) -> Any:
        """Say what a training would take before anything runs: memory, time and money, each with its range."""
        return told(lambda: verbs.plan(self.reach, recipe, settings or [], device))

    def runs(self) -> Any:
        """List the runs: how each stands, and its verdict."""
        return told(lambda: verbs.list_runs(self.reach))

    def verdict(self, run: RunName) -> Any:
        """What a run learned and broke: the verdict with its misses, every probe before and after, guardrails."""
        return told(lambda: verbs.verdict(self.reach, run))

    def why(
        self,
        run: RunName,
        question: Annotated[str, Field(description="A question to the trained model.")],
        answer: Annotated[str | None, Field(description="Its answer; the model's own where none is given.")] = None,
    ) -> Any:
        """The training rows behind an answer."""
        return told(lambda: verbs.why(self.reach, run, question, answer))

    def run(
        self,
        recipe: RecipePath,
        settings: Settings = None,
        name: Annotated[str | None, Field(description="Name of the run; the recipe's where none is given.")] = None,
    ) -> Any:
        """Start a run: dataset, training, evaluation, report. Refused unless a person allowed it."""
        return told(lambda: verbs.start_run(self.reach, recipe, settings or [], name))


def make_server(reach: Reach) -> MCPServer:
    """The server with its tools; `why` is one where this afina has the verb.

    Raises:
        RecipeError: the SDK is not installed.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp_types import ToolAnnotations
    except ImportError as error:
        what = f"agents are served by mcp, which is missing ({error})"
        raise RecipeError(what, "pip install 'afina[mcp]'") from error

    leave = STARTS if reach.allow_runs else READS
    server: MCPServer = MCPServer(
        "afina", version=__version__, instructions=f"{INSTRUCTIONS} {leave}", log_level="WARNING"
    )
    tools = AgentTools(reach)
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    starting = ToolAnnotations(read_only_hint=False, destructive_hint=False)
    asked = [tools.audit, tools.plan, tools.runs, tools.verdict, *([tools.why] if find_spec("afina.why") else [])]
    for tool in asked:
        server.add_tool(tool, annotations=reading, structured_output=False)
    server.add_tool(tools.run, annotations=starting, structured_output=False)
    return server


def serve_agents(runs: Path, roots: list[Path], *, allow_runs: bool) -> None:
    """Serve until the other side closes standard input.

    Raises:
        RecipeError: the SDK is not installed, or a root is no folder.
    """
    reach = Reach.of(runs, roots, allow_runs=allow_runs)
    server = make_server(reach)
    os.chdir(reach.roots[0])  # where a verb's process takes the paths in settings from, so that they are looked at so
    server.run("stdio")
