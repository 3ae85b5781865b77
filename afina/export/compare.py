"""Is an export the trained model? The same prompts, answers, logits and losses, from the program that opened it.

KL      sum over V of p (ln p - ln q), p the run's model, q the export: nats a place
lead    ln p(run's token) - ln p(export's token), by the run's model, where their answers part
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from afina.export.programs import OpenedExport, answer, text_of
from afina.model.rounding import tolerance
from afina.run import Progress, no_progress

if TYPE_CHECKING:
    from afina.export.expected_torch import Expected, Read


@dataclass
class ExportComparison:
    """What came of it; `problems` decide."""

    program: str
    kind: str
    kl_limit: float
    lead_limit: float
    asked: int = 0
    same_prompts: int = 0
    same_answers: int = 0
    as_stored: int | None = None
    """Of the export's answers, how many are word for word those that the run has stored; None where it stored none."""
    model_as_stored: int | None = None
    """The same of the run's model, opened again as the export's reference."""
    rounded: list[str] = field(default_factory=list)
    """Answers that part where the run's model hardly prefers one token."""
    places: int = 0
    """At which logits were compared."""
    logit_max: float = 0.0
    logit_mean: float = 0.0
    kl_mean: float = 0.0
    kl_max: float = 0.0
    rows: int = 0
    """Held-out rows read."""
    rows_there: int = 0
    targets: int = 0
    perplexity_run: float | None = None
    perplexity: float | None = None
    problems: list[str] = field(default_factory=list)
    identity_problem: str | None = None
    """Why the run's own model is not the one that was measured, whatever became of it in the export."""
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": not self.problems and not self.identity_problem}

    def describe(self) -> str:
        """A few lines for people."""
        lines = [
            f"opened by {self.program}, weights {self.kind}",
            f"prompts token for token: {self.same_prompts} of {self.asked}; "
            f"greedy answers: {self.same_answers} of {self.asked}"
            + ("" if self.as_stored is None else f", {self.as_stored} word for word those stored in the run"),
            f"logits at {self.places} places: difference {self.logit_mean:.2g} in the mean, {self.logit_max:.2g} at "
            f"most; KL {self.kl_mean:.2g} nats (limit {self.kl_limit:g}), {self.kl_max:.2g} at most",
        ]
        if self.perplexity is not None and self.perplexity_run is not None:
            of = "" if self.rows == self.rows_there else f" of {self.rows_there}"
            lines.append(
                f"perplexity on {self.rows}{of} held-out rows ({self.targets} tokens): "
                f"{self.perplexity_run:.4f} -> {self.perplexity:.4f}"
            )
        lines += [f"rounding: {each}" for each in self.rounded]
        lines += [f"note: {each}" for each in self.notes]
        lines += [f"wrong: {each}" for each in (self.identity_problem, *self.problems) if each]
        return "\n".join(lines)


def compare(
    program: OpenedExport,
    expected: Expected,
    tokenizer: Any,
    stop_ids: Sequence[int],
    kind: str,
    *,
    kl_limit: float | None = None,
    progress: Progress = no_progress,
) -> ExportComparison:
    """Hold an opened export against what the run's model does.

    Args:
        tokenizer: to show tokens.
        stop_ids: those of the run.
        kind: how the export's weights are held, e.g. ``bf16`` or ``q8_0``.
        kl_limit: instead of the one of :func:`afina.model.rounding.tolerance`.
    """
    most, lead = tolerance(kind)
    found = ExportComparison(program.name, kind, most if kl_limit is None else kl_limit, lead)
    total = 2 * len(expected.asked) + len(expected.rows)
    _answers(program, expected, tokenizer, set(stop_ids), found, lambda done: progress(done, total, "comparisons"))
    _logits(program, expected, found, lambda done: progress(len(expected.asked) + done, total, "comparisons"))
    if not found.kl_mean <= found.kl_limit:  # not a number, either
        found.problems.append(
            f"the mean KL from the run's model is {found.kl_mean:.3g} nats, the limit for {kind} {found.kl_limit:g}"
        )
    return found


