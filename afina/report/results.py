"""What came of it: the verdict as a sentence, probes before and after, held-out loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from afina.evaluate.scores import RIGHT, SIDES, BeforeAndAfter, ProbeResult
from afina.report.charts import share_bars
from afina.report.labels import number, percent, words
from afina.report.read import RunFiles
from afina.report.render import NOT_MEASURED, Cell, Strong, render, signed
from afina.units import show_count, show_share


@dataclass(frozen=True)
class Heading:
    """The top of the page: `state` is good, partly, bad or open; `word` says the same for those who see no colours."""

    state: str
    word: str
    sentence: str
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not measured: no failure, but a reader has to know."""


def judge(run: RunFiles) -> Heading:
    """The verdict of a run as a sentence; for a run without scores, how far it came."""
    remarks = []
    exit_code = run.finished.number("exit_code") if run.finished else None
    verdict = run.scores.verdict if run.scores else None
    if not verdict:
        done = _how_far(run)
        if exit_code:
            return Heading(
                "bad", "Failed", f"The run ended with exit code {exit_code:.0f} and was not measured.", (done,)
            )
        if run.finished:
            return Heading("open", "Not measured", "The run finished, and nothing was measured.", (done,))
        return Heading("open", "Not finished", "The run is not finished: nothing is proven yet.", (done,))
    if run.finished is None:
        remarks.append("The run is not marked as finished: finished.json is not there.")
    remarks = [*verdict.misses, *remarks]
    if exit_code and verdict.passed:
        remarks.append(f"The scores passed, yet the run ended with exit code {exit_code:.0f}.")
    sentence = verdict_sentence(verdict.learned, verdict.broke)
    if not verdict.passed:
        return Heading("bad", "Failed", sentence, tuple(remarks), verdict.notes)
    if verdict.learned == "yes" and verdict.broke == "nothing" and not remarks:
        return Heading("good", "Passed", sentence, (), verdict.notes)
    unmeasured = _unmeasured(verdict.learned) or _unmeasured(verdict.broke)
    word = "Passed what was measured" if unmeasured else "Passed, with remarks"
    return Heading("partly", word, sentence, tuple(remarks), verdict.notes)


def verdict_sentence(learned: str, broke: str) -> str:
    """The two findings in one sentence.

    >>> verdict_sentence("yes", "nothing")
    'It learned, and it broke nothing.'
    >>> verdict_sentence("yes", "38 % of what it knew")
    'It learned, but it broke 38 % of what it knew.'
    >>> verdict_sentence("parrots", "nothing")
    'It parrots: it says that it knows, and does not. It broke nothing.'
    >>> verdict_sentence("not measured (no probes)", "not measured (no probes)")
    'Neither what it learned nor what it broke was measured.'
    """
    if _unmeasured(learned) and _unmeasured(broke):
        return "Neither what it learned nor what it broke was measured."
    if learned == "parrots":
        broken = "What it broke was not measured" if _unmeasured(broke) else f"It broke {broke}"
        return f"It parrots: it says that it knows, and does not. {broken}."
    first = {"yes": "It learned", "no": "It did not learn", "too little": "It learned too little"}
    one = "What it learned was not measured" if _unmeasured(learned) else first.get(learned, f"Learned: {learned}")
    two = "what it broke was not measured" if _unmeasured(broke) else f"it broke {broke}"
    link = "but" if learned == "yes" and broke != "nothing" else "and"
    return f"{one}, {link} {two}."


def _unmeasured(finding: str) -> bool:
    return finding.startswith("not measured")


def _how_far(run: RunFiles) -> str:
    steps = [step for event in run.events("step") if (step := event.number("step")) is not None]
    if not steps:
        return "Training has not made a step."
    of = planned_steps(run)
    return f"Training made {max(steps):,.0f}" + (f" of {of:,.0f} steps." if of else " steps.")


def planned_steps(run: RunFiles, stage: str | None = None) -> float | None:
    """Steps that the training loop announced, or else the plan."""
    started = run.events("train_started_anew", stage)
    announced = [steps for event in started if (steps := event.number("steps")) is not None]
    return announced[-1] if announced else run.plan.number("steps") if run.plan else None


