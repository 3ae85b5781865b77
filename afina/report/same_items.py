"""Runs that answered the same items, held against each other item by item; and what a gain has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.evaluate.scores import FACTS
from afina.record import Record
from afina.report.labels import words
from afina.report.read import RunFiles
from afina.score.paired import ScoreEstimate, ratio_difference


@dataclass(frozen=True)
class Item:
    """What a run got for one item, more being better, and the fact or section that it is about."""

    value: float
    cluster: str = ""


Items = dict[str, dict[tuple[str, ...], Item]]
"""Name of a measure -> item (its prompt, reference and earlier turns, of a choice its sentences; numbered where they
stand twice) -> what the run got for it."""


@dataclass(frozen=True)
class SameItems:
    """A measure of the first run, and how much better (or worse) each other run is on the items both answered."""

    name: str
    differences: tuple[ScoreEstimate | None, ...]
    """In the order of the runs; None for the first, and where a run shares no items with it."""

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "differences": [each.as_json() if each else None for each in self.differences]}


def same_items(runs: Sequence[RunFiles]) -> list[SameItems]:
    """For probes (share right, or share chosen) and tasks (every metric that is a mean): paired differences from the
    first run."""
    measured = [items_of(run) for run in runs]
    found = []
    for name, first in measured[0].items():
        differences: list[ScoreEstimate | None] = [None]
        for other in measured[1:]:
            common = [key for key in first if key in other.get(name, {})]
            pairs = [(first[key], other[name][key]) for key in common]
            differences.append(_difference(pairs) if pairs else None)
        if any(differences):
            found.append(SameItems(name, tuple(differences)))
    return found


def _difference(pairs: Sequence[tuple[Item, Item]]) -> ScoreEstimate:
    """By how much the second of each pair is better, on average. Phrasings of one fact are drawn together, and `n`
    counts facts.

    >>> wrong, right = Item(0.0, "Ana"), Item(1.0, "Ana")
    >>> found = _difference([(wrong, right), (wrong, wrong), (Item(1.0), Item(1.0))])
    >>> round(found.value, 3), found.n
    (0.333, 2)
    """
    sums: dict[str, list[float]] = {}
    for number, (one, two) in enumerate(pairs):
        held = sums.setdefault(one.cluster or two.cluster or f"item {number}", [0.0, 0.0, 0.0])
        for place, value in enumerate((one.value, two.value, 1.0)):
            held[place] += value
    first, second, counts = zip(*sums.values(), strict=True)
    return ratio_difference(first, second, counts)


def items_of(run: RunFiles) -> Items:
    """What the trained model of a run got for each item that it answered."""
    out: Items = {}

    def add(name: str, row: Record, value: float, right: str = "reference") -> None:
        put(out.setdefault(name, {}), row, value, right)

    for rows, right in ((run.predictions, "reference"), (run.choices, "sentences")):
        for row in rows or ():
            correct = row.flag("adapter_correct")
            if correct is not None:
                add(measure_of(row), row, float(correct), right)
    for row in run.task_predictions or ():
        for metric, value in row.record("adapter_scores").numbers():
            add(f"task {row.text('task')} {words(metric)}", row, value)
    return out


def measure_of(row: Record) -> str:
    """The name under which a probe's answers are counted.

    >>> measure_of(Record({"probe": "old", "role": "retention"}, "")), measure_of(Record({"probe": "recall"}, ""))
    ('old (retention)', 'recall')
    """
    probe, role = row.text("probe") or "", row.text("role") or ""
    return probe if role in ("", probe) else f"{probe} ({role})"


def put(items: dict[tuple[str, ...], Item], row: Record, value: float, right: str = "reference") -> None:
    """Add what a run got for a row's question to the items of a measure.

    Args:
        right: the key of what is right, which tells questions apart, as do the turns before the last.
    """
    asked = tuple(str(row.values.get(key)) for key in ("prompt", right, "messages"))
    times = 0
    while (*asked, str(times)) in items:
        times += 1
    items[(*asked, str(times))] = Item(value, row.text("fact") or row.text("section") or "")


# ---- what a gain has cost


def gains(run: RunFiles) -> Iterator[tuple[str, float]]:
    """Points (hundredths) that a run gained over its base: on what is to be learned, and on each task.

    Probes of unseen phrasings and of versions count, or else of seen questions; of a task its F1, or its first metric.
    """
    if run.scores is None:
        return
    probes = [probe for probe in run.scores.probes if probe.role in FACTS]
    for probe in probes or [probe for probe in run.scores.probes if probe.role == "recall"]:
        shown = probe.figures()[0]
        if shown.before is not None and shown.after is not None:
            yield probe.name, 100 * (shown.after - shown.before)
    for task in run.scores.tasks:
        metrics = {metric.text("name"): metric for metric in task.records("metrics")}
        name = "f1" if "f1" in metrics else next(iter(metrics), None)
        if name is not None and (gain := metrics[name].record("difference").number("mean")) is not None:
            scale = 1 if name in ("chrf", "bleu") else 100
            yield f"task {task.text('name')} {words(name)}", scale * gain


def training_flops(run: RunFiles) -> float | None:
    """Floating point operations of the training: as its log counts them, or about.

    About: per token 6 for a parameter that is trained: 2 forward, 2 for the gradient of what goes in, 2 for its own
    (Kaplan et al. 2020, without attention); 4 for one that is frozen, which has no gradient of its own.
    """
    if run.manifest is None:
        return None
    if counted := sum(map(_flops_of_step, (*run.events("step"), *run.events("step", "first")))):
        return counted
    tokens, trained = run.manifest.measured.number("tokens"), run.manifest.trained
    if not tokens or trained is None or trained.parameters is None:
        return None
    return (4 * run.manifest.frozen_parameters + 6 * trained.parameters) * tokens


def _flops_of_step(step: Record) -> float:
    """What a step computed; 0 where an older log does not tell."""
    rate, speed, tokens = (step.number(key) for key in ("flops_per_second", "tokens_per_second", "tokens"))
    return rate * tokens / speed if rate and speed and tokens else 0.0


def yields(run: RunFiles) -> Mapping[str, tuple[float | str, str, str]]:
    """Name -> (value, unit, which is better) of what each point gained has cost; "no gain" where there is none."""
    out: dict[str, tuple[float | str, str, str]] = {}
    flops = training_flops(run)
    if flops:
        out["training FLOP"] = (flops, "", "lower")
    if run.manifest is None:
        return out
    measured, cost = run.manifest.measured, run.manifest.cost
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
