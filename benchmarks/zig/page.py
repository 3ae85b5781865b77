"""The figures as Markdown: what `make zig` prints, and what stands in docs/zig.md between two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.evaluate.guardrails import NAMES
from afina.units import show_bytes, show_count, show_money, show_seconds, show_share
from benchmarks.experiment import cell, code, table

PAGE = Path(__file__).parents[2] / "docs/zig.md"
TITLES = {
    "lines": "a line an example, as published",
    "documents": "whole documents",
    "questions": "questions by structure",
    "replay": "the same with replay",
}


def page_of(figures: Mapping[str, Any]) -> str:
    """All that stands between the marks."""
    runs: Mapping[str, Mapping[str, Any]] = figures["runs"]
    base = figures["base"]
    about = (
        f"{figures['measured']}, {figures['device']}, {figures['threads']:.0f} threads; base {base['name']} "
        f"({show_count(base['parameters'])} parameters)."
    )
    parts = [about, _table(runs), _outcome(runs, base["parameters"]), _findings(runs)]
    parts += [_answers(figures["answers"], list(runs))]
    parts += [_sizes(figures["sizes"])] if figures["sizes"] else []
    return "\n\n".join(parts)


def _table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """A column for each run."""
    rows = [
        ["", *(TITLES.get(name, name) for name in runs)],
        ["the audit refuses", *(_refusal(run) for run in runs.values())],
        ["the audit warns of", *(_warnings(run["audit"]) for run in runs.values())],
        ["tokens trained, in steps", *(f"{run['tokens']:,.0f} in {run['steps']:.0f}" for run in runs.values())],
        ["training", *(show_seconds(run["train_seconds"]) for run in runs.values())],
        ["everything", *(show_seconds(run["seconds"]) for run in runs.values())],
        ["loss of its own held-out rows, nats", *(_sides(run["loss"], _number) for run in runs.values())],
    ]
    titles = dict.fromkeys(probe["name"] for run in runs.values() for probe in run["probes"])
    rows += [[title, *(_probe(run, title) for run in runs.values())] for title in titles]
    broken = dict.fromkeys(name for run in runs.values() for name in (run["guardrails"] or {"broken": {}})["broken"])
    rows += [
        [f"answers that {NAMES.get(name, name)}", *(_broken(run, name) for run in runs.values())] for name in broken
    ]
    rows += [["programs that compile", *(_programs(run["code"]) for run in runs.values())]]
    rows += [["verdict", *(cell(run["verdict"]["text"]) if run["verdict"] else "-" for run in runs.values())]]
    return table(rows)


def _outcome(runs: Mapping[str, Mapping[str, Any]], parameters: float) -> str:
    """In one sentence, which of them learned it."""
    learned = [f"`{name}`" for name, run in runs.items() if run["verdict"] and run["verdict"]["learned"] == "yes"]
    if learned:
        return f"Judged to have learned it: {', '.join(learned)}."
    return (
        f"None of them was judged to have learned it: {show_count(parameters)} parameters and this training were not "
        "enough. The plan below says what larger bases take."
    )


def _refusal(run: Mapping[str, Any]) -> str:
    fatal = [each for each in run["audit"] if each["severity"] == "fatal"]
    return ", ".join(f"`{each['name']}` ({each['count']} of {each['of']} rows)" for each in fatal) or "nothing"


def _warnings(audit: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"`{each['name']}` ({each['count']})" for each in audit if each["severity"] == "warning") or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else show_share(value)


def _sides(sides: Mapping[str, Any] | None, show: Any) -> str:
    return f"{show(sides['before'])} → {show(sides['after'])}" if sides else "-"


def _probe(run: Mapping[str, Any], title: str) -> str:
    found = next((probe for probe in run["probes"] if probe["name"] == title), None)
    return f"{_sides(found, _share)} of {found['asked']}" if found else "-"


def _broken(run: Mapping[str, Any], name: str) -> str:
    guarded = run["guardrails"]
    if guarded is None:
        return "-"
    sides = guarded["broken"].get(name, {"before": 0, "after": 0})
    return f"{sides['before']} → {sides['after']} of {guarded['answers']}"


def _programs(tasks: Sequence[Mapping[str, Any]]) -> str:
    shown = [
        f"{metric['name']}: {_sides(metric, _share)} of {task['items']} tasks"
        for task in tasks
        for metric in task["metrics"]
    ]
    return "; ".join(shown) or "not measured"


def _findings(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands behind each verdict."""
    lines = ["What stands behind the verdicts:", ""]
    for name, run in runs.items():
        verdict = run["verdict"] or {"findings": [], "misses": []}
        said = [*verdict["findings"], *(f"miss: {miss}" for miss in verdict["misses"])]
        lines += [f"- `recipes/zig/{name}.yaml`", *(f"  - {cell(each)}" for each in said)]
    return "\n".join(lines)


def _answers(asked: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The same questions to the base and to each run."""
    lines = ["The same questions, asked of the base and of each run:"]
    for each in asked:
        lines += ["", f"> {cell(each['prompt'])} (`{each['reference']}`)", ""]
        for name in ("base", *names):
            if name in each:
                lines.append(f"- {name}: {code(each[name])}")
    return "\n".join(lines)


def _sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the plan says of larger bases."""
    lines = [
        "What `afina plan` says of the last of these recipes over larger bases:",
        "",
        "| base | parameters | device | fits | memory | time | cost |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        time = row["seconds"]
        spent = f"{show_seconds(time['point'])} ({show_seconds(time['low'])} to {show_seconds(time['high'])})"
        cost = "-" if row["money"] is None else show_money(row["money"], row["currency"])
        cells = [row["base"], show_count(row["parameters"]), row["device"], row["fits"], show_bytes(row["bytes"])]
        lines.append("| " + " | ".join([*cells, spent, cost]) + " |")
    return "\n".join(lines)
