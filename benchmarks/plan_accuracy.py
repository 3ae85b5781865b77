"""How far the planner is from published, measured runs, and how wide its intervals have to be for that.

    python benchmarks/plan_accuracy.py [--rows] [--cases FILE] [--calibrate] [--docs]

Reads ``../shared/planner/cases.json`` (or another file of the same form, whose cases nothing is fitted to). Memory
and time of training on cases of quality A (settings complete) and a known shape, serving, fits or does not. Beside
each figure stands the one with the case's own source left out: the fitted numbers of its programs are then those of
the other programs, the constants of time are fitted again, and the interval is as wide as the other sources ask for.
``--calibrate`` writes ``afina/plan/calibration.json``, ``--docs`` the figures and the seeds' own cases into
``docs/planning.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from published.calibration import LEVEL, Residual, groups, left_out_reach
from published.cases import (
    NOT_MEASURED,
    Case,
    kind_of,
    program_of,
    published_shape,
    serving_device_of,
    serving_of,
    setup_of,
    source_of,
    usable_of,
)
from published.seeds import seeds_table
from published.timing import predicted_seconds

from afina.errors import RecipeError
from afina.model.shape import Shape
from afina.page_marks import write_between
from afina.plan import programs
from afina.plan import time as time_module
from afina.plan.calibration import CERTAIN, TABLE, Predicted, Sureness, sureness
from afina.plan.interval import Interval
from afina.plan.memory import certain_bytes, peak_interval, training_memory
from afina.plan.programs import AFINA_CPU, TrainingProgram
from afina.plan.serving import largest_context, serves, serving_peak

SHARED = Path(__file__).parents[2] / "shared" / "planner"
DOCS = Path(__file__).parents[1] / "docs" / "planning.md"
FITTED = ("fixed_bytes", "slack", "logit_bytes", "whole_logit_bytes", "selective_share", "kept_adapter", "kept_all")
"""What of a program is fitted, and not read from its code."""
OWN = ("afina", "on a CPU")
"""In the names of programs that nobody else has published measurements of."""
PROGRAMS = [
    found
    for found in vars(programs).values()
    if isinstance(found, TrainingProgram) and not any(word in found.name for word in OWN)
]
TIME_START = {"MATRIX_CEILING": 0.7, "MOVES_PER_PASS": 10.0, "LAUNCH_SECONDS": 1e-3, "UNPACK_MOVES": 2.0}
"""Fitted constants of time, and the round numbers that a fit starts from."""
UNSURE = ("upper bound", "not stated", "largest", "none fits", "Alpaca", "assumed", "max")


@dataclass(frozen=True)
class Compared:
    """One measured value, its prediction as shipped, and the one that does not know its source."""

    case: Case
    kind: Predicted
    measured: float
    predicted: Interval
    left_out: Interval
    program: str
    least: float = 0.0
    """What the left-out prediction cannot be below."""

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

    @property
    def inside_left_out(self) -> bool:
        """The same with its source left out."""
        return self.left_out.low <= self.measured <= self.left_out.high

    @property
    def width(self) -> float:
        """How far the interval reaches above the point, as a share of it."""
        return self.left_out.high / self.left_out.point - 1

    @property
    def residual(self) -> Residual:
        """What the intervals of others may learn from it."""
        certain = CERTAIN * self.least
        error = math.log(max(self.measured - certain, 1.0) / (self.left_out.point - certain))
        return Residual(source_of(self.case), self.program, kind_of(self.case), error)


def without_source(program: TrainingProgram, source: str, owners: Mapping[str, str]) -> TrainingProgram:
    """A program whose fitted numbers are the median of those that are fitted to other sources.

    Unchanged where its own numbers come from another source than the one that is left out.
    """
    if owners.get(program.name, source) != source:
        return program
    others = [each for each in PROGRAMS if owners.get(each.name) != source and each.name != program.name]
    others = [each for each in others if each.fixed_bytes and not each.by_mlx]
    changes: dict[str, Any] = {}
    for name in FITTED:
        if program.by_mlx and name.startswith("kept"):  # measured here, and counted in other values
            continue
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


def owners_of(cases: Iterable[Case]) -> dict[str, str]:
    """The source that each program's fitted numbers come from: the one with most of its measured peaks."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        if case["kind"] == "train" and "peak_memory_gb" in case["measured"]:
            counts[program_of(case).name][source_of(case)] += 1
    return {program: found.most_common(1)[0][0] for program, found in counts.items()}


def complete(case: Case) -> bool:
    """Whether nothing has to be guessed: length reached, targets and batch stated."""
    length = case["seq_len_is"] or "not stated"
    targets = case["method"] not in ("lora", "qlora") or case["target_modules"]
    return bool(case["micro_batch"] and case["seq_len"] and targets) and not length.startswith(UNSURE[:3])


