"""Say what is wrong with a dataset, or with files that may become one, before anything is trained.

An audit never stops at what it finds: it counts, shows up to five places of each finding, and
says what to do. What is **fatal** stops a run unless the recipe's `dataset.accept` names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from afina.dataset.audit.between_examples import Between
from afina.dataset.audit.chunks import look_along
from afina.dataset.audit.one_example import excerpt
from afina.dataset.audit.read_files import AuditReading, RefusedRows, find_splits, read_files
from afina.dataset.audit.row_table import RowTable
from afina.dataset.audit.rules import RULES, Finding, make_finding, worst_first
from afina.dataset.audit.split_audit import EXAMPLES_SHOWN, LearnedOrHeldOut, SplitAudit
from afina.dataset.audit.token_audit import TokenAudit, TokenView
from afina.errors import Problem, RecipeError
from afina.recipe import Recipe, nearest
from afina.record import Record, read_rows
from afina.run import Progress, no_progress, read_mapping
from afina.sandbox.code_check import check_blocks
from afina.sources.rows import large_columns
from afina.sources.unread import describe_unread
from afina.text.example import Example, read_examples
from afina.text.splits import describe_splits


@dataclass(frozen=True, slots=True)
class Audit:
    """All findings, the worst first, and what was looked at."""

    findings: list[Finding]
    train: int
    validation: int
    texts: int
    conversations: int
    said: tuple[str, ...] = ()
    """What stands above the findings: which splits the files are, and how many of them were not read."""

    def fatal(self, accepted: Sequence[str] = ()) -> list[Finding]:
        """The findings that stop a run, without those whose names are accepted."""
        return [item for item in self.findings if item.severity == "fatal" and item.name not in accepted]

    def as_json(self) -> dict[str, Any]:
        """The content of ``audit.json``."""
        return asdict(self)


def audit_dataset(folder: Path, recipe: Recipe, tokens: TokenView | None = None) -> Audit:
    """Audit a dataset folder that :func:`~afina.dataset.build.build.build_dataset` wrote.

    Args:
        folder: of the dataset.
        recipe: that it was built by.
        tokens: a base's tokenizer; without one nothing is said about tokens.

    Raises:
        RecipeError: when `dataset.accept` names no finding, or the folder is no dataset folder.
        DataError: for a damaged row.
    """
    check_accepted(recipe.dataset.accept)
    files = [folder / "train.jsonl", folder / "validation.jsonl", folder / "dataset.json"]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise RecipeError(
            f"no dataset folder: {', '.join(missing)} missing", "`afina data build` writes one", str(folder)
        )
    extra = []
    summary = Record(read_mapping(files[2], "dropped", "cut"), str(files[2]))
    dropped, cut = ({reason: int(n) for reason, n in summary.record(key).numbers()} for key in ("dropped", "cut"))
    if cut:
        rows = [{"where": str(folder / "dropped.jsonl"), "text": f"{reason}: {n}"} for reason, n in cut.items()]
        extra.append(make_finding("cut_out", sum(cut.values()), sum(cut.values()), rows[:EXAMPLES_SHOWN]))
    if dropped:
        rows = [{"where": str(folder / "dropped.jsonl"), "text": f"{reason}: {n}"} for reason, n in dropped.items()]
        extra.append(make_finding("left_out", sum(dropped.values()), sum(dropped.values()), rows[:EXAMPLES_SHOWN]))
    columns = {}
    for entry in summary.record("ledger").records("files"):
        if shares := large_columns(entry.number("chars_in") or 0, dict(entry.record("dropped").numbers())):
            columns[entry.required_text("path")] = shares
    extra += left_out_columns(columns)
    # Duplicates that the recipe keeps on purpose are told, but do not stop it.
    warn_only = ["exact_duplicate"] if recipe.dataset.on_duplicate == "keep" else []
    if (folder / "code.jsonl").exists():
        checked = read_rows(folder / "code.jsonl") or []
        rows = [{key: each.text(key) or "" for key in ("result", "where", "lines")} for each in checked]
        if recipe.dataset.on_wrong_code == "drop":  # those are left out, and told as that
            rows = [row for row in rows if row["result"] != "wrong"]
        extra += code_findings(rows)
    settings = recipe.dataset
    test = folder / "test.jsonl"
    return _audit(
        read_examples(files[0]),
        chain(read_examples(files[1]), read_examples(test) if test.exists() else ()),
        extra,
        warn_only,
        tokens,
        settings.language,
        settings.near_duplicates.threshold,
    )


def code_findings(rows: Sequence[Mapping[str, str]]) -> list[Finding]:
    """One finding per result of :mod:`~afina.sandbox.code_check` that occurs, of all blocks that were checked."""
    findings = []
    for result in ("wrong", "timeout", "lacks_dependency", "fragment", "ok"):
        own = [row for row in rows if row["result"] == result]
        if own:
            shown = [
                {"where": row["where"], "text": excerpt(row.get("lines", "")), "lines": row.get("lines", "")}
                for row in own[:EXAMPLES_SHOWN]
            ]
            name = "code_checked" if result == "ok" else f"code_{result}"
            findings.append(make_finding(name, len(own), len(rows), [] if result == "ok" else shown))
    return findings


def audit_files(
    paths: Sequence[Path],
    validation: Path | None = None,
    progress: Progress = no_progress,
    *,
    tokens: TokenView | None = None,
    check_code: Mapping[str, str] | None = None,
    workers: int | None = None,
) -> Audit:
    """Audit any files or folders, as they are: what would stop a build becomes a finding.

    Args:
        paths: what would be trained on.
        validation: a file or folder that is held out, looked at for leakage. Without one it is what the names of files
            tell (:mod:`afina.text.splits`): `valid` and `test` beside a `train`.
        progress: is told what is being read.
        tokens: a base's tokenizer; without one nothing is said about tokens.
        check_code: language -> compiler, as in the recipe.
        workers: processes, see :func:`~afina.dataset.audit.chunks.look_along`.

    Raises:
        RecipeError: for a path that does not exist, or a compiler that is not here.
    """
    absent = [path for path in (*paths, *([validation] if validation else [])) if not path.exists()]
    if absent:
        raise RecipeError(
            problems=[Problem("there is no such file or folder", "check the path", str(p)) for p in absent]
        )
    reading = AuditReading(languages=frozenset(check_code or ()))
    splits = {} if validation else find_splits(paths)
    apart = {path for path, split in splits.items() if split != "train"}
    train = (example for path in paths for example in read_files(path, reading, progress, without=apart))
    held_out = read_files(validation, reading, progress) if validation else iter(())
    if apart:
        held_out = (example for path in paths for example in read_files(path, reading, progress, only=apart))
    audit = _audit(train, held_out, [], [], tokens, workers=workers)
    extra = code_findings([item.as_json() for item in check_blocks(reading.blocks, check_code or {}, progress)])
    for item in reading.problems:
        reading.refused.setdefault("unreadable", RefusedRows()).add(item.where, excerpt(item.what))
    extra += refused_rows(reading, audit)
    if inverted := reading.inverted.count:
        extra.append(make_finding("scores_inverted", inverted, audit.train + audit.validation, reading.inverted.shown))
    if reading.lines:
        extra.append(make_finding("line_loader", reading.blank_lines, reading.lines, reading.texts[:EXAMPLES_SHOWN]))
    if reading.skipped:
        shown = [{"where": path, "text": why} for path, why in list(reading.skipped.items())[:EXAMPLES_SHOWN]]
        extra.append(make_finding("skipped_file", len(reading.skipped), len(reading.skipped) + reading.files, shown))
    counted: Counter[str] = Counter()
    for path, split in splits.items():
        counted[split] += reading.examples[path]
    said = [describe_splits(splits, counted)] if splits else []
    said += [describe_unread(reading.skipped, reading.files)] if reading.skipped else []
    return replace(audit, findings=worst_first([*audit.findings, *extra]), said=tuple(said))


def refused_rows(reading: AuditReading, audit: Audit) -> Iterator[Finding]:
    """One finding per kind of row that a build would stop at; and the columns that it would leave out."""
    of = audit.train + audit.validation + sum(rows.count for rows in reading.refused.values())
    for name, rows in reading.refused.items():
        kinds = "; ".join(f"{count} x {what}" for what, count in rows.kinds.most_common(3))
        yield make_finding(name, rows.count, of, rows.shown, what=f"{RULES[name].what}: {kinds}")
    yield from left_out_columns(reading.columns)


def left_out_columns(columns: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """The columns that are not used and hold much of a file's text: path -> column -> share."""
    shown = [
        {"where": path, "text": f"`{name}` holds {share:.0%} of the file's characters"}
        for path, shares in columns.items()
        for name, share in shares.items()
    ]
    if shown:
        yield make_finding("large_column_left_out", len(shown), len(shown), shown[:EXAMPLES_SHOWN])


