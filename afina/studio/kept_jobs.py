"""Work behind a page that goes on, or is done, kept for who asks again."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from afina.studio.refusal import StudioRefusal


class KeptJob(Protocol):
    """One piece of it."""

    async def end(self) -> None:
        """Stop it, and forget what was made for it."""


Job = TypeVar("Job", bound=KeptJob)


class KeptJobs(ABC, Generic[Job]):
    """All that are kept, by a name that nobody can guess.

    Args:
        most: at a time, over all open pages; the oldest one makes room.
    """

    def __init__(self, most: int) -> None:
        self.kept: dict[str, Job] = {}
        self._most = most

    @abstractmethod
    def gone(self) -> StudioRefusal:
        """What is said of one that is not kept any more."""

    async def keep(self, job: Job) -> str:
        """Its name from now on."""
        name = secrets.token_urlsafe(12)
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
        """Stop one and forget it; nothing where it is gone."""
        if job := self.kept.pop(name, None):
            await job.end()

    async def close(self) -> None:
        """Stop and forget all of them."""
        for name in list(self.kept):
            await self.forget(name)
