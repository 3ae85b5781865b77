"""A run's folder as one HTML page that opens anywhere: no script, no font, no picture from elsewhere.

The page is a function of the folder and of its language; written twice it is the same bytes.
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
from afina.report.cautions import cautions
from afina.report.language import in_language, tr
from afina.report.provenance import data_section, environment_section, recipe_section
from afina.report.read import RunFiles, language_of, read_run
from afina.report.render import render
from afina.report.results import facts, guardrail_section, judge, loss_section, probe_section
from afina.report.retrieval import retrieval_section
from afina.report.safety import safety_section
from afina.report.tasks import intrinsic_table, task_section
from afina.report.training import curve_section, measured_facts, plan_section
from afina.report.whole_texts import window_table, written_section
from afina.report.why import why_section
from afina.whole import write_whole


def write_report(folder: Path, finished: Mapping[str, Any] | None = None, language: str | None = None) -> Path:
    """Write ``report.html`` into a run's folder, whatever of the run is there, and return its path.

    Args:
        finished: what ``finished.json`` will say, for a run that writes it right after this page.
        language: one of :data:`afina.report.language.LANGUAGES`; by default the recipe's ``dataset.language``.

    Raises:
        RecipeError: when there is no run in `folder`.
        AfinaError: naming every file of the run that is damaged.
    """
    path = folder / "report.html"
    run = read_run(folder)
    if finished is not None:
        run = replace(run, finished=Record(finished, "finished.json"))
    write_whole(path, report_html(run, language))
    return path


def report_html(run: RunFiles, language: str | None = None) -> str:
    """The page for what was read from a run's folder."""
    with in_language(language or language_of(run)):
        return _page(run)


def style_sheet() -> Markup:
    """The style of every page."""
    return Markup(files("afina.report").joinpath("style.css").read_text(encoding="utf-8"))


def _page(run: RunFiles) -> str:
    written = written_section(run)
    sections: list[tuple[str, str, Markup]] = [
        ("guardrails", tr("Guardrails"), guardrail_section(run)),
        *([("written", tr("How it writes"), written)] if written else []),
        ("probes", tr("Before and after"), probe_section(run)),
        ("retrieval", tr("Documents in the prompt"), retrieval_section(run)),
        ("tasks", tr("Tasks"), task_section(run)),
        ("safety", tr("Safety"), safety_section(run)),
        ("loss", tr("Held-out loss"), loss_section(run) + window_table(run) + intrinsic_table(run)),
        ("training", tr("Training"), curve_section(run)),
        ("answers", tr("Answers"), answer_section(run)),
        ("why", tr("Why"), why_section(run)),
        ("plan", tr("Plan beside measured"), plan_section(run)),
        ("data", tr("Data"), data_section(run)),
        ("environment", tr("Environment, hashes, cost"), environment_section(run)),
        ("recipe", tr("Recipe"), recipe_section(run)),
    ]
    version = run.manifest.afina if run.manifest else None
    return render(
        "page.html",
        name=run.name,
        heading=judge(run),
        cautions=cautions(run),
        facts=[*facts(run), *measured_facts(run)],
        sections=sections,
        style=style_sheet(),
        made_by=f"afina {version}" if version else "afina",
    )
