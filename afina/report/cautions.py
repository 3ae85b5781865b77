"""What a reader has to know before the figures: it stands at the top of the page and is never folded away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from afina.record import Record
from afina.report.labels import fixed, words
from afina.report.language import ENGLISH, language, tr
from afina.report.provenance import finding_size, sums_agree
from afina.report.read import RunFiles
from afina.report.sentences import retold
from afina.report.training import cut_lines, not_drawn, not_finite, said_to_fit

_SEVERE = ("fatal", "error", "warning", "warn")


@dataclass(frozen=True)
class Caution:
    """A warning, and the part of the page that says more."""

    text: str
    section: str


def cautions(run: RunFiles) -> list[Caution]:
    """The warnings of a run, those of its data first; a verdict's misses stand by themselves."""
    return [*_of_data(run), *_of_training(run), *_of_figures(run)]


def _of_data(run: RunFiles) -> Iterator[Caution]:
    findings = run.audit.records("findings") if run.audit else []
    for severity in _SEVERE:
        for finding in findings:
            if finding.text("severity") == severity:
                told = {"severity": words(severity), "name": _called(finding), "size": finding_size(finding)}
                yield Caution(tr("Audit, {severity}: {name}, {size}", **told), "audit")
    if run.dataset and run.dataset.record("ledger") and not sums_agree(run.dataset):
        yield Caution(tr("The sums do not agree: characters went missing or came from nowhere."), "ledger")


def _called(finding: Record) -> str:
    """What a finding is called: its name, which is English in every language since recipes accept it by that; on a page
    in another one what its sentence says first."""
    name, what = words(finding.text("name") or ""), finding.text("what") or ""
    told = None if language() == ENGLISH else retold(what)
    return name if told is None else re.split("[:;(]", told, maxsplit=1)[0].strip() or name


def _of_training(run: RunFiles) -> Iterator[Caution]:
    if lost := not_finite(run):
        yield Caution(not_drawn(lost), "training")
    for stage in ("first", None):
        for event in run.events("went_back", stage):
            steps = {"step": fixed(event.number("step") or 0), "to": fixed(event.number("to") or 0)}
            yield Caution(tr("Training went back from step {step} to {to}.", **steps), "training")
        for event in run.events("smaller_batches", stage):
            step = fixed(event.number("step") or 0)
            yield Caution(tr("The batches did not fit from step {step} on and were divided.", step=step), "training")
    if run.unreadable_metrics:
        yield Caution(cut_lines(run.unreadable_metrics), "training")
    if run.plan and run.plan.values.get("fits") in (False, "no", "maybe"):
        yield Caution(said_to_fit(run.plan), "plan")


def _of_figures(run: RunFiles) -> Iterator[Caution]:
    losses = run.scores.loss if run.scores else None
    if losses and losses.before.number("tokens") != losses.after.number("tokens"):
        yield Caution(
            tr("The two losses are means over different numbers of target tokens: only bits per byte can be compared."),
            "loss",
        )
    if run.scores and run.scores.guardrails is None and run.scores.verdict:
        yield Caution(tr("How the answers are written was not checked."), "guardrails")
