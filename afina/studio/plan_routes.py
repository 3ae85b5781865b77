"""The page "plan": does it fit, how long, for how much."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from afina.studio.pages import render
from afina.studio.settings import StudioSettings


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/plan")
    def page() -> Response:
        """The page."""
        return render("plan.html", settings, here="/plan")

    return made
