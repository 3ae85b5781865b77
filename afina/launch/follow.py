"""A job on its machine, from the start to its results at home: watched, copied back while it runs, begun again
elsewhere when its machine goes, ended when its time is up. The machine is given back when all is home, not before."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, ResultError
from afina.launch.engine import JobState, LaunchEngine, ask_state, stop_job
from afina.launch.parcel import NOT_SENT
from afina.launch.remote import Unreachable
from afina.launch.scripts import KILL_SECONDS
from afina.run import read_mapping, write_json
from afina.units import show_seconds

MISSES = 4
"""Looks in a row without an answer after which the machine counts as gone, where nobody says otherwise."""
START_SECONDS = 600.0
"""For so long a queued job may not have begun."""
_KEPT = ("on", "folder", "limit_seconds", "spent_seconds", "machine_seconds")
_LEAVE = [f"/{name}" for name in NOT_SENT] + ["*.partial", "*.old"]


@dataclass
class LaunchState:
    """What is known of a launch that is under way: it can be followed by another process, after this one."""

    file: Path
    on: str
    folder: str
    limit_seconds: float | None = None
    """For how long its machines may be had in all."""
    spent_seconds: float = 0.0
    """For how long earlier machines were had."""
    machine_seconds: float = 0.0
    """For how long this one was, as it said last."""

    @property
    def had_seconds(self) -> float:
        """For how long machines were had, as far as is known."""
        return self.spent_seconds + self.machine_seconds

    def write(self) -> None:
        """Keep it."""
        write_json(self.file, {name: getattr(self, name) for name in _KEPT})

    def next_machine(self) -> None:
        """What came until now was spent."""
        self.spent_seconds, self.machine_seconds = self.had_seconds, 0.0
        self.write()

    @property
    def left_seconds(self) -> float | None:
        """None where there is no limit."""
        return None if self.limit_seconds is None else max(0.0, self.limit_seconds - self.had_seconds)


def read_state(file: Path) -> LaunchState | None:
    """A launch that is under way; None where there is none."""
    if not file.is_file():
        return None
    found: dict[str, Any] = read_mapping(file, *_KEPT)
    return LaunchState(file, **{name: found[name] for name in _KEPT})


@dataclass
class Follower:
    """Follows one launch.

    Args:
        begin: writes the parcel for the time that is left, and starts; called again for each machine.
        look: shows the run's copy here, as ``afina watch --once`` does.
        confirm: asks the person at the terminal; None where nobody is there.
        every: seconds between two looks.
        retries: how many machines may be lost.
    """

    engine: LaunchEngine
    run: Path
    state: LaunchState
    begin: Callable[[], None]
    look: Callable[[], None]
    say: Callable[[str], None]
    confirm: Callable[[str], bool] | None
    every: float = 15.0
    retries: int = 5
    serves: bool = False
    """Whether the machine is kept when the run is done: it serves what was trained."""
    seen: bool = False
    """Whether the job was seen at work: only then is there anything to bring home."""

    def follow(self, *, begins: bool) -> int:
        """Until the job has ended and its results are home; its exit code (0 or 5).

        Args:
            begins: whether it has to be begun first; else it is under way.

        Raises:
            AfinaError: the job failed, or its machines were lost too often. What there is of the run is home.
            KeyboardInterrupt: the person went away, with or without the job.
        """
        lost = 0
        with _terminated_is_interrupted():
            try:
                if begins:
                    self._begin()
                while True:
                    found = self._watch()
                    if found.standing == "ended":
                        return self._end(found)
                    lost += 1
                    self._again(lost)
            except KeyboardInterrupt:
                self._interrupted()
                raise

    def _watch(self) -> JobState:
        """Look until the job has ended or is lost."""
        misses, began, told = 0, time.monotonic(), False
        while True:
            try:
                found = ask_state(self.engine)
                self.state.machine_seconds = max(self.state.machine_seconds, found.seconds)
                self.state.write()
                self._bring(while_it_runs=True)
                misses = 0
            except Unreachable as error:
                misses += 1
                self.say(f"{error.problems[0].what}; asked again")
                if self._is_gone(misses):
                    return JobState("lost")
                time.sleep(self.every)
                continue
            self.seen = self.seen or found.standing != "nothing"
            self.look()
            waits = found.standing == "nothing" and time.monotonic() - began < START_SECONDS
            if found.standing != "running" and not waits:
                return JobState("lost") if found.standing == "nothing" else found
            if self.state.left_seconds == 0.0 and not told:  # its own clock comes first; this is for one that stands
                self.say(f"its time of {show_seconds(self.state.limit_seconds or 0.0)} is up: it is told to end")
                stop_job(self.engine, late=True)
                told = True
            time.sleep(self.every)

    def _is_gone(self, misses: int) -> bool:
        """Whether a machine that does not answer is away for good. One of ours is asked until it is back.

        Raises:
            AfinaError: it is rented and there, does not answer, and its time is up.
        """
        if not self.engine.rented:
            return False
        if self.engine.gone():
            return True
        if misses >= MISSES and self.state.left_seconds == 0.0:
            raise AfinaError(
                "the rented machine does not answer, and its time is up; what came home last is here",
                "the same command asks it again; SkyPilot's dashboard or `sky down` gives it back as it is",
                self.engine.remote.host,
            )
        return False

    def _again(self, lost: int) -> None:
        with contextlib.suppress(Unreachable):
            self._bring(while_it_runs=True)
        if lost > self.retries:
            self._close()
            raise AfinaError(
                f"its machine was lost {lost} times", "the same command goes on from what is home", str(self.run)
            )
        self.say(f"the job's machine or process is gone; begun again ({lost} of {self.retries}) from what is home")
        self.state.next_machine()
        if self.state.left_seconds == 0.0:
            self._close()
            raise AfinaError("the time that was agreed on is used up", "the same command goes on", str(self.run))
        self._begin()

    def _begin(self) -> None:
        """Start; what passes until there is a job is paid for too."""
        began = time.monotonic()
        self.begin()
        self.state.spent_seconds += time.monotonic() - began
        self.state.write()

    def _end(self, found: JobState) -> int:
        """Bring all home, give the machine back, say how it went."""
        self._home()
        done, limit = found.code in (0, ResultError.exit_code), show_seconds(self.state.limit_seconds or 0.0)
        if not (self.serves and done):
            self._close()
        if found.late and not done:
            raise AfinaError(
                f"stopped when its time of {limit} was up; its checkpoint is home",
                "the same command goes on from there; a higher budget.hours or budget.money lets it take longer",
                str(self.run),
            )
        if found.code is None or not done:
            ended = f"afina ended there with code {found.code}"
            what = "the environment could not be made there" if found.code is None else ended
            last = " / ".join(self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-4:])
            raise AfinaError(f"{what}: {last}", "mend that; the same command goes on from what is home", str(self.log))
        return found.code

    @property
    def log(self) -> Path:
        """What the job says, here."""
        return self.run.parent / "_launch" / f"{self.run.name}.log"

    def _home(self) -> None:
        """The last copy, of which everything has to come."""
        for tries in range(1, MISSES + 1):
            try:
                self._bring(while_it_runs=False)
                return
            except AfinaError as error:
                if tries == MISSES:
                    rented = "; the machine is still rented: results are on it" if self.engine.rented else ""
                    raise AfinaError(
                        f"results could not be brought home: {error.problems[0].what}{rented}",
                        "the same command tries again",
                        self.engine.remote.host,
                    ) from error
                time.sleep(self.every)

    def _bring(self, *, while_it_runs: bool) -> None:
        """What is there of the run: checkpoints first, so that the log never tells less than they hold."""
        there = f"{self.engine.folder}/runs/{self.run.name}"
        said = self.engine.remote.do(f"[ -d {shlex.quote(there)} ] && echo yes || echo no").strip()
        if said == "yes":
            if while_it_runs:
                self.engine.remote.bring(there, self.run, leave=[*_LEAVE, "/*.json*"], while_it_runs=True)
            self.engine.remote.bring(there, self.run, leave=_LEAVE, while_it_runs=while_it_runs)
        log = self.engine.remote.do(f"tail -c 200000 {shlex.quote(self.engine.folder)}/job.log 2>/dev/null || true")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text(log, encoding="utf-8")

    def _close(self) -> None:
        """Give the machine back; the launch is over. Where it costs money and cannot be, it is not."""
        try:
            self.engine.give_back()
        except AfinaError as error:
            self.say(f"the machine could not be given back: {error}")
            if self.engine.rented:
                raise
        self.state.file.unlink(missing_ok=True)

    def _interrupted(self) -> None:
        """Ask whether the job goes too. Where nobody can be asked, what costs money goes and what does not stays."""
        goes = self.engine.rented
        if self.confirm is not None:
            goes = self.confirm("Stop the job, bring home what there is and give the machine back?")
        if not goes:
            self.say("it goes on there; the same command follows it again")
            return
        self.say(f"told to end with a checkpoint; then it comes home (up to {show_seconds(KILL_SECONDS)})")
        with contextlib.suppress(Unreachable):
            stop_job(self.engine)
            until = time.monotonic() + KILL_SECONDS
            while ask_state(self.engine).standing == "running" and time.monotonic() < until:
                time.sleep(min(self.every, 2.0))
        if self.seen:
            self._home()
        self._close()


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does: a rented machine must not be forgotten."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
