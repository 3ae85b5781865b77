"""Whole texts: windows of held-out text that were read, and what was written behind the recipe's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from afina.evaluate.text_scores import FALLBACK_LIMIT, SHORT_LIMIT, TextFigures, WindowFigures, WordShare
from afina.record import Record
from afina.report.labels import percent, words
from afina.report.read import RunFiles
from afina.report.render import NOT_MEASURED, Cell, Strong, render, signed

TEXTS = 30
"""Texts that are shown; all of them stand in the run's folder."""


def window_table(run: RunFiles) -> Markup:
    """How both models predict the windows; nothing where none were read."""
    found = run.scores.windows if run.scores else None
    if not found:
        return Markup()
    gain: Cell = NOT_MEASURED
    if found.change:
        value, low, high = found.change
        gain = Strong(signed(value, 3), [f"{signed(low, 3)} to {signed(high, 3)}"])
    before, after = _window_cells(found.before), _window_cells(found.after)
    rows = [[name, before[name], after[name], gain if name == "Bits per byte" else ""] for name in before]
    return render("windows.html", rows=rows, about=found.describe_text(), sha256=found.sha256)


def _window_cells(figures: WindowFigures) -> Mapping[str, Cell]:
    low, high = figures.interval or (None, None)
    ends = [] if low is None or high is None else [f"{low:.3f} to {high:.3f}"]
    return {
        "Bits per byte": Strong(f"{figures.bits_per_byte:.3f}", ends),
        "Loss, nats per token": f"{figures.loss:.3f}",
        "Perplexity, per token": f"{figures.perplexity:,.1f}",
        "Next token right": percent(figures.accuracy),
        "Tokens": f"{figures.tokens:,}",
    }


def written_section(run: RunFiles) -> Markup | None:
    """How the trained model writes behind the prompts of the recipe; None where it has none."""
    found = run.scores.continuations if run.scores else None
    if not found:
        return None
    sides = found.greedy, found.sampled
    names = list(dict.fromkeys(name for side in sides for name in side.flaws))
    columns = [_written_cells(side) for side in sides]
    rows: list[list[Cell]] = [[name, *(column[name] for column in columns)] for name in columns[0]]
    rows += [[words(name).capitalize(), *(f"{side.flaws.get(name, 0):,}" for side in sides)] for name in names]
    texts = run.continuations or []
    return render(
        "written.html",
        rows=rows,
        greedy=f"Greedy, {found.greedy.texts} texts",
        sampled=f"Sampled, {found.sampled.texts} texts",
        how=f"temperature {found.temperature:g}, seeds {', '.join(map(str, found.seeds))}",
        corpus=found.corpus.describe(),
        limits=(FALLBACK_LIMIT, SHORT_LIMIT),
        tokenizer=found.tokenizer,
        texts=[_text(row) for row in texts[:TEXTS]],
        more=max(0, len(texts) - TEXTS),
    )


def _written_cells(figures: TextFigures) -> Mapping[str, Cell]:
    return {
        "Words that the training texts have nowhere": _share(figures.broken),
        "… in characters": _share(figures.broken_characters),
        "Byte fallback, of the tokens": _ratio(figures.fallback_ratio),
        "Short pieces, of the tokens": _ratio(figures.short_ratio),
        "Tokens": NOT_MEASURED if figures.tokens is None else f"{figures.tokens:,}",
        "Characters": f"{figures.characters:,}",
        "Reached the limit": NOT_MEASURED if figures.reached is None else f"{figures.reached:,}",
    }


def _ratio(ratio: float | None) -> Cell:
    return NOT_MEASURED if ratio is None else f"{ratio:.4f}"


def _share(share: WordShare | None) -> Cell:
    if share is None:
        return NOT_MEASURED
    return Strong(percent(share.share), [f"{percent(share.low)} to {percent(share.high)}"])


def _text(row: Record) -> dict[str, Any]:
    seed = row.whole("seed")
    marks = [words(each) for each in row.texts("flaws")]
    if broken := row.texts("broken_words"):
        marks.append(f"no words of the training texts: {', '.join(dict.fromkeys(broken))}"[:200])
    how = "greedy" if seed is None else f"seed {seed}"
    return {"prompt": row.text("prompt"), "output": row.text("output"), "marks": " · ".join([how, *marks])}