def _answers(
    program: OpenedExport, expected: Expected, tokenizer: Any, stop_ids: set[int], found: ExportComparison, tell: Any
) -> None:
    found.asked = len(expected.asked)
    stored = stored_model = 0
    known = [each for each in expected.asked if each.stored is not None]
    for number, (each, read) in enumerate(zip(expected.asked, expected.answers, strict=True), start=1):
        own = each.messages and not each.holds_marks
        prompt = program.prompt(each.messages) if own else each.prompt
        if prompt == each.prompt:
            found.same_prompts += 1
        elif found.same_prompts == number - 1:  # the first of them
            found.problems.append(_other_prompt(each.prompt, prompt, tokenizer))
        tokens, stopped = answer(program, prompt, expected.limit)
        if tokens == each.tokens and stopped == each.stopped:
            found.same_answers += 1
        elif prompt == each.prompt:
            _part(tokens, each.tokens, read, len(prompt), stop_ids, tokenizer, found)
        if each.stored is not None:
            texts = [text_of(tokenizer, ids) for ids in (tokens, each.tokens)]
            stored += texts[0] == each.stored
            stored_model += texts[1] == each.stored
        tell(number)
    if marked := sum(each.holds_marks for each in expected.asked):
        found.notes.append(
            f"{marked} questions hold marks of the base: asked in the run's tokens, where they are words; to other "
            "programs they are marks (docs/safety.md)"
        )
    if known:
        found.as_stored, found.model_as_stored = stored, stored_model


def _other_prompt(right: Sequence[int], given: Sequence[int], tokenizer: Any) -> str:
    place = next((n for n, (a, b) in enumerate(zip(right, given, strict=False)) if a != b), min(len(right), len(given)))
    pieces = [tokenizer.decode(list(ids[place : place + 4])) or "nothing" for ids in (given, right)]
    return (
        f"the export asks in other tokens: from token {place + 1} on {pieces[0]!r}, in the run {pieces[1]!r} "
        "(template, begin token or the splitting of text)"
    )


def _part(
    tokens: Sequence[int],
    right: Sequence[int],
    read: Read,
    start: int,
    stop_ids: set[int],
    tokenizer: Any,
    found: ExportComparison,
) -> None:
    """Where two answers part: rounding, or wrong."""
    place = next(
        (n for n, (a, b) in enumerate(zip(tokens, right, strict=False)) if a != b), min(len(tokens), len(right))
    )
    written = tokenizer.decode(list(right[:place]))[-40:]
    if place < len(tokens) and tokens[place] in stop_ids:
        found.problems.append(
            f"it writes the end token {tokenizer.decode([tokens[place]])!r} after {written!r} and goes on: "
            "its stop tokens are not the run's"
        )
        return
    if read.logits_TV is None:
        found.problems.append(f"after {written!r} it goes on otherwise; there was no room to keep by how much")
        return
    row = read.logits_TV[start - 1 + place]
    stop = max(stop_ids, key=lambda each: row[each])
    ours, its = (ids[place] if place < len(ids) else stop for ids in (right, tokens))
    lead = float(row[ours] - row[its])
    text = (
        f"after {written!r} {tokenizer.decode([its])!r} instead of {tokenizer.decode([ours])!r}, {lead:.2g} nats behind"
    )
    if lead <= found.lead_limit:
        found.rounded.append(text)
    else:
        found.problems.append(f"{text} (limit for {found.kind}: {found.lead_limit:g})")


def _logits(program: OpenedExport, expected: Expected, found: ExportComparison, tell: Any) -> None:
    import numpy as np

    sums = {"run": 0.0, "export": 0.0}
    kl_sum = difference_sum = 0.0
    values = 0
    for number, read in enumerate([*expected.answers, *expected.rows], start=1):
        logits_TV = program.logits(read.ids)
        log_q_TV = _log_softmax(logits_TV)
        if number > len(expected.answers):
            assert read.losses_T is not None
            mask = np.array(read.mask[1:])
            sums["run"] += float(read.losses_T[mask].sum())
            sums["export"] -= float(log_q_TV[np.arange(len(mask)), read.ids[1:]][mask].sum())
            found.targets += int(mask.sum())
            found.rows += 1
        if read.logits_TV is not None:
            log_p_TV = _log_softmax(read.logits_TV)
            kl_T = (np.exp(log_p_TV) * (log_p_TV - log_q_TV)).sum(axis=1)
            difference = np.abs(logits_TV - read.logits_TV)
            found.places += len(kl_T)
            found.kl_max = max(found.kl_max, float(kl_T.max()))
            found.logit_max = max(found.logit_max, float(difference.max()))
            kl_sum += float(kl_T.sum())
            difference_sum += float(difference.sum(dtype=np.float64))
            values += difference.size
        tell(number)
    found.rows_there = expected.rows_there
    found.kl_mean = kl_sum / found.places if found.places else math.nan
    found.logit_mean = difference_sum / max(1, values)
    if found.targets:
        found.perplexity_run, found.perplexity = (math.exp(min(each / found.targets, 700.0)) for each in sums.values())


def _log_softmax(logits_TV: Any) -> Any:
    import numpy as np

    shifted = logits_TV.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
