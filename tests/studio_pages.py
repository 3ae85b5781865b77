"""The studio in a real browser: a studio of its own process, pages that note every complaint, and what may not be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waiting import LONGEST


@contextmanager
def studio(runs: Path, *options: str) -> Iterator[str]:
    """The address of an `afina studio` that runs, without a slash at its end."""
    with studio_process(runs, *options) as (address, _):
        yield address


@contextmanager
def studio_process(runs: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The same, and its process, which leads a group of its own."""
    command = [sys.executable, "-m", "afina", "studio", "--runs", str(runs), "--port", "0", "--no-browser", "--json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        assert process.stdout
        yield _first_object(process.stdout)["url"].rstrip("/"), process
    finally:
        process.terminate()
        process.communicate(timeout=LONGEST)


def _first_object(lines: Any) -> dict[str, Any]:
    """The first JSON of a stream, on one line or several."""
    text = ""
    for line in lines:
        text += line
        try:
            found: dict[str, Any] = json.loads(text)
            return found
        except ValueError:
            continue
    raise AssertionError(f"the studio ended without an address: {text!r}")


def opened(
    browser: Any, address: str, width: int = 1280, scheme: str = "light", height: int = 900
) -> tuple[Any, list[str]]:
    """A page of the browser at an address of the studio that listens to who uses it, and what it complains of: errors,
    and requests elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(1000 * LONGEST)
    said: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    origin = "/".join(address.split("/")[:3])
    page.on("request", lambda request: None if request.url.startswith((origin, "data:")) else said.append(request.url))
    page.goto(address)
    listens(page)
    return page, said


def listens(page: Any) -> None:
    """Wait until a page does what its controls say: its module waits for the words of the studio's language, and a page
    counts as loaded before that."""
    page.wait_for_selector("body[data-ready]", state="attached")


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with a page, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:160]} ({node.get('failureSummary', '')})"
        for each in found
        for node in each["nodes"]
    ]


CUT = """() => [...document.querySelectorAll("body *")].filter(each => {
  const box = each.getBoundingClientRect();
  const own = ".scroll, svg, pre, .plot, .hidden, .skip, .tokens";
  if (!box.width || each.closest(own)) return false;
  return box.right > document.documentElement.clientWidth + 1 || box.left < -1;
}).map(each => each.tagName + "." + each.className + ": " + each.textContent.slice(0, 40))"""
"""What reaches beyond the window, but for what scrolls by itself."""


def cut(page: Any) -> list[str]:
    """What a page shows beyond the edge of the window."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    found: list[str] = page.evaluate(CUT)
    return found + ([f"the page is {wide} px wider than its window"] if wide > 0 else [])
