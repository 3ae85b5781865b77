"""Where it came from: the data with its losses and findings, the machine, hashes, cost, the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from afina.report.markup import (
    Child,
    Html,
    code,
    h,
    join,
    missing,
    muted,
    named_value,
    note,
    pairs,
    prose,
    table,
    words,
)
from afina.report.read import Record, RunFiles
from afina.units import show_money, show_seconds, show_share

_SEVERITY = ("fatal", "error", "warning", "warn", "note", "info")
_BAD = ("fatal", "error")
_DEVICE = {"name": "Device", "device": "Kind of device", "kind": "Kind of device"}
EXAMPLES = 5
LEDGER_OPEN = 12
LEDGER = 500


def data_section(run: RunFiles) -> Html:
    """Counts, what was dropped and why, findings of the audit, the ledger of characters."""
    return join([_dataset(run), h("h3", "Findings of the audit", id="audit"), _audit(run), _ledger(run)])


def _dataset(run: RunFiles) -> Html:
    if run.dataset is None:
        return missing("No dataset was built", "dataset/dataset.json", word="Missing.")
    data, parts = run.dataset, []
    splits = {name: value for name in ("train", "validation") if isinstance(value := data.values.get(name), Mapping)}
    if splits:
        keys = list(dict.fromkeys(key for split in splits.values() for key in split))
        rows = [
            [words(key), *(named_value(key, split[key]) if key in split else "" for split in splits.values())]
            for key in keys
        ]
        parts.append(table(["", *splits], rows, numbers=(1, 2)))
    if data.values.get("sources"):
        parts += [h("h3", "Sources"), named_value("sources", data.values["sources"])]
    parts.append(h("h3", "Left out of the dataset"))
    dropped = data.values.get("dropped")
    if isinstance(dropped, Mapping) and dropped:
        parts.append(
            table(
                ["Reason", "Rows"],
                [[words(str(reason)), named_value("", count)] for reason, count in dropped.items()],
                numbers=(1,),
            )
        )
    else:
        parts.append(h("p", "Nothing was dropped." if dropped is not None else muted("not recorded")))
    shown = {*splits, "sources", "dropped", "ledger", "balanced"}
    rest = {key: value for key, value in data.values.items() if key not in shown}
    if rest:
        parts.append(h("details", h("summary", "Everything else in dataset.json"), named_value("", rest)))
    return join(parts)


def _audit(run: RunFiles) -> Html:
    if run.audit is None:
        return missing("The dataset was not audited", "audit.json", word="Missing.")
    parts: list[Child] = []
    counts = {**dict(run.audit.numbers()), **run.audit.record("counts").values}
    if counts:
        parts.append(h("div", named_value("counts", counts), class_="facts"))
    findings = run.audit.records("findings")
    if not findings:
        parts.append(h("p", "The audit found nothing to object to."))

    def rank(finding: Record) -> int:
        severity = finding.text("severity") or ""
        return _SEVERITY.index(severity) if severity in _SEVERITY else len(_SEVERITY)

    parts += [_finding(finding) for finding in sorted(findings, key=rank)]
    return join(parts)


def _finding(finding: Record) -> Html:
    severity, count, of = finding.text("severity") or "", finding.number("count"), finding.number("of")
    size = f"{count:,.0f}" if count is not None else ""
    if count is not None and of:
        size += f" of {of:,.0f} ({show_share(count / of)})"
    if finding.text("split"):
        size += f", {finding.text('split')}"
    examples = finding.records("examples")
    items = [
        h(
            "li",
            h("code", example.text("where") or ""),
            " ",
            h("q", _short(example.text("text")), dir="auto") if example.text("text") is not None else None,
        )
        for example in examples[:EXAMPLES]
    ]
    left = len(examples) - EXAMPLES
    if left > 0:
        items.append(h("li", muted(f"and {left:,} more in audit.json")))
    return h(
        "article",
        h(
            "h4",
            h(
                "span",
                severity,
                class_=f"badge {'bad' if severity in _BAD else 'warn' if severity.startswith('warn') else 'open'}",
            ),
            " ",
            words(finding.text("name") or ""),
            " ",
            muted(size),
        ),
        h("p", prose(finding.text("what") or "")) if finding.text("what") else None,
        h("ul", *items, class_="examples") if items else None,
        h("p", h("strong", "Next step: "), prose(finding.text("fix") or "")) if finding.text("fix") else None,
        class_="finding",
    )


def _short(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= 160 else f"{text[:160]}… ({len(text) - 160:,} more characters)"


def _ledger(run: RunFiles) -> Html | None:
    """Characters in, left out, written by the conversion and out, for each file."""
    ledger = run.dataset.record("ledger") if run.dataset else None
    if run.dataset is None or not ledger:
        return None
    files = sorted(ledger.records("files"), key=lambda file: file.text("path") or "")
    rows: list[list[Child]] = []
    total_in = total_out = total_dropped = total_added = 0.0
    for file in files:
        dropped, added = dict(file.record("dropped").numbers()), dict(file.record("added").numbers())
        came, went = file.number("chars_in") or 0, file.number("chars_out") or 0
        total_in, total_out = total_in + came, total_out + went
        total_dropped, total_added = total_dropped + sum(dropped.values()), total_added + sum(added.values())
        sha = file.text("sha256") or ""
        rows.append(
            [
                join([file.text("path"), h("small", h("code", sha[:16], title=sha))]),
                f"{came:,.0f}",
                _reasons(added),
                _reasons(dropped),
                f"{went:,.0f}",
            ]
        )
    left = len(rows) - LEDGER
    if left > 0:
        rows[LEDGER:] = [[muted(f"and {left:,} more files, in dataset.json"), "", "", "", ""]]
    totals = (f"{total:,.0f}" for total in (total_in, total_added, total_dropped, total_out))
    rows.append([h("strong", f"{len(files):,} files"), *totals])
    shown: Html = table(
        ["File, SHA-256", "Visible characters in", "+ added", "− dropped", "= out"],
        rows,
        numbers=(1, 2, 3, 4),
        class_="ledger",
    )
    if len(files) > LEDGER_OPEN:
        sums = f"{total_in:,.0f} in + {total_added:,.0f} added − {total_dropped:,.0f} dropped = {total_out:,.0f} out"
        shown = h("details", h("summary", f"{len(files):,} files: {sums}"), shown)
    even = total_in + total_added == total_out + total_dropped
    said = run.dataset.flag("balanced")
    sentence = (
        "The sums agree: no character went missing unseen."
        if even and said is not False
        else "The sums do not agree: characters went missing or came from nowhere."
    )
    parts: list[Child] = [
        h("h3", "Ledger of characters", id="ledger"),
        h("p", h("span", sentence, class_="good" if even and said is not False else "bad")),
        shown,
    ]
    skipped = ledger.record("skipped")
    if skipped:
        entries = list(skipped.values.items())
        body_skipped: list[list[Child]] = [[code(str(path)), str(reason)] for path, reason in entries[:LEDGER]]
        if len(entries) > LEDGER:
            body_skipped.append([muted(f"and {len(entries) - LEDGER:,} more, in dataset.json"), ""])
        listed = table(["File not read", "Why"], body_skipped)
        parts.append(
            listed
            if len(entries) <= LEDGER_OPEN
            else h("details", h("summary", f"{len(entries):,} files were not read"), listed)
        )
    return join(parts)


def _reasons(counts: Mapping[str, float]) -> Html:
    if not counts:
        return muted("0")
    return join(
        [
            h("span", f"{sum(counts.values()):,.0f}"),
            h("small", "; ".join(f"{words(reason)} {count:,.0f}" for reason, count in counts.items())),
        ]
    )


def environment_section(run: RunFiles) -> Html:
    """The machine, versions, hashes, times, cost."""
    if run.manifest is None:
        return missing("Environment, hashes and cost were not recorded", "manifest.json", word="Missing.")
    manifest = run.manifest
    device, cost = manifest.record("device"), manifest.record("cost")
    started, ended = manifest.number("started"), manifest.number("ended")
    first: list[tuple[str, Child]] = [
        ("Version of afina", named_value("", manifest.values.get("afina"))),
        ("Python", named_value("", manifest.values.get("python"))),
        ("Platform", named_value("", manifest.values.get("platform"))),
        *((_DEVICE.get(key, f"Device, {words(key)}"), named_value(key, value)) for key, value in device.values.items()),
        ("Threads", named_value("", manifest.values.get("threads"))),
        ("Seed", named_value("", manifest.values.get("seed"))),
        ("Commit", code(manifest.text("commit"))),
        ("Started", _moment(started)),
        ("Ended", _moment(ended)),
        ("From start to end", _between(started, ended)),
    ]
    parts: list[Child] = [h("div", pairs(first), class_="facts"), h("h3", "Cost"), _cost(cost)]
    stages = list(manifest.record("seconds_by_stage").numbers())
    if stages:
        total = sum(seconds for _, seconds in stages)
        rows: list[list[Child]] = [
            [words(name), show_seconds(seconds), show_share(seconds / total) if total else ""]
            for name, seconds in stages
        ]
        parts.append(
            table(
                ["Stage", "Time", "Share"], [*rows, [h("strong", "together"), show_seconds(total), ""]], numbers=(1, 2)
            )
        )
    measured = manifest.record("measured")
    if measured:
        parts += [h("h3", "Measured"), h("div", named_value("measured", measured.values), class_="facts")]
    parts.append(h("h3", "Hashes and versions", id="hashes"))
    for key in ("base", "dataset", "adapter"):
        values = manifest.record(key)
        parts.append(h("h4", words(key).capitalize()))
        parts.append(named_value(key, values.values) if values else h("p", muted("not recorded")))
    inputs = manifest.records("inputs")
    if inputs:
        listed = named_value("inputs", [dict(item.values) for item in inputs])
        parts += [
            h("h4", "Input files"),
            listed
            if len(inputs) <= LEDGER_OPEN
            else h("details", h("summary", f"{len(inputs):,} input files"), listed),
        ]
    libraries = manifest.record("libraries")
    if libraries:
        rows = [[name, str(version)] for name, version in libraries.values.items()]
        parts += [h("h4", "Libraries"), table(["Library", "Version"], rows)]
    return join(parts)


def _between(started: float | None, ended: float | None) -> Child:
    """The time between two stamps of the clock, pauses between two starts included."""
    if started is None or ended is None:
        return muted("not recorded")
    return show_seconds(ended - started) if ended >= started else muted("not known: the clock was set back")


def _moment(seconds: float | None) -> Html:
    """Unix seconds as a date in UTC.

    >>> _moment(0), _moment(None) == muted("not recorded")
    ('1970-01-01 00:00:00 UTC', True)
    """
    if seconds is None:
        return muted("not recorded")
    return Html(datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))


def _cost(cost: Record) -> Html:
    if not cost:
        return h("p", muted("not recorded"))
    hours, price, money = cost.number("hours"), cost.number("price_per_hour"), cost.number("money")
    currency = cost.text("currency") or "US$"
    if hours is None or price is None or money is None:
        return named_value("cost", cost.values)
    if price == 0:
        return h(
            "p", f"{show_seconds(3600 * hours)} on a device without a price per hour: {show_money(money, currency)}."
        )
    return h(
        "p",
        f"{show_seconds(3600 * hours)} × {show_money(price, currency)} per hour = ",
        h("strong", show_money(money, currency)),
        ".",
    )


def recipe_section(run: RunFiles) -> Html:
    """The resolved recipe, folded."""
    if run.recipe_text is None:
        return missing("The resolved recipe was not kept", "recipe.yaml", word="Missing.")
    return join(
        [
            note(
                "Every default is written out: the same file, given to ",
                h("code", "afina run"),
                ", asks for the same run.",
            ),
            h("details", h("summary", "recipe.yaml"), h("pre", run.recipe_text)),
        ]
    )
