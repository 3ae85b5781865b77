"""One run: its data and its page."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from afina.studio.pages import render
from afina.studio.settings import StudioSettings


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/run/{name}")
    def page(name: str) -> Response:
        """The page."""
        return render("run.html", settings, here="/", name=name)

    return made
