"""Why, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afina.units import show_number, show_share
from afina.why.effects import Effects, LossChange
from afina.why.why import UNROLLED, Misses, ScoredRow, Why


def describe_why(why: Why, *, against: bool = False) -> str:
    """For people.

    Args:
        against: the rows that speak against the answer, instead of those that speak for it.
    """
    lines = [*_effect_lines(why.effects)]
    if why.asked:
        asked = why.asked
        whose = "the model's own" if asked.own else "given"
        lines += ["", f"question  {asked.question}", f"answer    {asked.answer}  ({whose})"]
        lines += [] if asked.stopped else ["          it was cut at the limit of tokens"]
        lines += [f"loss      {asked.before:.3f} nats a token before, {asked.after:.3f} after", ""]
        rows, sign = (why.spoke_against, "against") if against else (why.spoke_for, "for")
        lines += _row_lines(rows, sign, says=BY_HOW_MUCH if why.method == UNROLLED else DIRECTION)
        lines += [f"{why.left_out} rows of preferences or ratings are not looked at"] if why.left_out else []
    return "\n".join(lines)


def describe_misses(misses: Misses) -> str:
    """For people."""
    lines = []
    for each in misses.found:
        lines += [f"{each.question}  ({each.probe})", f"  wrote {each.answer}, should be {each.reference}"]
        lines += _row_lines(each.rows, "for")
        lines += _row_lines(each.hurt, "against", "the right answer") if each.hurt else []
    lines += [f"and {misses.more} more wrong answers"] if misses.more else []
    lines += [f"{misses.empty} wrong answers are empty: no row speaks for nothing"] if misses.empty else []
    lines += [f"{misses.with_tools} wrong answers with tools are not looked at"] if misses.with_tools else []
    lines += [f"`afina report {misses.run}` shows them beside the answers"] if misses.found else []
    return "\n".join(lines) or "no answer of this run is wrong"


DIRECTION = "1: the same direction, 0: nothing to do with it"
BY_HOW_MUCH = "by how many nats a token its loss would rise without the row, to first order"


def _row_lines(rows: Sequence[ScoredRow], sign: str, answer: str = "it", says: str = DIRECTION) -> Iterator[str]:
    if not rows:
        yield f"no row speaks {sign} this answer"
        return
    yield f"rows that speak {sign} {answer} ({says})"
    wide, digits = max(len(each.row.place) for each in rows), 3 if says == DIRECTION else 5
    for each in rows:
        more = f"  x{each.row.repeat}" if each.row.repeat > 1 else ""
        yield f"  {each.score:+.{digits}f}  {each.row.place:<{wide}}  {each.row.text}{more}"


def _effect_lines(effects: Effects) -> Iterator[str]:
    """What each source did, and each probe."""
    sources = effects.sources
    wide = max(len(f"{each.path} ({each.kind})") for each in sources) + 2
    yield f"{'nats a token':{wide}}{'rows':>7}{'known':>8}{'before':>9}{'after':>9}   {'held out':<18} "
    for each in sources:
        held = f"{each.held_out.before:.3f} -> {each.held_out.after:.3f}" if each.held_out else "-"
        trained = each.trained
        yield (
            f"{f'{each.path} ({each.kind})':{wide}}{each.rows:>7}{show_share(trained.known):>8}"
            f"{trained.before:>9.3f}{trained.after:>9.3f}   {held:<18} {each.verdict}"
        )
        if lost := trained.no_number + (each.held_out.no_number if each.held_out else 0):
            yield f"  {lost} of its rows have a loss that is no number, and are in no figure"
    for probe in effects.probes:
        yield f"probe: {probe.name}: {_change(probe.change)}"


def _change(change: LossChange) -> str:
    return f"{change.before:.3f} -> {change.after:.3f} over {show_number(change.rows, 'reference')}, {change.verdict}"