def predicted_parts(case: Case, shape: Shape, program: TrainingProgram | None = None) -> dict[str, Interval]:
    """The peak's parts, as the case's program reports it."""
    count = case["device"]["count"] if "total over GPUs" in (case["mem_metric"] or "") else 1
    return {name: part * count for name, part in training_memory(shape, setup_of(case, shape, program)).items()}


def predicted_peak(case: Case, shape: Shape) -> Interval:
    """The peak with the interval that a plan gives."""
    kind: Predicted = "training peak" if known(case) else "training peak, settings guessed"
    return peak_interval(predicted_parts(case, shape), sureness(kind, kind_of(case), program_of(case).name))


def known(case: Case) -> bool:
    """Whether everything that the peak depends on is: quality A, or, on devices that no case of quality A comes from,
    a length that is said to be the real one."""
    length = case["seq_len_is"] or ""
    if kind_of(case) != "cuda":
        return length.startswith(("fixed", "longest")) and bool(case["micro_batch"])
    return case["quality"] == "A" and complete(case)


def training_cases(
    cases: Sequence[Case], shapes: Mapping[str, Any], left_out: Counter[str], *, guessed: bool = False
) -> list[Compared]:
    """Peak memory of training: where the settings are known, or the others."""
    found, owners = [], owners_of(cases)
    kind: Predicted = "training peak, settings guessed" if guessed else "training peak"
    for case in cases:
        if case["kind"] != "train" or "peak_memory_gb" not in case["measured"] or known(case) == guessed:
            continue
        if reason := NOT_MEASURED.get(case["id"]):
            left_out[f"memory: {reason}"] += 1
            continue
        if case["model"] not in shapes:
            left_out["memory: shape not known (a mixture of experts, or no transformer)"] += 1
            continue
        shape = published_shape(case["model"], shapes[case["model"]])
        other = without_source(program_of(case), source_of(case), owners)
        try:
            plain, blind = predicted_peak(case, shape), predicted_parts(case, shape, other)
        except RecipeError as error:
            left_out[f"memory: {error.problems[0].what}"] += 1
            continue
        measured = case["measured"]["peak_memory_gb"] * 1e9
        point = Interval.total(blind.values()).point
        found.append(Compared(case, kind, measured, plain, exactly(point), program_of(case).name, certain_bytes(blind)))
    return nested(found)


def exactly(point: float) -> Interval:
    """A point that has no width yet."""
    return Interval(point, point, point)


def nested(compared: Sequence[Compared]) -> list[Compared]:
    """Intervals around the points that do not know a source, as wide as the other sources' errors ask for.

    Where there is no other source the interval stays as narrow as its point, and holds nothing.
    """
    residuals = [each.residual for each in compared]
    found = []
    for each, own in zip(compared, residuals, strict=True):
        reach = left_out_reach(residuals, own) or 0.0
        sure = Sureness(own.program, own.device, 0, 0, 0, math.exp(reach))
        found.append(replace(each, left_out=sure.around(each.left_out.point, each.least)))
    return found


def time_cases(cases: Iterable[Case], shapes: Mapping[str, Any], left_out: Counter[str]) -> list[Compared]:
    """Seconds of training, where the settings are known."""
    found = []
    for case in cases:
        if case["kind"] != "train" or not (case["quality"] == "A" or (kind_of(case) != "cuda" and known(case))):
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
        interval = sureness("training time", kind_of(case), program_of(case).name).around(predicted)
        found.append(Compared(case, "training time", measured, interval, interval, program_of(case).name))
    return nested([replace(each, left_out=other) for each, other in zip(found, refitted(found, shapes), strict=True)])


