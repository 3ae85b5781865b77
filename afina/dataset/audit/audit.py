"""Say what is wrong with a dataset, or with files that may become one, before anything is trained.

An audit never stops at what it finds: it counts, shows up to five places of each finding, and
says what to do. What is **fatal** stops a run unless the recipe's `dataset.accept` names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

from afina.dataset.audit.between_examples import (
    Boilerplate,
    Contradictions,
    Duplicates,
    LanguageMix,
    Leakage,
    LengthBias,
    Near,
)
from afina.dataset.audit.one_example import CHECKS, Spot, excerpt, whole
from afina.dataset.audit.read_files import AuditReading, find_splits, read_files
from afina.dataset.audit.token_audit import TokenAudit, TokenView
from afina.dataset.audit.turn_checks import TURN_CHECKS, Thinking
from afina.errors import Problem, RecipeError
from afina.recipe import Recipe, nearest
from afina.record import Record, read_rows
from afina.run import Progress, no_progress, read_mapping
from afina.sandbox.code_check import check_blocks
from afina.sources.rows import large_columns
from afina.sources.splits import describe_splits
from afina.sources.unread import describe_unread
from afina.text.example import Example, read_examples
from afina.text.personal_data import find_personal_data

EXAMPLES_SHOWN = 5
FEWEST_EXAMPLES = 10
MIXED_ABOVE = 0.10
"""Share of examples in another language from which on it is a warning."""

Severity = Literal["fatal", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of flaw: how often, where, and what to do about it."""

    name: str
    severity: Severity
    count: int
    of: int
    """What `count` is a part of, mostly the examples of the split."""
    examples: list[dict[str, str]]
    """Up to five, each with `where` (``file:line``) and `text` (at most 160 characters)."""
    what: str
    fix: str
    split: Literal["train", "validation"] = "train"


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


@dataclass(frozen=True, slots=True)
class Rule:
    """What a finding is called in words, what to do, and from which share on it is fatal."""

    what: str
    fix: str
    fatal_above: float | None = None
    """Share of the split above which it is fatal; None: never."""
    note: bool = False


