"""What each source did to the losses: exact, by forward passes with and without the adapter, and no gradient."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afina.model.base import BaseIdentity
from afina.model.open_model import OpenModel
from afina.record import Record, read_rows
from afina.run import parse_json, write_json
from afina.score.paired import ratio_difference
from afina.text.document import Message
from afina.tokenizer.encode import Row
from afina.walk.base import pad_id, renderer
from afina.walk.context import Context
from afina.why.index import BUILD_AGAIN, EFFECTS, FOLDER
from afina.why.rows import EncodedRow, encoded_rows

SAMPLE = 400
"""Rows of a source, and questions of a probe, that are measured; drawn with the run's seed, all of fewer."""
KNOWN = 0.1
"""Nats per token below which the base said a row already: it gave its tokens a likelihood of 0.9 each, on average."""
VERSION = 1


@dataclass(frozen=True)
class LossChange:
    """Mean loss in nats per learned token, before and after, over the same rows."""

    rows: int
    """Measured."""
    before: float
    after: float
    low: float
    """95 % interval of after - before: a paired bootstrap over the rows."""
    high: float
    known: float
    """Share of the rows whose loss was below :data:`KNOWN` before."""

    @property
    def verdict(self) -> str:
        """``fell``, ``rose`` or ``unchanged``: beyond what the choice of rows may do."""
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

        ``helped``: its held-out rows are likelier than before (with none held out: its rows, which proves less)
        ``hurt``: less likely, beyond chance
        ``memorized``: its own rows fell and those held out did not
        ``wasted``: neither moved

        Of a replay source, which is there so that nothing is lost: ``kept`` where nothing moved, ``forgotten`` where it
        is less likely than before.
        """
        said = (self.held_out or self.trained).verdict
        if self.replay and said != "fell":
            return "kept" if said == "unchanged" else "forgotten"
        if said == "unchanged":
            return "memorized" if self.held_out and self.trained.verdict == "fell" else "wasted"
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
    file, key = context.folder / FOLDER / EFFECTS, {**key, "base": who.weights_sha256, "measured": [VERSION, SAMPLE]}
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


def _measure(context: Context, model: Any, base: OpenModel) -> Effects:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    counts: dict[tuple[str, str], tuple[int, bool]] = {}
    pick = random.Random(context.recipe.seed)
    for split in ("train", "validation"):
        by_kind: dict[tuple[str, str], list[EncodedRow]] = defaultdict(list)
        for row in encoded_rows(context, split)[0]:
            by_kind[_source_of(context, row.described.source), row.described.kind].append(row)
        for (source, kind), examples in by_kind.items():
            chosen = pick.sample(examples, min(SAMPLE, len(examples)))
            groups[split, source, kind] = [each for row in chosen for each in row.rows]
            if split == "train":
                counts[source, kind] = len(examples), examples[0].described.replay
    probes = _probe_rows(context, pick)
    every = [row for rows in [*groups.values(), *probes.values()] for row in rows]
    change = _changes(context, model, base, every)
    start, changes = 0, list[LossChange]()
    for rows in [*groups.values(), *probes.values()]:
        changes.append(change(start, start + len(rows)))
        start += len(rows)
    by_group = dict(zip(groups, changes, strict=False))
    sources = [
        SourceEffect(
            path=source,
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


def _probe_rows(context: Context, pick: random.Random) -> dict[tuple[str, str], list[Row]]:
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
    rows: dict[tuple[str, str], list[Row]] = {}
    for name, found in asked.items():
        chosen = pick.sample(found, min(SAMPLE, len(found)))
        rows[name] = [question_row(context, turns_of(each), each.required_text("reference")) for each in chosen]
    return rows


def turns_of(asked: Record) -> list[Message]:
    """The turns before an answer, of a line of ``predictions.jsonl``."""
    turns = [Message(**each.values) for each in asked.records("messages")]  # type: ignore[typeddict-item]
    return turns or [Message(role="user", content=asked.required_text("prompt"))]


def question_row(context: Context, turns: Sequence[Message], answer: str) -> Row:
    """A question and an answer as a run asks and learns them.

    Raises:
        DataError: the tokenizer has no chat template.
        NotRendered: the template refuses them.
    """
    whole = [*turns, Message(role="assistant", content=answer)]
    encoded = renderer(context).conversation(whole, "the question", last_only=True)
    return Row(encoded.ids, encoded.mask, None)  # type: ignore[arg-type]  # no example: it stands in no dataset


def _changes(context: Context, model: Any, base: OpenModel, rows: Sequence[Row]) -> Callable[[int, int], LossChange]:
    """Measures every row with and without the adapter; gives what became of those from one number to another."""
    from afina.evaluate.loss import row_losses
    from afina.model.readers import reader_of

    with context.open_progress("losses") as progress:
        settings = {"pad_id": pad_id(context), "batch_tokens": context.recipe.train.batch_tokens}
        after = row_losses(reader_of(model), rows, **settings)
        progress(len(rows), 2 * len(rows), "rows, with the adapter")
        with base() as untrained:
            before = row_losses(reader_of(untrained), rows, **settings)
        progress(2 * len(rows), 2 * len(rows), "rows, without")

    def change(start: int, end: int) -> LossChange:
        first, second = before[start:end], after[start:end]
        nats = [[each.learned for each in side] for side in (first, second)]
        tokens = [max(1, each.learned_tokens) for each in second]
        found, total = ratio_difference(nats[0], nats[1], tokens), sum(tokens)
        known = sum(each.learned / max(1, each.learned_tokens) < KNOWN for each in first) / len(first)
        return LossChange(len(first), sum(nats[0]) / total, sum(nats[1]) / total, found.low, found.high, known)

    return change


def _read(values: Record) -> Effects:
    def change(of: Record) -> LossChange:
        numbers = {key: of.required_number(key) for key in ("before", "after", "low", "high", "known")}
        return LossChange(rows=of.required_whole("rows"), **numbers)

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
