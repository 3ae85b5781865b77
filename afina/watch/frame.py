"""A run's view as plain lines of text: what ``afina watch --once`` prints and of which the monitor makes its panels."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from afina.errors import Problem
from afina.progress import CONTROL
from afina.report.charts import smooth, thin
from afina.report.labels import number
from afina.units import show_bytes, show_count, show_money, show_seconds
from afina.watch.chart import TextCurve, draw_chart
from afina.watch.state import next_step
from afina.watch.view import RunView, TrainingView

CHARTS = ("loss", "learning_rate", "tokens_per_second", "memory_bytes")
"""What can be drawn, in the order of the monitor's keys 1 to 4."""
TITLES = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens per second",
    "memory_bytes": "memory, MiB",
}
_BAR = 16
_POINTS = 2000


def frame(view: RunView, width: int = 80, height: int = 24, *, ascii_only: bool = False) -> str:
    """One picture of the run: state, figures, chart, warnings, last sample. As many lines as these need, `height` where
    the chart can make it so."""
    above = [*headline(view, width), "", *figures(view, width, ascii_only=ascii_only)]
    below = [*told(view, width), *sample_lines(view, width)]
    lines = above
    if view.training and view.training.step:
        lines = [
            *above,
            "",
            *chart(view, "loss", width, max(7, height - len(above) - len(below) - 3), ascii_only=ascii_only),
        ]
    lines += ["", *below] if below else []
    text = "\n".join(line.rstrip() for line in lines)
    return text.translate(_ASCII) if ascii_only else text


_ASCII = str.maketrans({"…": ".", "·": "-", "×": "x", "–": "-"})


def headline(view: RunView, width: int) -> list[str]:
    """The state and why, the run's name; what to do about it."""
    first = f"{view.state.upper()}  {clean(view.name)}" + (
        f"  in the stage {view.stage}" if view.state == "running" and view.stage else ""
    )
    lines = [first, *textwrap.wrap(clean(view.reason), width)]
    if view.verdict:
        lines += textwrap.wrap(f"verdict: {clean(view.verdict)}", width)
    if (step := next_step(view.state, view.folder)) and not any(each.fix for each in view.problems):
        lines += textwrap.wrap(clean(step), width)
    return lines


def figures(view: RunView, width: int, *, ascii_only: bool = False) -> list[str]:
    """How far the training is, its losses, its rates."""
    training = view.training
    if training is None:
        return [f"stages done: {', '.join(view.stages) or 'none'}"]
    rows = [_progress(training, ascii_only=ascii_only), _losses(training), _rates(view, training)]
    return [line for parts in rows for line in _packed(parts, width)]


def _packed(parts: Sequence[str], width: int) -> list[str]:
    """Parts side by side, on as many lines as they need.

    >>> _packed(["a b", "c d", "e"], 9)
    ['a b   c d', 'e']
    """
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(part[:width])
    return lines


def _progress(training: TrainingView, *, ascii_only: bool) -> list[str]:
    """Steps, a bar, the epoch, the time left."""
    parts = [f"first training: step {training.step:,}" if training.name == "first" else f"step {training.step:,}"]
    if training.planned_steps:
        share = min(1.0, training.step / training.planned_steps)
        full = round(share * _BAR)
        done, left = ("#", "-") if ascii_only else ("█", "░")
        parts[0] += f" of {training.planned_steps:,}"
        parts.append(f"{done * full}{left * (_BAR - full)} {int(100 * share)} %")
    if training.epoch is not None:
        parts.append(f"epoch {training.epoch + 1}")
    if training.eta_seconds is not None:
        parts.append(f"about {show_seconds(training.eta_seconds)} left")
    if training.stopped_early:
        parts.append(f"stopped early: {training.stopped_early}")
    return parts


