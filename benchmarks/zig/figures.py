"""The figures of the experiment, read from the runs' folders; ``figures.json`` holds what was measured last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.evaluate.scores import Scores
from afina.manifest import Manifest
from afina.plan.bases import find_shape
from afina.record import Record
from afina.report.read import RunFiles, read_run
from afina.walk.plan_answers import PlanAsked, answer

FILE = Path(__file__).with_name("figures.json")
ASKED = 3
"""Questions whose answers are shown side by side."""
SIZES = (
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen3-8B",
)
"""The bases that the plan looks at, where the small one is too small."""
DEVICES = ("Apple M3 Max", "RTX 4090", "A100 80GB")


def figures_of(folders: Mapping[str, Path], refusals: Mapping[str, Sequence[str]], sizes: list[Any]) -> dict[str, Any]:
    """Everything that the page shows, as plain values.

    Args:
        folders: finished runs by the names of their recipes.
        refusals: what stopped a recipe before its `dataset.accept` let it through.
        sizes: of :func:`sweep`.

    Raises:
        AfinaError: a run is not finished, or one of its files is damaged.
    """
    runs = {name: read_run(folder) for name, folder in folders.items()}
    for name, run in runs.items():
        if run.scores is None or run.manifest is None or run.audit is None:
            raise AfinaError(
                "the run is not finished", "start `make zig` again, it goes on where it stopped", str(folders[name])
            )
    first = next(iter(runs.values())).manifest or Manifest()
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "afina": first.afina,
        "device": first.device.text("name") or first.device.text("device"),
        "threads": first.threads,
        "base": {key: first.base.values.get(key) for key in ("name", "parameters")},
        "runs": {name: _run(run, refusals.get(name, ())) for name, run in runs.items()},
        "answers": _side_by_side(runs),
        "sizes": sizes,
    }


def _run(run: RunFiles, refused: Sequence[str]) -> dict[str, Any]:
    assert run.scores is not None and run.manifest is not None and run.audit is not None
    scores, manifest = run.scores, run.manifest
    seconds = dict(manifest.seconds_by_stage.numbers())
    return {
        "refused": list(refused),
        "audit": [
            {key: each.values[key] for key in ("name", "severity", "count", "of")}
            for each in run.audit.records("findings")
            if each.text("severity") != "note"
        ],
        "tokens": manifest.measured.number("tokens"),
        "steps": manifest.measured.number("steps"),
        "train_seconds": manifest.measured.number("train_seconds"),
        "seconds": sum(seconds.values()),
        "loss": _sides(scores.loss.before, scores.loss.after, "loss") if scores.loss else None,
        "verdict": scores.verdict.as_json() if scores.verdict else None,
        "guardrails": _guardrails(scores),
        "probes": [
            {
                "name": probe.title,
                "asked": probe.counted_over,
                "before": shown.before,
                "after": shown.after,
                "word": shown.counted.word,
            }
            for probe in scores.probes
            for shown in probe.figures()[:1]
        ],
        "code": [_task(task) for task in scores.tasks if task.record("code")],
    }


def _sides(before: Record, after: Record, key: str) -> dict[str, float | None]:
    return {"before": before.number(key), "after": after.number(key)}


def _guardrails(scores: Scores) -> dict[str, Any] | None:
    """Answers that break each guardrail, where any did."""
    found = scores.guardrails
    if found is None:
        return None
    broken = [name for name in found.after if found.before.get(name) or found.after[name]]
    return {
        "answers": found.answers,
        "broken": {name: {"before": found.before.get(name, 0), "after": found.after[name]} for name in broken},
    }


def _task(task: Record) -> dict[str, Any]:
    """How many programs its compiler takes, before and after."""
    metrics = [
        {"name": metric["name"], "before": metric["before"]["mean"], "after": metric["after"]["mean"]}
        for metric in task.records("metrics")
        if str(metric["name"]).startswith("compiles")
    ]
    return {"name": task["name"], "items": task["items"], "samples": task["code"]["samples"], "metrics": metrics}


def _side_by_side(runs: Mapping[str, RunFiles]) -> list[dict[str, Any]]:
    """The first questions about what changed: the reference, what the base says and what each run says."""
    asked: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        for row in [row for row in run.predictions or [] if row.text("role") == "versions"][:ASKED]:
            prompt = row.required_text("prompt")
            each = asked.setdefault(prompt, {"prompt": prompt, "reference": row["reference"], "base": row["base"]})
            each[name] = row["adapter"]
    return list(asked.values())


def sweep(recipe: Path, overrides: Sequence[str], runs: Path) -> list[dict[str, Any]]:
    """What the plan says of the same recipe over larger bases: whether it fits each device, how long, what it costs."""
    rows = []
    for base in SIZES:
        over = [each for each in overrides if not each.startswith("base=")]
        found = answer(PlanAsked(str(recipe), [*over, f"base={base}"], DEVICES, runs)).values
        for plan in found:
            money = plan["money"]
            rows.append(
                {
                    "base": base,
                    "parameters": find_shape(base).parameters,
                    "device": plan["device"]["name"],
                    "fits": plan["fits"],
                    "bytes": plan["memory"]["point"],
                    "seconds": {end: plan["time"][end] for end in ("low", "point", "high")},
                    "money": money["point"] if money else None,
                    "currency": money["currency"] if money else None,
                }
            )
    return rows
