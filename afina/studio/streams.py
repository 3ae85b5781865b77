"""What happens in a run, as server-sent events, from its files while they grow.

Events: ``metric`` (a line of ``metrics.jsonl``), ``log`` (text that the process said), ``sample`` (the last thing that
the model was seen to write), ``state`` (how the run stands), ``again`` (the log is another one, or too far ahead: ask
for the curves anew), ``gone`` (the run is not there any more). The id of an event is where in both logs the stream has
come, as the number ``metrics.log``, so that a browser that connects again misses no line of them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import format_sse_event

from afina.errors import AfinaError
from afina.studio.facts import LOG
from afina.studio.readers import Readers
from afina.studio.refusal import error_values
from afina.studio.run_page import standing
from afina.studio.runs import RunIndex
from afina.studio.security import run_folder
from afina.studio.settings import StudioSettings
from afina.watch.follow import events_in
from afina.watch.reader import last_sample
from afina.watch.view import SampleView, without_nan

EVERY, STATE_EVERY, BEAT = 0.5, 1.0, 15.0
"""Seconds between two looks, between two looks at how the run stands, and between two signs that the stream still
stands where nothing happens."""
FURTHEST = 2**21
"""Bytes of a log that a stream sends at once; who is further behind asks for the curves anew."""
LOG_BEFORE = 2**14
"""Bytes of what the process said before the stream began."""
_SAMPLES = ("samples.jsonl", "continuations.jsonl")


def event(name: str, data: object, number: int | str | None = None) -> bytes:
    """One server-sent event; its data is JSON.

    Args:
        number: its id, which the browser sends as ``Last-Event-ID`` when it connects again.

    >>> event("state", {"state": "running"}, 7)
    b'event: state\\ndata: {"state": "running"}\\nid: 7\\n\\n'
    """
    identity = None if number is None else str(number)
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=name, id=identity)


class RunStream:
    """Follows a run for one browser: each :meth:`news` gives what is new.

    Args:
        offset: bytes of ``metrics.jsonl`` that the browser has; None for all that is there.
        said: bytes of ``console.log`` that it has; None for all but the last :data:`LOG_BEFORE`.
        clock: in seconds.
    """

    def __init__(
        self,
        index: RunIndex,
        readers: Readers,
        name: str,
        offset: int | None = None,
        said: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.index, self.readers, self.name, self.clock = index, readers, name, clock
        self.folder = index.settings.runs / name
        self._metrics, self._console = self.folder / "metrics.jsonl", self.folder / LOG
        self._offset = _size(self._metrics) if offset is None else offset
        self._another = not _ends_a_line(self._metrics, self._offset)
        self._said = max(0, _size(self._console) - LOG_BEFORE) if said is None else said
        self._sample = self._last_sample()
        self._standing: dict[str, Any] = {}
        self._stood = -STATE_EVERY

    @property
    def place(self) -> str:
        """Where in both logs it has come."""
        return f"{self._offset}.{self._said:012d}"

    def news(self) -> Iterator[bytes]:
        """The events since the last call.

        Raises:
            AfinaError: the run is not there any more, or has a link in it that leads elsewhere.
        """
        now = self.clock()
        stands = self._standing
        if now - self._stood >= STATE_EVERY:  # first of all: it sees to links
            stands, self._stood = standing(self.index, self.readers, self.name), now
        yield from self._new_metrics()
        if text := self._new_text():
            yield event("log", text, self.place)
        sample = self._last_sample()
        if sample is not None and sample != self._sample:
            self._sample = sample
            yield event("sample", {"prompt": sample.prompt, "base": sample.base, "adapter": sample.written}, self.place)
        if stands != self._standing:
            self._standing = stands
            yield event("state", stands, self.place)

    def _new_metrics(self) -> Iterator[bytes]:
        behind = _size(self._metrics) - self._offset
        if self._another or not 0 <= behind <= FURTHEST:
            self._another = False
            self._offset += behind
            yield event("again", {}, self.place)
        elif behind:
            lines = _read(self._metrics, self._offset, behind).rpartition(b"\n")[0]
            for line in lines.split(b"\n") if lines else ():
                self._offset += len(line) + 1
                for each in events_in(line)[0]:
                    yield event("metric", without_nan(each), self.place)

    def _new_text(self) -> str:
        """What the process said since, up to its last line end."""
        if _size(self._console) < self._said:  # started anew
            self._said = 0
        found = _read(self._console, self._said, LOG_BEFORE)
        whole = found[: found.rfind(b"\n") + 1] or (found if len(found) == LOG_BEFORE else b"")
        self._said += len(whole)
        return whole.decode("utf-8", errors="replace")

    def _last_sample(self) -> SampleView | None:
        for name in _SAMPLES:
            try:
                if found := last_sample(self.folder / name):
                    return found
            except OSError:  # not there yet
                continue
        return None


def _read(path: Path, at: int, length: int) -> bytes:
    """Bytes of a file; none of one that was removed a moment ago or may not be read, which how the run stands will
    tell: a stream that breaks off is only asked for again."""
    try:
        with path.open("rb") as opened:
            opened.seek(at)
            return opened.read(length)
    except OSError:
        return b""


def _ends_a_line(path: Path, at: int) -> bool:
    """Whether a line ends at a byte, or the file begins there. A log in which none does is another one than the browser
    has read: its run was removed and begun anew, while nobody looked."""
    return at == 0 or _read(path, at - 1, 1) == b"\n"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def routes(settings: StudioSettings, index: RunIndex, readers: Readers) -> APIRouter:
    """The stream of a run."""
    made = APIRouter()

    @made.get("/api/runs/{name}/stream")
    def stream(
        name: str,
        offset: Annotated[int | None, Query(ge=0)] = None,
        place: Annotated[str | None, Query(max_length=40)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """What happens in it from now on, or since the browser was at the `place` that the last event's id told."""
        run_folder(settings, name)
        came = re.fullmatch(r"(\d{1,18})\.(\d{1,18})", last_event_id or place or "")
        begins = (int(came[1]), int(came[2])) if came else (offset, None)
        followed = _follow(RunStream(index, readers, name, *begins))
        return StreamingResponse(followed, media_type="text/event-stream")

    return made


async def _follow(stream: RunStream) -> AsyncIterator[bytes]:
    """The news of a run until the browser leaves; a comment now and then, so that a dead connection is noticed."""
    quiet = 0.0
    while True:
        try:
            found = await asyncio.to_thread(lambda: [*stream.news()])
        except AfinaError as error:
            yield event("gone", error_values(*error.problems))
            return
        for each in found:
            yield each
        quiet = 0.0 if found else quiet + EVERY
        if quiet >= BEAT:
            quiet = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(EVERY)
