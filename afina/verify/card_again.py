"""What a card tells of the scores, and whether a card that lies beside a proof still tells it.

A card is anybody's to rewrite: in other words, in another language. What it may not do is tell other figures under the
heading that afina's own stand under.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from afina import __version__
from afina.evaluate.scores import Scores
from afina.units import show_share

CARD = "README.md"
HEADING = "## Scores"
FIGURE = re.compile(r"\d[\d.,]*")
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
"""What no reader of the card sees."""
MOST = 10_000_000
"""Bytes of a card that are read."""


def verdict_line(scores: Scores) -> str:
    """The verdict as a card says it; empty where there is none."""
    return f"**{scores.verdict.text}**" if scores.verdict else ""


def missed_lines(scores: Scores) -> list[str]:
    """The limits that were missed as a card says them."""
    return [f"missed: {each}" for each in scores.verdict.misses] if scores.verdict else []


def score_parts(scores: Scores) -> Iterator[str]:
    """The paragraphs and tables under :data:`HEADING`."""
    rows = []
    for probe in scores.probes:
        shown = probe.figures()[0]
        sides = zip((shown.before, shown.after), shown.intervals, strict=True)
        rows.append([probe.title, probe.counted_over, *(_share(share, ends) for share, ends in sides)])
    if rows:
        yield as_table(["questions", "n", "base", "this model"], rows)
        yield (
            "Greedy answers that match the reference word for word, unless the name says otherwise; 95 % intervals "
            "(Wilson), which count facts or sections where several questions are about one."
        )
    for task in scores.tasks:
        figures = [
            [metric.required_text("name"), *(f"{mean:.4g}" if mean is not None else "-" for mean in means)]
            for metric in task.records("metrics")
            if (means := [metric.record(side).number("mean") for side in ("before", "after")])[1] is not None
        ]
        if figures:
            yield f"Task {task.text('name')}, n = {task.required_whole('n')}:"
            yield as_table(["metric", "base", "this model"], figures)
    if loss := scores.loss:
        before, after = loss.before.required_number, loss.after.required_number
        yield (
            f"Held-out loss {before('loss'):.4f} -> {after('loss'):.4f} nats per token "
            f"({after('tokens'):.0f} tokens; perplexity {before('perplexity'):.3f} -> {after('perplexity'):.3f})."
        )
    if not rows and not scores.loss:
        yield "Not measured."


def _share(share: float | None, ends: tuple[float, float] | None) -> str:
    if share is None:
        return "-"
    low, high = (show_share(round(end, 9)) for end in ends) if ends else ("", "")
    return show_share(share) + (f" ({low} to {high})" if ends else "")


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [list(head), ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells
    )


@dataclass(frozen=True)
class CardTold:
    """What came of reading a card; one of the three says something."""

    wrong: list[str] = field(default_factory=list)
    holds: str = ""
    unknown: str = ""


def read_card(export: Path, scores: Scores, written_by: str) -> CardTold:
    """Hold what an export's card tells under :data:`HEADING` against its scores.

    Args:
        written_by: the version of afina that wrote the export: another one words things otherwise, and its figures
            alone are compared.

    Raises:
        AfinaError: a figure of the scores is none.
    """
    file = export / CARD
    if not file.is_file():
        return CardTold(unknown=f"there is no {CARD}")
    with file.open("rb") as opened:
        text = opened.read(MOST).decode("utf-8", "replace")
    told = [line.strip() for line in _UNSEEN.sub("", text).splitlines()]
    if HEADING not in told:
        return CardTold(unknown=f"{CARD} has no heading {HEADING!r}: what it says was written by somebody else")
    begin = told.index(HEADING) + 1
    end = next((number for number in range(begin, len(told)) if told[number].startswith(("# ", "## "))), len(told))
    under = [line for line in told[begin:end] if line]
    wanted = [line.strip() for part in score_parts(scores) for line in part.splitlines() if line.strip()]
    wrong = list(_otherwise(under, wanted) if written_by == __version__ else _other_figures(under, wanted))
    wrong += ["it tells scores twice"] if HEADING in told[end:] else []
    if (verdict := verdict_line(scores)) and verdict not in told:
        wrong.append(f"it does not tell the verdict, {verdict!r:.120}")
    wrong += [f"it leaves out {line!r:.120}" for line in missed_lines(scores) if f"- {line}".strip() not in told]
    if wrong:
        return CardTold([f"{CARD}: {each}" for each in wrong])
    return CardTold(holds=f"{CARD} tells the verdict and the scores that are checked here")


def _otherwise(under: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    """Lines that are left out, and lines with figures that nobody measured; other remarks are their writer's."""
    yield from (f"it leaves out {line!r:.120}" for line in wanted if line not in under)
    yield from (f"it tells {line!r:.120}, and scores.json does not" for line in under
                if line not in wanted and FIGURE.search(line))  # fmt: skip


def _other_figures(under: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    """
    >>> list(_other_figures(["| a | 97 % |"], ["| a | 60 % |"]))
    ['it tells the figures 97, and scores.json 60']
    >>> list(_other_figures(["| a | 97 % | 60 % |"], ["| a | 60 % | 97 % |"]))
    ['it tells the figures 97, 60 in this order, and scores.json 60, 97']
    """
    told, known = ([found for line in lines if (found := FIGURE.findall(line))] for lines in (under, wanted))
    one, two = ({figure for line in lines for figure in line} for lines in (told, known))
    if one != two:
        extra, missing = (", ".join(sorted(each)) or "none more" for each in (one - two, two - one))
        yield f"it tells the figures {extra}, and scores.json {missing}"
    elif [*chain(*told)] != [*chain(*known)]:  # the same lines in another order, or cut otherwise, tell the same
        left = [Counter(map(tuple, lines)) for lines in (told, known)]
        extra, missing = (", ".join(chain(*each)) for each in (left[0] - left[1], left[1] - left[0]))
        if extra or missing:
            yield f"it tells the figures {extra} in this order, and scores.json {missing}"
