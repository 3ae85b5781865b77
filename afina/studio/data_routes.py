"""The page "data": what is wrong with a file or a folder, the rows of each finding, and rows token by token.

All of it is the verbs' own (``afina data audit`` and ``afina data show``), each in a child process.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from afina.studio.bodies import MOST, PageBody
from afina.studio.data_audits import PASTED, AuditJob, Audits, Looked, pasted
from afina.studio.folders import list_folder, list_places
from afina.studio.jobs import ask
from afina.studio.kept_jobs import ChosenName
from afina.studio.named_base import tokenizer_words
from afina.studio.pages import render
from afina.studio.refusal import StudioRefusal
from afina.studio.security import inside
from afina.studio.settings import StudioSettings
from afina.text.formats import language_of

LONGEST_PASTED = 20_000_000
"""Characters."""
MOST_ROWS = 20
"""Rows whose tokens are given at a time."""


class WantedData(PageBody):
    """A file or folder by its path, or a pasted text by the name that says how it is read; and whose tokenizer."""

    path: str | None = None
    text: Annotated[str | None, Field(max_length=LONGEST_PASTED)] = None
    name: str = "pasted.jsonl"
    base: str | None = None
    run: str | None = None
    """Instead of a base: that of this run, with its chat settings."""


class WantedAudit(WantedData):
    """What is audited, and how the page calls the audit."""

    job: ChosenName | None = None


class WantedTokens(WantedData):
    """Which rows: `count` from number `row` on, or what stands at a place that an audit names."""

    job: str | None = None
    """Instead of path and text: what this audit looked at."""
    row: Annotated[int, Field(ge=1, le=MOST)] = 1
    count: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 1
    at: str | None = None


def routes(settings: StudioSettings) -> APIRouter:
    """The page and its JSON."""
    audits = Audits()

    @contextlib.asynccontextmanager
    async def until_the_end(_: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await audits.close()

    made = APIRouter(lifespan=until_the_end)

    @made.get("/data")
    def page() -> Response:
        """The page."""
        return render("data.html", settings, here="/data", kinds=PASTED)

    @made.get("/api/files")
    def files(path: str | None = None) -> dict[str, Any]:
        """What a folder holds; without a path, where to begin."""
        return list_folder(settings, path) if path else list_places(settings)

    @made.post("/api/data/audit")
    async def audit(wanted: WantedAudit) -> dict[str, Any]:
        """Begin an audit; returns how it stands."""
        name = audits.name_for(wanted.job)
        options = tokenizer_words(settings, wanted.base, wanted.run)
        await audits.start(_looked_at(settings, wanted), options, name)
        return audits.job(name).as_json(name, settings.language)

    @made.get("/api/data/audit/{job}")
    async def state(job: str) -> dict[str, Any]:
        """How an audit stands, and its result."""
        return audits.job(job).as_json(job, settings.language)

    @made.post("/api/data/audit/{job}/end")
    async def end(job: str) -> dict[str, Any]:
        """Stop an audit, and forget it with what was pasted for it."""
        await audits.forget(job)
        return {}

    @made.get("/api/data/rows")
    async def rows(job: str, finding: str, split: Annotated[str, Query()] = "train") -> dict[str, Any]:
        """The rows at the places that a finding names, whole."""
        return {"rows": await _rows_of(audits.job(job), finding, split)}

    @made.post("/api/data/tokens")
    async def tokens(wanted: WantedTokens) -> dict[str, Any]:
        """Rows token by token, and which of their tokens are learned."""
        options = tokenizer_words(settings, wanted.base, wanted.run)
        if not options:
            raise StudioRefusal(400, "tokens need a tokenizer", "name a base, or a run", "base")
        if wanted.job:
            job = audits.job(wanted.job)
            return {"rows": await _tokens_of(job.looked, [*options, *_wanted_rows(wanted, job)])}
        looked = _looked_at(settings, wanted)
        try:
            return {"rows": await _tokens_of(looked, [*options, *_wanted_rows(wanted, None)])}
        finally:
            looked.forget()

    return made


def _looked_at(settings: StudioSettings, wanted: WantedData) -> Looked:
    """
    Raises:
        StudioRefusal: both a path and a text, or neither; a path outside of the roots, of nothing, or of a file that is
            no data.
    """
    if (wanted.path is None) == (wanted.text is None):
        raise StudioRefusal(400, "one thing is looked at", "name a file or folder, or paste a text", "path")
    if wanted.text is not None:
        return pasted(wanted.text, wanted.name)
    assert wanted.path is not None
    path = inside(settings, wanted.path)
    if not path.exists():
        raise StudioRefusal(404, "there is no such file or folder", "check the path", wanted.path)
    if path.is_file() and language_of(path.name) == "yaml":  # of a recipe the verb builds the dataset first
        fix = "`afina data audit RECIPE` in a terminal builds its dataset and audits it; here name the data"
        raise StudioRefusal(400, "a recipe, or other settings, is no data", fix, wanted.path)
    return Looked(path)


async def _rows_of(job: AuditJob, finding: str, split: str) -> list[dict[str, Any]]:
    key = (finding, split)
    if key not in job.rows:
        places = job.places(finding, split)
        words = [f"--at={place}" for place in places]
        found = await ask("data show", *words, str(job.looked.path), offline=True) if places else {"examples": []}
        job.rows[key] = [_shown(job.looked, each) for each in found["examples"]]
    return job.rows[key]


def _wanted_rows(wanted: WantedTokens, job: AuditJob | None) -> list[str]:
    """The options that say which rows.

    Raises:
        StudioRefusal: 404, a place that the audit does not name.
    """
    if wanted.at is None:
        return [f"--first={wanted.row}", f"--count={wanted.count}"]
    place = job.looked.hidden(wanted.at) if job else wanted.at
    if job is None or not job.names(place):
        raise StudioRefusal(404, "no audit names such a place", "take one of its places", wanted.at)
    return [f"--at={place}"]


async def _tokens_of(looked: Looked, options: Sequence[str]) -> list[dict[str, Any]]:
    found = await ask("data show", "--tokens", *options, str(looked.path), offline=True)
    return [_shown(looked, each) for each in found["examples"]]


def _shown(looked: Looked, found: dict[str, Any]) -> dict[str, Any]:
    """One entry of ``afina data show --json``, with places as they are shown."""
    told = {name: found.get(name) for name in ("row", "line", "tokens")}
    if row := found.get("row"):
        place = looked.shown(f"{row['from']['path']}:{row['from']['line']}")
        return told | {"at": looked.shown(found.get("at", place)), "where": place}
    return told | {"at": looked.shown(found["at"]), "where": looked.shown(found["at"])}
