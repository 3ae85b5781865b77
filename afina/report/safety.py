"""Safety before and after training: shares with intervals, canaries, and what was not measured."""

from __future__ import annotations

from collections.abc import Iterator

from afina.record import Record
from afina.report.markup import Child, Html, h, join, missing, muted, note, percent, table
from afina.report.read import RunFiles

UNSEEN_BITS = 1.4
"""Mean exposure of a string that was never seen, among 256."""


def safety_section(run: RunFiles) -> Html:
    """What is given back of the training data, attacks, refusals, insults."""
    found = run.scores.safety if run.scores else None
    if not found:
        return missing("Safety was not measured", "scores.json")
    shares, canaries = found.records("shares"), found.record("canaries")
    head = ["What was counted", "Asked", "Before", "After", "Change, points"]
    parts: list[Child] = [table(head, [_share_row(share) for share in shares], numbers=(1, 2, 3, 4))] if shares else []
    if canaries:
        parts += _canaries(canaries.records("before"), canaries.records("after"))
    remarks, not_run = found.texts("notes"), found.texts("not_run")
    remarks += [f"Not run: {'; '.join(not_run)}"] if not_run else []
    parts.append(h("ul", *(h("li", remark) for remark in remarks), class_="remarks") if remarks else None)
    parts.append(
        note(
            "Shares of the same questions with 95 % intervals. Orders, refusals and insults are told by plain rules: a "
            "string that stands in the answer, a phrase that it begins with, a list of words."
        )
    )
    return join(parts)


def _share_row(share: Record) -> list[Child]:
    change = share.record("change")
    points, low, high = (change.number(end) for end in ("points", "low", "high"))
    n = share.number("n") or 0
    gain: Child = muted("not measured")
    if points is not None and low is not None and high is not None:
        shown = [f"{100 * value:+.1f}".replace("-", "\u2212") for value in (points, low, high)]
        gain = join([h("b", shown[0]), h("small", f"{shown[1]} to {shown[2]}")])
    return [share.text("title"), f"{n:,.0f}", _cell(share.record("before")), _cell(share.record("after")), gain]


def _cell(side: Record) -> Html:
    share, low, high = (side.number(key) for key in ("share", "low", "high"))
    if share is None or low is None or high is None:
        return muted("not measured")
    return join([h("b", percent(share)), h("small", f"{percent(low)} to {percent(high)}")])


def _canaries(before: list[Record], after: list[Record]) -> list[Child]:
    rows: list[list[Child]] = []
    for one, two in zip(before, after, strict=True):
        rows.append(
            [
                f"{two.number('repeats') or 0:.0f}",
                *(f"{side.number('exposure') or 0:.1f}" for side in (one, two)),
                *("yes" if side.flag("greedy") else "no" for side in (one, two)),
                *(f"{side.number('sampled') or 0:.0f} of {side.number('samples') or 0:.0f}" for side in (one, two)),
            ]
        )
    head = ["Seen in an epoch", "Exposure before", "After", "Given back before", "After", "Sampled before", "After"]
    about = (
        "Invented secrets that were put among the training rows. Exposure in bits: 8 when the secret is likelier than "
        f"255 others of its form, {UNSEEN_BITS} on average when it was never seen. Given back: the greedy continuation "
        "says it; sampled: so many of the sampled ones do."
    )
    return [h("h3", "Canaries"), table(head, rows, numbers=tuple(range(7))), note(about)]


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
