"""What came of it: the verdict as a sentence, probes before and after, held-out loss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from afina.evaluate.scores import RIGHT, SIDES, BeforeAndAfter, ProbeResult, RoleFigures, RoomToEnd
from afina.report.charts import share_bars
from afina.report.labels import fixed, number, percent, show_count, show_share, signed, words
from afina.report.language import PROBE, label, mark, tr, trn
from afina.report.read import RunFiles
from afina.report.render import Cell, Heading, Strong, not_measured, render
from afina.report.sentences import StoredSentence, retold

UNMEASURED, NOTHING, PART = "not measured", "nothing", "part"
_FINDINGS: Mapping[tuple[str, str], str] = {
    ("yes", NOTHING): mark("It learned, and it broke nothing."),
    ("yes", PART): mark("It learned, but it broke {broke}."),
    ("yes", UNMEASURED): mark("It learned, but what it broke was not measured."),
    ("no", NOTHING): mark("It did not learn, and it broke nothing."),
    ("no", PART): mark("It did not learn, and it broke {broke}."),
    ("no", UNMEASURED): mark("It did not learn, and what it broke was not measured."),
    ("too little", NOTHING): mark("It learned too little, and it broke nothing."),
    ("too little", PART): mark("It learned too little, and it broke {broke}."),
    ("too little", UNMEASURED): mark("It learned too little, and what it broke was not measured."),
    ("parrots", NOTHING): mark("It parrots: it says that it knows, and does not. It broke nothing."),
    ("parrots", PART): mark("It parrots: it says that it knows, and does not. It broke {broke}."),
    ("parrots", UNMEASURED): mark("It parrots: it says that it knows, and does not. What it broke was not measured."),
    (UNMEASURED, NOTHING): mark("What it learned was not measured, and it broke nothing."),
    (UNMEASURED, PART): mark("What it learned was not measured, and it broke {broke}."),
    (UNMEASURED, UNMEASURED): mark("Neither what it learned nor what it broke was measured."),
}
"""What is said of a run, by what it learned and what it broke."""


def judge(run: RunFiles) -> Heading:
    """The verdict of a run as a sentence; for a run without scores, how far it came."""
    remarks = []
    exit_code = run.finished.number("exit_code") if run.finished else None
    verdict = run.scores.verdict if run.scores else None
    if not verdict:
        done = _how_far(run)
        if exit_code:
            said = tr("The run ended with exit code {code} and was not measured.", code=fixed(exit_code))
            return Heading("bad", tr("Failed"), said, (done,))
        if run.finished:
            return Heading("open", tr("Not measured"), tr("The run finished, and nothing was measured."), (done,))
        return Heading("open", tr("Not finished"), tr("The run is not finished: nothing is proven yet."), (done,))
    if run.finished is None:
        remarks.append(tr("The run is not marked as finished: finished.json is not there."))
    remarks = [*map(StoredSentence, verdict.misses), *remarks]
    notes = tuple(map(StoredSentence, verdict.notes))
    if exit_code and verdict.passed:
        remarks.append(tr("The scores passed, yet the run ended with exit code {code}.", code=fixed(exit_code)))
    sentence = verdict_sentence(verdict.learned, verdict.broke)
    if not verdict.passed:
        return Heading("bad", tr("Failed"), sentence, tuple(remarks), notes)
    if verdict.learned == "yes" and verdict.broke == NOTHING and not remarks:
        return Heading("good", tr("Passed"), sentence, (), notes)
    unmeasured = UNMEASURED in (_kind(verdict.learned), _kind(verdict.broke))
    word = tr("Passed what was measured") if unmeasured else tr("Passed, with remarks")
    return Heading("partly", word, sentence, tuple(remarks), notes)


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
    lost = _kind(broke)
    known = _FINDINGS.get((_kind(learned), lost if lost in (UNMEASURED, NOTHING) else PART))
    if known is None:
        return tr("Learned: {learned}. Broke: {broke}.", learned=learned, broke=broken_parts(broke))
    return label(known).format(broke=broken_parts(broke))


def _kind(finding: str) -> str:
    return UNMEASURED if finding.startswith(UNMEASURED) else finding


def broken_parts(broke: str) -> str:
    """What was broken: shares of questions and of skills, one after the other."""
    return ", ".join(retold(part) or part for part in re.split(r", (?=[<>]? ?[\d.]+ % )", broke))


def _how_far(run: RunFiles) -> str:
    steps = [step for event in run.events("step") if (step := event.number("step")) is not None]
    if not steps:
        return tr("Training has not made a step.")
    made, of = fixed(max(steps)), planned_steps(run)
    return (
        tr("Training made {made} of {of} steps.", made=made, of=fixed(of))
        if of
        else tr("Training made {made} steps.", made=made)
    )


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
        [probe_name(probe), words(group.name), *map(number, (group.n, group.before, group.after, group.lost))]
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
    what = label(probe.about.about)
    what = what if shown.counted is RIGHT else f"{what}: {label(shown.counted.words)}"
    about = what if probe.name == probe.role else f"{words(probe.role)}: {what}"
    answers, gained, lost = turned.get((probe.name, probe.role), (0, 0, 0))
    small = []
    if probe.change:
        small.append(between(signed(100 * probe.change.low), signed(100 * probe.change.high)))
    if answers and answers == probe.n and probe.about.answers_are_right_or_wrong:
        small.append(trn("{n} newly right", "{n} newly right", gained))
        small.append(trn("{n} newly wrong", "{n} newly wrong", lost))
    if broken := probe.broken:
        small.append(tr("{lost} of {knew} known lost", lost=number(broken.lost), knew=number(broken.knew)))
        small.append(between(percent(broken.low), percent(broken.high)))
    before, after = (_share_cell(share, ends, probe.n) for _, share, ends in sides)
    change = _change_cell(shown.before, shown.after, small)
    bar = share_bars(bars) if bars else not_measured()
    n = counted_over(probe.n, probe.clusters, probe.about)
    return _ProbeRow(probe_name(probe), f"{about} · n\u00a0=\u00a0{n}", before, after, change, bar)


def probe_name(probe: ProbeResult) -> str:
    """A probe's name: the user's as it is, one that afina gave in the language of the page."""
    return label(probe.name, PROBE)


def between(low: str, high: str) -> str:
    """An interval between two figures."""
    return tr("{low} to {high}", low=low, high=high)


def counted_over(n: int, clusters: int | None, about: RoleFigures) -> str:
    """How many are asked, and about how many facts or sections where that is fewer."""
    few = clusters is not None and clusters < n
    return number(n) + (f" ({number(clusters or 0)} {label(about.clusters)})" if few else "")


def _share_cell(share: float | None, ends: tuple[float, float] | None, n: int) -> Cell:
    if share is None:
        return not_measured()
    counted = tr("{count} of {n}", count=fixed(share * n), n=number(n))
    return Strong(percent(share), [counted, *([between(*map(percent, ends))] if ends else [])])


def _change_cell(first: float | None, last: float | None, small: Sequence[str]) -> Cell:
    if first is None or last is None:
        return not_measured()
    points = 100 * (last - first)
    return Strong(show_points(points), small)


def show_points(points: float) -> str:
    """Hundredths with their sign.

    >>> show_points(-4.16), show_points(0.04)
    ('\u22124.2 points', '0 points')
    """
    return tr("{n} points", n=signed(points) if round(points, 1) else "0")


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
    rooms = [_room(side, room) for side, room in sides if room.reached]
    return render("guardrails.html", counts=guardrails, answers=answers, rows=rows, clean=clean, rooms=rooms)


def _room(side: str, room: RoomToEnd) -> str:
    """What became of the answers that reached the limit."""
    said = retold(room.describe()) or room.describe()
    when = tr("Before training") if side == SIDES[0] else tr("After training")
    return f"{when}: {said}."


def _count_cell(count: int | None, answers: int) -> Cell:
    if count is None:
        return not_measured()
    return Strong(number(count), [show_share(count / answers)]) if count else "0"


def _other_figures(probes: Sequence[ProbeResult]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for probe in probes:
        for figure in probe.figures()[1:]:
            counted = figure.counted
            cells = [
                percent(share) if share is not None else "" if side not in counted.sides else not_measured()
                for side, share in zip(SIDES, (figure.before, figure.after), strict=True)
            ]
            rows.append([probe_name(probe), label(counted.words), *cells])
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
        [
            tr("Better answer likelier, per token"),
            *(not_measured() if x is None else show_share(x) for x in shares),
        ],
        [tr("Ahead by, nats per token"), *(_figure(side.number("margin"), False) for side in sides)],
        [tr("Pairs"), *(_figure(side.number("pairs"), True) for side in sides)],
    ]


def _loss_rows(loss: BeforeAndAfter) -> list[list[Cell]]:
    before, after = loss.before, loss.after
    rows: list[list[Cell]] = []
    names = {
        "loss": tr("Loss, nats per target token"),
        "bits_per_byte": tr("Bits per byte"),
        "perplexity": tr("Perplexity"),
        "tokens": tr("Target tokens"),
        "utf8_bytes": tr("Bytes that they stand for"),
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
        return not_measured()
    return fixed(value) if whole else fixed(value, 3) if abs(value) < 1000 else number(value)


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """The run in a few short facts for the top of the page."""
    out: list[tuple[str, str]] = []
    if run.manifest:
        base, data, trained = run.manifest.base, run.manifest.dataset, run.manifest.trained
        parameters = base.number("parameters")
        if base.text("name"):
            named = (base.text("name") or "").rstrip("/").split("/")
            out.append((tr("Base"), "/".join(named[-2:] if named[-1] == "model" else named[-1:])))  # a run's own model
        if path := run.manifest.started_from.text("path"):
            named = path.rstrip("/").split("/")
            out.append((tr("Trained on from"), "/".join(named[-2:])))
        if parameters:
            out.append((tr("Its size"), tr("{n} parameters", n=show_count(parameters))))
        if trained and trained.parameters:
            whole = tr("{n} parameters, every weight", n=show_count(trained.parameters))
            part = tr("{n} parameters", n=show_count(trained.parameters))
            out.append((tr("Trained"), whole if trained.kind == "model" else part))
        if data.number("train") is not None:
            held_out = data.number("validation")
            more = tr(" + {n} held out", n=fixed(held_out)) if held_out is not None else ""
            out.append((tr("Examples"), f"{fixed(data.number('train') or 0)}{more}"))
    return out
