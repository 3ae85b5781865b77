"""A run's report as plain values for programs: always in English, figures as numbers with their units' names."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from afina.report.cautions import cautions
from afina.report.compare import metrics_of, plain
from afina.report.language import ENGLISH, in_language
from afina.report.read import RunFiles
from afina.report.results import judge
from afina.report.training import predictions
from afina.report.why import why_values


def report_values(run: RunFiles) -> dict[str, Any]:
    """The verdict, the warnings, every figure, plan beside measured, the audit's findings, what `afina why` found, and
    where all came from."""
    with in_language(ENGLISH):
        heading = judge(run)
        warned = [asdict(each) for each in cautions(run)]
    values: dict[str, Any] = {
        "run": run.name,
        "state": heading.state,
        "sentence": heading.sentence,
        "verdict": run.scores.verdict.as_json() if run.scores and run.scores.verdict else None,
        "warnings": warned,
        "figures": [metric.as_json() for metric in metrics_of(run)],
        "plan": [
            {
                "what": each.what,
                "unit": each.unit,
                **{key: each.predicted.number(key) for key in ("point", "low", "high")},
                "measured": each.measured,
            }
            for each in predictions(run)
        ],
        "audit": [dict(finding.values) for finding in run.audit.records("findings")] if run.audit else None,
        "why": why_values(run),
        "dataset": dict(run.dataset.values) if run.dataset else None,
        "manifest": run.manifest.as_json() if run.manifest else None,
        "recipe": dict(run.recipe) if run.recipe is not None else None,
    }
    found: dict[str, Any] = plain(values)
    return found
