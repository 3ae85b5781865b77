"""Score stored outputs against their references: look at them first, then measure.

Nothing of a row is kept but its numbers, so that a file may be larger than the memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.errors import Problem, RecipeError
from afina.recipe import Source, nearest
from afina.run import Progress, no_progress
from afina.score.columns import (
    NONE_NAMED,
    AnswerColumns,
    NamedColumns,
    ScoredItem,
    choose_columns,
    first_row,
    items_of,
    read_table,
)
from afina.score.leaks import find_leak
from afina.score.metrics import CORPUS, METRICS, accuracy, corpus_counts, corpus_score, row_scores
from afina.score.normalize import ARTICLES, language_key, published
from afina.score.output_checks import OutputChecks, OutputFinding, training_keys
from afina.score.paired import RESAMPLES, ScoreEstimate, estimate, resampled_sums
from afina.sources import read_source
from afina.text.document import Ledger
from afina.text.language import language_of_text

_LANGUAGE_ROWS = 200
"""Rows that are looked at to recognise the language."""


@dataclass(frozen=True)
class MetricScore:
    """One metric of every model over the same items, and what each gains over the first."""

    name: str
    values: dict[str, ScoreEstimate]
    differences: dict[str, ScoreEstimate]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "values": {name: each.as_json() for name, each in self.values.items()},
            "differences": {name: each.as_json() for name, each in self.differences.items()},
        }


@dataclass
class Tally:
    """The numbers of a group's items, a row each: for every model its metrics, one after another."""

    predictions: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: list[list[float]] = field(default_factory=list)
    _widths: dict[str, int] = field(default_factory=dict)

    def add(self, answers: Sequence[str], item: ScoredItem, language: str) -> None:
        """Score one item's answers."""
        found = []
        for answer in answers:
            means = row_scores(answer, item.references, language)
            if "accuracy" in self.metrics:
                means["accuracy"] = accuracy(answer, item.references, item.choices)
            found.append(
                {
                    name: corpus_counts(name, answer, item.references) if name in CORPUS else [means[name]]
                    for name in self.metrics
                }
            )
        self.put(found)

    def put(self, found: Sequence[Mapping[str, Sequence[float]]]) -> None:
        """One item's numbers by metric, for each model: the one value, or the counts of a metric of :data:`CORPUS`."""
        row: list[float] = []
        for values in found:
            for name in self.metrics:
                self._widths[name] = len(values[name])
                row += values[name]
        self.rows.append(row)

    @property
    def n(self) -> int:
        return len(self.rows)

    def last(self, prediction: str) -> dict[str, float]:
        """One model's mean metrics of the item that was added last."""
        places = self._places()
        return {name: self.rows[-1][places[prediction, name].start] for name in self.metrics if name not in CORPUS}

    def values(self, positions: Sequence[int]) -> dict[str, dict[str, float]]:
        """Model -> metric -> its score over some of the items."""
        chosen = [self.rows[position] for position in positions]
        sums = [sum(column) for column in zip(*chosen, strict=True)]
        places = self._places()
        return {
            name: {metric: self._value(metric, sums[places[name, metric]], len(positions)) for metric in self.metrics}
            for name in self.predictions
        }

    def scores(self, seed: int = 0) -> list[MetricScore]:
        """Every metric with its intervals, and the paired differences from the first model."""
        sums = resampled_sums(self.rows, seed=seed)
        places = self._places()
        found = []
        for metric in self.metrics:
            samples = {
                name: [self._value(metric, row, self.n) for row in sums[:, places[name, metric]]]
                for name in self.predictions
            }
            first = samples[self.predictions[0]]
            gains = {
                name: [value - base for value, base in zip(samples[name], first, strict=True)]
                for name in self.predictions[1:]
            }
            found.append(
                MetricScore(
                    metric,
                    {name: estimate(values, self.n) for name, values in samples.items()},
                    {name: estimate(values, self.n) for name, values in gains.items()},
                )
            )
        return found

    @staticmethod
    def _value(metric: str, sums: Sequence[float], n: int) -> float:
        return corpus_score(metric, sums) if metric in CORPUS else float(sums[0]) / n

    def _places(self) -> dict[tuple[str, str], slice]:
        """Where each model's metrics stand in a row."""
        places, start = {}, 0
        for prediction in self.predictions:
            for metric in self.metrics:
                places[prediction, metric] = slice(start, start + self._widths[metric])
                start += self._widths[metric]
        return places


