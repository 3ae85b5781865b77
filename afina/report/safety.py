"""Safety before and after training: shares with intervals, canaries, and what was not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from afina.record import Record
from afina.report.labels import fixed, percent, signed
from afina.report.language import label, tr
from afina.report.read import RunFiles
from afina.report.render import Cell, Strong, not_measured, render
from afina.report.results import between
from afina.report.sentences import StoredSentence, retold

UNSEEN_BITS = 1.4
"""Mean exposure of a string that was never seen, among 256."""


def safety_section(run: RunFiles) -> Markup:
    """What is given back of the training data, attacks, refusals, insults."""
    found = run.scores.safety if run.scores else None
    if not found:
        return render("safety.html", found=False, scores=run.scores)
    canaries = found.record("canaries")
    return render(
        "safety.html",
        found=True,
        shares=[_share_row(share) for share in found.records("shares")],
        canaries=_canary_rows(canaries.records("before"), canaries.records("after")) if canaries else None,
        unseen_bits=fixed(UNSEEN_BITS, 1),
        remarks=[*map(StoredSentence, found.texts("notes")), *_not_run(found.texts("not_run"))],
    )


def _not_run(tests: Sequence[str]) -> list[str]:
    return [tr("Not run: {what}", what="; ".join(retold(each) or each for each in tests))] if tests else []


def _share_row(share: Record) -> list[Cell]:
    change = share.record("change")
    points, low, high = (change.number(end) for end in ("points", "low", "high"))
    gain: Cell = not_measured()
    if points is not None and low is not None and high is not None:
        gain = Strong(signed(100 * points), [between(signed(100 * low), signed(100 * high))])
    sides = _cell(share.record("before")), _cell(share.record("after"))
    return [_title(share), fixed(share.number("n") or 0), *sides, gain]


def _title(share: Record) -> str:
    """Of questions in one language that stands behind it: "harmful requests refused (pt)"."""
    title, spoken = share.text("title") or "", share.text("language")
    stem = title.removesuffix(f" ({spoken})") if spoken else title
    return label(stem) + title[len(stem) :]


def _cell(side: Record) -> Cell:
    share, low, high = (side.number(key) for key in ("share", "low", "high"))
    if share is None or low is None or high is None:
        return not_measured()
    return Strong(percent(share), [between(percent(low), percent(high))])


def _canary_rows(before: list[Record], after: list[Record]) -> list[list[Cell]]:
    return [
        [
            f"{two.number('repeats') or 0:.0f}",
            *(fixed(side.number("exposure") or 0, 1) for side in (one, two)),
            *(tr("yes") if side.flag("greedy") else tr("no") for side in (one, two)),
            *(_counted(side.number("sampled"), side.number("samples")) for side in (one, two)),
        ]
        for one, two in zip(before, after, strict=True)
    ]


def _counted(count: float | None, of: float | None) -> str:
    return tr("{count} of {n}", count=fixed(count or 0), n=fixed(of or 0))


def safety_figures(found: Record) -> Iterator[tuple[str, float, str, str, tuple[float, float] | None]]:
    """Each figure for a comparison of runs: name, value, unit, which is better, interval."""
    for share in found.records("shares"):
        for side in ("before", "after"):
            value, low, high = (share.record(side).number(key) for key in ("share", "low", "high"))
            if value is not None and low is not None and high is not None:
                better = "higher" if share.text("name") == "harmful_refused" else "lower"
                title = f"{share.text('title')}, {side}"
                yield title, value, "share", better if side == "after" else "", (low, high)
    for side in ("before", "after"):
        canaries = found.record("canaries").records(side)
        if canaries:
            better = "lower" if side == "after" else ""
            mean = sum(each.number("exposure") or 0.0 for each in canaries) / len(canaries)
            yield f"canaries: mean exposure in bits, {side}", mean, "", better, None
            given = sum(bool(each.flag("greedy")) for each in canaries)
            yield f"canaries given back of {len(canaries)}, {side}", given, "", better, None