RULES: dict[str, Rule] = {
    "unreadable": Rule("files or rows that cannot be read", "fix them; the place is named", 0.0),
    "unlearned_field": Rule(
        "rows with a field that decides what is learned and that training does not know; a build stops at them",
        "convert them; or on the source `leave_out: [NAME]`; or `dataset.on_unreadable: drop` (left out, counted)",
        0.0,
    ),
    "broken_call": Rule(
        "rows whose calls are no calls, or have arguments that are no JSON object; a build stops at them",
        "fix them, or set `dataset.on_unreadable: drop` (left out, counted)",
        0.0,
    ),
    "large_column_left_out": Rule(
        "columns that play no part and hold much of a file's text",
        "nothing to do where it is meant; else name the column a part of the row, by `columns` on the source",
    ),
    "think_unbalanced": Rule(
        "answers that open a thought and never close it, or close one that they never opened",
        "fix them, or leave these rows out: a model learns to think without end, or to stop thinking it never began",
        0.05,
    ),
    "think_on_some": Rule(
        "answers that do not think, among others that do: the model learns to do either, by chance",
        "give all answers a thought, or none; or train two models",
    ),
    "stringified_null": Rule(
        "questions or answers that are the word nan, None or null: an empty cell that was written as a text",
        "write the table again with empty cells left empty (in pandas `fillna('')`), or leave these rows out",
        0.05,
    ),
    "end_mark_in_answer": Rule(
        "answers that end with an end token written as a text: it is learned as words, before the real one",
        "take it out: afina ends each answer itself",
        0.05,
    ),
    "tool_unknown": Rule(
        "rows that call a function which they do not define", "add it to the row's `tools`, or fix the name", 0.05
    ),
    "tool_missing_argument": Rule(
        "rows with a call that lacks an argument which its function requires", "add it, or fix `required`", 0.05
    ),
    "tool_wrong_argument": Rule(
        "rows with a call whose arguments are not as their function says", "fix the call, or the schema", 0.05
    ),
    "tool_result_without_call": Rule(
        "rows with a result that answers no call", "add the call before it, or take the result out"
    ),
    "tool_call_without_result": Rule(
        "rows with a call that gets no result although the conversation goes on",
        "add the result as a turn of the role tool",
    ),
    "tool_id_twice": Rule("rows in which two calls have one id", "give each call an id of its own"),
    "tool_definition": Rule(
        "rows that define a function without a name or without parameters as a schema",
        'write {"name", "description", "parameters": {"type": "object", "properties": {...}, "required": [...]}}',
    ),
    "empty_prompt": Rule(
        "conversations without a prompt: their answers are learned as answers to nothing",
        "fix them, or set `dataset.on_empty_prompt: drop` or `text`",
        0.01,
    ),
    "empty_answer": Rule(
        "conversations without an answer: they teach to stop at once",
        "fix them, or set `dataset.on_empty_answer: drop`",
        0.01,
    ),
    "same_answers": Rule(
        "preferences whose better and worse answers are the same: they teach nothing",
        "leave these rows out, or fix one of the answers",
        0.01,
    ),
    "length_bias": Rule(
        "better answers",
        "judge answers of like length, or expect longer (or shorter) ones: a model learns the length first",
        note=True,
    ),
    "exact_duplicate": Rule(
        "rows that stand there already (white space does not matter)",
        "`dataset.on_duplicate: drop` keeps the first of each",
        0.03,
    ),
    "leakage": Rule(
        "held-out examples that stand in train too: their loss says nothing",
        "remove them from one side, or let afina split: it holds out by content",
        0.01,
    ),
    "near_duplicate": Rule(
        "examples that are almost the same as another (MinHash of their runs of five words)",
        "`dataset.near_duplicates.on: drop` keeps the longest of each cluster",
    ),
    "near_leakage": Rule(
        "held-out examples that are almost the same as one in train: their loss says little",
        "`dataset.near_duplicates.on: drop`, or remove them from one side",
    ),
    "personal_data": Rule(
        "examples with personal data or secrets (shown masked)",
        "`dataset.personal_data: mask` or `drop`; secrets that were public must be replaced where they are used",
    ),
    "contradictory_answers": Rule(
        "conversations whose prompt has two or more different answers, or one pair of answers ordered both ways",
        "keep one answer, or make the prompts differ",
        0.05,
    ),
    "boilerplate_answer": Rule(
        "conversations whose answer is given to five or more different prompts",
        "write answers that answer, or leave these rows out",
        0.10,
    ),
    "fragment": Rule(
        "prose that starts in the middle of a sentence or stops before its end",
        "cut at sentence ends, or give whole documents and let afina cut",
    ),
    "encoding_noise": Rule(
        "lost or wrongly decoded characters",
        "decode the original again with its `encoding`",
        0.05,
    ),
    "ocr_noise": Rule(
        "what reading a scan leaves behind: digits or marks inside words, letters set apart, words broken at line ends",
        "scan it again, or fix the text; it is learned as it stands",
        0.10,
    ),
    "control_characters": Rule("characters that nobody sees", "remove them from the source"),
    "placeholder": Rule("answers or texts that were never written", "write them, or leave these rows out", 0.10),
    "chat_markers": Rule(
        "marks of a chat format, or JSON, inside the text: they are learned as words, and in a plain text the "
        "questions are learned like the answers",
        "take them out of the texts: afina writes the marks itself, around `messages` or `prompt` and `completion`",
        0.05,
    ),
    "template_leftover": Rule("marks of a template that nobody filled in", "render the pages first"),
    "unbalanced_fence": Rule(
        "code blocks that are opened and never closed: all that follows is learned as code",
        "close the fence (```) where the code ends",
    ),
    "language_mix": Rule(
        "examples in another language than most",
        "nothing to do where it is meant (translations); else leave them out",
    ),
    "code_wrong": Rule(
        "code that its compiler refuses: the model would learn to write it so",
        "fix it, or set `dataset.on_wrong_code: drop` (left out, counted)",
        0.25,
    ),
    "code_timeout": Rule("code whose compiler did not answer within its limits", "look at it: nothing is proven"),
    "code_lacks_dependency": Rule(
        "code that lacks nothing but a module, header or library", "nothing to do: it cannot be built here", note=True
    ),
    "code_fragment": Rule("snippets that are no whole file: nothing is proven about them", "nothing to do", note=True),
    "code_checked": Rule("code that its compiler takes", "nothing to do", note=True),
    "stop_not_trained": Rule(
        "conversations that the chat template does not end with a token to stop at",
        "set `chat.template: chatml`, or a Jinja file that ends each answer with the tokenizer's end token",
        0.0,
    ),
    "not_rendered": Rule(
        "conversations that the chat template cannot render for training",
        "set `chat.template: chatml`, or a Jinja file that gives every turn back word for word",
        0.0,
    ),
    "thoughts_not_learned": Rule(
        "thoughts that the chat template leaves out",
        "start from a base whose template has a place for them, set `chat.turns: each`, or leave them out of the rows",
    ),
    "row_for_each_answer": Rule(
        "conversations that become a row for each answer",
        "nothing to do; `chat.turns` chooses otherwise",
        note=True,
    ),
    "template_system": Rule(
        "conversations without a system text, to which the chat template gives its own",
        "nothing to do; `chat.system` sets another",
        note=True,
    ),
    "over_length": Rule(
        "examples longer than the limit",
        "nothing to do: plain texts are split without loss",
    ),
    "end_token_missing": Rule("rows that do not end with an end token", "end each answer in the chat template", 0.0),
    "end_token_doubled": Rule(
        "rows that end with two end tokens: the chat template writes both", "write one in the chat template", 0.05
    ),
    "bos_doubled": Rule(
        "rows that begin with two begin tokens", "take it out of the chat template or of the data", 0.05
    ),
    "bos_missing": Rule(
        "rows without the begin token that the tokenizer puts before a text",
        "nothing to do where the chat template is the base's own; else write it there",
        note=True,
    ),
    "special_token_in_text": Rule(
        "marks of the base inside the text: they are learned as words, and end or begin no turn",
        "take them out of the texts: afina writes the marks itself",
        0.05,
    ),
    "plain_turn_mark": Rule(
        "conversations that hold what the chat template writes between turns; the base knows it as text only, and "
        "cannot tell their turns from real ones",
        "take it out, or name a Jinja file as `chat.template` whose marks are tokens of this base",
    ),
    "too_little_data": Rule(
        "too little data for what is trained", "give more data, or a smaller `adapter.rank`; expect memorization"
    ),
    "padding": Rule("padding", "nothing to do; a larger `train.batch_tokens` sorts better", note=True),
    "token_lengths": Rule("lengths in tokens", "nothing to do", note=True),
    "too_few_examples": Rule(f"fewer than {FEWEST_EXAMPLES} examples to train on", "give more data, or expect little"),
    "line_loader": Rule(
        "a loader that takes each line for an example would tear these texts apart, and learn their blank lines",
        "nothing to do: afina reads whole documents",
        note=True,
    ),
    "skipped_file": Rule("files that were not read", "name their `kind`, or leave them out with `exclude`", note=True),
    "cut_out": Rule(
        "lines cut out or mended by cleaning, values masked", "`dropped.jsonl` holds each with its reason", note=True
    ),
    "left_out": Rule("left out while the dataset was built", "`dropped.jsonl` holds each with its reason", note=True),
}