@dataclass(frozen=True)
class ScoreReport:
    """What :func:`score_file` found."""

    file: str
    columns: AnswerColumns
    language: str
    recognised: bool
    """Whether the language was recognised rather than given."""
    stripped: bool
    rows: dict[str, int]
    """Group -> rows."""
    findings: list[OutputFinding]
    groups: dict[str, list[MetricScore]]
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values; findings stand before scores, as in the text."""
        return {
            "file": self.file,
            "columns": self.columns.as_json(),
            "rows": sum(self.rows.values()),
            "findings": [finding.as_json() for finding in self.findings],
            "leaks": "removed" if self.stripped else "scored as they are",
            "language": {"name": self.language, "recognised": self.recognised},
            "normalization": published(self.language),
            "intervals": f"95 %, {RESAMPLES} bootstrap samples of the rows; differences paired, from the first model",
            "notes": self.notes,
            "groups": {
                name: {"n": self.rows[name], "metrics": [score.as_json() for score in scores]}
                for name, scores in self.groups.items()
            },
        }


def score_file(
    file: Path,
    named: NamedColumns = NONE_NAMED,
    *,
    language: str | None = None,
    metrics: Sequence[str] = (),
    choices: Sequence[str] = (),
    trained_on: Sequence[Path] = (),
    strip_leaks: bool = False,
    progress: Progress = no_progress,
) -> ScoreReport:
    """Check and score the outputs of a file.

    Args:
        named: columns; those that are not named are recognised.
        language: whose articles exact match and F1 leave out; recognised where not given.
        metrics: some of :data:`~afina.score.metrics.METRICS`; all that fit where not given.
        choices: the possible answers of every row, for accuracy.
        trained_on: files of training rows; items whose prompt stands in them are counted.
        strip_leaks: score what is left without prompt text and chat markers.

    Raises:
        RecipeError: columns, metrics or files that are not there, all in one error.
        DataError: broken rows, all in one error.
    """
    known = language_key(language) if language else None
    columns = choose_columns(list(first_row(file)), named, str(file))
    wanted = choose_metrics(metrics, has_choices=bool(choices or columns.choices))
    trained = frozenset[str]()
    notes = []
    if trained_on:
        if not columns.prompt:
            fix = "name the column of what was asked: --prompt COLUMN"
            raise RecipeError("rows without a prompt cannot be held against training data", fix, str(file))
        trained, left_out = _trained(trained_on)
        notes += [f"{left_out} training rows have no prompt and were not compared"] if left_out else []
    if not columns.prompt:
        notes.append("no column of prompts: what stands before the first header of an answer counts as prompt text")
    recognised = known is None
    if known is None:
        known, why = _recognise(file, columns)
        notes += [why] if why else []
    checks = OutputChecks(columns.predictions, known, trained)
    tallies: dict[str, Tally] = {}
    for number, item in enumerate(items_of(read_table(file), columns, str(file), choices), start=1):
        leaks = [find_leak(output, item.prompt) for output in item.outputs]
        clean = [leak.answer if leak else out for leak, out in zip(leaks, item.outputs, strict=True)]
        checks.add(item, clean, leaks)
        tally = tallies.setdefault(item.group, Tally(columns.predictions, wanted))
        tally.add(clean if strip_leaks else item.outputs, item, known)
        if number % 100 == 0:
            progress(number, None, "rows scored")
    groups = {}
    for number, (name, tally) in enumerate(tallies.items()):
        progress(number, len(tallies), "groups resampled")
        groups[name] = tally.scores()
    return ScoreReport(
        str(file),
        columns,
        known,
        recognised,
        strip_leaks,
        {name: tally.n for name, tally in tallies.items()},
        checks.findings(),
        groups,
        notes,
    )


def choose_metrics(names: Sequence[str], *, has_choices: bool) -> tuple[str, ...]:
    """The metrics by name; without names all, accuracy only where there are choices.

    Raises:
        RecipeError: unknown names, all at once; accuracy without choices.
    """
    problems = [
        Problem(
            f"there is no metric {name!r}",
            f"did you mean `{guess}`?" if (guess := nearest(name, METRICS)) else "there are: " + ", ".join(METRICS),
        )
        for name in names
        if name not in METRICS
    ]
    if "accuracy" in names and not has_choices:
        problems.append(
            Problem("accuracy needs the choices", "name them (--choices A,B,C,D), or give rows a column `choices`")
        )
    if problems:
        raise RecipeError(problems=problems)
    return tuple(name for name in METRICS if name in names or (not names and (name != "accuracy" or has_choices)))


def _trained(files: Sequence[Path]) -> tuple[frozenset[str], int]:
    """Keys of the training prompts, and how many rows have none."""
    left_out = 0

    def prompts() -> Iterable[Sequence[str]]:
        nonlocal left_out
        for file in files:
            for document in read_source(Source(path=file.name, kind="rows"), 0, file.parent, Ledger()):
                asked = [message["content"] for message in document.messages[:-1] if message["role"] != "system"]
                left_out += not any(asked)
                yield asked

    missing = [Problem(f"there is no file {file}", "check --trained-on") for file in files if not file.is_file()]
    if missing:
        raise RecipeError(problems=missing)
    return training_keys(prompts()), left_out


def _recognise(file: Path, columns: AnswerColumns) -> tuple[str, str]:
    """The language of the first rows whose articles are known, and a remark where there is none."""
    seen: Counter[str] = Counter()
    for number, item in enumerate(items_of(read_table(file), columns, str(file))):
        if number == _LANGUAGE_ROWS:
            break
        found = language_of_text(" ".join((*item.prompt, *item.references)))
        seen[found or "none"] += 1
    del seen["none"]
    best = seen.most_common(1)[0][0] if seen else "none"
    if best in ARTICLES and best != "none":
        return best, ""
    return "none", "the language was not recognised: no articles are left out; name it with --language pt or en"