def probe_section(run: RunFiles) -> Markup:
    """Each probe before and after training, with intervals as bars."""
    if run.scores is None:
        return render("probes.html", probes=None)
    turned = _turned(run)
    probes = run.scores.probes
    rows = [_probe_row(each, turned) for each in probes]
    groups = [
        [probe.name, group.name, f"{group.n:,}", f"{group.before:,}", f"{group.after:,}", f"{group.lost:,}"]
        for probe in probes
        for group in probe.groups
    ]
    return render("probes.html", probes=rows, more=_other_figures(probes), groups=groups)


def _turned(run: RunFiles) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Per probe (name, role): answers, newly right, newly wrong."""
    out: dict[tuple[str, str], tuple[int, int, int]] = {}
    for row in run.predictions or ():
        key = (row.text("probe") or "", row.text("role") or "")
        n, gained, lost = out.get(key, (0, 0, 0))
        flags = (row.flag("base_correct"), row.flag("adapter_correct"))
        out[key] = (n + 1, gained + (flags == (False, True)), lost + (flags == (True, False)))
    return out


@dataclass(frozen=True)
class _ProbeRow:
    name: str
    about: str
    before: Cell
    after: Cell
    change: Cell
    bars: Cell


def _probe_row(probe: ProbeResult, turned: Mapping[tuple[str, str], tuple[int, int, int]]) -> _ProbeRow:
    shown = probe.figures()[0]
    sides = [(SIDES[side], (shown.before, shown.after)[side], shown.intervals[side]) for side in (0, 1)]
    bars = [(name, share, *(ends or (None, None))) for name, share, ends in sides if share is not None]
    what = probe.about.about if shown.counted is RIGHT else f"{probe.about.about}: {shown.counted.words}"
    about = what if probe.name == probe.role else f"{probe.role}: {what}"
    answers, gained, lost = turned.get((probe.name, probe.role), (0, 0, 0))
    small = []
    if probe.change:
        small.append(f"{signed(100 * probe.change.low)} to {signed(100 * probe.change.high)}")
    if answers and answers == probe.n and probe.about.answers_are_right_or_wrong:
        small += [f"{gained:,} newly right", f"{lost:,} newly wrong"]
    if broken := probe.broken:
        small.append(f"{broken.lost:,} of {broken.knew:,} known lost")
        small.append(f"{percent(broken.low)} to {percent(broken.high)}")
    before, after = (_share_cell(share, ends, probe.n) for _, share, ends in sides)
    change = _change_cell(shown.before, shown.after, small)
    bar = share_bars(bars) if bars else NOT_MEASURED
    return _ProbeRow(probe.name, f"{about} · n = {probe.counted_over}", before, after, change, bar)


def _share_cell(share: float | None, ends: tuple[float, float] | None, n: int) -> Cell:
    if share is None:
        return NOT_MEASURED
    return Strong(
        percent(share), [f"{share * n:.0f} of {n}"] + ([f"{percent(ends[0])} to {percent(ends[1])}"] if ends else [])
    )


def _change_cell(first: float | None, last: float | None, small: Sequence[str]) -> Cell:
    if first is None or last is None:
        return NOT_MEASURED
    points = 100 * (last - first)
    return Strong(f"{signed(points)} points" if round(points, 1) else "0 points", small)


def guardrail_section(run: RunFiles) -> Markup:
    """What the answers do that no answer should, before and after training."""
    if run.scores is None:
        return render("guardrails.html", counts=None)
    guardrails = run.scores.guardrails
    if guardrails is None or not guardrails.answers:
        return render("guardrails.html", counts=guardrails or {}, answers=0)
    answers, before = guardrails.answers, guardrails.before
    clean: list[str] = []
    rows: list[list[Cell]] = []
    for key, found in sorted(guardrails.after.items(), key=lambda each: -each[1]):
        limit = guardrails.limits.get(key)
        if not found and not before.get(key):
            clean.append(words(key))
            continue
        counts = [_count_cell(value, answers) for value in (before.get(key), found)]
        rows.append([words(key).capitalize(), *counts, percent(limit) if limit is not None else ""])
    sides = zip(SIDES, guardrails.room or (), strict=False)
    rooms = [f"{side.capitalize()} training, {room.describe()}." for side, room in sides if room.reached]
    return render("guardrails.html", counts=guardrails, answers=answers, rows=rows, clean=clean, rooms=rooms)


def _count_cell(count: int | None, answers: int) -> Cell:
    if count is None:
        return NOT_MEASURED
    return Strong(f"{count:,}", [show_share(count / answers)]) if count else "0"


def _other_figures(probes: Sequence[ProbeResult]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for probe in probes:
        for figure in probe.figures()[1:]:
            counted = figure.counted
            cells = [
                percent(share) if share is not None else "" if side not in counted.sides else NOT_MEASURED
                for side, share in zip(SIDES, (figure.before, figure.after), strict=True)
            ]
            rows.append([probe.name, counted.words, *cells])
    return rows


def loss_section(run: RunFiles) -> Markup:
    """Held-out loss of the base and of the result."""
    if run.scores is None:
        return render("loss.html", scores=None)
    losses, pairs = run.scores.loss, run.scores.pairs
    return render(
        "loss.html",
        scores=run.scores,
        losses=_loss_rows(losses) if losses else None,
        pairs=_pair_rows(pairs) if pairs else None,
        other_tokens=losses and losses.before.number("tokens") != losses.after.number("tokens"),
    )


def _pair_rows(pairs: BeforeAndAfter) -> list[list[Cell]]:
    """Which of two answers the model finds likelier, before and after."""
    sides = pairs.before, pairs.after
    shares = [side.number("accuracy") for side in sides]
    return [
        ["Better answer likelier, per token", *(NOT_MEASURED if x is None else show_share(x) for x in shares)],
        ["Ahead by, nats per token", *(_figure(side.number("margin"), False) for side in sides)],
        ["Pairs", *(_figure(side.number("pairs"), True) for side in sides)],
    ]


def _loss_rows(loss: BeforeAndAfter) -> list[list[Cell]]:
    before, after = loss.before, loss.after
    rows: list[list[Cell]] = []
    names = {
        "loss": "Loss, nats per target token",
        "bits_per_byte": "Bits per byte",
        "perplexity": "Perplexity",
        "tokens": "Target tokens",
        "utf8_bytes": "Bytes that they stand for",
    }
    for key in dict.fromkeys([*names, *before.values, *after.values]):
        first, last = before.number(key), after.number(key)
        whole = key in ("tokens", "utf8_bytes")
        change = f"{signed(100 * (last / first - 1))} %" if first and last is not None and not whole else ""
        figures = [_figure(value, whole) for value in (first, last)]
        rows.append([names.get(key, words(key).capitalize()), *figures, change])
    return rows


def _figure(value: float | None, whole: bool) -> Cell:
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f}" if whole else f"{value:.3f}" if abs(value) < 1000 else number(value)


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """The run in a few short facts for the top of the page."""
    out: list[tuple[str, str]] = []
    if run.manifest:
        base, data, trained = run.manifest.base, run.manifest.dataset, run.manifest.trained
        parameters = base.number("parameters")
        if base.text("name"):
            named = (base.text("name") or "").rstrip("/").split("/")
            out.append(("Base", "/".join(named[-2:] if named[-1] == "model" else named[-1:])))  # a run's own model
        if path := run.manifest.started_from.text("path"):
            named = path.rstrip("/").split("/")
            out.append(("Trained on from", "/".join(named[-2:])))
        if parameters:
            out.append(("Its size", f"{show_count(parameters)} parameters"))
        if trained and trained.parameters:
            out.append(("Trained", f"{show_count(trained.parameters)} parameters"))
        if data.number("train") is not None:
            held_out = data.number("validation")
            more = f" + {held_out:,.0f} held out" if held_out is not None else ""
            out.append(("Examples", f"{data.number('train') or 0:,.0f}{more}"))
    return out
