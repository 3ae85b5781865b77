"""What each source did to the losses: exact, by forward passes with and without the adapter, and no gradient."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from afina.evaluate.halves import cluster_of
from afina.evaluate.intervals import FEWEST_TURNED
from afina.evaluate.probes import Question, stored_turns
from afina.model.base import BaseIdentity
from afina.model.open_model import OpenModel
from afina.record import Record, read_rows
from afina.run import hash_file, parse_json
from afina.score.paired import ratio_difference
from afina.text.document import Message
from afina.tokenizer.encode import Row
from afina.walk.base import pad_id, renderer
from afina.walk.context import Context
from afina.whole import write_json
from afina.why.index import BUILD_AGAIN, EFFECTS, FOLDER
from afina.why.rows import EncodedRow, encoded_rows, split_file

if TYPE_CHECKING:
    from afina.evaluate.loss import RowLoss

SAMPLE = 400
"""Rows of a source (of a long text its blocks), and questions of a probe, that are measured; drawn with the run's seed,
all of fewer."""
KNOWN = 0.1
"""Nats per token below which the base said a row already: it gave its tokens a likelihood of 0.9 each, on average."""
VERSION = 2
PORTION = 64
"""So many rows are read between two lines of progress."""


@dataclass(frozen=True)
class LossChange:
    """Mean loss in nats per learned token, before and after, over the same rows."""

    rows: int
    """Measured."""
    units: int
    """Facts, examples or questions that these are about: what can be counted as independent."""
    before: float
    after: float
    low: float | None
    """95 % interval of after - before: a paired bootstrap over the units; None of fewer than two, which have none."""
    high: float | None
    known: float
    """Share of the rows whose loss was below :data:`KNOWN` before."""
    no_number: int = 0
    """Rows whose loss was none before or after: they are in no figure."""

    @property
    def verdict(self) -> str:
        """``fell``, ``rose`` or ``unchanged``: beyond what the choice of units may do; ``too few`` tell nothing."""
        if self.units < FEWEST_TURNED or self.low is None or self.high is None:
            return "too few"
        return "fell" if self.high < 0 else "rose" if self.low > 0 else "unchanged"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class SourceEffect:
    """One kind of rows of one source."""

    path: str
    """As the recipe names it."""
    kind: str
    rows: int
    """In the training split."""
    replay: bool
    trained: LossChange
    held_out: LossChange | None
    """Of the same source; None where nothing is held out of it."""

    @property
    def verdict(self) -> str:
        """What came of it, in a word.

        ``helped``: its held-out rows are likelier than before (with none held out, or too few: its own rows, which
        proves less)
        ``hurt``: less likely, beyond chance
        ``memorized``: its own rows fell and those held out did not
        ``wasted``: neither moved
        ``too few``: fewer rows than can tell anything

        Of a replay source, which is there so that nothing is lost: ``kept`` where nothing moved, ``forgotten`` where it
        is less likely than before.
        """
        held_out = self.held_out if self.held_out and self.held_out.verdict != "too few" else None
        said = (held_out or self.trained).verdict
        if said == "too few":
            return said
        if self.replay and said != "fell":
            return "kept" if said == "unchanged" else "forgotten"
        if said == "unchanged":
            return "memorized" if held_out and self.trained.verdict == "fell" else "wasted"
        return {"fell": "helped", "rose": "hurt"}[said]

    def as_json(self) -> dict[str, Any]:
        values = asdict(self) | {"trained": self.trained.as_json(), "verdict": self.verdict}
        return values | {"held_out": self.held_out.as_json() if self.held_out else None}


@dataclass(frozen=True)
class ProbeEffect:
    """The references of one probe's questions, as answers."""

    name: str
    role: str
    change: LossChange

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "role": self.role, "change": self.change.as_json()}


@dataclass(frozen=True)
class Effects:
    """All of them."""

    sources: tuple[SourceEffect, ...]
    probes: tuple[ProbeEffect, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "sources": [each.as_json() for each in self.sources],
            "probes": [each.as_json() for each in self.probes],
        }


