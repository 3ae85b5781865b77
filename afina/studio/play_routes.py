"""The page "playground": a question to what a run trained and to its base, side by side, with the same seed.

The conversation is the page's: each question comes with all turns before it, so that closing the models loses nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from afina.errors import AfinaError
from afina.report.differences import differences
from afina.studio.bodies import MOST, PageBody
from afina.studio.facts import checked_run
from afina.studio.named_base import allowed_base
from afina.studio.pages import render
from afina.studio.play_process import PlayProcess, PlayTarget
from afina.studio.refusal import StudioRefusal, error_values
from afina.studio.settings import StudioSettings
from afina.studio.streams import event as as_event
from afina.studio.why_jobs import Explained, WhyJobs

LONGEST_WORD = 120_000
"""Bytes of a question or an answer that is given to a program: Linux takes 128 KiB for one of its arguments."""


class WantedModels(PageBody):
    """A run by its name, on another base where one is named; or a base alone."""

    run: str | None = None
    base: str | None = None


class PlayedTurn(PageBody):
    """A question and what each side answered."""

    question: str
    base: str = ""
    adapter: str = ""


class WantedAnswer(WantedModels):
    """A question, the turns before it, and how tokens are chosen."""

    question: Annotated[str, Field(min_length=1)]
    turns: Annotated[list[PlayedTurn], Field(default_factory=list)]
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_new_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 200
    seed: Annotated[int, Field(ge=0, lt=MOST)] = 0


class WantedWhy(PageBody):
    """Whose answer is explained: a run's, to a question that was asked without turns before it."""

    run: Annotated[str, Field(min_length=1)]
    base: str | None = None
    question: str
    answer: str


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    playground, whys = PlayProcess(), WhyJobs()

    @contextlib.asynccontextmanager
    async def until_the_end(_: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await playground.close()
            await whys.close()

    made = APIRouter(lifespan=until_the_end)

    @made.get("/playground")
    def page() -> Response:
        """The page."""
        return render("playground.html", settings, here="/playground")

    @made.get("/api/play")
    async def state() -> dict[str, Any]:
        """What is open."""
        return {"open": playground.about, "busy": playground.busy}

    @made.post("/api/play/open")
    async def open_models(wanted: WantedModels) -> dict[str, Any]:
        """Open models; answers when they are open."""
        target = _target(settings, wanted)
        return {"open": await playground.open(target)}

    @made.post("/api/play/close")
    async def close_models() -> dict[str, Any]:
        """Close them: their memory is free."""
        if playground.busy:
            raise StudioRefusal(409, "the playground is answering", "stop the answer first")
        await playground.close()
        return {}

    @made.post("/api/play/stop")
    async def stop() -> dict[str, Any]:
        """End the answer that is being written where it is."""
        await playground.stop()
        return {}

    @made.post("/api/play/answer")
    async def answer(wanted: WantedAnswer) -> StreamingResponse:
        """The answers as events: ``say``, ``opened``, ``piece``, ``done`` (with the differences) or ``error``."""
        target = _target(settings, wanted)
        if playground.busy:
            raise StudioRefusal(409, "the playground is busy with another question", "wait for it, or stop it")
        asked = wanted.model_dump(exclude={"run", "base"})
        events = _as_events(playground.answer(target, asked))
        return StreamingResponse(events, media_type="text/event-stream")

    @made.post("/api/play/why")
    async def why(wanted: WantedWhy) -> dict[str, Any]:
        """Look for the training rows behind an answer; returns how that stands. Of the same answer nothing is computed
        twice."""
        name = await whys.start(_explained(settings, wanted))
        return whys.job(name).as_json(name)

    @made.get("/api/play/why/{job}")
    async def why_state(job: str) -> dict[str, Any]:
        """How it stands, and the rows."""
        return whys.job(job).as_json(job)

    @made.post("/api/play/why/{job}/end")
    async def end_why(job: str) -> dict[str, Any]:
        """Stop looking."""
        await whys.forget(job)
        return {}

    return made


def _explained(settings: StudioSettings, wanted: WantedWhy) -> Explained:
    """
    Raises:
        StudioRefusal: there is no such run, the base lies outside of the roots, or no program can be given the texts.
        BaseError: there is no such base.
        AfinaError: a file of the run is a link that leads out of what the studio may read.
    """
    for what in ("question", "answer"):
        text = getattr(wanted, what)
        if not text.strip():
            raise StudioRefusal(400, f"the {what} is empty: no row is behind nothing", "ask something else", what)
        if "\0" in text or len(text.encode()) > LONGEST_WORD:
            fix = f"ask for less: {LONGEST_WORD:,} bytes at most, and no character of number 0"
            raise StudioRefusal(400, f"the {what} cannot be given to a program", fix, what)
    run = checked_run(settings, wanted.run)
    base = allowed_base(settings, wanted.base) if wanted.base else None
    return Explained(run, base, wanted.question, wanted.answer.strip())  # as evaluation keeps what a model wrote


def _target(settings: StudioSettings, wanted: WantedModels) -> PlayTarget:
    """
    Raises:
        StudioRefusal: neither is named; there is no such run; the base lies outside of the roots.
        BaseError: there is no such folder or file.
        AfinaError: a file of the run is a link that leads out of what the studio may read.
    """
    if not wanted.run and not wanted.base:
        raise StudioRefusal(400, "nothing is named to be asked", "choose a run or a base", "run")
    run = str(checked_run(settings, wanted.run)) if wanted.run else None
    return PlayTarget(run, allowed_base(settings, wanted.base) if wanted.base else None)


async def _as_events(told: AsyncGenerator[dict[str, Any], None]) -> AsyncIterator[bytes]:
    """Server-sent events; an error is one too, as the answer has begun already."""
    try:
        async with contextlib.aclosing(told) as events:
            async for event in events:
                more = {"pieces": _compared(event["texts"])} if event["event"] == "done" else {}
                yield as_event(event["event"], event | more)
    except AfinaError as error:
        yield as_event("error", error_values(*error.problems))


def _compared(texts: dict[str, str]) -> dict[str, list[tuple[str, bool]]]:
    """Each side in pieces, with whether the other lacks them; a side alone as it is."""
    if len(texts) < 2:
        return {side: [(text, False)] for side, text in texts.items()}
    base, adapter = texts["base"], texts["adapter"]
    return dict(zip(("base", "adapter"), differences(base, adapter), strict=True))
