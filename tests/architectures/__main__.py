"""``make architectures``: every column of every family, for ``docs/architectures.md`` and ``afina base show``.

Each family is measured in a fork of this process, which has loaded the libraries once; a crash of one is a finding.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bitsandbytes  # noqa: F401
import peft  # noqa: F401
import torch
import transformers

from afina.machine import usable_processors
from afina.model.proven import COLUMNS, FILE, Cell, Proven, ProvenFamily, read_proven
from afina.whole import write_json, write_whole
from architectures.families import FAMILIES, Family
from architectures.measure import measure
from architectures.page import PAGE, page_of

SECONDS = 900
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "gguf")


class Measuring:
    """A family that is being measured in a process of its own."""

    def __init__(self, family: Family, columns: list[str]) -> None:
        self.family, self.columns, self.started = family, columns, time.monotonic()
        context = multiprocessing.get_context("fork")
        self.answers: multiprocessing.Queue[dict[str, Cell]] = context.Queue()
        self.process = context.Process(target=self._work)
        self.process.start()

    def _work(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AFINA_HOME"] = f"{folder}/home"
            self.answers.put(measure(self.family, Path(folder), self.columns))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def cells(self) -> dict[str, Cell] | None:
        """None as long as it is under way."""
        try:
            found = self.answers.get(timeout=0.2)
        except queue.Empty:
            if self.process.is_alive() and self.seconds < SECONDS:
                return None
            ended = self.process.exitcode
            said = "took too long" if ended is None else f"the process ended with exit code {ended}"
            self.process.kill()
            found = dict.fromkeys(self.columns, Cell("wrong", said))
        self.process.join()
        return found


def write(before: dict[str, dict[str, Cell]]) -> None:
    """What is known so far: data and page."""
    rows = [ProvenFamily(each.name, each.what, before[each.name]) for each in FAMILIES if each.name in before]
    made = {name: version(name) for name in LIBRARIES}
    proven = Proven(datetime.now(UTC).date().isoformat(), made, tuple(rows))
    write_json(FILE, proven.as_json())
    write_whole(PAGE, page_of(proven))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="names; all of them where none is given")
    parser.add_argument("--columns", help="comma-separated heads; the others keep what was measured before")
    parser.add_argument("--jobs", type=int, default=usable_processors(), help="families at a time")
    arguments = parser.parse_args()
    columns = arguments.columns.split(",") if arguments.columns else list(COLUMNS)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    wanted = [family for family in FAMILIES if not arguments.families or family.name in arguments.families]
    before = {family.name: dict(family.cells) for family in read_proven().families} if FILE.exists() else {}
    running: list[Measuring] = []
    while wanted or running:
        while wanted and len(running) < arguments.jobs:
            running.append(Measuring(wanted.pop(0), columns))
        for each in list(running):
            if (cells := each.cells()) is None:
                continue
            running.remove(each)
            before.setdefault(each.family.name, {}).update(cells)
            unsaid = [f"{head}: {cell.said}" for head, cell in cells.items() if cell.state != "right"]
            print(f"{each.family.name:22} {each.seconds:5.0f} s  {'; '.join(unsaid) or 'right'}", flush=True)
            write(before)
    return int(any(cell.state == "wrong" for cells in before.values() for cell in cells.values()))


if __name__ == "__main__":
    raise SystemExit(main())
