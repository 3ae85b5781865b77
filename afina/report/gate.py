"""Is the second of two runs good enough to replace the first? For scripts: reasons why not, or none.

It is refused where it is **worse than the first beyond chance**, by sign tests over the facts that both were asked
about, item by item; where it **misses a limit**; and where either cannot be told, because it was not asked or because
what stands there is no number. Questions of the recipe's probes and tasks have to be the same ones; those that are made
of the dataset may be others where enough are common.
Of several tests each has to be surer (Bonferroni, over those in which enough turned to be sure at all), so that two
runs that are equally good are refused in one comparison of twenty at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.evaluate.guardrails import NAMES, weigh
from afina.evaluate.intervals import FEWEST_TURNED, cluster_sums, sign_test
from afina.evaluate.scores import FACTS, KEEPS, MADE_UP, PROSE, ROLES, ProbeResult, Scores
from afina.recipe import Limits, limits_of, read_limits
from afina.report.compare import RunComparison
from afina.report.labels import words
from afina.report.read import RunFiles
from afina.report.same_items import Item, items_of, measure_of, put
from afina.units import show_share

LEVEL = 0.05
GUARDRAIL = "guardrail "


@dataclass(frozen=True)
class GateTest:
    """One measure of both runs over the items that both have."""

    name: str
    n: int
    """Common items."""
    clusters: int
    """Facts or sections that they are about."""
    better: int
    """Clusters for which the second run is better; `worse`: for which it is worse."""
    worse: int
    p: float
    """Of as many that are worse, by chance (sign test, two-sided)."""


@dataclass(frozen=True)
class GateResult:
    """Whether the second run may pass, and why not."""

    reasons: tuple[str, ...]
    tests: tuple[GateTest, ...]
    level: float
    """Below which p counts."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.reasons

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}

    def describe(self) -> str:
        """The result in the first line, and a line for each reason."""
        head = "gate: passed" if self.passed else f"gate: refused, {len(self.reasons)} reason(s)"
        return "\n".join([head, *(f"  {each}" for each in self.reasons), *(f"  note: {each}" for each in self.notes)])


def weigh_comparison(comparison: RunComparison, limits: Path) -> GateResult:
    """:func:`gate` of two runs that were compared, by the limits in a file (:func:`afina.recipe.read_limits`).

    Raises:
        RecipeError: as these two, or there are not two runs.
    """
    if len(comparison.files) != 2:
        raise RecipeError(
            f"a gate weighs one run against another, and {len(comparison.files)} are named",
            "name two: the one in use, and the one that is to replace it",
            "--gate",
        )
    return gate(*comparison.files, read_limits(limits))


def gate(first: RunFiles, second: RunFiles, limits: Limits) -> GateResult:
    """Weigh the second of two runs against the first, and against limits.

    Raises:
        RecipeError: they are one run, one of them was not measured, or they share too little that both were asked.
    """
    if first.folder.resolve() == second.folder.resolve():
        what = "it is one run twice, and no run is worse than itself"
        raise RecipeError(what, "name the one in use, and the one that is to replace it", str(second.folder))
    for run in (first, second):
        if run.scores is None or run.scores.verdict is None:
            what = "it was not measured, so that it passes no gate"
            raise RecipeError(what, f"afina eval {run.folder}", str(run.folder))
    scores = second.scores
    assert scores is not None
    tests, reasons, notes = _tests(first, second)
    if not tests:
        raise RecipeError(
            f"{first.name} and {second.name} share no question",
            "name the same `evaluate.probes` in both recipes, and measure both again: afina eval RUN",
            "--gate",
        )
    if max(test.clusters for test in tests) < FEWEST_TURNED:
        raise RecipeError(
            f"{first.name} and {second.name} share questions about fewer than {FEWEST_TURNED} facts, of which no loss "
            "could be told from chance",
            "name the same `evaluate.probes` in both recipes, with more questions, and measure both again: "
            "afina eval RUN",
            "--gate",
        )
    surest = [test for test in tests if test.better + test.worse >= FEWEST_TURNED]
    level = LEVEL / max(1, len(surest))
    reasons += [_worse(test) for test in tests if test.worse > test.better and test.p < level]
    reasons += _misses(second, scores, limits)
    reasons += _not_told(scores, limits)
    if scores.verdict and not scores.verdict.passed and limits != own_limits(second):
        notes.append(f"by its own limits {second.name} did not pass: {'; '.join(scores.verdict.misses[:3])}")
    return GateResult(tuple(dict.fromkeys(reasons)), tuple(tests), level, tuple(notes))


