"""The verb ``afina export``, in a file of its own: `cli` holds the others."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import Places, Public, Push, RunFolder, SendPrivate
from afina.cli.output import show


def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(help="merged, gguf, gguf-lora, ollama, mlx, adapter or hub-folder.")],
    places: Places = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; RUN/export/FORMAT where not given.")] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="KIND", help="f32, f16, bf16, q8_0, q4_k_m, ...; the base's own if not given.")
    ] = None,
    llama_cpp: Annotated[
        Path | None, typer.Option("--llama-cpp", metavar="PATH", help="A checkout of llama.cpp that converts.")
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="With hub-folder: merged, not the adapter.")] = False,
    check: Annotated[bool, typer.Option(help="Open the export and compare it with the run.")] = True,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest mean KL from the run's model, in nats; by KIND where not given.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence for the card; the base's own where not given.")] = None,
    push: Push = None,
    public: Public = False,
    send_private: SendPrivate = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")] = False,
) -> None:
    """Write the trained model for other programs, and prove that they open the trained one. Exit code 5 if not."""
    from afina.export.export import ExportOptions
    from afina.export.export import export as start
    from afina.export.push import push_target
    from afina.progress import StageProgress, say

    target = push_target(push, public=public, send_private=send_private)
    options = ExportOptions(to, out, quantize, llama_cpp, merged, check, tolerance, licence, places or (), target)
    with StageProgress("export") as progress:
        made = start(run, options, say=say, progress=progress)
    written = f"{made['folder']}: {', '.join(_by_folder(made['files']))}"
    show(made, as_json, written)


def _by_folder(files: Collection[str]) -> list[str]:
    """Files by name, folders with how many they hold.

    >>> _by_folder(["README.md", "model.gguf", "proof/a.json", "proof/b.json"])
    ['README.md', 'model.gguf', 'proof/ (2 files)']
    """
    parts = Counter(file.split("/", 1)[0] + "/" for file in files if "/" in file)
    held = [f"{name} ({count} {'file' if count == 1 else 'files'})" for name, count in sorted(parts.items())]
    return [*(file for file in files if "/" not in file), *held]
