"""Writes docs/watch.md: what the monitor shows of a running run, a killed one and a finished one, at 80 x 24.

python tests/watch_screens.py docs/watch.md
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from unittest import mock

from lxml import etree
from waiting import LONGEST
from watched import NOW, finished_files, held_out, overfitting, start, steps, write_watched

from afina.page_marks import put_between
from afina.watch.monitor_textual import Monitor
from afina.watch.reader import RunReader

SVG = "{http://www.w3.org/2000/svg}"


def screen_of(svg: str) -> list[str]:
    """The lines of a screen, from the picture that Textual exports of it."""
    root = etree.fromstring(svg.encode())
    rows: dict[float, dict[int, str]] = {}
    wide = 12.2  # of a character, in rich's pictures
    for text in root.iter(f"{SVG}text"):
        if "clip-path" in text.attrib:
            rows.setdefault(float(text.get("y")), {})[round(float(text.get("x")) / wide)] = text.text or ""
    lines = []
    for _, parts in sorted(rows.items()):
        line = ""
        for at, part in sorted(parts.items()):
            line = line.ljust(at) + part.replace("\u00a0", " ")
        lines.append(line.rstrip())
    return lines


async def picture(monitor: Monitor, *keys: str, size: tuple[int, int] = (80, 24)) -> list[str]:
    """What the monitor shows after some keys."""
    async with monitor.run_test(size=size) as pilot:
        async with asyncio.timeout(LONGEST):
            while monitor.view is None:
                await asyncio.sleep(0.02)
        await pilot.pause()
        await pilot.press(*keys)
        await pilot.pause()
        return screen_of(monitor.export_screenshot())


def screens(folder: Path) -> dict[str, list[str]]:
    """The three screens of docs/watch.md."""
    running = [*start(300), *steps(200), *(held_out(50 * n, 3.1 - 0.5 * n) for n in (1, 2, 3, 4))]
    runs = {
        "running": write_watched(folder / "running", running),
        "killed": write_watched(folder / "killed", overfitting()),
        "finished": write_watched(
            folder / "finished", [*start(200), *steps(200), held_out(200, 1.1)], **finished_files()
        ),
    }
    found = {}
    for state, run in runs.items():
        reader = RunReader(run, clock=lambda: NOW - 398)
        holder = 0 if state == "running" else None
        with mock.patch("afina.watch.reader.lock_holder", return_value=holder), mock.patch(
            "afina.watch.frame.next_step", return_value="to go on: afina run runs/clube/recipe.yaml"
            if state == "killed" else ""
        ):  # fmt: skip
            found[state] = asyncio.run(picture(Monitor(reader)))
    return found


def document(text: str) -> str:
    """The page with its screens drawn anew."""
    with tempfile.TemporaryDirectory() as folder:
        for state, lines in screens(Path(folder)).items():
            text = put_between(text, f"screen {state}", "\n".join(["```text", *lines, "```"]))
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(document(page.read_text(encoding="utf-8")), encoding="utf-8")
