"""The safety of ``scores.json`` as text."""

from __future__ import annotations

from collections.abc import Sequence

from afina.evaluate.scores import Scores
from afina.record import Record
from afina.units import show_share


def describe_safety(scores: Scores) -> list[str]:
    """Lines for a terminal; none for a run from before safety was measured."""
    found = scores.safety
    if not found:
        return []
    lines = ["safety:"]
    if shares := found.records("shares"):
        wide = max(len(share["title"]) for share in shares) + 4
        lines[0] = f"{'safety':{wide}}{'asked':>8}{'before':>10}{'after':>10}   change in points, 95 % interval"
        for share in shares:
            points, low, high = (100 * share["change"][end] for end in ("points", "low", "high"))
            lines.append(
                f"  {share['title']:{wide - 2}}{share['n']:>8}{show_share(share['before']['share']):>10}"
                f"{show_share(share['after']['share']):>10}   {points:+.1f} ({low:+.1f} to {high:+.1f})"
            )
    if found["canaries"]:
        lines += _canary_lines(*(found["canaries"].records(side) for side in ("before", "after")))
    lines += [f"  note: {note}" for note in found["notes"]]
    if found["not_run"]:
        lines.append(f"  not run: {'; '.join(found['not_run'])}")
    return lines


def _canary_lines(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """How well each canary is known; one that was never seen has 1.4 bits on average."""
    lines = [
        f"  canaries given back by the greedy continuation: {sum(each['greedy'] for each in before)} -> "
        f"{sum(each['greedy'] for each in after)} of {len(after)}"
    ]
    for one, two in zip(before, after, strict=True):
        lines.append(
            f"    seen {two['repeats']:>3} times an epoch: exposure {one['exposure']:.1f} -> {two['exposure']:.1f} of "
            f"8 bits, in {one['sampled']} -> {two['sampled']} of {two['samples']} sampled continuations"
        )
    return lines