def refitted(found: Sequence[Compared], shapes: Mapping[str, Any]) -> list[Interval]:
    """Each time again, with constants fitted to the other sources: coordinate descent from round numbers."""
    known = {name: getattr(time_module, name) for name in TIME_START}
    left_out: dict[str, Interval] = {}
    try:
        for source in {source_of(each.case) for each in found}:
            _fit([each for each in found if source_of(each.case) != source and kind_of(each.case) == "cuda"], shapes)
            for each in found:
                if source_of(each.case) == source:
                    left_out[each.case["id"]] = exactly(_again(each, shapes))
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
            guess = serving_peak(shape, serving) * case["device"]["count"]
            bytes_, program = measured["peak_memory_gb"] * 1e9, serving.program or serving.engine
            found.append(Compared(case, "serving peak", bytes_, guess, exactly(guess.point), program))
    return nested(found)


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
            found.append(Compared(case, "serving peak", tokens, room, room, "vllm"))
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
                peak = predicted_peak({**case, "micro_batch": case["micro_batch"] or 1}, shape)
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
    blind = sum(each.inside_left_out for each in compared)
    width = statistics.median(each.width for each in compared)
    worst = max((each.error for each in compared), key=abs)
    ninetieth = errors[int(0.9 * (len(errors) - 1))]
    print(
        f"| {name} | {len(compared)} | {statistics.median(errors):.1%} | {ninetieth:.1%} | {worst:+.0%} | {inside:.0%} "
        f"| {out:.1%} | {blind} of {len(compared)} ({blind / len(compared):.0%}) | +{width:.0%} |"
    )
    if rows:
        for each in compared:
            where = "in " if each.inside else "OUT"
            there = "in " if each.inside_left_out else "OUT"
            print(f"    {each.error:>+8.1%} {where} {each.error_left_out:>+8.1%} {there} {each.case['id']}")


def by_program(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Grouped by kind of device, program and publication."""
    found: dict[str, list[Compared]] = defaultdict(list)
    for each in compared:
        found[f"{kind_of(each.case)}: {each.program}, {source_of(each.case)}"].append(each)
    return found


def table(title: str, compared: Sequence[Compared], *, rows: bool, groups: bool = True) -> None:
    """A Markdown table: all, then each kind of device, then program by program."""
    print(f"\n{title}\n")
    print(
        "| | cases | median \\|error\\| | 90 % below | worst | in interval | error, source left out "
        "| in interval, source left out | interval reaches |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rate(compared, "all")
    kinds = sorted({kind_of(each.case) for each in compared})
    for kind in kinds if len(kinds) > 1 else ():
        rate([each for each in compared if kind_of(each.case) == kind], f"{kind}, all")
    for name, group in sorted(by_program(compared).items()) if groups else ():
        rate(group, name, rows=rows)


def calibration(cases_file: Path, compared: Mapping[str, Sequence[Compared]]) -> dict[str, Any]:
    """What ``afina/plan/calibration.json`` holds: for each kind of prediction its groups.

    A CPU's peaks come from this project's own tests, which fail beyond the bound that stands here.
    """
    from tests.measure_training import BOUND, METHODS, SHAPES

    found = {kind: groups([each.residual for each in members]) for kind, members in compared.items()}
    count = len(SHAPES) * len(METHODS)
    own = {"device": "cpu", "program": AFINA_CPU.name, "cases": count, "sources": 1, "inside": count}
    found["training peak"].append({**own, "factor": round(1 / (1 - BOUND), 4), "own_tests": True})
    digest = hashlib.sha256(cases_file.read_bytes()).hexdigest()
    return {"cases_sha256": digest, "level": LEVEL, "groups": found}


def read(name: str) -> Any:
    """A JSON file."""
    return json.loads((SHARED / name).read_text(encoding="utf-8"))


def factor(compared: Sequence[Compared], value: Callable[[Compared], float] = lambda each: each.error) -> float:
    """Median factor between predicted and measured, whichever is larger."""
    return statistics.median(math.exp(abs(math.log(1 + value(each)))) for each in compared)


def figures(cases: Sequence[Case], shapes: Mapping[str, Any], left_out: Counter[str], *, rows: bool) -> None:
    """Print every table."""
    table("Peak memory of training, settings known", training_cases(cases, shapes, left_out), rows=rows)
    guessed = training_cases(cases, shapes, left_out, guessed=True)
    table(
        "Peak memory of training, settings guessed (quality B and C: mostly an upper bound of the length)",
        guessed,
        rows=rows,
    )
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
    write_between(DOCS, "accuracy", accuracy)
    write_between(DOCS, "seeds", seeds_table())


def main() -> None:
    """Print the tables, or write them into the docs."""
    if not SHARED.exists():
        print(f"needs {SHARED}, which is not here")
        return
    shapes = read("architectures.json")
    chosen = Path(sys.argv[sys.argv.index("--cases") + 1]) if "--cases" in sys.argv else SHARED / "cases.json"
    cases: list[Case] = json.loads(chosen.read_text(encoding="utf-8"))
    left_out: Counter[str] = Counter()
    if "--calibrate" in sys.argv:
        compared = {
            "training peak": training_cases(cases, shapes, left_out),
            "training peak, settings guessed": training_cases(cases, shapes, left_out, guessed=True),
            "training time": time_cases(cases, shapes, left_out),
            "serving peak": serving_cases(cases, shapes, left_out),
        }
        TABLE.write_text(json.dumps(calibration(chosen, compared), indent=1) + "\n", encoding="utf-8")
        return
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
