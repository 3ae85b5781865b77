"""What came of it: the verdict as a sentence, probes before and after, held-out loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from afina.evaluate.scores import RIGHT, SIDES, BeforeAndAfter, ProbeResult
from afina.report.charts import share_bars
from afina.report.markup import (
    Child,
    Html,
    escape,
    h,
    join,
    missing,
    muted,
    note,
    number,
    percent,
    table,
    words,
)
from afina.report.read import RunFiles
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


def probe_section(run: RunFiles) -> Html:
    """Each probe before and after training, with intervals as bars."""
    if run.scores is None:
        return missing("No probe was asked before and after training", "scores.json")
    probes = run.scores.probes
    if not probes:
        return h(
            "p",
            h("strong", "Not measured. "),
            "The recipe names no probes (",
            h("code", "evaluate.probes"),
            ").",
            class_="absent",
        )
    turned = _turned(run)
    head = h("tr", *(h("th", name, scope="col", class_=class_) for name, class_ in _PROBE_HEAD))
    body = h("tbody", *(_probe_row(probe, turned) for probe in probes))
    parts: list[Child] = [
        h("table", h("thead", head), body, class_="probes"),
        note(
            "Share of answers that are the reference, word for word, or what else the row says. ",
            h("i", class_="swatch before"),
            "before, ",
            h("i", class_="swatch after"),
            "after training; the bars run from 0 to 100 %, the whiskers are 95 % intervals.",
        ),
    ]
    more = _other_metrics(probes)
    if more:
        parts.append(table(["Probe", "Metric", "Before", "After"], more, numbers=(2, 3)))
    return join(parts)


_PROBE_HEAD = (("Probe", None), ("Before", "num"), ("After", "num"), ("Change", "num"), ("0 to 100 %", "wide"))


def _turned(run: RunFiles) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Per probe (name, role): answers, newly right, newly wrong."""
    out: dict[tuple[str, str], tuple[int, int, int]] = {}
    for row in run.predictions or ():
        key = (row.text("probe") or "", row.text("role") or "")
        n, gained, lost = out.get(key, (0, 0, 0))
        flags = (row.flag("base_correct"), row.flag("adapter_correct"))
        out[key] = (n + 1, gained + (flags == (False, True)), lost + (flags == (True, False)))
    return out


def _probe_row(probe: ProbeResult, turned: Mapping[tuple[str, str], tuple[int, int, int]]) -> Html:
    shown = probe.figures()[0]
    sides = [(SIDES[side], (shown.before, shown.after)[side], shown.intervals[side]) for side in (0, 1)]
    bars = [(name, share, *(ends or (None, None))) for name, share, ends in sides if share is not None]
    what = probe.about.about if shown.counted is RIGHT else f"{probe.about.about}: {shown.counted.words}"
    about = what if probe.name == probe.role else f"{probe.role}: {what}"
    answers, gained, lost = turned.get((probe.name, probe.role), (0, 0, 0))
    small = []
    if probe.change:
        low, high = probe.change.low, probe.change.high
        small.append(f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "\u2212"))
    if answers and answers == probe.n and probe.about.answers_are_right_or_wrong:
        small += [f"{gained:,} newly right", f"{lost:,} newly wrong"]
    if broken := probe.broken:
        small.append(f"{broken.lost:,} of {broken.knew:,} known lost")
        small.append(f"{percent(broken.low)} to {percent(broken.high)}")
    cells = [_share_cell(share, ends, probe.n) for _, share, ends in sides]
    return h(
        "tr",
        h("td", h("strong", probe.name), h("small", f"{about} · n = {probe.n:,}"), class_="name"),
        h("td", cells[0], class_="num", data_label="Before"),
        h("td", cells[1], class_="num", data_label="After"),
        h("td", _change_cell(shown.before, shown.after, small), class_="num", data_label="Change"),
        h("td", share_bars(bars) if bars else muted("not measured"), class_="wide"),
    )


def _share_cell(share: float | None, ends: tuple[float, float] | None, n: int) -> Html:
    if share is None:
        return muted("not measured")
    parts = [f"{share * n:.0f} of {n}"] + ([f"{percent(ends[0])} to {percent(ends[1])}"] if ends else [])
    return join([h("b", percent(share)), *(h("small", part) for part in parts)])


def _change_cell(first: float | None, last: float | None, small: Sequence[str]) -> Html:
    if first is None or last is None:
        return muted("not measured")
    points = 100 * (last - first)
    shown = f"{points:+.1f} points" if round(points, 1) else "0 points"
    return join([h("b", shown.replace("-", "\u2212")), *(h("small", line) for line in small)])