def check_accepted(names: Sequence[str]) -> None:
    """Refuse names in `dataset.accept` that no finding has.

    >>> check_accepted(["leakage"])
    """
    problems = []
    for name in names:
        if name not in RULES:
            guess = nearest(name, list(RULES))
            fix = f"did you mean `{guess}`?" if guess else "known: " + ", ".join(RULES)
            problems.append(Problem(f"no finding is called {name!r}", fix, "dataset.accept"))
    if problems:
        raise RecipeError(problems=problems)


def _audit(
    train: Iterable[Example],
    validation: Iterable[Example],
    extra: Sequence[Finding],
    warn_only: Sequence[str],
    tokens: TokenView | None = None,
    language: str = "",
    threshold: float = 0.8,
    workers: int | None = None,
) -> Audit:
    table, learned, held_out = RowTable(), SplitAudit("train", language), SplitAudit("validation", language)
    of_learned, of_held_out = (TokenAudit(tokens, held_out=later) if tokens else None for later in (False, True))
    splits: list[tuple[LearnedOrHeldOut, Iterable[Example]]] = [
        ("train", _counted(train, of_learned)),
        ("validation", _counted(validation, of_held_out)),
    ]
    for seen, rows in look_along(splits, language, workers):
        (learned if seen.split == "train" else held_out).merge(seen)
        table.append(rows)
    between = Between(table, learned.examples, threshold)
    findings = [
        *learned.findings([*between.within("train"), between.near_duplicates()], warn_only, of_learned),
        *held_out.findings([*between.within("validation"), *between.leaks()], warn_only, of_held_out),
        *extra,
    ]
    every, conversations = learned.examples + held_out.examples, learned.conversations + held_out.conversations
    return Audit(worst_first(findings), learned.examples, held_out.examples, every - conversations, conversations)


def _counted(examples: Iterable[Example], tokens: TokenAudit | None) -> Iterator[Example]:
    """The same examples, each shown to a base's tokenizer, which stays in this process."""
    for example in examples:
        if tokens:
            tokens.add(example)
        yield example