def _tests(first: RunFiles, second: RunFiles) -> tuple[list[GateTest], list[str], list[str]]:
    """Every measure that both have items of; what the second was not asked; what a reader has to know."""
    tests, reasons, notes = [], [], []
    before, after = _measures(first), _measures(second)
    made = set(_made_of_the_dataset(first))
    for name, items in before.items():
        common = [key for key in items if key in after.get(name, {})]
        if not common:
            reasons.append(
                f"{name}: {second.name} was not asked what {first.name} was: nothing tells that it is no worse"
            )
            continue
        alone = len(items) - len(common)
        said = f"{name}: {alone} of {len(items)} questions were asked of {first.name} alone"
        if alone and name in made:
            notes.append(said)
        elif alone and not name.startswith(GUARDRAIL):  # those are counted over the same answers
            reasons.append(f"{said}: nothing tells that {second.name} is no worse there")
        pairs = [(items[key], after[name][key]) for key in common]
        if not all(math.isfinite(each.value) for pair in pairs for each in pair):
            reasons.append(f"{name}: figures are no numbers, and nothing tells that {second.name} is no worse")
            continue
        about = [one.cluster or two.cluster or f"item {number}" for number, (one, two) in enumerate(pairs)]
        net = [total for total, _ in cluster_sums([two.value - one.value for one, two in pairs], about)]
        if len(net) < FEWEST_TURNED <= len({each.cluster or str(key) for key, each in items.items()}):
            reasons.append(f"{name}: {len(net)} facts are common to both, of which no loss could be told from chance")
        better, worse = sum(total > 0 for total in net), sum(total < 0 for total in net)
        p = sign_test(min(better, worse), better + worse)
        tests.append(GateTest(name, len(common), len(net), better, worse, p))
    if any(row.text("role") != "skills" and "id" not in row for row in second.predictions or ()):
        notes.append(
            f"{second.name} was measured by an earlier afina, which noted no facts: each question counts by itself"
        )
    if any(row.text("role") in COUNTED_TOGETHER for row in second.predictions or ()):
        notes.append("free answers and claims are held against no other run's: their figures stand in the comparison")
    return tests, reasons, notes


COUNTED_TOGETHER = ("coverage", "claims")
"""Roles whose answers are neither right nor wrong one by one."""


