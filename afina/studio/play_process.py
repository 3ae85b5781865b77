"""The playground's models, in one child process that ends when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from afina.errors import AfinaError, read_problem
from afina.run import parse_json
from afina.studio.jobs import environment
from afina.studio.refusal import StudioRefusal

IDLE_SECONDS = 600.0
"""Without a question for so long, the models are closed; the next question opens them again."""
STOP_SECONDS = 30.0
"""Until a process that does not end an answer is ended."""
LONGEST_EVENT = 1 << 24
"""Bytes of a line from the child."""
WORKER = (sys.executable, "-m", "afina.studio.play_worker")
"""The child."""


@dataclass(frozen=True)
class PlayTarget:
    """What is asked: a run's folder, on another base than its recipe names where one is given; or a base alone."""

    run: str | None
    base: str | None


class PlayProcess:
    """Opens one target at a time, and answers one question at a time."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self.idle_seconds = idle_seconds
        self.about: dict[str, Any] | None = None
        """What is open; None where nothing is."""
        self.target: PlayTarget | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._remarks: BinaryIO | None = None
        self._busy = False
        self._stopping = False  # the answer is not wanted any more, and its models are not open yet
        self._idle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether models are being opened or an answer is being written."""
        return self._busy

    async def open(self, target: PlayTarget) -> dict[str, Any]:
        """Open what is not open yet, closing what was; what is open then.

        Raises:
            StudioRefusal: it is busy.
            AfinaError: what the child says, or that it ended.
        """
        self._begin()
        try:
            async with contextlib.aclosing(self._opened(target)) as events:
                async for _ in events:
                    pass
        finally:
            self._end()
        assert self.about is not None
        return self.about

    async def answer(self, target: PlayTarget, asked: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """``opened``, with ``say`` before it where the target has to be opened first; then ``piece`` after ``piece``,
        and ``done``. Leaving early stops the answer.

        Raises:
            StudioRefusal, AfinaError: as :meth:`open`; and where the conversation leaves no room for an answer.
        """
        self._begin()
        writing = False
        try:
            async with contextlib.aclosing(self._opened(target)) as events:
                async for event in events:
                    yield event
            await self._order({"do": "answer", **asked})
            writing = True
            if self._stopping:
                await self._order({"do": "stop"})
            while writing:
                event = await self._event()
                writing = event["event"] != "done"
                yield event
        except AfinaError:
            writing = False
            raise
        finally:
            if writing:  # whoever asked has left; what is still written is read to its end
                self._later(self._stop_answer())
            else:
                self._end()

    async def stop(self) -> None:
        """Have the answer that is being written end where it is: ``done`` follows. While the models for it are still
        being opened, it ends as it begins."""
        if self._busy and self.about is not None:
            await self._order({"do": "stop"})
        elif self._busy:
            self._stopping = True

    async def close(self) -> None:
        """End the child; its memory is free then."""
        process, remarks, self._process, self._remarks = self._process, self._remarks, None, None
        self.about = self.target = None
        if self._idle:
            self._idle.cancel()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()  # another may be opened meanwhile: nothing of it is touched
        if remarks:
            remarks.close()

    def _begin(self) -> None:
        if self._busy:
            raise StudioRefusal(409, "the playground is busy with another question", "wait for it, or stop it")
        self._busy, self._stopping = True, False
        if self._idle:
            self._idle.cancel()

    def _end(self) -> None:
        self._busy = False
        if self._process is not None:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self.idle_seconds, lambda: self._later(self._rest()))

    async def _rest(self) -> None:
        if not self._busy:  # a question may have come since the time was up
            await self.close()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds none
        task.add_done_callback(self._tasks.discard)

    async def _opened(self, target: PlayTarget) -> AsyncGenerator[dict[str, Any], None]:
        if self.about is not None and self.target == target and self._process and self._process.returncode is None:
            yield self.about
            return
        await self.close()
        self._remarks = tempfile.TemporaryFile()  # noqa: SIM115  as long as the child
        self._process = await asyncio.create_subprocess_exec(
            *WORKER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._remarks,
            env=environment(offline=True),
            start_new_session=True,
            limit=LONGEST_EVENT,
        )
        whole = False
        try:
            await self._order({"do": "open", "run": target.run, "base": target.base})
            while not whole:
                event = await self._event()
                if event["event"] == "opened":
                    event |= {"idle_seconds": self.idle_seconds}
                    whole, self.target, self.about = True, target, event
                yield event
        finally:
            if not whole:
                await asyncio.shield(self.close())

    async def _order(self, order: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise AfinaError("the models were closed meanwhile", "ask again")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended: reading says so
            process.stdin.write((json.dumps(order, ensure_ascii=False) + "\n").encode())
            await process.stdin.drain()

    async def _event(self) -> dict[str, Any]:
        """The child's next event.

        Raises:
            AfinaError: it tells an error, or has ended.
        """
        process = self._process
        if process is None or process.stdout is None:
            raise AfinaError("the models were closed meanwhile", "ask again")
        line = await process.stdout.readline()
        if not line:
            code, said = await process.wait(), self._last_remark()
            await self.close()
            fix = "memory may have run out: close other programs, or take a smaller base" if code < 0 else "ask again"
            raise AfinaError(f"the process that held the models has ended (exit code {code}){said}", fix)
        event: dict[str, Any] = parse_json(line)
        if event["event"] == "error":
            raise AfinaError(problems=[read_problem(each) for each in event["problems"]])
        return event

    def _last_remark(self) -> str:
        if self._remarks is None:
            return ""
        self._remarks.seek(0)
        lines = self._remarks.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    async def _stop_answer(self) -> None:
        """Have the child end the answer that nobody waits for, and read what it still tells of it."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._order({"do": "stop"})
                while (await self._event())["event"] != "done":
                    pass
        except TimeoutError:
            await self.close()
        except AfinaError:
            pass  # the answer ended by an error, or the child did: nobody is left to be told
        finally:
            self._end()
