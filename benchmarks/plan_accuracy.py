"""How far the planner is from published, measured runs.

    python benchmarks/plan_accuracy.py [--rows] [--cases FILE] [--docs]

Reads ``../shared/planner/cases.json`` (or another file of the same form). Memory and time of training on cases of
quality A (settings complete) and a known shape, serving, fits or does not. Beside each figure stands the one with the
case's own source left out: its program's fitted numbers are then those of the other programs, and the constants of time
are fitted again. ``--docs`` writes the figures and the seeds' own cases into ``docs/planning.md``.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from published.cases import (
    Case,
    program_of,
    published_shape,
    serving_device_of,
    serving_of,
    setup_of,
    usable_of,
)
from published.seeds import seeds_table
from published.timing import predicted_seconds

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.plan import programs
from afina.plan import time as time_module
from afina.plan.interval import Interval
from afina.plan.memory import training_memory
from afina.plan.plan import GUESSED_HIGH, MEMORY_SPREAD
from afina.plan.programs import TrainingProgram
from afina.plan.serving import largest_context, serves, serving_peak
from afina.plan.time import TIME_SPREAD

SHARED = Path(__file__).parents[2] / "shared" / "planner"
DOCS = Path(__file__).parents[1] / "docs" / "planning.md"
FITTED = ("fixed_bytes", "slack", "logit_bytes", "whole_logit_bytes", "selective_share", "kept_adapter", "kept_all")
"""What of a program is fitted, and not read from its code."""
PROGRAMS = [
    found for found in vars(programs).values() if isinstance(found, TrainingProgram) and "afina" not in found.name
]
TIME_START = {"MATRIX_CEILING": 0.7, "MOVES_PER_PASS": 10.0, "LAUNCH_SECONDS": 1e-3, "UNPACK_MOVES": 2.0}
"""Fitted constants of time, and the round numbers that a fit starts from."""
UNSURE = ("upper bound", "not stated", "largest", "none fits", "Alpaca", "assumed", "max")


@dataclass(frozen=True)
class Compared:
    """One measured value, its prediction, and the prediction with its source left out."""

    case: Case
    measured: float
    predicted: Interval
    left_out: Interval

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return self.predicted.point / self.measured - 1

    @property
    def error_left_out(self) -> float:
        """The same with its source left out."""
        return self.left_out.point / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds the measurement."""
        return self.predicted.low <= self.measured <= self.predicted.high


def without_source(program: TrainingProgram) -> TrainingProgram:
    """A program whose fitted numbers are the median of the others'."""
    others = [each for each in PROGRAMS if each.name != program.name and each.fixed_bytes]
    changes: dict[str, Any] = {}
    for name in FITTED:
        values = [getattr(each, name) for each in others]
        if isinstance(values[0], tuple):
            changes[name] = type(values[0])(*(statistics.median(column) for column in zip(*values, strict=True)))
        else:
            changes[name] = statistics.median(values)
    if program.chunk_logits is None:
        whole = [each.logit_bytes for each in others if each.chunk_logits is None]
        changes["logit_bytes"] = statistics.median(whole)
        changes["whole_logit_bytes"] = 0.0
    return replace(program, **changes)


def complete(case: Case) -> bool:
    """Whether nothing has to be guessed: length reached, targets and batch stated."""
    length = case["seq_len_is"] or "not stated"
    targets = case["method"] not in ("lora", "qlora") or case["target_modules"]
    return bool(case["micro_batch"] and case["seq_len"] and targets) and not length.startswith(UNSURE[:3])


def predicted_bytes(case: Case, shape: Shape, program: TrainingProgram | None = None) -> Interval:
    """The peak as the case's program reports it, with the interval that a plan gives."""
    setup = setup_of(case, shape, program)
    total = sum(part.point for part in training_memory(shape, setup).values())
    if "total over GPUs" in (case["mem_metric"] or ""):
        total *= case["device"]["count"]
    low, high = MEMORY_SPREAD["cuda"]
    return Interval.around(
        total, low if complete(case) else low * 0.85, high * (1 if complete(case) else GUESSED_HIGH**3)
    )


def training_cases(cases: Iterable[Case], shapes: Mapping[str, Any], left_out: Counter[str]) -> list[Compared]:
    """Peak memory of quality A."""
    found = []
    for case in cases:
        if case["kind"] != "train" or case["quality"] != "A" or "peak_memory_gb" not in case["measured"]:
            continue
        if case["model"] not in shapes:
            left_out["memory: shape not known (a mixture of experts, or no transformer)"] += 1
            continue
        shape = published_shape(case["model"], shapes[case["model"]])
        try:
            plain, other = predicted_bytes(case, shape), predicted_bytes(case, shape, without_source(program_of(case)))
        except RecipeError as error:
            left_out[f"memory: {error.problems[0].what}"] += 1
            continue
        found.append(Compared(case, case["measured"]["peak_memory_gb"] * 1e9, plain, other))
    return found


