"""A run's folder as one HTML page that opens anywhere: no script, no font, no picture from elsewhere.

The page is a function of the folder alone; written twice it is the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from afina.record import Record
from afina.report.answers import answer_section
from afina.report.markup import Child, Html, h, join, prose
from afina.report.provenance import data_section, environment_section, recipe_section
from afina.report.read import RunFiles, read_run
from afina.report.results import Heading, facts, guardrail_section, judge, loss_section, probe_section
from afina.report.safety import safety_section
from afina.report.tasks import intrinsic_table, task_section
from afina.report.training import curve_section, measured_facts, plan_section
from afina.run import write_whole

# Nothing may be loaded from anywhere, whatever a model wrote into its answers.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
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
    sections: list[tuple[str, str, Html]] = [
        ("guardrails", "Guardrails", guardrail_section(run)),
        ("probes", "Before and after", probe_section(run)),
        ("tasks", "Tasks", task_section(run)),
        ("safety", "Safety", safety_section(run)),
        ("loss", "Held-out loss", join([loss_section(run), intrinsic_table(run)])),
        ("training", "Training", curve_section(run)),
        ("answers", "Answers", answer_section(run)),
        ("plan", "Plan beside measured", plan_section(run)),
        ("data", "Data", data_section(run)),
        ("environment", "Environment, hashes, cost", environment_section(run)),
        ("recipe", "Recipe", recipe_section(run)),
    ]
    style = files("afina.report").joinpath("style.css").read_text(encoding="utf-8")
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"{run.name}: {judge(run).sentence}"),
        h("style", Html(style)),
    )
    body: list[Child] = [
        _header(run, judge(run)),
        h("nav", *(h("a", title, href=f"#{name}") for name, title, _ in sections), aria_label="Contents"),
        *(h("section", h("h2", title), content, id=name) for name, title, content in sections),
        _footer(run),
    ]
    return f"<!doctype html>\n{h('html', head, h('body', h('main', *body)), lang='en')}\n"


def _header(run: RunFiles, verdict: Heading) -> Html:
    icon = h(
        "svg",
        h("path", d=_ICON[verdict.state]),
        viewBox="0 0 16 16",
        width="20",
        height="20",
        class_="icon",
        aria_hidden="true",
    )
    facts_shown = [*facts(run), *measured_facts(run)]
    return h(
        "header",
        h("p", "Run ", h("b", run.name), class_="name"),
        h("p", icon, h("span", verdict.word), class_=f"stamp {verdict.state}"),
        h("h1", verdict.sentence, class_=verdict.state),
        h("ul", *(h("li", prose(remark)) for remark in verdict.remarks), class_="remarks") if verdict.remarks else None,
        *(h("p", prose(each), class_="note") for each in verdict.notes),
        h("dl", *(h("div", h("dt", name), h("dd", value)) for name, value in facts_shown), class_="top")
        if facts_shown
        else None,
    )


def _footer(run: RunFiles) -> Html:
    version = run.manifest.afina if run.manifest else None
    made = f"afina {version}" if version else "afina"
    return h(
        "footer",
        join([f"Written by {made} from the run's own folder, which holds every number on this page as plain text."]),
    )