def effects_of(context: Context, model: Any, base: OpenModel, key: Mapping[str, Any], who: BaseIdentity) -> Effects:
    """What each source did, measured once for a key and kept in ``why/effects.json``.

    Args:
        model: with its adapter; `base` opens it without.
        key: what the run's index depends on.
        who: the base.
    """
    file, asked = context.folder / FOLDER / EFFECTS, context.folder / "predictions.jsonl"
    key = {
        **key,
        "base": who.weights_sha256,
        "held_out": hash_file(split_file(context, "validation")),
        "predictions": hash_file(asked) if asked.is_file() else "",
        "measured": [VERSION, SAMPLE],
    }
    if file.is_file():
        try:
            kept = parse_json(file.read_bytes())
            if isinstance(kept, dict) and kept.get("key") == key:
                return _read(Record(kept, str(file), fix=BUILD_AGAIN))
        except ValueError:
            pass  # damaged: it is measured again, and written
    found = _measure(context, model, base)
    write_json(file, {"key": key, **found.as_json()})
    return found


Unit = tuple[Row, str]
"""A row, and what it is about."""


def _measure(context: Context, model: Any, base: OpenModel) -> Effects:
    groups: dict[tuple[str, int, str], list[Unit]] = {}
    counts: dict[tuple[int, str], tuple[int, bool]] = {}
    pick = random.Random(context.recipe.seed)
    for split in ("train", "validation"):
        by_kind: dict[tuple[int, str], list[EncodedRow]] = defaultdict(list)
        with context.open_progress("encode") as progress:
            for row in encoded_rows(context, split, progress)[0]:
                by_kind[row.described.source, row.described.kind].append(row)
        for (source, kind), examples in by_kind.items():
            chosen = pick.sample(examples, min(SAMPLE, len(examples)))
            blocks = [(each, row.about) for row in chosen for each in row.rows]
            groups[split, source, kind] = pick.sample(blocks, min(SAMPLE, len(blocks)))
            if split == "train":
                counts[source, kind] = len(examples), examples[0].described.replay
    probes = _probe_rows(context, pick)
    every = [each for part in (*groups.values(), *probes.values()) for each in part]
    change = _changes(context, model, base, every)
    start, changes = 0, list[LossChange]()
    for part in (*groups.values(), *probes.values()):
        changes.append(change(start, start + len(part)))
        start += len(part)
    by_group = dict(zip(groups, changes, strict=False))
    sources = [
        SourceEffect(
            path=_source_of(context, source),
            kind=kind,
            rows=rows,
            replay=replay,
            trained=by_group["train", source, kind],
            held_out=by_group.get(("validation", source, kind)),
        )
        for (source, kind), (rows, replay) in counts.items()
    ]
    asked = [ProbeEffect(name, role, each) for (name, role), each in zip(probes, changes[len(groups) :], strict=True)]
    return Effects(tuple(sources), tuple(asked))


def _source_of(context: Context, number: int) -> str:
    """A source as the recipe names it."""
    sources = context.recipe.sources
    return str(sources[number].path) if number < len(sources) else f"source {number + 1}"


def _probe_rows(context: Context, pick: random.Random) -> dict[tuple[str, str], list[Unit]]:
    """The run's questions with their references as answers, out of ``predictions.jsonl``; nothing where it was not
    measured. What is unknown has no reference that could be learned."""
    asked: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for row in read_rows(context.folder / "predictions.jsonl") or []:
        if (
            row.text("reference")
            and row.text("probe")
            and row.text("role") not in (None, "unknown")
            and "tools" not in row
        ):
            asked[row.required_text("probe"), row.required_text("role")].append(row)
    rows: dict[tuple[str, str], list[Unit]] = {}
    for name, found in asked.items():
        chosen = pick.sample(found, min(SAMPLE, len(found)))
        rows[name] = [
            (question_row(context, stored_turns(each), each.required_text("reference")), about_of(each))
            for each in chosen
        ]
    return rows


def about_of(asked: Record) -> str:
    """What a line of ``predictions.jsonl`` is about, as :func:`~afina.evaluate.halves.cluster_of` has it."""
    question = Question(stored_turns(asked), asked.required_text("reference"), "", cluster=asked.text("fact") or "")
    return cluster_of(question)


