"""Several runs side by side: the figures of ``afina compare``, and their curves."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from afina.errors import AfinaError, Problem
from afina.studio.curves import curve_values, read_log
from afina.studio.facts import SmallFiles, check_links, marks_of
from afina.studio.jobs import ask
from afina.studio.pages import render
from afina.studio.refusal import StudioRefusal
from afina.studio.runs import RunIndex
from afina.studio.security import run_folder
from afina.studio.settings import StudioSettings

MOST = 20
"""Runs that can be looked at side by side."""


def named(runs: str) -> list[str]:
    """The names in an address, each once.

    >>> named("a,b,,a")
    ['a', 'b']
    """
    return list(dict.fromkeys(each for each in runs.split(",") if each))


async def comparison_values(settings: StudioSettings, index: RunIndex, names: list[str], points: int) -> dict[str, Any]:
    """What the page shows. Where a run is damaged, there are its curves as far as they go, and no figures beside it.

    Raises:
        StudioRefusal: 400, fewer than two runs or too many; 404, one is not there.
    """
    if not 2 <= len(names) <= MOST:
        raise StudioRefusal(400, f"{len(names)} runs are named", f"choose 2 to {MOST} in the list", "runs")
    folders = [run_folder(settings, name) for name in names]
    comparison, problems = None, list[Problem]()
    try:
        for folder in folders:
            check_links(settings, folder)
        comparison = await ask("compare", *map(str, folders))
    except AfinaError as error:
        problems += error.problems

    def read() -> dict[str, Any]:
        found: dict[str, Any] = {"lines": [], "curves": {}}
        for name, folder in zip(names, folders, strict=True):
            log = SmallFiles(settings, folder, marks_of(folder)).of("metrics.jsonl", read_log)
            found["curves"][name] = curve_values(log or read_log(folder / "-"), points)
            found["lines"].append(index.line(name).as_json())
        return found

    curves = await asyncio.to_thread(read)
    return {"comparison": comparison, "problems": [asdict(each) for each in problems]} | curves


def routes(settings: StudioSettings, index: RunIndex) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/compare")
    def page(runs: str = "") -> Response:
        """The page."""
        return render("compare.html", settings, here="/", names=named(runs))

    @made.get("/api/compare")
    async def compare(runs: str = "", points: Annotated[int, Query(ge=10, le=20_000)] = 500) -> Response:
        """Figures and curves of several runs."""
        return JSONResponse(await comparison_values(settings, index, named(runs), points))

    return made
