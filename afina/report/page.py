"""A run's folder as one HTML page that opens anywhere: no script, no font, no picture from elsewhere.

The page is a function of the folder alone; written twice it is the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from afina.record import Record
from afina.report.answers import answer_section
from afina.report.provenance import data_section, environment_section, recipe_section
from afina.report.read import RunFiles, read_run
from afina.report.render import render
from afina.report.results import facts, guardrail_section, judge, loss_section, probe_section
from afina.report.retrieval import retrieval_section
from afina.report.safety import safety_section
from afina.report.tasks import intrinsic_table, task_section
from afina.report.training import curve_section, measured_facts, plan_section
from afina.report.whole_texts import window_table, written_section
from afina.run import write_whole

_ICON = {
    "good": "M3 8.5l3.2 3.2L13 5",
    "partly": "M8 2.5v7M8 12.2v.6",
    "bad": "M4 4l8 8M12 4l-8 8",
    "open": "M3.5 8h9",
}


def write_report(folder: Path, finished: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into a run's folder, whatever of the run is there, and return its path.

    Args:
        finished: what ``finished.json`` will say, for a run that writes it right after this page.

    Raises:
        RecipeError: when there is no run in `folder`.
        AfinaError: naming every file of the run that is damaged.
    """
    path = folder / "report.html"
    run = read_run(folder)
    if finished is not None:
        run = replace(run, finished=Record(finished, "finished.json"))
    write_whole(path, report_html(run))
    return path


def report_html(run: RunFiles) -> str:
    """The page for what was read from a run's folder."""
    written = written_section(run)
    sections: list[tuple[str, str, Markup]] = [
        ("guardrails", "Guardrails", guardrail_section(run)),
        *([("written", "How it writes", written)] if written else []),
        ("probes", "Before and after", probe_section(run)),
        ("retrieval", "Documents in the prompt", retrieval_section(run)),
        ("tasks", "Tasks", task_section(run)),
        ("safety", "Safety", safety_section(run)),
        ("loss", "Held-out loss", loss_section(run) + window_table(run) + intrinsic_table(run)),
        ("training", "Training", curve_section(run)),
        ("answers", "Answers", answer_section(run)),
        ("plan", "Plan beside measured", plan_section(run)),
        ("data", "Data", data_section(run)),
        ("environment", "Environment, hashes, cost", environment_section(run)),
        ("recipe", "Recipe", recipe_section(run)),
    ]
    heading = judge(run)
    version = run.manifest.afina if run.manifest else None
    style = files("afina.report").joinpath("style.css").read_text(encoding="utf-8")
    return render(
        "page.html",
        name=run.name,
        heading=heading,
        icon=_ICON[heading.state],
        facts=[*facts(run), *measured_facts(run)],
        sections=sections,
        style=Markup(style),
        made_by=f"afina {version}" if version else "afina",
    )