def _made_of_the_dataset(run: RunFiles) -> Iterator[str]:
    """Measures whose questions no file of the recipe holds: they are made of the dataset, or are afina's own, and runs
    of one recipe may be asked others."""
    evaluate = (run.recipe or {}).get("evaluate")
    given = evaluate.get("probes") if isinstance(evaluate, Mapping) else None
    probes = [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []
    named = {each.get("name") or each.get("role") for each in probes}
    for row in (*(run.predictions or ()), *(run.choices or ())):
        if row.text("role") in (*PROSE, "skills") or (run.recipe is not None and row.text("probe") not in named):
            yield measure_of(row)


def _measures(run: RunFiles) -> dict[str, dict[tuple[str, ...], Item]]:
    """What a run got for each item, more being better: probes, tasks, and for each guardrail that it was not broken."""
    found = {name: dict(items) for name, items in items_of(run).items()}
    for row in run.predictions or ():
        if row.text("role") == "unknown" and (called := row.text("adapter_is")) is not None:
            put(found.setdefault(f"{row.text('probe')} ({MADE_UP.word})", {}), row, -float(called == "made up"))
    for row in (*(run.predictions or ()), *(run.samples or ())):
        if "adapter_flaws" not in row:
            continue
        broken = row.texts("adapter_flaws")
        for name in NAMES:
            put(found.setdefault(GUARDRAIL + words(name), {}), row, -float(name in broken))
    return found


def _worse(test: GateTest) -> str:
    of = f"{test.n} common items" + (f" about {test.clusters} facts" if test.clusters < test.n else "")
    p = f"p = {test.p:.2g}" if test.p > 1e-9 else "p below 1e-9"
    return f"{test.name}: worse for {test.worse} and better for {test.better} of {of}, {p}"


def _misses(run: RunFiles, scores: Scores, limits: Limits) -> Iterator[str]:
    """The limits that a run misses. By its own limits its verdict knows; by others its figures are weighed anew."""
    verdict = scores.verdict
    assert verdict is not None
    if limits == own_limits(run):
        yield from verdict.misses
        if not verdict.passed and not verdict.misses:
            yield "its verdict is that it did not pass, and names no limit"
        return
    if verdict.learned in ("no", "parrots"):
        yield f"learned: {verdict.learned}"
    facts = [probe for probe in scores.probes if probe.role in FACTS]
    for probe in facts or [probe for probe in scores.probes if probe.role == "recall"]:
        if limits.learned_min is not None and (share := _right(probe)) < limits.learned_min:
            yield f"{probe.name}: {show_share(share)} right, the limit asks for {show_share(limits.learned_min)}"
    for probe in scores.probes:
        if probe.broken and probe.broke(limits.broke_max):
            lost = f"{probe.broken.lost} of {probe.broken.knew} that were right before are wrong now"
            yield f"{probe.name}: {lost}, the limit allows {show_share(limits.broke_max)}"
        made_up = probe.after.shares.get(MADE_UP.key, 0.0)
        if probe.role == "unknown" and limits.hallucination_max is not None and made_up > limits.hallucination_max:
            allowed = show_share(limits.hallucination_max)
            yield f"{probe.name}: {show_share(made_up)} made up, the limit allows {allowed}"
    rows = [row for row in (*(run.predictions or ()), *(run.samples or ())) if "adapter_flaws" in row]
    before, after = ([row.texts(f"{name}_flaws") for row in rows] for name in ("base", "adapter"))
    yield from weigh(None if _from_nothing(run) else before, after, limits.guardrails)[0]


def _not_told(scores: Scores, limits: Limits) -> Iterator[str]:
    """What no figure tells: whether a limit is kept, where one is missing or is no number."""
    for probe in scores.probes:
        figures = [*probe.before.shares.values(), *probe.after.shares.values()]
        figures += [*(astuple(probe.broken) if probe.broken else ()), *(astuple(probe.change) if probe.change else ())]
        if not all(map(math.isfinite, figures)):
            yield f"{probe.name}: its figures are no numbers, and tell of no limit whether it is kept"
        shown = probe.about.counted[0]
        if shown.key not in probe.after.shares or (probe.role in KEEPS and probe.broken is None):
            yield f"{probe.name}: figures are missing that tell whether its limit is kept; measure it again"
    roles = {probe.role for probe in scores.probes}
    for limit, asked in (("learned_min", {"recall", *FACTS}), ("hallucination_max", {"unknown"})):
        if getattr(limits, limit) is not None and not roles & asked:
            yield f"{limit}: no question was asked that tells whether it is kept ({' or '.join(sorted(asked))})"


def _right(probe: ProbeResult) -> float:
    return probe.after.shares.get(ROLES[probe.role].counted[0].key, 0.0)


def _from_nothing(run: RunFiles) -> bool:
    return run.recipe is not None and run.recipe.get("base") is None


def own_limits(run: RunFiles) -> Limits | None:
    """The limits that a run's verdict was reached by; None where it has no recipe."""
    return None if run.recipe is None else limits_of(run.recipe, str(run.folder / "recipe.yaml"))
