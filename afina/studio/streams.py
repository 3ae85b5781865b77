"""What happens in a run, as server-sent events."""

from __future__ import annotations

import json

from fastapi import APIRouter
from fastapi.sse import format_sse_event

from afina.studio.settings import StudioSettings


def event(name: str, data: object, number: int | str | None = None) -> bytes:
    """One server-sent event; its data is JSON.

    Args:
        number: its id, which the browser sends as ``Last-Event-ID`` when it connects again.

    >>> event("state", {"state": "running"}, 7)
    b'event: state\\ndata: {"state": "running"}\\nid: 7\\n\\n'
    """
    identity = None if number is None else str(number)
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=name, id=identity)


def routes(settings: StudioSettings) -> APIRouter:
    """The stream of a run."""
    del settings
    return APIRouter()
