"""Several runs side by side: the figures of ``afina compare``, and their curves."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from afina.errors import AfinaError, Problem
from afina.studio.curves import curve_values
from afina.studio.jobs import ask
from afina.studio.pages import render
from afina.studio.readers import Readers
from afina.studio.refusal import StudioRefusal
from afina.studio.runs import RunIndex
from afina.studio.settings import StudioSettings

MOST = 20
"""Runs that can be looked at side by side."""


def named(runs: str) -> list[str]:
    """The names in an address, each once.

    >>> named("a,b,,a")
    ['a', 'b']
    """
    return list(dict.fromkeys(each for each in runs.split(",") if each))


async def comparison_values(index: RunIndex, readers: Readers, names: list[str], points: int) -> dict[str, Any]:
    """What the page shows. Where a run is damaged, there are its curves as far as they go, and no figures beside it.

    Raises:
        StudioRefusal: 400, fewer than two runs or too many; 404, one is not there.
    """
    if not 2 <= len(names) <= MOST:
        raise StudioRefusal(400, f"{len(names)} runs are named", f"choose 2 to {MOST} in the list", "runs")

    def read() -> dict[str, Any]:
        curves: dict[str, Any] = {}
        for name in names:
            with readers.looking(name) as (view, log):
                curves[name] = curve_values(view, log, points)
        return {"lines": [index.line(name).as_json() for name in names], "curves": curves}

    found = await asyncio.to_thread(read)
    comparison, problems = None, tuple[Problem, ...]()
    try:  # in a process: of a long log every line is read for it
        comparison = await ask("compare", *(str(index.settings.runs / name) for name in names))
    except AfinaError as error:
        problems = error.problems
    return found | {"comparison": comparison, "problems": [asdict(each) for each in problems]}


def routes(settings: StudioSettings, index: RunIndex, readers: Readers) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/compare")
    def page(runs: str = "") -> Response:
        """The page."""
        return render("compare.html", settings, here="/", names=named(runs))

    @made.get("/api/compare")
    async def compare(runs: str = "", points: Annotated[int, Query(ge=10, le=20_000)] = 500) -> Response:
        """Figures and curves of several runs."""
        return JSONResponse(await comparison_values(index, readers, named(runs), points))

    return made