def _losses(training: TrainingView) -> list[str]:
    parts = [f"loss {number(training.loss)}" if training.loss is not None else "no loss yet"]
    if training.held_out:
        last, best = training.held_out[-1], training.best
        parts.append(f"held out {number(last.loss)} (step {last.step:,})")
        if best and best is not last:
            parts.append(f"lowest {number(best.loss)} (step {best.step:,})")
        if "bits_per_byte" in last.figures:
            parts.append(f"{number(last.figures['bits_per_byte'])} bits per byte")
        if "preference_accuracy" in last.figures:
            parts.append(f"better answer preferred {number(last.figures['preference_accuracy'])}")
    return parts


def _rates(view: RunView, training: TrainingView) -> list[str]:
    parts = []
    if training.learning_rate is not None:
        parts.append(f"rate {training.learning_rate:.3g}")
    if training.tokens_per_second is not None:
        parts.append(f"{training.tokens_per_second:,.0f} tokens/s")
    if training.tokens:
        parts.append(f"{show_count(training.tokens)} tokens")
    if training.memory_bytes is not None:
        parts.append(f"memory {show_bytes(training.memory_bytes)}")
        if training.peak_memory_bytes and training.peak_memory_bytes > training.memory_bytes:
            parts.append(f"peak {show_bytes(training.peak_memory_bytes)}")
    if training.money:
        parts.append(show_money(training.money, clean(view.currency)))
    if training.checkpoint is not None and not training.done:
        parts.append(f"checkpoint at step {training.checkpoint:,}")
    if training.resumed:
        parts.append(f"went on {len(training.resumed)} × (last from step {training.resumed[-1]:,})")
    return parts


def chart(view: RunView, what: str, width: int, height: int, *, ascii_only: bool = False) -> list[str]:
    """One of :data:`CHARTS` of the training that goes on, with its title."""
    training = view.training
    if training is None or not len(training.steps):
        return ["(no step yet)"]
    values: Sequence[float] = training.steps[what]
    letters: list[tuple[float, float]] = []
    key = "steps"
    if what == "loss":
        half = min(10, len(values) // 20)
        values = smooth(values, half)
        key = f"steps: mean of {2 * half + 1}" if half else "steps"
        if training.held_out:
            letters, key = [(each.step, each.loss) for each in training.held_out], f"{key}, o held out"
    scale = 2.0**20 if what == "memory_bytes" else 1.0
    line = thin([(step, value / scale) for step, value in zip(training.steps["step"], values, strict=True)], _POINTS)
    title = TITLES[what] + (", first training" if training.name == "first" else "")
    return [title, *draw_chart(TextCurve(line, letters, key), width, height - 1, ascii_only=ascii_only)]


def told(view: RunView, width: int) -> list[str]:
    """Problems and warnings, each behind a ``!``."""
    texts = [_problem(each, view.reason) for each in view.problems]
    texts += [each.what + (" (first training)" if each.training == "first" else "") for each in view.warnings]
    return [
        line
        for text in texts
        for line in textwrap.wrap(clean(text), width, initial_indent="! ", subsequent_indent="  ", max_lines=4)
    ]


def _problem(problem: Problem, said: str) -> str:
    """What is wrong, unless it was said already, and what to do."""
    what = f"{problem.where}: {problem.what}" if problem.where else problem.what
    return f"{'' if said.endswith(problem.what) else f'{what} '}-> {problem.fix}" if problem.fix else what


def sample_lines(view: RunView, width: int, most: int = 2) -> list[str]:
    """The last sample: what was asked, and what was written, each in at most so many lines."""
    if view.sample is None:
        return []
    lines = []
    for name, text in (("asked", view.sample.prompt), ("base", view.sample.base), ("written", view.sample.written)):
        if name != "base" or text:
            lines += textwrap.wrap(
                clean(text) or "(nothing)",
                width,
                initial_indent=f"{name:<8} ",
                subsequent_indent=" " * 9,
                max_lines=most,
                placeholder=" …",
            )
    return lines


def paper() -> tuple[int, int]:
    """Columns and lines of the terminal, 80 and 24 where there is none."""
    size = shutil.get_terminal_size((80, 24))
    return size.columns, size.lines


def clean(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    return " ".join(text.translate(CONTROL).split())
