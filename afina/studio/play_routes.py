"""The page "playground": base and adapter side by side."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from afina.studio.pages import render
from afina.studio.settings import StudioSettings


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/playground")
    def page() -> Response:
        """The page."""
        return render("playground.html", settings, here="/playground")

    return made
