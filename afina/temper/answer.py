"""What a tempering found: a table for a terminal, plain values for ``temper.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.recipe import Limits
from afina.temper.choose import Point
from afina.units import show_seconds


@dataclass(frozen=True)
class Tempered:
    """The settings that were tried, the one that was taken, and what it was worth on questions that did not choose.

    Args:
        dial: what was turned.
        groups: what each number of a setting is about, where a setting has several.
        points: the steering half at each setting, in the order in which they were asked.
        trained, judged: the judging half, of the adapter as it was trained, and of the one that was written.
        adapter: PEFT's folder of the setting that was taken.
        placed: where it was put besides.
        kept: answers that were there from before.
    """

    run: Path
    dial: str
    groups: tuple[str, ...]
    limits: Limits
    points: tuple[Point, ...]
    chosen: Point
    why: str
    trained: Point
    judged: Point
    adapter: Path
    placed: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    kept: int = 0

    @property
    def passed(self) -> bool:
        """Whether the judging half finds the recipe's limits met."""
        return self.judged.passed

    def as_json(self) -> dict[str, Any]:
        """The content of ``temper.json``."""
        verdict = self.judged.scores.verdict
        return {
            "run": str(self.run),
            "dial": self.dial,
            "groups": list(self.groups),
            "limits": self.limits.model_dump(mode="json", include={"learned_min", "broke_max", "hallucination_max"}),
            "settings": [point.as_json() for point in self.points],
            "chosen": list(self.chosen.setting.strengths),
            "why": self.why,
            "judged": {"trained": self.trained.as_json(), "chosen": self.judged.as_json()},
            "verdict": verdict.as_json() if verdict else None,
            "passed": self.passed,
            "adapter": str(self.adapter),
            "placed": list(map(str, self.placed)),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
            "kept_answers": self.kept,
        }

    def describe(self) -> str:
        """The table of the settings, the one that was taken, and the verdict."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.dial}, asked of the half of the facts that chooses (share, 95 % interval):"
        yield from self._table(self.points, self.chosen)
        at = self.chosen.setting.name
        if len(self.chosen.setting.strengths) > 1:
            at += f" ({', '.join(self.groups)})"
        yield f"taken: {at}: {self.why}"
        yield ""
        yield "asked of the other half, which chose nothing:"
        yield from self._table(
            (self.trained, self.judged), self.judged, ("as trained", f"at {self.chosen.setting.name}")
        )
        if verdict := self.judged.scores.verdict:
            yield from (f"miss: {miss}" for miss in verdict.misses)
            yield from (f"  {finding}" for finding in verdict.findings)
            yield f"at {self.chosen.setting.name}: {verdict.text}"
        yield from (f"note: {note}" for note in self.notes)
        yield f"{show_seconds(self.seconds)}, {self.kept} answers kept from before; {self.adapter} is PEFT's own format"
        yield from (f"wrote {place}" for place in self.placed)

    def _table(self, points: Sequence[Point], marked: Point, names: Sequence[str] = ()) -> Iterator[str]:
        """A row a setting, a column a probe: first what was learned, then what was lost."""
        columns = [(f"{each.probe}: right", each.probe, True) for each in points[0].learned]
        columns += [(f"{each.probe}: lost", each.probe, False) for each in points[0].broken]
        first = max(len(name) for name in (*names, *(point.setting.name for point in points), "setting")) + 2
        width = [max(len(title), 20) + 2 for title, _, _ in columns]
        yield (
            f"  {'setting':<{first}}"
            + "".join(f"{title:<{wide}}" for (title, _, _), wide in zip(columns, width, strict=True))
            + "limits"
        )
        for number, point in enumerate(points):
            cells = [_cell(point, probe, learned) for _, probe, learned in columns]
            row = "".join(f"{cell:<{wide}}" for cell, wide in zip(cells, width, strict=True))
            mark = "*" if point is marked else " "
            name = names[number] if names else point.setting.name
            yield f"{mark} {name:<{first}}{row}{_met(point)}"


def _cell(point: Point, probe: str, learned: bool) -> str:
    shares = point.learned if learned else point.broken
    found = next((share for share in shares if share.probe == probe), None)
    return "-" if found is None else found.describe()


def _met(point: Point) -> str:
    verdict = point.scores.verdict
    missed = len(verdict.misses) if verdict else 0
    return "met" if point.passed else f"{missed} missed"
