"""One opened adapter at many settings: turned, asked, told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from afina.recipe import Limits
from afina.run import Progress, read_mapping
from afina.temper.adapters import hash_adapter
from afina.temper.choose import Point, choose
from afina.temper.setting import Setting
from afina.whole import whole_folder, write_json

if TYPE_CHECKING:
    from afina.temper.asking import HalfAsker
    from afina.temper.dial_torch import Dial

WRITTEN = "written"
"""The adapter that was written, in the opened model."""


@dataclass
class Sweep:
    """Asks at one setting after the other.

    Args:
        hash: of the run's adapter as it was trained.
        most: how many settings there will be.
    """

    asker: HalfAsker
    dial: Dial
    hash: str
    progress: Progress
    most: int
    asked: int = 0

    def ask(self, setting: Setting) -> Point:
        """The steering half at a setting; what came out is told in a line."""
        self.asked += 1
        place = f"{setting.name} ({self.asked} of {self.most})"
        self.dial.turn(setting)
        weights = {"adapter": self.hash} | self.dial.follows_from(setting)
        point = Point(setting, *self.asker.ask("steer", setting.name, weights, self._at(place)))
        learned, broken = (", ".join(each.describe() for each in shares) for shares in (point.learned, point.broken))
        lost = f"; lost {broken}" if broken else ""
        self.asker.context.tell(f"{setting.name}: learned {learned}{lost}{'; passes' if point.passed else ''}")
        return point

    def _at(self, place: str) -> Progress:
        return lambda done, total, what: self.progress(done, total, f"{what} at {place}")

    def write(self, setting: Setting, folder: Path) -> None:
        """PEFT's adapter of a setting; its ``afina.json`` says what it was made of."""
        with whole_folder(folder) as beside:
            self.dial.write(setting, beside)
            file = beside / "afina.json"
            known = read_mapping(file) if file.is_file() else {}
            made = {"dial": list(self.dial.groups), "at": list(setting.strengths), "of": self.hash}
            write_json(file, known | {"tempered": made | self.dial.follows_from(setting)})

    def judge(self, setting: Setting, written: Path) -> tuple[Point, Point]:
        """The judging half: of the adapter as it was trained, and of the one that was written, as PEFT opens it."""
        from afina.model.load_torch import open_adapter

        self.dial.rest()
        trained = self.asker.ask("judge", "trained", {"adapter": self.hash}, self._at("full strength, to judge"))
        model = open_adapter(self.asker.model, written, WRITTEN)
        model.set_adapter(WRITTEN, inference_mode=True)
        weights = {"adapter": hash_adapter(written)}
        found = self.asker.ask("judge", WRITTEN, weights, self._at(f"{setting.name}, to judge"))
        return Point(Setting(), *trained), Point(setting, *found)


def by_groups(sweep: Sweep, common: Point, settings: Sequence[Setting], limits: Limits) -> list[Point]:
    """From the best common setting on, each group of layers by itself while the others stay; the last ones first. Once
    through the groups, each from the best that was found before.

    Returns:
        What was tried.
    """
    start = Setting(common.setting.strengths * len(sweep.dial.groups))
    tried = {start: replace(common, setting=start)}
    for group in reversed(range(len(sweep.dial.groups))):
        now, _ = choose([*tried.values()], limits)
        for each in settings:
            setting = now.setting.at(group, each.strengths[0])
            if setting not in tried:
                tried[setting] = sweep.ask(setting)
    return [point for setting, point in tried.items() if setting != start]
