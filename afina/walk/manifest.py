"""Collects what a run's manifest holds, from which every input can be traced by hash."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from afina import __version__
from afina.manifest import Manifest, TrainedPart, record_of
from afina.model.gguf_folder import origin_of
from afina.model.hub import hub_commit
from afina.outcome import find_outcome
from afina.recipe import Recipe
from afina.record import Record
from afina.run import hash_file, hash_folder, read_mapping, read_metrics
from afina.walk.base import base_folder, identity
from afina.walk.context import Context
from afina.walk.start import start_of
from afina.walk.trainings import trainings_of

LIBRARIES = (
    *("torch", "transformers", "peft", "bitsandbytes", "mlx", "mlx-lm"),
    *("tokenizers", "safetensors", "numpy", "pydantic", "lxml"),
)


def write_manifest(context: Context) -> dict[str, Any]:
    """Write ``manifest.json``: every input by hash, versions, device, times, cost."""
    from afina.plan.device import local_device

    outcome = find_outcome(context.folder, context.recipe)
    summary = context.folder / "dataset/dataset.json"
    dataset = Record(read_mapping(summary), str(summary))
    trained = context.run.stages["train"]["result"]
    stages = [context.run.stages[training.name]["result"] for training in trainings_of(context.recipe)]
    summed = {key: sum(each[key] for each in stages) for key in ("train_seconds", "tokens", "target_tokens", "steps")}
    hours = sum(stage["seconds"] for stage in context.run.stages.values()) / 3600
    budget = context.recipe.budget
    events = read_metrics(context.folder)
    whole, start = outcome.kind == "model", start_of(context)
    Manifest(
        name=context.recipe.name,
        afina=__version__,
        commit=commit_of_code(),
        python=platform.python_version(),
        platform=platform.platform(),
        libraries=record_of({name: found for name in LIBRARIES if (found := _version(name))}),
        device=record_of(
            local_device(context.recipe.device).as_json()
            | {"used": trained["device"], "backend": trained.get("backend", "torch")}
        ),
        threads=trained["threads"],
        ranks=trained.get("ranks", 1),
        seed=context.recipe.seed,
        started=min(stage["started"] for stage in context.run.stages.values()),
        ended=time.time(),
        seconds_by_stage=record_of({name: stage["seconds"] for name, stage in context.run.stages.items()}),
        cost=record_of(
            {
                "hours": hours,
                "price_per_hour": budget.price_per_hour,
                "money": hours * budget.price_per_hour,
                "currency": budget.currency,
            }
        ),
        recipe_sha256=hash_file(context.folder / "recipe.yaml"),
        root=context.recipe.root,
        inputs=[record_of(each) for each in _inputs(context.recipe, dataset.record("ledger").records("files"))],
        base=record_of(_base(context, trained["parameters"] - (0 if whole else trained["trained_parameters"]))),
        started_from=record_of(start.as_json() if start else None),
        dataset=record_of(
            {
                "sha256": hash_folder(context.folder / "dataset"),
                "train": dataset["train"]["examples"],
                "validation": dataset["validation"]["examples"],
                "train_sha256": hash_file(context.folder / "dataset/train.jsonl"),
                "validation_sha256": hash_file(context.folder / "dataset/validation.jsonl"),
            }
        ),
        trained=TrainedPart(
            outcome.kind,
            trained["trained_parameters"],
            hash_folder(outcome.folder),
            hash_folder(outcome.folder, "*.safetensors"),
        ),
        resumed=sum(event["event"] == "resumed" for event in events),
        measured=record_of(
            {
                **summed,
                **({"adapted": trained["adapted"]} if "adapted" in trained else {}),
                "peak_bytes": max(each["peak_bytes"] for each in stages),
                "tokens_per_second": round(summed["tokens"] / max(summed["train_seconds"], 1e-9), 1),
            }
        ),
    ).write(context.folder)
    return {}


def _base(context: Context, parameters: int) -> dict[str, Any] | None:
    """The base by its hashes; of one of the hub its commit too, of a GGUF what its numbers are worth."""
    folder = base_folder(context)
    if folder is None:
        return None
    origin, commit = origin_of(str(context.recipe.base), folder), hub_commit(folder)
    more = ({"origin": origin} if origin else {}) | ({"commit": commit} if commit else {})
    return identity(context).as_json() | {"parameters": parameters} | more


def _inputs(recipe: Recipe, sources: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Every file that the run read, with its hash."""
    from afina.evaluate.probes import probe_files
    from afina.evaluate.safety.known import strings_file
    from afina.evaluate.tasks import task_files

    root = Path(recipe.root)
    for each in sources:
        yield _traced(root, each.required_text("path"), each.required_text("sha256"))
    strings = strings_file(recipe)
    roles = {"probe": [file for file in probe_files(recipe) if file.is_file()], "task": task_files(recipe)}
    roles["known strings"] = [strings] if strings else []
    for role, files in roles.items():
        for file in files:
            yield _traced(root, str(file), hash_file(file)) | {"role": role}


def _traced(root: Path, path: str, sha256: str) -> dict[str, Any]:
    file = root / path
    return {"path": path, "sha256": sha256, "bytes": file.stat().st_size if file.exists() else None}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def commit_of_code() -> str | None:
    """The commit of afina's own code where it runs from a checkout."""
    here = Path(__file__).resolve().parent
    found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
