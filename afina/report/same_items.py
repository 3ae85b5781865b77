"""Runs that answered the same items, held against each other item by item; and what a gain has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.evaluate.paired import ScoreEstimate, paired_difference
from afina.report.markup import words
from afina.report.read import Record, RunFiles

_FEWEST = 2
"""Fewer common items give no interval."""

Items = dict[str, dict[tuple[str, ...], float]]
"""Name of a measure -> item (its prompt and reference, numbered where they stand twice) -> what the run got for it."""


@dataclass(frozen=True)
class SameItems:
    """A measure of the first run, and how much better (or worse) each other run is on the items both answered."""

    name: str
    differences: tuple[ScoreEstimate | None, ...]
    """In the order of the runs; None for the first, and where a run shares no items with it."""

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "differences": [each.as_json() if each else None for each in self.differences]}


def same_items(runs: Sequence[RunFiles]) -> list[SameItems]:
    """For probes (share right) and tasks (every metric that is a mean), the paired differences from the first run."""
    measured = [_items(run) for run in runs]
    found = []
    for name, first in measured[0].items():
        differences: list[ScoreEstimate | None] = [None]
        for other in measured[1:]:
            common = [key for key in first if key in other.get(name, {})]
            values = [first[key] for key in common], [other[name][key] for key in common]
            differences.append(paired_difference(*values) if len(common) >= _FEWEST else None)
        if any(differences):
            found.append(SameItems(name, tuple(differences)))
    return found


def _items(run: RunFiles) -> Items:
    """What the trained model of a run got for each item that it answered."""
    out: Items = {}

    def add(name: str, row: Record, value: float) -> None:
        asked = (str(row.values.get("prompt")), str(row.values.get("reference")))
        items = out.setdefault(name, {})
        times = 0
        while (*asked, str(times)) in items:
            times += 1
        items[(*asked, str(times))] = value

    for row in run.predictions or ():
        correct = row.flag("adapter_correct")
        if correct is not None:
            probe, role = row.text("probe") or "", row.text("role") or ""
            add(probe if role in ("", probe) else f"{probe} ({role})", row, float(correct))
    for row in run.task_predictions or ():
        for metric, value in row.record("adapter_scores").numbers():
            add(f"task {row.text('task')} {words(metric)}", row, value)
    return out


# ---- what a gain has cost


def gains(run: RunFiles) -> Iterator[tuple[str, float]]:
    """Points (hundredths) that a run gained over its base: on what is to be learned, and on each task.

    Probes of generalization count, or else of recall; of a task its F1, or else its first metric.
    """
    if run.scores is None:
        return
    probes = run.scores.records("probes")
    roles = {probe.text("role") for probe in probes}
    wanted = "generalization" if "generalization" in roles else "recall"
    for probe in probes:
        before, after = (probe.record(side).number("exact_match") for side in ("before", "after"))
        if probe.text("role") == wanted and before is not None and after is not None:
            yield probe.text("name") or wanted, 100 * (after - before)
    for task in run.scores.records("tasks"):
        metrics = {metric.text("name"): metric for metric in task.records("metrics")}
        name = "f1" if "f1" in metrics else next(iter(metrics), None)
        if name is not None and (gain := metrics[name].record("difference").number("mean")) is not None:
            scale = 1 if name in ("chrf", "bleu") else 100
            yield f"task {task.text('name')} {words(name)}", scale * gain


def training_flops(run: RunFiles) -> float | None:
    """Floating point operations of the training, about.

    Per token 6 for a parameter that is trained: 2 forward, 2 for the gradient of what goes in, 2 for its own (Kaplan
    et al. 2020, without attention); 4 for one that is frozen, which has no gradient of its own.
    """
    if run.manifest is None:
        return None
    tokens = run.manifest.record("measured").number("tokens")
    frozen = run.manifest.record("base").number("parameters") or 0.0
    trained = [run.manifest.record(part).number("parameters") for part in ("adapter", "model")]
    found = next((count for count in trained if count is not None), None)
    return (4 * frozen + 6 * found) * tokens if tokens and found is not None else None


def yields(run: RunFiles) -> Mapping[str, tuple[float | str, str, str]]:
    """Name -> (value, unit, which is better) of what each point gained has cost; "no gain" where there is none."""
    out: dict[str, tuple[float | str, str, str]] = {}
    flops = training_flops(run)
    if flops:
        out["training FLOP"] = (flops, "", "lower")
    if run.manifest is None:
        return out
    measured, cost = run.manifest.record("measured"), run.manifest.record("cost")
    tokens, money = measured.number("tokens"), cost.number("money")
    for name, points in gains(run):
        out[f"{name}: points gained"] = (points, "", "higher")
        if money:
            unit = cost.text("currency") or "US$"
            out[f"{name}: cost per point"] = (money / points if points > 0 else "no gain", unit, "lower")
        elif hours := cost.number("hours"):
            out[f"{name}: time per point"] = (3600 * hours / points if points > 0 else "no gain", "seconds", "lower")
        if flops:
            out[f"{name}: points per 10^15 FLOP"] = (1e15 * points / flops, "", "higher")
        if tokens:
            out[f"{name}: points per million training tokens"] = (1e6 * points / tokens, "", "higher")
    return out