def guardrail_section(run: RunFiles) -> Html:
    """What the answers do that no answer should, before and after training."""
    if run.scores is None:
        return missing("How the answers are written was not looked at", "scores.json")
    guardrails = run.scores.guardrails
    if guardrails is None or not guardrails.answers:
        return h("p", h("strong", "Not measured. "), "No question was asked.", class_="absent")
    answers, before = guardrails.answers, guardrails.before
    clean: list[str] = []
    rows: list[list[Child]] = []
    for key, found in sorted(guardrails.after.items(), key=lambda each: -each[1]):
        limit = guardrails.limits.get(key)
        if not found and not before.get(key):
            clean.append(words(key))
            continue
        counts = [_count_cell(value, answers) for value in (before.get(key), found)]
        rows.append([words(key).capitalize(), *counts, percent(limit) if limit is not None else ""])
    head = ["Answers that should not be so", "Before", "After", "At most"]
    return join(
        [
            table(head, rows, numbers=(1, 2, 3)) if rows else None,
            h("p", f"In none of the {answers:,.0f} answers, before or after: {', '.join(clean)}.") if clean else None,
            note(
                f"Counted over all {answers:,.0f} answers, those to the probes and the samples. A limit is missed when "
                "the share is above it beyond chance."
            ),
        ]
    )


def _count_cell(count: float | None, answers: float) -> Html:
    if count is None:
        return muted("not measured")
    if not count:
        return escape("0")
    return join([h("b", f"{count:,.0f}"), h("small", show_share(count / answers))])


def _other_metrics(probes: Sequence[ProbeResult]) -> list[list[Child]]:
    rows: list[list[Child]] = []
    for probe in probes:
        for figure in probe.figures()[1:]:
            counted = figure.counted
            cells = [
                percent(share) if share is not None else "" if side not in counted.sides else muted("not measured")
                for side, share in zip(SIDES, (figure.before, figure.after), strict=True)
            ]
            rows.append([probe.name, counted.words, *cells])
    return rows


def loss_section(run: RunFiles) -> Html:
    """Held-out loss of the base and of the result."""
    if run.scores is None:
        return missing("No held-out loss before and after training", "scores.json")
    loss, pairs = run.scores.loss, run.scores.pairs
    if not loss and not pairs:
        return h("p", h("strong", "Not measured. "), "There were no held-out examples.", class_="absent")
    return join([_loss_table(loss) if loss else None, _pair_table(pairs) if pairs else None])


def _pair_table(pairs: BeforeAndAfter) -> Html:
    """Which of two answers the model finds likelier, before and after."""
    sides = pairs.before, pairs.after
    shares = [side.number("accuracy") for side in sides]
    rows: list[list[Child]] = [
        ["Better answer likelier, per token", *(muted("not measured") if x is None else show_share(x) for x in shares)],
        ["Ahead by, nats per token", *(_figure(side.number("margin"), False) for side in sides)],
        ["Pairs", *(_figure(side.number("pairs"), True) for side in sides)],
    ]
    return table(["Held-out preferences", "Before", "After"], rows, numbers=(1, 2))


def _loss_table(loss: BeforeAndAfter) -> Html:
    before, after = loss.before, loss.after
    rows: list[list[Child]] = []
    names = {
        "loss": "Loss, nats per target token",
        "bits_per_byte": "Bits per byte",
        "perplexity": "Perplexity",
        "tokens": "Target tokens",
        "utf8_bytes": "Bytes that they stand for",
    }
    keys = dict.fromkeys([*names, *before.values, *after.values])
    for key in keys:
        first, last = before.number(key), after.number(key)
        whole = key in ("tokens", "utf8_bytes")
        change = (
            f"{100 * (last / first - 1):+.1f} %".replace("-", "\u2212")
            if first and last is not None and not whole
            else ""
        )
        rows.append(
            [names.get(key, words(key).capitalize()), *(_figure(value, whole) for value in (first, last)), change]
        )
    out: list[Child] = [table(["Held-out examples", "Before", "After", "Change"], rows, numbers=(1, 2, 3))]
    if before.number("tokens") != after.number("tokens"):
        out.append(
            note(
                h("strong", "The two losses stand over different numbers of target tokens"),
                ": only bits per byte compares them.",
            )
        )
    return join(out)


def _figure(value: float | None, whole: bool) -> Html:
    if value is None:
        return muted("not measured")
    return escape(f"{value:,.0f}" if whole else f"{value:.3f}" if abs(value) < 1000 else number(value))


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """The run in a few short facts for the top of the page."""
    out: list[tuple[str, str]] = []
    if run.manifest:
        base, data, trained = run.manifest.base, run.manifest.dataset, run.manifest.trained
        parameters = base.number("parameters")
        if base.text("name"):
            named = (base.text("name") or "").rstrip("/").split("/")
            out.append(("Base", "/".join(named[-2:] if named[-1] == "model" else named[-1:])))  # a run's own model
        if parameters:
            out.append(("Its size", f"{show_count(parameters)} parameters"))
        if trained and trained.parameters:
            out.append(("Trained", f"{show_count(trained.parameters)} parameters"))
        if data.number("train") is not None:
            held_out = data.number("validation")
            more = f" + {held_out:,.0f} held out" if held_out is not None else ""
            out.append(("Examples", f"{data.number('train') or 0:,.0f}{more}"))
    return out