STOPS_THE_TOKENS = frozenset({"not_rendered", "stop_not_trained", "over_length"})
"""Findings that no recipe can accept: rows like these have no tokens to learn."""


class _Across(Protocol):
    @property
    def count(self) -> int: ...

    def add(self, example: Example) -> bool: ...


@dataclass
class _Tally:
    count: int = 0
    shown: list[dict[str, str]] = field(default_factory=list)

    def hit(self, where: str, text: str) -> None:
        self.count += 1
        if len(self.shown) < EXAMPLES_SHOWN:
            self.shown.append({"where": where, "text": text})


class _SplitAudit:
    """Every check over the examples of one split."""

    def __init__(
        self,
        split: Literal["train", "validation"],
        leakage: Leakage,
        near: Near,
        tokens: TokenView | None = None,
        expected: str = "",
    ) -> None:
        self.split, self.leakage, self.near = split, leakage, near
        self.personal_data: Counter[str] = Counter()
        self.tokens = TokenAudit(tokens, held_out=split == "validation") if tokens else None
        self.languages = LanguageMix(expected)
        self.lengths = LengthBias()
        self.thinking = Thinking()
        self.shown_in: dict[str, list[dict[str, str]]] = {}
        self.examples = self.conversations = 0
        self.tallies = {name: _Tally() for name in RULES}
        self.across: dict[str, _Across] = {
            "exact_duplicate": Duplicates(),
            "contradictory_answers": Contradictions(),
            "boilerplate_answer": Boilerplate(),
        }
        if split == "validation":
            self.across["leakage"] = leakage

    def add(self, example: Example) -> None:
        self.examples += 1
        self.conversations += bool(example.messages)
        for name, check in (CHECKS | TURN_CHECKS).items():
            spot = check(example)
            if spot:
                self._hit(name, example, spot)
                if name == "personal_data":
                    self.personal_data.update(found.kind for found in find_personal_data(whole(example)))
        for name, across in self.across.items():
            if across.add(example):
                said = f"{example.prompt} -> {example.answer}" if example.messages else example.text
                self._hit(name, example, Spot(excerpt(said)))
        self._see_language(example)
        self.lengths.add(example)
        self.thinking.add(example)
        self.near.add(example)
        if self.split == "train":
            self.leakage.learn(example)
        if self.tokens:
            self.tokens.add(example)

    def _see_language(self, example: Example) -> None:
        language = self.languages.add(example)
        shown = self.shown_in.setdefault(language, [])
        if language and len(shown) < EXAMPLES_SHOWN:
            text = excerpt(f"{language}: {whole(example)}")
            shown.append({"where": f"{example.path}:{example.line}", "text": text})

    def _language_mix(self) -> Iterator[Finding]:
        """One finding, where there is more than one language, or another than the recipe names."""
        mix = self.languages
        if mix.count:
            shown = [item for name, items in self.shown_in.items() if name != mix.main for item in items]
            severity: Severity = "warning" if mix.count > MIXED_ABOVE * mix.judged else "note"
            what = f"examples in another language than {mix.main}; of those that can be told: {mix}"
            yield make_finding(
                "language_mix", mix.count, mix.judged, shown[:EXAMPLES_SHOWN], self.split, what=what, severity=severity
            )

    def _hit(self, name: str, example: Example, spot: Spot) -> None:
        self.tallies[name].hit(f"{example.path}:{example.line + spot.lines_below}", spot.text)

    def _kinds(self) -> str:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.personal_data.items()))
        return f"{RULES['personal_data'].what}: {kinds}"

    def findings(self, warn_only: Sequence[str] = ()) -> Iterator[Finding]:
        for name, tally in self.tallies.items():
            count = self.across[name].count if name in self.across else tally.count
            if count:
                what = self._kinds() if name == "personal_data" else ""
                told = name in warn_only
                yield make_finding(name, count, self.examples, tally.shown, self.split, what=what, warn_only=told)
        if self.split == "train" and self.examples < FEWEST_EXAMPLES:
            yield make_finding("too_few_examples", self.examples, self.examples, [], self.split)
        yield from self._language_mix()
        if self.split == "train" and (pairs := self.lengths.pairs):
            what = f"{RULES['length_bias'].what} are {self.lengths} of {pairs} pairs"
            severity: Severity = "warning" if self.lengths.strong else "note"
            yield make_finding("length_bias", self.lengths.longer, pairs, [], self.split, what=what, severity=severity)
        if (thinking := self.thinking).on_some:
            what = f"{thinking.thinking} of {thinking.answers} answers think; the others are learned without a thought"
            silent = thinking.answers - thinking.thinking
            yield make_finding("think_on_some", silent, thinking.answers, thinking.shown, self.split, what=what)
        for item in self.tokens.findings() if self.tokens else ():
            yield make_finding(
                item.name,
                item.count,
                item.of,
                item.examples,
                self.split,
                what=item.what,
                severity=item.severity,
                fix=item.fix,
            )


