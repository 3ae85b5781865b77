"""A dataset's summary and an audit as lines for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afina.dataset.audit.audit import Audit
from afina.sources.unread import describe_unread
from afina.text.splits import describe_splits
from afina.units import show_count, show_money

NO_QUESTION = "question: "
"""What the reasons of facts that made no question begin with."""
REASONS_SHOWN = 3
MARKS = {"fatal": "FATAL  ", "warning": "warning", "note": "note   "}


def describe_summary(summary: Mapping[str, Any]) -> str:
    """How many examples a dataset holds, what was left out and why, and whether the characters add up."""
    lines = []
    for split in ("train", "validation", "test"):
        if split not in summary:
            continue
        counts = summary[split]
        lines.append(
            f"{split:<11}{counts['examples']:>8} examples: {counts['conversations']} conversations, "
            f"{counts['texts']} texts, {show_count(counts['characters'])} characters without spaces"
        )
    made = summary.get("made", {})
    if made.get("examples") or made.get("left_out"):
        lines.append(
            f"{'made':<11}{made['examples']:>8} examples of them: questions about {made['facts']} facts, "
            f"{show_count(made['characters'])} characters without spaces added; {made['left_out']} facts left out"
        )
    files = summary["ledger"]["files"]
    lines.append(f"{'sources':<11}{len(files):>8} files read")
    if skipped := summary["ledger"]["skipped"]:
        lines.append(describe_unread(skipped, len(files)))
    lines += [
        f"{'again':<11}{times:>8} x {path} and what is read with it: its process was killed"
        for path, times in summary.get("read_again", {}).items()
    ]
    if "splits" in summary:
        counted = {split: summary[split]["examples"] for split in ("train", "validation", "test") if split in summary}
        lines.append(describe_splits(summary["splits"], counted))
        if "test" in summary:
            lines.append("the test split is left out of training, and looked at for leakage")
    for reason, count in summary["dropped"].items():
        if reason.startswith(NO_QUESTION):
            lines.append(f"{'not asked':<11}{count:>8} facts: {reason.removeprefix(NO_QUESTION)}")
        else:
            lines.append(f"{'dropped':<11}{count:>8} examples: {reason}")
    lines += [f"{'cut out':<11}{count:>8} lines or values: {reason}" for reason, count in summary["cut"].items()]
    lines += [f"{'personal':<11}{count:>8} x {kind}" for kind, count in summary["personal_data"].items()]
    if canaries := summary.get("canaries"):
        times = ", ".join(map(str, canaries["repeats"]))
        lines.append(
            f"{'canaries':<11}{canaries['examples']:>8} examples of them: invented secrets, seen {times} times"
        )
    if answers := summary.get("answers"):
        told = f"{'answers':<11}{answers['examples']:>8} examples of them learn another answer than their row's"
        unused = f"; {answers['unused']} of {answers['rows']} answers belong to no training example"
        lines.append(told + (unused if answers["unused"] else ""))
    if "teacher" in summary:
        lines += describe_teacher(summary["teacher"])
    lines += describe_prose(summary)
    left_out: dict[str, int] = {}
    for file in files:
        for reason, count in file["dropped"].items():
            left_out[reason] = left_out.get(reason, 0) + count
    lines += [f"{'left out':<11}{show_count(count):>8} characters: {reason}" for reason, count in left_out.items()]
    for language, results in summary.get("code", {}).items():
        lines.append(f"{'code':<11}{sum(results.values()):>8} blocks of {language}: " + _results(results))
    lines += describe_mix(summary.get("mix", []))
    lines.append("every character of the sources is accounted for" if summary["balanced"] else "DOES NOT ADD UP")
    return "\n".join(lines)


def describe_mix(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model sees in one epoch, a line per source, where there is more than one kind of it.

    >>> row = {"source": "a.md", "what": "own", "examples": 2, "seen": 4, "characters": 900, "share": 0.75}
    >>> print("\\n".join(describe_mix([row, {**row, "what": "replay", "share": 0.25}])))
    seen in an epoch    examples       seen   characters    share
      a.md                     2          4          900   75.0 %
      a.md (replay)            2          4          900   25.0 %
    """
    if len(table) < 2:
        return []
    names = [row["source"] + (f" ({row['what']})" if row["what"] != "own" else "") for row in table]
    wide = max(18, *(len(name) + 2 for name in names))
    lines = [f"{'seen in an epoch':<{wide}}{'examples':>10}{'seen':>11}{'characters':>13}{'share':>9}"]
    for name, row in zip(names, table, strict=True):
        counts = f"{row['examples']:>10}{row['seen']:>11}{row['characters']:>13}"
        lines.append(f"{'  ' + name:<{wide}}{counts}{100 * row['share']:>7.1f} %")
    return lines