def question_row(context: Context, turns: Sequence[Message], answer: str) -> Row:
    """A question and an answer as a run asks and learns them.

    Raises:
        DataError: the tokenizer has no chat template.
        NotRendered: the template refuses them.
    """
    whole = [*turns, Message(role="assistant", content=answer)]
    encoded = renderer(context).conversation(whole, "the question", last_only=True)
    return Row(encoded.ids, encoded.mask, None)  # type: ignore[arg-type]  # no example: it stands in no dataset


def _changes(context: Context, model: Any, base: OpenModel, every: Sequence[Unit]) -> Callable[[int, int], LossChange]:
    """Measures every row with and without the adapter; gives what became of those from one number to another."""
    from afina.evaluate.loss import by_length, row_losses
    from afina.model.readers import reader_of

    settings = {"pad_id": pad_id(context), "batch_tokens": context.recipe.train.batch_tokens}
    rows = [row for row, _ in every]
    order = [number for numbers in by_length(rows, settings["batch_tokens"]) for number in numbers]
    portions = [order[start : start + PORTION] for start in range(0, len(order), PORTION)]

    def losses(read: Any, done: int, what: str) -> list[RowLoss]:
        found: dict[int, RowLoss] = {}
        for numbers in portions:
            these = row_losses(reader_of(read), [rows[number] for number in numbers], **settings)
            found |= dict(zip(numbers, these, strict=True))
            progress(done + len(found), 2 * len(rows), what)
        return [found[number] for number in range(len(rows))]

    with context.open_progress("losses") as progress:
        after = losses(model, 0, "rows, with the adapter")
        with base() as untrained:
            before = losses(untrained, len(rows), "rows, without")

    def change(start: int, end: int) -> LossChange:
        numbers = range(start, end)
        told = [n for n in numbers if math.isfinite(before[n].learned) and math.isfinite(after[n].learned)]
        return _change([(before[n], after[n], every[n][1]) for n in told], len(numbers) - len(told))

    return change


def _change(measured: Sequence[tuple[RowLoss, RowLoss, str]], no_number: int) -> LossChange:
    """What became of some rows.

    Args:
        measured: of each row both losses, and what it is about.
    """
    if not measured:
        return LossChange(0, 0, 0.0, 0.0, None, None, 0.0, no_number)
    sums: dict[str, list[float]] = {}
    for first, second, about in measured:
        held = sums.setdefault(about, [0.0, 0.0, 0.0])
        for place, value in enumerate((first.learned, second.learned, second.learned_tokens)):
            held[place] += value
    nats, now, tokens = ([of[place] for of in sums.values()] for place in range(3))
    total = max(1.0, sum(tokens))
    found = ratio_difference(nats, now, tokens) if sum(tokens) else None
    known = sum(first.learned / max(1, first.learned_tokens) < KNOWN for first, _, _ in measured) / len(measured)
    low, high = (found.ends if found else None) or (None, None)
    return LossChange(len(measured), len(sums), sum(nats) / total, sum(now) / total, low, high, known, no_number)


def _read(values: Record) -> Effects:
    def change(of: Record) -> LossChange:
        numbers = {key: of.required_number(key) for key in ("before", "after", "known")}
        return LossChange(
            rows=of.required_whole("rows"),
            units=of.required_whole("units"),
            no_number=of.required_whole("no_number"),
            low=of.number("low"),
            high=of.number("high"),
            **numbers,
        )

    sources = [
        SourceEffect(
            path=each.required_text("path"),
            kind=each.required_text("kind"),
            rows=each.required_whole("rows"),
            replay=each.required_flag("replay"),
            trained=change(each.required_record("trained")),
            held_out=change(held) if (held := each.record("held_out")) else None,
        )
        for each in values.records("sources")
    ]
    probes = [
        ProbeEffect(each.required_text("name"), each.required_text("role"), change(each.required_record("change")))
        for each in values.records("probes")
    ]
    return Effects(tuple(sources), tuple(probes))
