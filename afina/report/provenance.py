"""Where it came from: the data with its losses and findings, the machine, hashes, cost, the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from afina.record import Record
from afina.report.labels import fixed, number, show_money, show_seconds, show_share, words
from afina.report.language import label, mark, moment, tr, trn
from afina.report.read import RunFiles
from afina.report.render import Cell, Monospaced, Quiet, Stacked, Total, Value, not_recorded, render
from afina.report.sentences import StoredSentence

_SEVERITY = ("fatal", "error", "warning", "warn", "note", "info")
_BAD = ("fatal", "error")
_DEVICE = {"name": mark("Device"), "device": mark("Kind of device"), "kind": mark("Kind of device")}
EXAMPLES = 5
SHORT = 160
"""Characters of a row that is shown as an example of a finding."""
LEDGER_OPEN = 12
LEDGER = 500
_NO_DATE = 253402300800
"""Unix seconds at the end of the year 9999, after which no date is written."""


def data_section(run: RunFiles) -> Markup:
    """Counts, what was dropped and why, findings of the audit, the ledger of characters."""
    return render("data.html", **_dataset(run.dataset), **_audit(run.audit), ledger=_ledger(run.dataset))


def _dataset(data: Record | None) -> dict[str, Any]:
    if data is None:
        return {"dataset": None}
    splits = {name: value for name in ("train", "validation") if isinstance(value := data.values.get(name), Mapping)}
    keys = list(dict.fromkeys(key for split in splits.values() for key in split))
    rows: list[list[Cell]] = [
        [words(key), *(Value(key, split[key]) if key in split else "" for split in splits.values())] for key in keys
    ]
    dropped = data.values.get("dropped")
    shown = {*splits, "sources", "dropped", "ledger", "balanced"}
    return {
        "dataset": data,
        "splits": {"names": list(map(words, splits)), "rows": rows} if splits else None,
        "sources": data.values.get("sources"),
        "dropped": [[words(str(reason)), Value("", count)] for reason, count in dropped.items()]
        if isinstance(dropped, Mapping)
        else dropped,
        "rest": {key: value for key, value in data.values.items() if key not in shown},
    }


def _audit(audit: Record | None) -> dict[str, Any]:
    if audit is None:
        return {"findings": None}

    def rank(finding: Record) -> int:
        severity = finding.text("severity") or ""
        return _SEVERITY.index(severity) if severity in _SEVERITY else len(_SEVERITY)

    counts = {**dict(audit.numbers()), **audit.record("counts").values}
    return {"counts": counts, "findings": [_finding(each) for each in sorted(audit.records("findings"), key=rank)]}


def _finding(finding: Record) -> dict[str, Any]:
    severity = finding.text("severity") or ""
    examples = finding.records("examples")
    return {
        "colour": "bad" if severity in _BAD else "warn" if severity.startswith("warn") else "open",
        "severity": words(severity),
        "name": words(finding.text("name") or ""),
        "size": finding_size(finding),
        "what": StoredSentence(finding.text("what") or ""),
        "fix": StoredSentence(finding.text("fix") or ""),
        "examples": [
            (each.text("where") or "", None if each.text("text") is None else _short(each.text("text")))
            for each in examples[:EXAMPLES]
        ],
        "left": len(examples) - EXAMPLES,
    }


def finding_size(finding: Record) -> str:
    """How many rows a finding is about, of how many, in which part."""
    count, of = finding.number("count"), finding.number("of")
    size = fixed(count) if count is not None else ""
    if count is not None and of:
        size = tr("{count} of {of} ({share})", count=size, of=fixed(of), share=show_share(count / of))
    return f"{size}, {words(split)}" if (split := finding.text("split")) else size


def _short(text: str | None) -> str:
    text = " ".join((text or "").split())
    if len(text) <= SHORT:
        return text
    more = trn("{n} more character", "{n} more characters", len(text) - SHORT)
    return f"{text[:SHORT]}… ({more})"


def _ledger(data: Record | None) -> dict[str, Any] | None:
    """Characters in, left out, written by the conversion and out, for each file."""
    ledger = data.record("ledger") if data else None
    if data is None or not ledger:
        return None
    files = sorted(ledger.records("files"), key=lambda file: file.text("path") or "")
    rows: list[list[Cell]] = []
    total_in = total_out = total_dropped = total_added = 0.0
    for file in files:
        dropped, added = dict(file.record("dropped").numbers()), dict(file.record("added").numbers())
        came, went = file.number("chars_in") or 0, file.number("chars_out") or 0
        total_in, total_out = total_in + came, total_out + went
        total_dropped, total_added = total_dropped + sum(dropped.values()), total_added + sum(added.values())
        sha = file.text("sha256") or ""
        name = Stacked(file.text("path"), sha[:16], sha)
        rows.append([name, fixed(came), _reasons(added), _reasons(dropped), fixed(went)])
    left = len(rows) - LEDGER
    if left > 0:
        rows[LEDGER:] = [[Quiet(tr("and {n} more files, in dataset.json", n=number(left))), "", "", "", ""]]
    totals = [fixed(total) for total in (total_in, total_added, total_dropped, total_out)]
    rows.append([Total(trn("{n} file", "{n} files", len(files))), *totals])
    sums = dict(zip(("came", "added", "dropped", "out"), totals, strict=True))
    skipped = list(ledger.record("skipped").values.items())
    not_read: list[list[Cell]] = [[Monospaced(str(path)), str(reason)] for path, reason in skipped[:LEDGER]]
    if len(skipped) > LEDGER:
        not_read.append([Quiet(tr("and {n} more, in dataset.json", n=number(len(skipped) - LEDGER))), ""])
    return {
        "even": sums_agree(data),
        "rows": rows,
        "folded": tr(
            "{n} files: {came} in + {added} added − {dropped} dropped = {out} out", n=number(len(files)), **sums
        )
        if len(files) > LEDGER_OPEN
        else "",
        "skipped": not_read,
        "skipped_folded": trn("{n} file was not read", "{n} files were not read", len(skipped))
        if len(skipped) > LEDGER_OPEN
        else "",
    }


def sums_agree(data: Record) -> bool:
    """Whether every character of the files is in the dataset, or counted as left out or added."""
    total = 0.0
    for file in data.record("ledger").records("files"):
        added, dropped = (sum(dict(file.record(key).numbers()).values()) for key in ("added", "dropped"))
        total += (file.number("chars_in") or 0) + added - dropped - (file.number("chars_out") or 0)
    return total == 0 and data.flag("balanced") is not False


def _reasons(counts: Mapping[str, float]) -> Cell:
    if not counts:
        return Quiet("0")
    reasons = "; ".join(f"{words(reason)} {fixed(count)}" for reason, count in counts.items())
    return Stacked(fixed(sum(counts.values())), reasons)


def environment_section(run: RunFiles) -> Markup:
    """The machine, versions, hashes, times, cost."""
    if run.manifest is None:
        return render("environment.html", recorded=False)
    manifest = run.manifest
    started, ended, trained = manifest.started, manifest.ended, manifest.trained
    whole: Cell = not_recorded()
    if started is not None and ended is not None:  # stamps of the clock: pauses between two starts count
        whole = show_seconds(ended - started) if ended >= started else Quiet(tr("not known: the clock was set back"))
    machine: list[tuple[str, Cell]] = [
        (tr("Version of afina"), Value("", manifest.afina)),
        ("Python", Value("", manifest.python)),
        (tr("Platform"), Value("", manifest.platform)),
        *(
            (label(_DEVICE[key]) if key in _DEVICE else tr("Device, {what}", what=words(key)), Value(key, value))
            for key, value in manifest.device.values.items()
        ),
        (tr("Threads"), Value("", manifest.threads)),
        (tr("Seed"), Value("", manifest.seed)),
        (tr("Commit"), Monospaced(manifest.commit)),
        (tr("Started"), _moment(started)),
        (tr("Ended"), _moment(ended)),
        (tr("From start to end"), whole),
    ]
    stages = list(manifest.seconds_by_stage.numbers())
    total = sum(seconds for _, seconds in stages)
    times: list[list[Cell]] = [
        [words(name), show_seconds(seconds), show_share(seconds / total) if total else ""] for name, seconds in stages
    ]
    result = trained.kind if trained else "result"
    return render(
        "environment.html",
        recorded=True,
        machine=machine,
        cost=_cost(manifest.cost),
        stages=[*times, [Total(tr("together")), show_seconds(total), ""]] if stages else [],
        measured=manifest.measured.values,
        hashed={
            "base": manifest.base.values,
            **({"started from": manifest.started_from.values} if manifest.started_from else {}),
            "dataset": manifest.dataset.values,
            result: trained.as_json() if trained else {},
        },
        inputs=[dict(item.values) for item in manifest.inputs],
        most_open=LEDGER_OPEN,
        libraries=[[name, str(version)] for name, version in manifest.libraries.values.items()],
    )


def _moment(seconds: float | None) -> Cell:
    """Unix seconds as a date in UTC.

    >>> _moment(0), _moment(1e30)
    ('1970-01-01 00:00:00 UTC', Quiet(quiet='1e+30, which is not a date'))
    """
    if seconds is None:
        return not_recorded()
    if not 0 <= seconds < _NO_DATE:
        return Quiet(tr("{n}, which is not a date", n=format(seconds, "g")))
    return moment(seconds)


def _cost(cost: Record) -> dict[str, Any]:
    """What is said of the cost: a product, that it was free, or the values as they stand."""
    hours, price, money = cost.number("hours"), cost.number("price_per_hour"), cost.number("money")
    currency = cost.text("currency") or "US$"
    said: dict[str, Any] = {"product": "", "free": "", "others": {}}
    if hours is None or price is None or money is None:
        return said | {"others": cost.values}
    spent, time = show_money(money, currency), show_seconds(3600 * hours)
    if price == 0:
        return said | {"free": tr("{time} on a device without a price per hour: {money}.", time=time, money=spent)}
    product = tr("{time} × {money} per hour", time=time, money=show_money(price, currency))
    return said | {"product": product, "money": spent}


def recipe_section(run: RunFiles) -> Markup:
    """The resolved recipe, folded."""
    return render("recipe.html", text=run.recipe_text)
