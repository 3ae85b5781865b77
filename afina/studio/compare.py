"""Several runs side by side."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from afina.studio.pages import render
from afina.studio.settings import StudioSettings


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/compare")
    def page(runs: str = "") -> Response:
        """The page."""
        return render("compare.html", settings, here="/", names=[each for each in runs.split(",") if each])

    return made
