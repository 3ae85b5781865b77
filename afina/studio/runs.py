"""The list of runs."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from afina.studio.pages import render
from afina.studio.settings import StudioSettings


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/")
    def page() -> Response:
        """The page."""
        return render("runs.html", settings, here="/")

    return made
