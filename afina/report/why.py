"""Why it answers so, as ``afina why`` left it in the run's folder: what each source did to the losses, the rows behind
wrong answers, and those that speak against the right ones. Where it is not there, the commands that make it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from afina.record import Record
from afina.report.labels import fixed, number, percent, signed
from afina.report.language import PROBE, label, mark, tr, trn
from afina.report.read import RunFiles
from afina.report.render import Cell, Stacked, render, table

SHOWN = 12
"""Wrong answers that are shown."""
DIGITS = 3
_CAME = (
    mark("helped"),
    mark("hurt"),
    mark("memorized"),
    mark("wasted"),
    mark("kept"),
    mark("forgotten"),
    mark("too few"),
)
"""What came of a source, in the words of ``why/effects.json``."""


def why_values(run: RunFiles) -> dict[str, Any]:
    """The same for programs; a part that is not there, or is of other answers, is None."""
    effects, misses = _found(run)
    return {
        "sources": None if effects is None else [dict(each.values) for each in effects.records("sources")],
        "misses": None if misses is None else [dict(each.values) for each in misses.records("misses")],
    }


def why_section(run: RunFiles) -> Markup:
    """Sources, then wrong answers, each with what is missing of it."""
    effects, misses = _found(run)
    return render(
        "why.html",
        stale=(run.effects is not None and effects is None) or (run.misses is not None and misses is None),
        sources=None if effects is None else _sources(effects),
        misses=None if misses is None else [_miss(each) for each in misses.records("misses")[:SHOWN]],
        remarks=[] if misses is None else _remarks(misses),
    )


def _found(run: RunFiles) -> tuple[Record | None, Record | None]:
    """Sources and wrong answers."""
    return _of_these_answers(run, run.effects, "key"), _of_these_answers(run, run.misses, "")


def _of_these_answers(run: RunFiles, found: Record | None, key: str) -> Record | None:
    """What was found, where it was found of the answers that the run has now."""
    if found is None:
        return None
    noted = found.record(key) if key else found
    return found if (noted.text("predictions") or "") == run.predictions_sha256 else None


def _sources(effects: Record) -> Markup:
    head: list[Cell] = [
        *(tr("Source"), tr("Rows"), tr("Known before")),
        *(tr("Nats a token, before"), tr("After"), tr("Held out, before"), tr("After"), tr("What came of it")),
    ]
    return table(head, [_source(each) for each in effects.records("sources")], numbers=range(1, 7))


def _source(each: Record) -> list[Cell]:
    trained, held = each.required_record("trained"), each.record("held_out")
    losses = [fixed(part.required_number(side), DIGITS) for part in (trained, held) if part for side in _SIDES]
    came = each.required_text("verdict")
    return [
        Stacked(each.required_text("path"), each.required_text("kind")),
        number(each.required_whole("rows")),
        percent(trained.required_number("known")),
        *losses,
        *([] if held else ["", ""]),
        label(came) if came in _CAME else came,
    ]


_SIDES = ("before", "after")


def _miss(each: Record) -> dict[str, Any]:
    probe = each.text("probe")
    return {
        "about": label(probe, PROBE) if probe else "",
        **{key: each.text(key) for key in ("question", "answer", "reference")},
        "behind": _rows(each.records("rows")),
        "hurt": _rows(each.records("hurt")),
    }


def _rows(rows: Sequence[Record]) -> Markup | None:
    """Training rows with their scores; None where there are none."""
    cells: list[list[Cell]] = [
        [signed(row.required_number("score"), DIGITS), _place(row), row.required_text("text")] for row in rows
    ]
    return table([tr("Cosine"), tr("Row"), tr("Text")], cells, numbers=(0,)) if cells else None


def _place(row: Record) -> str:
    return f"{row.required_text('path')}:{row.required_whole('line')}"


def _remarks(misses: Record) -> list[str]:
    """How many wrong answers are not shown, and why."""
    more = (misses.whole("more") or 0) + max(0, len(misses.records("misses")) - SHOWN)
    empty, with_tools = misses.whole("empty") or 0, misses.whole("with_tools") or 0
    told = [
        (more, trn("{n} more wrong answer is not shown here.", "{n} more wrong answers are not shown here.", more)),
        (empty, trn("{n} wrong answer is empty.", "{n} wrong answers are empty.", empty)),
        (
            with_tools,
            trn(
                "{n} wrong answer to a question with tools is not looked at.",
                "{n} wrong answers to questions with tools are not looked at.",
                with_tools,
            ),
        ),
    ]
    return [text for count, text in told if count]
