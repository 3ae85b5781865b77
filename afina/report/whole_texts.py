"""Whole texts: windows of held-out text that were read, and what was written behind the recipe's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from afina.evaluate.text_scores import (
    FALLBACK_LIMIT,
    SHORT_LIMIT,
    CorpusFigures,
    TextFigures,
    WindowFigures,
    WindowScores,
    WordShare,
)
from afina.record import Record
from afina.report.labels import fixed, number, percent, show_share, signed, words
from afina.report.language import tr, trn
from afina.report.read import RunFiles
from afina.report.render import Cell, Strong, not_measured, render
from afina.report.results import between

TEXTS = 30
"""Texts that are shown; all of them stand in the run's folder."""
BROKEN = 12
"""Broken words of a text that are named."""


def window_table(run: RunFiles) -> Markup:
    """How both models predict the windows; nothing where none were read."""
    found = run.scores.windows if run.scores else None
    if not found:
        return Markup()
    gain: Cell = not_measured()
    if found.change:
        value, low, high = found.change
        gain = Strong(signed(value, 3), [between(signed(low, 3), signed(high, 3))])
    elif found.windows == 1:
        value = found.after.bits_per_byte - found.before.bits_per_byte
        gain = Strong(signed(value, 3), [tr("one window: no interval")])
    before, after = (_window_cells(side, found.windows) for side in (found.before, found.after))
    rows: list[list[Cell]] = [[name, before[name], after[name], ""] for name in before]
    rows[0][-1] = gain
    return render("windows.html", rows=rows, about=_windows_read(found), sha256=found.sha256)


def _windows_read(found: WindowScores) -> str:
    """What was read, in words."""
    said = trn(
        "{n} window, {size} bytes of held-out text",
        "{n} windows, {size} bytes of held-out text",
        found.windows,
        size=number(found.bytes),
    )
    if found.context and found.contexts > found.windows:
        pieces = {"n": number(found.contexts), "most": number(found.context)}
        said += tr(", read in {n} contexts of at most {most} tokens", **pieces)
    return f"{said}."


def _window_cells(figures: WindowFigures, windows: int) -> Mapping[str, Cell]:
    below = [tr("one window: no interval")] if windows == 1 else []
    if figures.interval:
        below = [between(*(fixed(end, 3) for end in figures.interval))]
    return {
        tr("Bits per byte"): Strong(fixed(figures.bits_per_byte, 3), below),
        tr("Loss, nats per token"): fixed(figures.loss, 3),
        tr("Perplexity, per token"): fixed(figures.perplexity, 1),
        tr("Next token right"): percent(figures.accuracy),
        tr("Tokens"): number(figures.tokens),
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
    rows += [[words(name).capitalize(), *(number(side.flaws.get(name, 0)) for side in sides)] for name in names]
    texts = run.continuations or []
    return render(
        "written.html",
        rows=rows,
        greedy=trn("Greedy, {n} text", "Greedy, {n} texts", found.greedy.texts),
        sampled=trn("Sampled, {n} text", "Sampled, {n} texts", found.sampled.texts),
        how=tr(
            "temperature {temperature}, seeds {seeds}",
            temperature=number(found.temperature),
            seeds=", ".join(map(str, found.seeds)),
        ),
        corpus=_word_list(found.corpus),
        limits=(FALLBACK_LIMIT, SHORT_LIMIT),
        tokenizer=found.tokenizer,
        texts=[_text(row) for row in texts[:TEXTS]],
        more=max(0, len(texts) - TEXTS),
    )


def _word_list(corpus: CorpusFigures) -> str:
    """What the words were looked up in, and how many real text lacks there."""
    said = tr("Words are looked up in a list of {n} words ({name}).", n=number(corpus.words), name=corpus.name)
    control, characters = corpus.control, corpus.control_in_characters
    if control is None or characters is None:
        return said + " " + tr("Nothing is held out, so there is no real text to show how many words the list lacks.")
    lacks = tr(
        "It lacks {share} of the words in held-out real text ({characters} of their characters): in both, names and "
        "new words are among the missing ones.",
        share=show_share(control),
        characters=show_share(characters),
    )
    return f"{said} {lacks}"


def _written_cells(figures: TextFigures) -> Mapping[str, Cell]:
    return {
        tr("Words that appear nowhere in the training texts"): _share(figures.broken),
        tr("… in characters"): _share(figures.broken_characters),
        tr("Byte fallback, of the tokens"): _ratio(figures.fallback_ratio),
        tr("Short pieces, of the tokens"): _ratio(figures.short_ratio),
        tr("Tokens"): not_measured() if figures.tokens is None else number(figures.tokens),
        tr("Characters"): number(figures.characters),
        tr("Reached the limit"): not_measured() if figures.reached is None else number(figures.reached),
    }


def _ratio(ratio: float | None) -> Cell:
    return not_measured() if ratio is None else fixed(ratio, 4)


def _share(share: WordShare | None) -> Cell:
    if share is None:
        return not_measured()
    return Strong(percent(share.share), [between(percent(share.low), percent(share.high))])


def _text(row: Record) -> dict[str, Any]:
    seed = row.whole("seed")
    marks = [words(each) for each in row.texts("flaws")]
    if broken := row.texts("broken_words"):
        listed = list(dict.fromkeys(broken))
        more = ["…"] if len(listed) > BROKEN else []
        marks.append(tr("no words of the training texts: {words}", words=", ".join(listed[:BROKEN] + more)))
    how = tr("greedy") if seed is None else tr("seed {n}", n=seed)
    return {"prompt": row.text("prompt"), "output": row.text("output"), "marks": " · ".join([how, *marks])}
