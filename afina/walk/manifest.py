"""Collects what a run's manifest holds, from which every input can be traced by hash."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import __version__
from afina.manifest import Manifest, TrainedPart, record_of
from afina.run import hash_file, hash_folder, read_json, read_metrics

if TYPE_CHECKING:
    from afina.walk.walk import Walk

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy", "pydantic", "lxml")


def write_manifest(walk: Walk) -> None:
    """Every input by hash, versions, device, times, cost."""
    from afina.evaluate.probes import probe_files
    from afina.evaluate.safety.known import strings_file
    from afina.evaluate.tasks import task_files
    from afina.plan.device import local_device

    dataset = read_json(walk.folder / "dataset/dataset.json")
    trained = walk.run.stages["train"]["result"]
    stages = [walk.run.stages[training.name]["result"] for training in walk.trainings]
    summed = {key: sum(each[key] for each in stages) for key in ("train_seconds", "tokens", "target_tokens", "steps")}
    root = Path(walk.recipe.root)
    inputs = [_traced(root, each["path"], each["sha256"]) for each in dataset["ledger"]["files"]]
    inputs += [
        _traced(root, str(file), hash_file(file)) | {"role": "probe"}
        for file in probe_files(walk.recipe)
        if file.is_file()
    ]
    inputs += [_traced(root, str(file), hash_file(file)) | {"role": "task"} for file in task_files(walk.recipe)]
    if strings := strings_file(walk.recipe):
        inputs.append(_traced(root, str(strings), hash_file(strings)) | {"role": "known strings"})
    hours = sum(stage["seconds"] for stage in walk.run.stages.values()) / 3600
    budget = walk.recipe.budget
    events = read_metrics(walk.folder)
    whole = walk.outcome == "model"
    Manifest(
        name=walk.recipe.name,
        afina=__version__,
        commit=_commit(),
        python=platform.python_version(),
        platform=platform.platform(),
        libraries=record_of({name: found for name in LIBRARIES if (found := _version(name))}),
        device=record_of(local_device(walk.recipe.device).as_json() | {"used": trained["device"]}),
        threads=trained["threads"],
        ranks=trained.get("ranks", 1),
        seed=walk.recipe.seed,
        started=min(stage["started"] for stage in walk.run.stages.values()),
        ended=time.time(),
        seconds_by_stage=record_of({name: stage["seconds"] for name, stage in walk.run.stages.items()}),
        cost=record_of(
            {
                "hours": hours,
                "price_per_hour": budget.price_per_hour,
                "money": hours * budget.price_per_hour,
                "currency": budget.currency,
            }
        ),
        recipe_sha256=hash_file(walk.folder / "recipe.yaml"),
        root=walk.recipe.root,
        inputs=[record_of(each) for each in inputs],
        base=record_of(
            walk.identity.as_json()
            | {"parameters": trained["parameters"] - (0 if whole else trained["trained_parameters"])}
            if walk.base_folder
            else None
        ),
        dataset=record_of(
            {
                "sha256": hash_folder(walk.folder / "dataset"),
                "train": dataset["train"]["examples"],
                "validation": dataset["validation"]["examples"],
                "train_sha256": hash_file(walk.folder / "dataset/train.jsonl"),
                "validation_sha256": hash_file(walk.folder / "dataset/validation.jsonl"),
            }
        ),
        trained=TrainedPart(
            walk.outcome,
            trained["trained_parameters"],
            hash_folder(walk.folder / walk.outcome),
            hash_folder(walk.folder / walk.outcome, "*.safetensors"),
        ),
        resumed=sum(event["event"] == "resumed" for event in events),
        measured=record_of(
            {
                **summed,
                "peak_bytes": max(each["peak_bytes"] for each in stages),
                "tokens_per_second": round(summed["tokens"] / max(summed["train_seconds"], 1e-9), 1),
            }
        ),
    ).write(walk.folder)


def _traced(root: Path, path: str, sha256: str) -> dict[str, Any]:
    file = root / path
    return {"path": path, "sha256": sha256, "bytes": file.stat().st_size if file.exists() else None}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of afina's own code where it runs from a checkout."""
    here = Path(__file__).resolve().parent
    found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
