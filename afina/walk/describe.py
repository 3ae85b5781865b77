"""What a run found, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from afina.errors import RecipeError
from afina.evaluate.safety.table import describe_safety
from afina.evaluate.scores import GuardrailCounts, ProbeResult, RetrievalScores, Scores, read_scores
from afina.evaluate.task_table import describe_tasks
from afina.evaluate.text_scores import ContinuationScores, WindowScores
from afina.score.paired import show_ends
from afina.units import show_share


def describe_scores(folder: Path) -> str:
    """What is wrong with how it writes, the before/after table and the verdict of a run, as text.

    Raises:
        AfinaError: the run was not measured, or its scores are damaged.
    """
    scores = read_scores(folder)
    if scores is None:
        raise RecipeError("there are no scores here", f"measure the run first: `afina eval {folder}`", str(folder))
    lines = [
        *(_guardrail_lines(scores.guardrails) if scores.guardrails else ()),
        *(_probe_lines(scores.probes) if scores.probes else ()),
        *(_retrieval_lines(scores.retrieval) if scores.retrieval else ()),
        *_loss_lines(scores),
        *(_window_lines(scores.windows) if scores.windows else ()),
        *(_written_lines(scores.continuations) if scores.continuations else ()),
        *describe_tasks(scores),
        *describe_safety(scores),
    ]
    if verdict := scores.verdict:
        lines += [f"note: {note}" for note in verdict.notes]
        lines += [f"miss: {miss}" for miss in verdict.misses]
        lines += [f"  {finding}" for finding in verdict.findings]
        lines.append(verdict.text)
    return "\n".join(lines)


def _guardrail_lines(guarded: GuardrailCounts) -> Iterator[str]:
    for name, found in guarded.after.items():
        before = guarded.before.get(name, 0)
        if found or before:
            limit = guarded.limits.get(name)
            allowed = "" if limit is None else f", at most {show_share(limit)}"
            share, base = show_share(found / guarded.answers), show_share(before / guarded.answers)
            yield f"guardrail {name.replace('_', ' ')}: {share} of {guarded.answers} answers (base: {base}){allowed}"
    for name, room in zip(("base", "result"), guarded.room or (), strict=False):
        if room.reached:
            yield f"  {name}: {room.describe()}"


def _probe_lines(probes: tuple[ProbeResult, ...]) -> Iterator[str]:
    """A table of what stands for each probe."""
    wide = max(len(probe.title) for probe in probes) + 2
    of = max(9, *(len(probe.counted_over) for probe in probes)) + 1
    yield f"{'':{wide}}{'questions':>{of}}{'before':>10}{'after':>10}   95 % interval"
    for probe in probes:
        shown = probe.figures()[0]
        before, after = ("-" if share is None else show_share(share) for share in (shown.before, shown.after))
        ends = " to ".join(map(show_share, shown.intervals[1] or ()))
        yield f"{probe.title:{wide}}{probe.counted_over:>{of}}{before:>10}{after:>10}   {ends}".rstrip()
        for group in probe.groups:
            yield f"{'  ' + group.name:{wide}}{group.n:>{of}}{group.before:>10}{group.after:>10}"


def _retrieval_lines(found: RetrievalScores) -> Iterator[str]:
    """The base with passages in its prompt, beside both models without."""
    wide = max([22, *(len(probe.name) for probe in found.probes)]) + 2
    yield f"{'passages in the prompt':{wide}}{'asked':>9}{'base':>10}{'found':>10}{'section':>10}{'trained':>10}   held"
    for probe in found.probes:
        section = "-" if probe.section is None else show_share(probe.section)
        shares = [show_share(probe.base), show_share(probe.retrieved), section, show_share(probe.trained)]
        row = "".join(f"{share:>10}" for share in shares)
        yield f"{probe.name:{wide}}{probe.n:>9}{row}   {show_share(probe.holding)}"
    yield f"  {found.describe()}"


def _loss_lines(scores: Scores) -> Iterator[str]:
    for name, losses in (("held-out loss", scores.loss), ("of the replay alone", scores.replay_loss)):
        if losses:
            before, after = losses.before.required_number, losses.after.required_number
            yield (
                f"{name} {before('loss'):.3f} -> {after('loss'):.3f} nats per token, "
                f"{before('bits_per_byte'):.3f} -> {after('bits_per_byte'):.3f} bits per byte "
                f"({after('tokens'):.0f} tokens)"
            )
    if pairs := scores.pairs:
        before, after = pairs.before.required_number, pairs.after.required_number
        yield (
            f"held-out preferences: the better answer is the likelier in {show_share(before('accuracy'))} -> "
            f"{show_share(after('accuracy'))} of {after('pairs'):.0f} pairs, by {before('margin'):.3f} -> "
            f"{after('margin'):.3f} nats per token"
        )


def _window_lines(windows: WindowScores) -> Iterator[str]:
    before, after = windows.before, windows.after
    ends = " (one window: no interval)" if windows.windows == 1 else ""
    if after.interval:
        ends = " " + show_ends(after.interval, ".3f")
    yield f"{windows.describe_text()}:"
    yield (
        f"  {before.bits_per_byte:.3f} -> {after.bits_per_byte:.3f}{ends} bits per byte, loss {before.loss:.3f} -> "
        f"{after.loss:.3f} nats per token, perplexity {after.perplexity:.1f}, next token right in "
        f"{show_share(before.accuracy)} -> {show_share(after.accuracy)}"
    )


def _written_lines(written: ContinuationScores) -> Iterator[str]:
    for name, figures in (("sampled", written.sampled), ("greedy", written.greedy)):
        broken = figures.broken
        shown = "" if broken is None else f"{show_share(broken.share)} broken words, "
        flaws = ", ".join(f"{found} {key.replace('_', ' ')}" for key, found in figures.flaws.items())
        yield (
            f"after {written.prompts} prompts, {name}: {shown}{figures.fallback_ratio or 0.0:.4f} byte fallback, "
            f"{figures.short_ratio or 0.0:.4f} short pieces; of {figures.texts} texts: {flaws or 'no flaw'}"
        )
    if (control := written.corpus.control) is not None:
        yield f"  of held-out real text, {show_share(control)} of the words appear nowhere in the training texts"
