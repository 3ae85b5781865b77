"""Answers of base and adapter side by side, and which of them turned right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from afina.record import Record
from afina.report.markup import Child, Html, h, join, missing, note, table, text_block, words
from afina.report.read import RunFiles

SAMPLES = 12
CHANGES = 6


def answer_section(run: RunFiles) -> Html:
    """Base and adapter side by side: what is wrong first, then what came right, then the samples."""
    parts: list[Child] = [h("h3", "What changed in the probes", id="changed")]
    if run.predictions is None:
        parts.append(missing("No answers to probes were kept", "predictions.jsonl"))
    else:
        parts.append(_change_table(run.predictions))
        for title, wanted, class_ in _KINDS:
            found = [row for row in run.predictions if wanted(row)]
            if not found and class_ == "warn":
                continue
            parts.append(h("h4", f"{title}: {len(found):,}", class_=class_))
            if len(found) > CHANGES:
                parts.append(
                    note(
                        f"{CHANGES} of {len(found):,}, from each probe in turn; all are in ",
                        h("code", "predictions.jsonl"),
                        ".",
                    )
                )
            parts += [_answer(row) for row in _in_turn(found)[:CHANGES]]
    parts.append(h("h3", "Held-out questions", id="samples"))
    if run.samples is None:
        parts.append(missing("No held-out question was answered", "samples.jsonl"))
    elif not run.samples:
        parts.append(h("p", "No samples were asked for.", class_="absent"))
    else:
        parts.append(note(f"{_shown(len(run.samples), SAMPLES)} held-out questions; what is wrong comes first."))
        worst_first = sorted(run.samples, key=lambda row: (not row.texts("adapter_flaws"), bool(_right(row)[1])))
        parts += [_answer(sample) for sample in worst_first[:SAMPLES]]
    return join(parts)


def _right(row: Record) -> tuple[bool | None, bool | None]:
    return row.flag("base_correct"), row.flag("adapter_correct")


_KINDS: tuple[tuple[str, Callable[[Record], bool], str], ...] = (
    ("Newly wrong", lambda row: _right(row) == (True, False), "bad"),
    ("Breaks a guardrail", lambda row: bool(row.texts("adapter_flaws")), "warn"),
    ("Claims to know", lambda row: row.text("adapter_is") == "claims to know", "warn"),
    ("Made up", lambda row: row.text("adapter_is") == "made up", "warn"),
    ("Wrong before and after", lambda row: _right(row) == (False, False), "warn"),
    ("Newly right", lambda row: _right(row) == (False, True), "good"),
)
"""What the probes' answers are, the worst first; those in the middle stand there only where there are some."""


def _in_turn(rows: Sequence[Record]) -> list[Record]:
    """The first of each probe, then the second of each, and so on."""
    seen: dict[tuple[str | None, str | None], int] = {}
    places = []
    for row in rows:
        key = (row.text("probe"), row.text("role"))
        seen[key] = seen.get(key, 0) + 1
        places.append(seen[key])
    return [row for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]


def _shown(total: int, limit: int) -> str:
    return f"The first {limit} of {total:,}" if total > limit else f"All {total:,}"


def _answer(row: Record) -> Html:
    origin = row.record("from")
    path, line = origin.text("path"), origin.number("line")
    probe, role = row.text("probe"), row.text("role")
    about = (
        f"{path}:{line:.0f}"
        if path and line is not None
        else path or (f"{probe} ({role})" if probe and probe != role else probe or role)
    )

    def mark(side: str) -> str:
        right = row.flag(f"{side}_correct")
        said = row.text(f"{side}_is") or ("" if right is None else "right" if right else "wrong")
        marks = [mark for mark in (said, *(words(each) for each in row.texts(f"{side}_flaws"))) if mark]
        if row.flag(f"{side}_stopped") is False:
            marks.append("did not stop")
        return "".join(f" · {mark}" for mark in marks)

    def block(title: str, key: str, class_: str = "") -> Html:
        return h("div", h("h5", title), text_block(row.text(key), class_=class_))

    return h(
        "article",
        h("div", h("code", about), class_="origin") if about else None,
        h("div", block("Prompt", "prompt"), block("Reference", "reference"), class_="two asked"),
        h(
            "div",
            block("Base" + mark("base"), "base", "before"),
            block("Adapter" + mark("adapter"), "adapter", "after"),
            class_="two",
        ),
        class_="answer",
    )


def _change_table(rows: Sequence[Record]) -> Html:
    """How many answers stayed and turned, per probe."""
    kinds: dict[str, Callable[[bool | None, bool | None], bool]] = {
        "right before and after": lambda base, adapter: base is True and adapter is True,
        "newly right": lambda base, adapter: base is False and adapter is True,
        "newly wrong": lambda base, adapter: base is True and adapter is False,
        "wrong before and after": lambda base, adapter: base is False and adapter is False,
        "not judged": lambda base, adapter: base is None or adapter is None,
    }
    probes: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        probes.setdefault((row.text("probe") or "", row.text("role") or ""), []).append(row)
    body: list[list[Child]] = []
    for (name, role), answers in probes.items():
        flags = [(row.flag("base_correct"), row.flag("adapter_correct")) for row in answers]
        counts = [sum(is_kind(*pair) for pair in flags) for is_kind in kinds.values()]
        body.append([name or role, role, *(f"{count:,}" for count in counts), f"{len(answers):,}"])
    if not any(line[6] != "0" for line in body):
        body = [[*line[:6], line[7]] for line in body]
        head = ["Probe", "Role", *list(kinds)[:4], "answers"]
    else:
        head = ["Probe", "Role", *kinds, "answers"]
    return table(head, body, numbers=range(2, len(head)))