def time_cases(cases: Iterable[Case], shapes: Mapping[str, Any], left_out: Counter[str]) -> list[Compared]:
    """Seconds of training of quality A."""
    found = []
    for case in cases:
        if case["kind"] != "train" or case["quality"] != "A":
            continue
        if case["model"] not in shapes:
            continue
        shape = published_shape(case["model"], shapes[case["model"]])
        try:
            pair = predicted_seconds(case, shape)
        except RecipeError as error:
            left_out[f"time: {error.problems[0].what}"] += 1
            continue
        if pair is None:
            continue
        predicted, measured = pair
        interval = Interval.around(predicted, *TIME_SPREAD["cuda"])
        found.append(Compared(case, measured, interval, interval))
    return [replace(each, left_out=other) for each, other in zip(found, refitted(found, shapes), strict=True)]


def refitted(found: Sequence[Compared], shapes: Mapping[str, Any]) -> list[Interval]:
    """Each time again, with constants fitted to the other sources: coordinate descent from round numbers."""
    known = {name: getattr(time_module, name) for name in TIME_START}
    left_out: dict[str, Interval] = {}
    try:
        for name, group in by_source(found).items():
            others = [each for other, members in by_source(found).items() if other != name for each in members]
            _fit(others, shapes)
            for each in group:
                left_out[each.case["id"]] = Interval.around(_again(each, shapes), *TIME_SPREAD["cuda"])
    finally:
        for constant, value in known.items():
            setattr(time_module, constant, value)
    return [left_out[each.case["id"]] for each in found]


def _again(each: Compared, shapes: Mapping[str, Any]) -> float:
    pair = predicted_seconds(each.case, published_shape(each.case["model"], shapes[each.case["model"]]))
    assert pair is not None
    return pair[0]


def _fit(cases: Sequence[Compared], shapes: Mapping[str, Any]) -> None:
    """Set the constants of :mod:`afina.plan.time` to those with the least mean error in the logarithm."""

    def loss() -> float:
        return statistics.fmean(min(1.0, abs(math.log(_again(each, shapes) / each.measured))) for each in cases)

    for name, start in TIME_START.items():
        setattr(time_module, name, start)
    best = loss()
    for step in (1.5, 1.2, 1.1):
        for name in TIME_START:
            for factor_ in (step, 1 / step):
                while True:
                    before = getattr(time_module, name)
                    setattr(time_module, name, before * factor_)
                    now = loss()
                    if now >= best - 1e-4:
                        setattr(time_module, name, before)
                        break
                    best = now


def serving_cases(cases: Iterable[Case], shapes: Mapping[str, Any], left_out: Counter[str]) -> list[Compared]:
    """Peak memory of serving, and vLLM's room for tokens, of every quality but C."""
    found = []
    for case in cases:
        if case["kind"] != "serve" or case["quality"] == "C":
            continue
        if case["model"] not in shapes:
            left_out["serving: shape not known"] += 1
            continue
        shape = published_shape(case["model"], shapes[case["model"]])
        try:
            serving = serving_of(case)
        except RecipeError as error:
            left_out[f"serving: {error.problems[0].what}"] += 1
            continue
        measured = case["measured"]
        if "peak_memory_gb" in measured:
            guess = serving_peak(shape, serving)
            guess = Interval(*(end * case["device"]["count"] for end in (guess.point, guess.low, guess.high)))
            found.append(Compared(case, measured["peak_memory_gb"] * 1e9, guess, guess))
    return found


def room_cases(cases: Iterable[Case], shapes: Mapping[str, Any]) -> list[Compared]:
    """Tokens that vLLM's cache has room for."""
    found = []
    for case in cases:
        tokens = case["measured"].get("kv_tokens")
        if case["kind"] != "serve" or not tokens or case["model"] not in shapes or case["quality"] == "C":
            continue
        shape = published_shape(case["model"], shapes[case["model"]])
        try:
            room = largest_context(shape, serving_device_of(case), serving_of(case))
        except RecipeError:
            continue
        if room.point:
            found.append(Compared(case, tokens, room, room))
    return found


def fits_cases(
    cases: Iterable[Case], shapes: Mapping[str, Any], left_out: Counter[str]
) -> list[tuple[Case, bool, str]]:
    """(case, whether it fitted, what the plan says): every case whose answer and device are known."""
    found = []
    for case in cases:
        fitted = case["measured"].get("fits")
        if fitted is None or case["model"] not in shapes:
            continue
        shape = published_shape(case["model"], shapes[case["model"]])
        try:
            if case["kind"] == "serve":
                if case["framework"] == "vLLM" and case["seq_len"]:
                    said: str = serves(shape, serving_device_of(case), serving_of(case))
                else:
                    usable = usable_of(case)
                    if usable is None:
                        continue
                    peak = serving_peak(shape, serving_of(case))
                    said = judged(peak, usable * case["device"]["count"])
            else:
                usable = usable_of(case)
                if usable is None or not case["seq_len"]:
                    left_out["fits: the device or the length is not stated"] += 1
                    continue
                peak = predicted_bytes({**case, "micro_batch": case["micro_batch"] or 1}, shape)
                said = judged(
                    peak, usable * (case["device"]["count"] if "total over" in (case["mem_metric"] or "") else 1)
                )
        except RecipeError as error:
            left_out[f"fits: {error.problems[0].what}"] += 1
            continue
        found.append((case, fitted, said))
    return found


