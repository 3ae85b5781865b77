"""Work behind a page that goes on, or is done, kept for who asks again."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections import deque
from typing import Annotated, Generic, Protocol, TypeVar

from pydantic import Field

from afina.studio.refusal import StudioRefusal


class KeptJob(Protocol):
    """One piece of it."""

    async def end(self) -> None:
        """Stop it, and forget what was made for it."""


Job = TypeVar("Job", bound=KeptJob)
_LONGEST, _REMEMBERED = 64, 1000
ChosenName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", min_length=16, max_length=_LONGEST)]
"""A name that a page has chosen for what it asks for, so that it can end it before it is answered: a page may be closed
by then."""


class KeptJobs(ABC, Generic[Job]):
    """All that are kept, by a name that nobody can guess.

    Args:
        most: at a time, over all open pages; the oldest one makes room.
    """

    def __init__(self, most: int) -> None:
        self.kept: dict[str, Job] = {}
        self._most = most
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)

    @abstractmethod
    def gone(self) -> StudioRefusal:
        """What is said of one that is not kept any more."""

    def name_for(self, chosen: str | None) -> str:
        """The name of a job that is to begin: that which its page has chosen, or a new one.

        Raises:
            StudioRefusal: 404, the page has ended it before it came here; or there is one of that name.
        """
        if chosen is not None and (chosen in self._ended or chosen in self.kept):
            raise self.gone()
        return chosen or secrets.token_urlsafe(12)

    async def keep(self, job: Job, name: str | None = None) -> str:
        """Its name from now on: that of :meth:`name_for`, or a new one."""
        name = name or self.name_for(None)
        self.kept[name] = job
        while len(self.kept) > self._most:
            await self.forget(next(iter(self.kept)))
        return name

    def job(self, name: str) -> Job:
        """
        Raises:
            StudioRefusal: 404, it is not kept any more.
        """
        if name not in self.kept:
            raise self.gone()
        return self.kept[name]

    async def forget(self, name: str) -> None:
        """Stop one and forget it; one that has not come here yet is not begun then."""
        if len(name) <= _LONGEST:
            self._ended.append(name)
        if job := self.kept.pop(name, None):
            await job.end()

    async def close(self) -> None:
        """Stop and forget all of them."""
        for name in list(self.kept):
            await self.forget(name)
