"""The figures as Markdown: what `make prose` prints, and what stands in docs/prose-ladder.md between two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.evaluate.scores import ROLES
from afina.units import show_count, show_seconds, show_share
from benchmarks.experiment import Figures, cell, table
from benchmarks.prose.rungs import RUNGS

PAGE = Path(__file__).parents[2] / "docs/prose-ladder.md"
SHOWN = ("choice", "coverage", "versions", "skills", "retention")
"""Roles whose probes the table shows."""


def page_of(figures: Figures) -> str:
    """All that stands between the marks."""
    base, runs = figures["base"], figures["runs"]
    machine = f"{figures['device']}, {figures['threads']:.0f} threads, {show_seconds(figures['seconds'])} in all"
    about = f"{figures['measured']}, {machine}; base {base['name']} ({show_count(base['parameters'])} parameters)."
    right = sum(run["as_expected"] for run in runs.values())
    parts = [about, f"{right} of {len(runs)} are judged as what they are.", _verdicts(runs), _ways(runs)]
    parts += [_retrieval(run["retrieval"]) for run in runs.values() if run["retrieval"]]
    return "\n\n".join(parts)


def _verdicts(runs: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [["trained", "learned", "broke", "as it should be", "loss of its own rows, nats", "tokens trained", "time"]]
    for name, run in runs.items():
        verdict = run["verdict"]
        wanted = f"**no**: {' or '.join(RUNGS[name].learned)}, {RUNGS[name].broke}"
        rows.append(
            [
                RUNGS[name].title,
                cell(verdict["learned"]),
                cell(verdict["broke"]),
                "yes" if run["as_expected"] else wanted,
                "-" if run["loss"] is None else f"{run['loss'][0]:.3f} → {run['loss'][1]:.3f}",
                f"{run['tokens']:,.0f}",
                show_seconds(run["seconds"]),
            ]
        )
    return table(rows)


def _ways(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Each way to mark with its chance level: before, after, the change with its interval over sections."""
    rows = [["trained", "asked", "questions", "before", "after", "change, points (95 %)", "by chance or luck"]]
    for name, run in runs.items():
        for probe in run["probes"]:
            if probe["role"] in SHOWN:
                rows.append([RUNGS[name].title, *_way(probe)])
    return table(rows)


def _way(probe: Mapping[str, Any]) -> Sequence[str]:
    about, after = ROLES[probe["role"]], probe["after"]
    of = f"{probe['n']:,}"
    if probe.get("clusters", probe["n"]) < probe["n"]:
        of += f" ({probe['clusters']} {about.clusters})"
    change, chance = probe["change"], after.get("by_chance", after.get("by_luck"))
    ends = f"{100 * change['points']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
    shares = [show_share(probe[side][probe["shown"]]) for side in ("before", "after")]
    return [cell(probe["name"]), of, *shares, ends, "-" if chance is None else show_share(chance)]


def _retrieval(found: Mapping[str, Any]) -> str:
    """The base with passages in its prompt beside the training."""
    rows = [["asked", "base", "with passages", "with the section asked about", "trained", "held by the passages"]]
    for probe in found["probes"]:
        section = "-" if probe["section"] is None else show_share(probe["section"])
        shares = [show_share(probe[key]) for key in ("base", "retrieved")]
        rows.append([probe["name"], *shares, section, show_share(probe["trained"]), show_share(probe["holding"])])
    said = "\n".join(f"- {cell(each)}" for each in found["conclusions"])
    return f"The untrained base with the notes in its prompt ({found['about']}):\n\n{table(rows)}\n\n{said}"
