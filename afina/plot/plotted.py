"""A run as it is drawn: its name in the picture, what was read of it, and what is said of it below."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from afina.evaluate.scores import ProbeResult
from afina.watch.view import RunView

_SHORT = 36


@dataclass(frozen=True)
class PlottedRun:
    """One run of a picture."""

    label: str
    view: RunView
    probes: tuple[ProbeResult, ...] = ()

    @property
    def short(self) -> str:
        """The label where there is little room."""
        return self.label if len(self.label) <= _SHORT else self.label[: _SHORT - 1] + "…"

    @property
    def about(self) -> str:
        """When it was trained, on what, and how it stands: a line below the picture."""
        view = self.view
        stamps = [t for each in view.trainings for t in (each.steps["time"][:1] + each.steps["time"][-1:]) if t == t]
        parts = []
        if stamps:
            began, ended = when(stamps[0]), when(stamps[-1])
            parts = [f"{began} to {ended.removeprefix(began[:11])} UTC"]
        parts.append(view.state + (f" at step {view.training.step:,}" if view.training else ""))
        base = view.recipe.get("base")
        parts.append(f"base {base}" if isinstance(base, str) else "from nothing")
        device = view.training.device if view.training else None
        parts += [f"{device} {view.training.precision or ''}".strip()] if device and view.training else []
        return f"{self.label}: " + " · ".join(parts)

    def as_json(self, points: int) -> dict[str, Any]:
        """Plain values: the view's, and the probes."""
        return self.view.as_json(points) | {"label": self.label, "probes": [each.as_json() for each in self.probes]}


def when(seconds: float) -> str:
    """A moment as people write it, in UTC.

    >>> when(1_795_904_532.7)
    '2026-11-28 22:22'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