def judged(peak: Interval, usable: float) -> str:
    """What a plan would say."""
    return "yes" if peak.high <= usable else "no" if peak.low > usable else "maybe"


def rate(compared: Sequence[Compared], name: str, *, rows: bool = False) -> None:
    """One line of figures; the cases too where asked for."""
    if not compared:
        return
    errors = sorted(abs(each.error) for each in compared)
    out = statistics.median(abs(each.error_left_out) for each in compared)
    inside = sum(each.inside for each in compared) / len(compared)
    width = statistics.median(
        (each.predicted.high - each.predicted.low) / 2 / each.predicted.point for each in compared
    )
    worst = max((each.error for each in compared), key=abs)
    ninetieth = errors[int(0.9 * (len(errors) - 1))]
    print(
        f"| {name} | {len(compared)} | {statistics.median(errors):.1%} | {out:.1%} | {ninetieth:.1%} | {worst:+.0%} "
        f"| {inside:.0%} | {width:.1%} |"
    )
    if rows:
        for each in compared:
            where = "in " if each.inside else "OUT"
            print(f"    {each.error:>+8.1%} {each.error_left_out:>+8.1%} {where} {each.case['id']}")


def by_source(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Grouped by program and publication."""
    groups: dict[str, list[Compared]] = defaultdict(list)
    for each in compared:
        source = each.case["source"].removeprefix("github:").split()[0]
        groups[f"{source}, {each.case['framework']}"].append(each)
    return groups


def table(title: str, compared: Sequence[Compared], *, rows: bool, groups: bool = True) -> None:
    """A Markdown table: all, then source by source."""
    print(f"\n{title}\n")
    print("| | cases | median \\|error\\| | its source left out | 90 % below | worst | in interval | half-width |")
    print("|---|---|---|---|---|---|---|---|")
    rate(compared, "all")
    for name, group in sorted(by_source(compared).items()) if groups else ():
        rate(group, name, rows=rows)


def read(name: str, folder: Path = SHARED) -> Any:
    """A JSON file."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def factor(compared: Sequence[Compared], value: Callable[[Compared], float] = lambda each: each.error) -> float:
    """Median factor between predicted and measured, whichever is larger."""
    return statistics.median(math.exp(abs(math.log(1 + value(each)))) for each in compared)


def figures(cases: Sequence[Case], shapes: Mapping[str, Any], left_out: Counter[str], *, rows: bool) -> None:
    """Print every table."""
    table("Peak memory of training, quality A, known shape", training_cases(cases, shapes, left_out), rows=rows)
    table("Peak memory of serving, quality A and B", serving_cases(cases, shapes, left_out), rows=rows)
    table("Tokens in vLLM's cache", room_cases(cases, shapes), rows=rows, groups=rows)
    timed = time_cases(cases, shapes, left_out)
    table("Seconds of training, quality A", timed, rows=rows)
    out = factor(timed, lambda each: each.error_left_out)
    inside = f"{factor(timed):.2f} over {len(timed)} cases"
    print(f"\nMedian factor between predicted and measured time: {inside} ({out:.2f} with its source left out).")
    answers = fits_cases(cases, shapes, left_out)
    decided = [(case, fitted, said) for case, fitted, said in answers if said != "maybe"]
    right = sum(fitted == (said == "yes") for _, fitted, said in decided)
    unsure = len(answers) - len(decided)
    print(
        f"Fits or not: {right} of {len(decided)} answers right ({right / len(decided):.0%}); {unsure} more are 'maybe'."
    )
    if rows:
        for case, fitted, said in decided:
            if fitted != (said == "yes"):
                print(f"    wrong: {case['id']}: fitted {fitted}, said {said}")


def write_docs(accuracy: str) -> None:
    """Both parts of docs/planning.md that are computed, between their marks."""
    text = DOCS.read_text(encoding="utf-8")
    for mark, content in (("accuracy", accuracy), ("seeds", seeds_table())):
        start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        before, after = text[: text.index(start) + len(start)], text[text.index(end) :]
        text = f"{before}\n\n{content.strip()}\n\n{after}"
    DOCS.write_text(text, encoding="utf-8")


def main() -> None:
    """Print the tables, or write them into the docs."""
    if not SHARED.exists():
        print(f"needs {SHARED}, which is not here")
        return
    shapes = read("architectures.json")
    chosen = Path(sys.argv[sys.argv.index("--cases") + 1]) if "--cases" in sys.argv else SHARED / "cases.json"
    cases: list[Case] = json.loads(chosen.read_text(encoding="utf-8"))
    left_out: Counter[str] = Counter()
    if "--docs" in sys.argv:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            figures(cases, shapes, left_out, rows=False)
        write_docs(printed.getvalue())
        return
    figures(cases, shapes, left_out, rows="--rows" in sys.argv)
    print("\nleft out:")
    for reason, count in left_out.most_common():
        print(f"{count:>4}  {reason}")


if __name__ == "__main__":
    main()