def _results(results: Mapping[str, int]) -> str:
    """
    >>> _results({"ok": 30, "lacks_dependency": 5})
    '30 ok, 5 lacks_dependency'
    """
    return ", ".join(f"{count} {result}" for result, count in results.items())


def describe_teacher(taught: Mapping[str, Any]) -> list[str]:
    """What a teacher was asked and what was kept of its answers."""
    questions = taught["questions"]
    asked = taught["sections"] - taught["too_short"] - taught["repeated"]
    lines = [
        f"{'teacher':<11}{taught['examples']:>8} examples of {questions['kept']} of {questions['given']} questions by "
        f"{taught['model']}: {taught['answered']} of {asked} sections answered, "
        f"{show_count(taught['tokens'])} tokens, {show_money(taught['money'], taught['currency'])}"
    ]
    if taught["failed"]:
        lines.append(f"{'':<11}{len(taught['failed']):>8} sections without an answer, see dataset.json")
    if taught["not_asked"]:
        lines.append(f"{'':<11}{len(taught['not_asked']):>8} sections not asked about: {taught['not_asked_because']}")
    return lines


def describe_prose(summary: Mapping[str, Any]) -> list[str]:
    """How many questions about the texts can be marked, and what there is none of.

    >>> prose = {"questions": {"cloze": 3, "list": 0}, "held_out": {"cloze": 1}, "sections": 5, "asked": 2,
    ...          "none": {"no rare term in a sentence": 3}, "missing": []}
    >>> print("\\n".join(describe_prose({"prose": prose, "probes": {"seen": 0, "unseen": 0}})))
    prose             3 questions for measuring, about 2 of 5 sections: 3 cloze; 1 about texts that are not trained
                      3 sections give no question: no rare term in a sentence (3)
    probes            0: no fact that is trained as a question has a phrasing held out
    """
    lines = []
    if prose := summary.get("prose"):
        counts = prose["questions"]
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "none"
        lines.append(
            f"{'prose':<11}{sum(counts.values()):>8} questions for measuring, about {prose['asked']} of "
            f"{prose['sections']} sections: {kinds}; {sum(prose['held_out'].values())} about texts that are not trained"
        )
        if none := prose["none"]:
            shown = ", ".join(f"{reason} ({count})" for reason, count in list(none.items())[:REASONS_SHOWN])
            more = f" and {len(none) - REASONS_SHOWN} other reasons" if len(none) > REASONS_SHOWN else ""
            lines.append(f"{'':<11}{sum(none.values()):>8} sections give no question: {shown}{more}")
        lines += [f"{'':<11}{'!':>8} {missing}" for missing in prose["missing"]]
    if "probes" in summary and not summary["probes"]["unseen"]:
        lines.append(f"{'probes':<11}{0:>8}: no fact that is trained as a question has a phrasing held out")
    return lines


def describe_audit(audit: Audit) -> str:
    """Every finding with its count, its first places and what to do."""
    lines = [f"{audit.train} training and {audit.validation} held-out examples checked", *audit.said]
    for finding in audit.findings:
        lines.append(f"\n{MARKS[finding.severity]} {finding.name}: {finding.count} of {finding.of} ({finding.split})")
        lines.append(f"        {finding.what}")
        for example in finding.examples:
            said = [line for line in example.get("lines", "").splitlines() if line.strip()]
            lines.append(f"        {example['where']}: {'' if said else example['text']}".rstrip())
            lines += [f"            {line}" for line in said]
        lines.append(f"        -> {finding.fix}")
    fatal = len(audit.fatal())
    worst = f"{fatal} of them fatal" if fatal else "none fatal"
    found = f"{len(audit.findings)} finding{'s' * (len(audit.findings) != 1)}"
    lines.append(f"\n{found}, {worst}" if audit.findings else "\nnothing found")
    return "\n".join(lines)
