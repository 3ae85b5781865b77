"""Whether the documents in the prompt would have done it: the base with passages beside the trained model."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from afina.evaluate.scores import ROLES, RetrievalProbe, RetrievalScores
from afina.report.labels import fixed, number, percent, signed
from afina.report.language import PROBE, label, tr, trn
from afina.report.read import RunFiles
from afina.report.render import Cell, Strong, render
from afina.report.results import between, counted_over, show_points
from afina.report.sentences import StoredSentence


def retrieval_section(run: RunFiles) -> Markup:
    """A row for each probe; what follows from it in words; what it costs."""
    found = run.scores.retrieval if run.scores else None
    if found is None:
        return render("retrieval.html", about=None)
    rows, conclusions = map(_row, found.probes), [StoredSentence(probe.conclusion()) for probe in found.probes]
    return render("retrieval.html", about=_about(found), rows=list(rows), conclusions=conclusions)


def _about(found: RetrievalScores) -> str:
    """What it is and what it costs."""
    passages, searched = number(found.passages), number(found.searched)
    before, after = (fixed(each) for each in found.tokens)
    cost = [f"{before} → {after} " + tr("tokens to read")]
    if found.seconds:
        before, after = (fixed(each, 2) for each in found.seconds)
        cost.append(f"{before} → {after} " + tr("s an answer"))
    said = tr(
        "{n} of {all} passages in each prompt, found by BM25: {cost}.", n=passages, all=searched, cost=", ".join(cost)
    )
    if found.fewer:
        said += " " + trn(
            "In {n} prompt there was room for fewer.", "In {n} prompts there was room for fewer.", found.fewer
        )
    if found.left_out:
        said += " " + trn(
            "{n} question had room for none and is left out.",
            "{n} questions had room for none and are left out.",
            found.left_out,
        )
    return said


def _row(probe: RetrievalProbe) -> list[Cell]:
    ahead = probe.ahead
    return [
        Strong(label(probe.name, PROBE), [label(probe.counted.words)]),
        counted_over(probe.n, probe.clusters, ROLES[probe.role]),
        percent(probe.base),
        Strong(percent(probe.retrieved), [between(percent(probe.low), percent(probe.high))]),
        "" if probe.section is None else percent(probe.section),
        percent(probe.trained),
        Strong(show_points(100 * ahead.points), [between(signed(100 * ahead.low), signed(100 * ahead.high))]),
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
