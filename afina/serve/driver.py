"""The engine in a thread of its own, and the way to it from an event loop.

Only this thread touches the engine and the model. Requests, cancellations and changes of adapters go to it through one
queue and are taken between two steps; what a step produced goes back to each request's own asyncio queue.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from afina.errors import AfinaError
from afina.model.generate.grammar import Grammars
from afina.model.generate.request import Produced, Request

if TYPE_CHECKING:
    from afina.model.generate.engine_torch import Engine

QUEUE_LIMIT = 256
"""Requests that may wait for a place."""


class Busy(Exception):
    """More requests than the queue takes."""


class EngineStopped(Exception):
    """The engine has ended, by a defect or because the server goes down."""


class Answering(Protocol):
    """What the server's routes ask of whatever writes the answers: our own engine, or llama.cpp."""

    @property
    def context(self) -> int | None:
        """Longest prompt and answer together, in tokens."""

    @property
    def grammars(self) -> Grammars:
        """Forms that an answer can be held to, and the bytes of tokens."""

    @property
    def running(self) -> int:
        """Requests that are being answered."""

    @property
    def open(self) -> int:
        """Requests under way, waiting ones included."""

    @property
    def most(self) -> int:
        """Requests that may be under way at most, waiting ones included."""

    @property
    def failure(self) -> BaseException | None:
        """Why nothing is answered any more."""

    def has_room(self, requests: int) -> bool:
        """Whether the queue takes so many more."""

    def answer(self, request: Request) -> AsyncGenerator[Produced, None]:
        """What is written for a request, piece by piece; leaving the loop early frees its place."""

    def close(self) -> None:
        """End it."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request under way."""

    request: Request
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[Produced | BaseException] = field(default_factory=asyncio.Queue)
    number: int | None = None
    """The engine's, once it has the request."""
    cancelled: bool = False


class Driver:
    """Drives an :class:`Engine` until it is closed."""

    def __init__(self, engine: Engine, queue_limit: int = QUEUE_LIMIT) -> None:
        self.engine, self.queue_limit = engine, queue_limit
        self._failure: BaseException | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}
        self._open = 0
        """Tickets not ended yet; counted in the event loop's thread."""
        self._thread = threading.Thread(target=self._drive, name="engine", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int | None:
        """See :class:`Answering`."""
        return self.engine.context

    @property
    def grammars(self) -> Grammars:
        """See :class:`Answering`."""
        return self.engine.grammars

    @property
    def running(self) -> int:
        """See :class:`Answering`."""
        return self.engine.running

    @property
    def failure(self) -> BaseException | None:
        """Why the thread has ended."""
        return self._failure

    @property
    def open(self) -> int:
        """Requests under way, waiting ones included."""
        return self._open

    @property
    def most(self) -> int:
        """See :class:`Answering`."""
        return self.engine.places + self.queue_limit

    def has_room(self, requests: int) -> bool:
        """Whether the queue takes so many more."""
        return self._open + requests <= self.most

    async def answer(self, request: Request) -> AsyncGenerator[Produced, None]:
        """What the engine writes for a request, piece by piece; leaving the loop early frees its place.

        Raises:
            Busy: the queue is full.
            Stopped: there is no engine any more.
            AfinaError: the engine refuses the request.
        """
        if self.failure is not None:
            raise EngineStopped(str(self.failure))
        if not self.has_room(1):
            raise Busy
        ticket = Ticket(request, asyncio.get_running_loop())
        self._open += 1
        done = False
        try:
            self._work.put(lambda: self._submit(ticket))
            while not done:
                piece = await ticket.pieces.get()
                if isinstance(piece, BaseException):
                    done = True
                    raise piece
                done = piece.done is not None
                yield piece
        finally:
            self._open -= 1
            if not done:
                self._work.put(lambda: self._cancel(ticket))

    async def call(self, change: Callable[[], Any]) -> Any:
        """Run `change` between two steps; returns or raises what it does."""
        if self.failure is not None:
            raise EngineStopped(str(self.failure))
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            try:
                value = change()
            except Exception as error:  # noqa: BLE001  whatever it is, it belongs to whoever asked
                loop.call_soon_threadsafe(outcome.set_exception, error)
            else:
                loop.call_soon_threadsafe(outcome.set_result, value)

        self._work.put(work)
        return await outcome

    def uses(self, adapter: str) -> int:
        """Requests under way with an adapter; for :meth:`call`."""
        return sum(ticket.request.adapter == adapter for ticket in self._tickets.values())

    def close(self) -> None:
        """End the thread. Whatever runs then is told so."""
        self._work.put(None)
        self._thread.join(timeout=30)

    # ---- in the engine's thread

    def _drive(self) -> None:
        try:
            while True:
                try:
                    work = self._work.get(block=not self.engine.busy)
                except queue.Empty:
                    self._pass_on(self.engine.step())
                    continue
                if work is None:
                    self._fail(EngineStopped("the server is going down"))
                    return
                work()
        except BaseException as error:
            self._fail(error)
            raise

    def _submit(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            return
        if self.failure is not None:
            ticket.loop.call_soon_threadsafe(ticket.pieces.put_nowait, EngineStopped(str(self.failure)))
            return
        try:
            ticket.number = self.engine.submit(ticket.request)
        except AfinaError as error:
            ticket.loop.call_soon_threadsafe(ticket.pieces.put_nowait, error)
            return
        self._tickets[ticket.number] = ticket

    def _cancel(self, ticket: Ticket) -> None:
        ticket.cancelled = True
        if ticket.number is not None and self._tickets.pop(ticket.number, None) is not None:
            self.engine.cancel(ticket.number)

    def _pass_on(self, produced: list[Produced]) -> None:
        """One call into each event loop for a whole step: a wake-up a token would cost more than the token."""
        pieces: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Produced]]] = {}
        for piece in produced:
            ticket = self._tickets[piece.id] if piece.done is None else self._tickets.pop(piece.id)
            pieces.setdefault(ticket.loop, []).append((ticket, piece))
        for loop, each in pieces.items():
            loop.call_soon_threadsafe(_deliver, each)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        for ticket in self._tickets.values():
            ticket.loop.call_soon_threadsafe(ticket.pieces.put_nowait, EngineStopped(str(error)))
        self._tickets.clear()
        while not self._work.empty():  # what came since then is told as well
            work = self._work.get()
            if work is not None:
                work()


def _deliver(pieces: list[tuple[Ticket, Produced]]) -> None:
    for ticket, piece in pieces:
        ticket.pieces.put_nowait(piece)
