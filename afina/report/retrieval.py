"""Whether the documents in the prompt would have done it: the base with passages beside the trained model."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from afina.evaluate.scores import RetrievalProbe, RetrievalScores
from afina.report.labels import percent
from afina.report.read import RunFiles
from afina.report.render import Cell, Strong, render, signed


def retrieval_section(run: RunFiles) -> Markup:
    """A row for each probe; what follows from it in words; what it costs."""
    found = run.scores.retrieval if run.scores else None
    if found is None:
        return render("retrieval.html", found=None)
    rows, conclusions = map(_row, found.probes), [probe.conclusion() for probe in found.probes]
    return render("retrieval.html", found=found, rows=list(rows), conclusions=conclusions)


def _row(probe: RetrievalProbe) -> list[Cell]:
    ahead = probe.ahead
    return [
        Strong(probe.name, [probe.counted.words]),
        probe.counted_over,
        percent(probe.base),
        Strong(percent(probe.retrieved), [f"{percent(probe.low)} to {percent(probe.high)}"]),
        "" if probe.section is None else percent(probe.section),
        percent(probe.trained),
        Strong(f"{signed(100 * ahead.points)} points", [f"{signed(100 * ahead.low)} to {signed(100 * ahead.high)}"]),
        percent(probe.holding),
    ]


def retrieval_figures(found: RetrievalScores) -> Iterator[tuple[str, float, str, str, tuple[float, float] | None]]:
    """Each figure for a comparison of runs: name, value, unit, which is better, interval."""
    for probe in found.probes:
        title = f"passages in the prompt, {probe.name}"
        yield f"{title}: right", probe.retrieved, "share", "higher", (probe.low, probe.high)
        if probe.section is not None:
            yield f"{title}: right with the section asked about", probe.section, "share", "higher", None
        yield f"{title}: held by the passages", probe.holding, "share", "higher", None
    yield "passages in the prompt: tokens to read", found.tokens[1], "", "lower", None
    if found.seconds:
        yield "passages in the prompt: time of an answer", found.seconds[1], "seconds", "lower", None
        yield "without passages, trained: time of an answer", found.seconds[0], "seconds", "lower", None
