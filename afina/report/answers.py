"""Answers of base and adapter side by side, and which of them turned right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from afina.record import Record
from afina.report.differences import differences
from afina.report.labels import number, words
from afina.report.language import ANSWER, PROBE, label, mark, tr
from afina.report.read import RunFiles
from afina.report.render import render

SAMPLES = 12
CHANGES = 6
COMPARED = 1200
"""Characters of an answer that are shown, and compared with the other side's."""


def answer_section(run: RunFiles) -> Markup:
    """Base and adapter side by side: what is wrong first, then what came right, then the samples."""
    kinds = []
    for title, wanted, colour in _KINDS:
        found = [row for row in run.predictions or () if wanted(row)]
        if found or colour != "warn":
            answers = [_answer(row) for row in _in_turn(found)[:CHANGES]]
            kinds.append({"title": label(title), "colour": colour, "count": len(found), "answers": answers})
    samples = None
    if run.samples is not None:
        worst_first = sorted(run.samples, key=lambda row: (not row.texts("adapter_flaws"), bool(_right(row)[1])))
        samples = [_answer(row) for row in worst_first[:SAMPLES]]
    return render(
        "answers.html",
        changed=None if run.predictions is None else _changes(run.predictions),
        kinds=kinds,
        sides=side_names(run),
        samples=samples,
        shown=_shown(len(run.samples or ()), SAMPLES),
    )


def side_names(run: RunFiles) -> tuple[str, str]:
    """What stands on the two sides: a base and its adapter, or a model whose weights were all trained."""
    trained = run.manifest.trained if run.manifest else None
    if trained is None or trained.kind == "adapter":
        return tr("Base"), tr("Adapter")
    return tr("Base") if run.manifest and run.manifest.base else tr("Random weights"), tr("Trained model")


def _right(row: Record) -> tuple[bool | None, bool | None]:
    return row.flag("base_correct"), row.flag("adapter_correct")


_KINDS: tuple[tuple[str, Callable[[Record], bool], str], ...] = (
    (mark("Newly wrong"), lambda row: _right(row) == (True, False), "bad"),
    (mark("Breaks a guardrail"), lambda row: bool(row.texts("adapter_flaws")), "warn"),
    (mark("Claims to know"), lambda row: row.text("adapter_is") == "claims to know", "warn"),
    (mark("Made up"), lambda row: row.text("adapter_is") == "made up", "warn"),
    (mark("Wrong before and after"), lambda row: _right(row) == (False, False), "warn"),
    (mark("Newly right"), lambda row: _right(row) == (False, True), "good"),
)
"""What the probes' answers are, the worst first; those in the middle stand there only where there are some."""


def _in_turn(rows: Sequence[Record]) -> list[Record]:
    """The first of each probe, then the second of each, and so on."""
    seen: dict[tuple[str | None, str | None], int] = {}
    places = []
    for row in rows:
        key = (row.text("probe"), row.text("role"))
        seen[key] = seen.get(key, 0) + 1
        places.append(seen[key])
    return [row for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]


def _shown(total: int, limit: int) -> str:
    if total > limit:
        return tr("The first {n} of {total}", n=number(limit), total=number(total))
    return tr("All {total}", total=number(total))


def _answer(row: Record) -> dict[str, Any]:
    """Texts of both sides, how they differ, what is to be said of each, and where the question stands."""
    origin = row.record("from")
    path, line = origin.text("path"), origin.number("line")
    probe, role = row.text("probe"), row.text("role")
    about = (
        f"{path}:{line:.0f}"
        if path and line is not None
        else path or (f"{label(probe, PROBE)} ({words(role or '')})" if probe and probe != role else words(role or ""))
    )

    def marks_of(side: str) -> str:
        right = row.flag(f"{side}_correct")
        said = label(row.text(f"{side}_is") or ("" if right is None else "right" if right else "wrong"), ANSWER)
        marks = [mark for mark in (said, *(words(each) for each in row.texts(f"{side}_flaws"))) if mark]
        if row.flag(f"{side}_stopped") is False:
            marks.append(tr("did not stop"))
        return "".join(f" · {mark}" for mark in marks)

    texts = {key: row.text(key) for key in ("prompt", "reference", "base", "adapter")}
    found = differences((texts["base"] or "")[:COMPARED], (texts["adapter"] or "")[:COMPARED])
    pieces = dict(zip(("base_pieces", "adapter_pieces"), found, strict=True))
    marks = {"base_marks": marks_of("base"), "adapter_marks": marks_of("adapter")}
    return {**texts, **pieces, **marks, "about": about}


def _changes(rows: Sequence[Record]) -> dict[str, list[Any]]:
    """How many answers stayed and turned, per probe."""
    kinds: dict[str, Callable[[bool | None, bool | None], bool]] = {
        mark("right before and after"): lambda base, adapter: base is True and adapter is True,
        mark("newly right"): lambda base, adapter: base is False and adapter is True,
        mark("newly wrong"): lambda base, adapter: base is True and adapter is False,
        mark("wrong before and after"): lambda base, adapter: base is False and adapter is False,
        mark("not judged"): lambda base, adapter: base is None or adapter is None,
    }
    probes: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        probes.setdefault((row.text("probe") or "", row.text("role") or ""), []).append(row)
    body: list[list[str]] = []
    for (name, role), answers in probes.items():
        flags = [(row.flag("base_correct"), row.flag("adapter_correct")) for row in answers]
        counts = [sum(is_kind(*pair) for pair in flags) for is_kind in kinds.values()]
        body.append([label(name, PROBE) or words(role), words(role), *map(number, counts), number(len(answers))])
    if not any(line[6] != "0" for line in body):
        body = [[*line[:6], line[7]] for line in body]
        shown = list(kinds)[:4]
    else:
        shown = list(kinds)
    head = [tr("Probe"), tr("Role"), *map(label, shown), tr("answers")]
    return {"head": head, "rows": body}
