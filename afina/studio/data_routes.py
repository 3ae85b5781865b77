"""The page "data": what is wrong with a file, and how its rows become tokens."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from afina.studio.pages import render
from afina.studio.settings import StudioSettings


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    made = APIRouter()

    @made.get("/data")
    def page() -> Response:
        """The page."""
        return render("data.html", settings, here="/data")

    return made