def make_finding(
    name: str,
    count: int,
    of: int,
    examples: list[dict[str, str]],
    split: Literal["train", "validation"] = "train",
    *,
    what: str = "",
    warn_only: bool = False,
    severity: Severity | None = None,
    fix: str = "",
) -> Finding:
    """A finding with the words and the severity of its :data:`RULES` entry.

    >>> make_finding("exact_duplicate", 3, 100, []).severity, make_finding("exact_duplicate", 4, 100, []).severity
    ('warning', 'fatal')
    """
    rule = RULES[name]
    if severity is None:
        severity = "note" if rule.note else "warning"
        if rule.fatal_above is not None and count > rule.fatal_above * of and not warn_only:
            severity = "fatal"
    return Finding(name, severity, count, of, examples, what or rule.what, fix or rule.fix, split)


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
) -> Audit:
    """Audit any files or folders, as they are: what would stop a build becomes a finding.

    Args:
        paths: what would be trained on.
        validation: a file or folder that is held out, looked at for leakage. Without one it is what the names of files
            tell (:mod:`afina.sources.splits`): `valid` and `test` beside a `train`.
        progress: is told what is being read.
        tokens: a base's tokenizer; without one nothing is said about tokens.
        check_code: language -> compiler, as in the recipe.

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
    audit = _audit(train, held_out, [], [], tokens)
    extra = code_findings([item.as_json() for item in check_blocks(reading.blocks, check_code or {}, progress)])
    extra += refused_rows(reading, audit)
    if reading.problems:
        shown = [{"where": item.where, "text": excerpt(item.what)} for item in reading.problems[:EXAMPLES_SHOWN]]
        count = len(reading.problems)
        extra.append(make_finding("unreadable", count, audit.train + audit.validation + count, shown))
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
    return replace(audit, findings=_worst_first([*audit.findings, *extra]), said=tuple(said))


def refused_rows(reading: AuditReading, audit: Audit) -> Iterator[Finding]:
    """One finding per kind of row that a build would stop at; and the columns that it would leave out."""
    of = audit.train + audit.validation + sum(rows.count for rows in reading.refused.values())
    for name, rows in reading.refused.items():
        kinds = "; ".join(f"{count} x {what}" for what, count in rows.kinds.most_common(3))
        yield make_finding(name, rows.count, of, rows.shown, what=f"{RULES[name].what}: {kinds}")
    yield from left_out_columns(reading.columns)


def left_out_columns(columns: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """The columns that play no part and hold much of a file's text: path -> column -> share."""
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
) -> Audit:
    leakage, near = Leakage(), Near(threshold, EXAMPLES_SHOWN)
    learned = _SplitAudit("train", leakage, near, tokens, language)
    held_out = _SplitAudit("validation", leakage, near, tokens, language)
    for example in train:
        learned.add(example)
    for example in validation:
        held_out.add(example)
    findings = [*learned.findings(warn_only), *held_out.findings(warn_only), *extra]
    if (copies := near.duplicates(learned.examples)).count:
        findings.append(make_finding("near_duplicate", copies.count, learned.examples, copies.shown))
    if (leaked := near.leakage(learned.examples)).count:
        findings.append(make_finding("near_leakage", leaked.count, held_out.examples, leaked.shown, "validation"))
    examples, conversations = learned.examples + held_out.examples, learned.conversations + held_out.conversations
    return Audit(_worst_first(findings), learned.examples, held_out.examples, examples - conversations, conversations)


def _worst_first(findings: Sequence[Finding]) -> list[Finding]:
    order = ["fatal", "warning", "note"]
    return sorted(findings, key=lambda item: (order.index(item.severity), item.split, -item.count / max(item.of, 1)))
