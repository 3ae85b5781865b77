"""A job on its machine, from the start to its results at home: watched, copied back while it runs, begun again
elsewhere when its machine goes, ended when its time is up. The machine is given back when all is home, not before."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from afina.errors import AfinaError, DoesNotFit, ResultError, class_of
from afina.launch.engine import JobLook, JobState, LaunchEngine, ask_state, look_at_job, stop_job
from afina.launch.parcel import SET_ASIDE
from afina.launch.remote import Unreachable
from afina.launch.scripts import KILL_SECONDS
from afina.record import Record
from afina.run import FORGOTTEN, read_launch
from afina.units import show_seconds
from afina.whole import write_json, write_whole

MISSES = 4
"""Looks in a row without an answer after which the machine counts as gone, where nobody says otherwise."""
START_SECONDS = 600.0
"""For so long a queued job may not have begun."""
_KEPT = ("on", "folder", "limit_seconds", "spent_seconds", "machine_seconds")
_HALF = ("*.partial", "*.old")
_PRUNED = ("checkpoints", "first/checkpoints")
"""Folders of which old parts are removed over there, and so here."""
_BEFORE = (SET_ASIDE, *_PRUNED)
"""What comes before the rest: nothing is removed here before it has its new place, and the log never tells less than
checkpoints hold."""
_LEAVE = ("/.lock", "/recipe.yaml", *_HALF, *(f"/{name}" for name in _BEFORE))
"""Of a run over there, what does not come with the rest. Its recipe names the places that things have over there."""


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
    """A launch that is under way; None where there is none.

    Raises:
        AfinaError: the file is damaged.
    """
    values = read_launch(file)
    if values is None:
        return None
    found = Record(values, str(file), fix=FORGOTTEN)
    if (on := found.required_text("on")) == "slurm":  # which keeps the number of its job there
        return LaunchState(file, on, "")
    return LaunchState(
        file,
        on,
        folder=found.required_text("folder"),
        limit_seconds=found.number("limit_seconds"),
        spent_seconds=found.required_number("spent_seconds"),
        machine_seconds=found.required_number("machine_seconds"),
    )


@dataclass
class Follower:
    """Follows one launch.

    Args:
        recipe: as it is kept in the run's folder here.
        begin: writes the parcel for the time that is left, and starts; called again for each machine.
        look: shows the run's copy here, as ``afina watch --once`` does.
        confirm: asks the person at the terminal; None where nobody is there.
        every: seconds between two looks.
        retries: how many machines may be lost.
    """

    engine: LaunchEngine
    run: Path
    recipe: str
    state: LaunchState
    begin: Callable[[], None]
    look: Callable[[], None]
    say: Callable[[str], None]
    confirm: Callable[[str], bool] | None
    every: float = 15.0
    retries: int = 5
    serves: bool = False
    """Whether the machine is kept when the run is done: it serves what was trained."""
    answered: float = field(default_factory=time.monotonic)
    """When the machine did last."""
    came: bool = False
    """Whether the last copy found a run over there."""
    trouble: str = ""
    """Why the last copy while it runs did not come."""
    brought: dict[str, str] = field(default_factory=dict)
    """Of :data:`_BEFORE`, what came while it runs -> as it was then."""

    def follow(self, *, begins: bool) -> int:
        """Until the job has ended and its results are home; its exit code (0 or 5).

        Args:
            begins: whether it has to be begun first; else it is under way.

        Raises:
            AfinaError: the job failed, with the class of its exit code, or its machines were lost too often. What there
                is of the run is home.
            KeyboardInterrupt: the person went away, with or without the job.
        """
        lost = 0
        with _terminated_is_interrupted():
            try:
                if begins:
                    self._begin()
                while True:
                    found = self._watch()
                    if self._home() and found.standing == "ended":
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
                seen = self._see()
                found = seen.state
                self.answered = time.monotonic()
                self._copy_meanwhile(seen)
                misses = 0
            except Unreachable as error:
                misses += 1
                self.say(f"{error.problems[0].what}; asked again")
                if self._is_gone(misses):
                    return JobState("lost")
                time.sleep(self.every)
                continue
            self.look()
            waits = found.standing == "nothing" and time.monotonic() - began < START_SECONDS
            if found.standing != "running" and not waits:
                return JobState("lost") if found.standing == "nothing" else found
            if self.state.left_seconds == 0.0 and not told:  # its own clock comes first; this is for one that stands
                self.say(f"its time of {show_seconds(self.state.limit_seconds or 0.0)} is up: it is told to end")
                stop_job(self.engine, late=True)
                told = True
            time.sleep(self.every)

    def _see(self) -> JobLook:
        return look_at_job(self.engine, self.run.name, _BEFORE)

    def _copy_meanwhile(self, seen: JobLook) -> None:
        """Note the time and copy what there is. A disk that is full here ends no job there: only the last copy has to
        come."""
        self.state.machine_seconds = max(self.state.machine_seconds, seen.state.seconds)
        try:
            self.state.write()
            self._bring(seen, while_it_runs=True)
            self.trouble = ""
        except Unreachable:
            raise
        except AfinaError as error:
            if self.trouble != str(error):
                self.say(f"{error}\nthe job goes on, and the copy is tried again")
            self.trouble = str(error)

    def _is_gone(self, misses: int) -> bool:
        """Whether a machine that does not answer is away for good. One of ours is asked until it is back.

        Raises:
            AfinaError: it is rented and there, does not answer, and its time is up.
        """
        if not self.engine.rented:
            return False
        if self.engine.gone():
            return True
        left, silent = self.state.left_seconds, time.monotonic() - self.answered
        if misses >= MISSES and left is not None and silent > left + KILL_SECONDS:
            raise AfinaError(
                "the rented machine does not answer, and its time is up; what came home last is here",
                "the same command asks it again; SkyPilot's dashboard or `sky down` gives it back as it is",
                self.engine.remote.host,
            )
        return False

    def _again(self, lost: int) -> None:
        """Begin once more, from what is home."""
        if lost > self.retries:
            self._close()
            raise AfinaError(
                f"its machine was lost {lost} times", "the same command goes on from what is home", str(self.run)
            )
        self.say(f"the job's machine or process is gone; begun again ({lost} of {self.retries}) from what is home")
        self.state.next_machine()
        if self.state.left_seconds == 0.0:
            self._close()
            raise DoesNotFit("the time that was agreed on is used up", "the same command goes on", str(self.run))
        self._begin()

    def _begin(self) -> None:
        """Start; what passes until there is a job is paid for too."""
        began = time.monotonic()
        self.brought.clear()
        try:
            self.begin()
        finally:
            self.answered = time.monotonic()
            self.state.spent_seconds += self.answered - began
            self.state.write()

    def _end(self, found: JobState) -> int:
        """All is home: give the machine back, say how it went."""
        done, limit = found.code in (0, ResultError.exit_code), show_seconds(self.state.limit_seconds or 0.0)
        if done and not self.came:
            raise AfinaError(
                f"it ended there with code {found.code}, and its run is not there: nothing could be brought home",
                "look at the machine, which is left as it is; the same command asks again",
                f"{self.engine.remote.host}:{self.engine.folder}",
            )
        if not (self.serves and done):
            self._close()
        if found.late and not done:
            raise DoesNotFit(
                f"stopped when its time of {limit} was up; its checkpoint is home",
                "the same command goes on from there; a higher budget.hours or budget.money lets it take longer",
                str(self.run),
            )
        if found.code is None or not done:
            ended = f"afina ended there with code {found.code}"
            what = "the environment could not be made there" if found.code is None else ended
            last = " / ".join(self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-4:])
            kind = class_of(found.code)
            raise kind(f"{what}: {last}", "mend that; the same command goes on from what is home", str(self.log))
        return found.code

    @property
    def log(self) -> Path:
        """What the job says, here."""
        return self.state.file.with_name("log")

    def _home(self) -> bool:
        """The last copy, of which everything has to come; False where the machine is gone, with what was not copied.

        Raises:
            AfinaError: it does not come, and the machine is there.
        """
        for tries in range(1, MISSES + 1):
            try:
                self._bring(self._see(), while_it_runs=False)
                if self.engine.rented:  # what was only in this machine's memory would be lost with its power
                    os.sync()
                return True
            except AfinaError as error:
                if isinstance(error, Unreachable) and self.engine.gone():
                    return False
                if tries == MISSES:
                    rented = "; the machine is still rented, and results are on it alone" if self.engine.rented else ""
                    raise AfinaError(
                        f"results could not be brought home: {error.problems[0].what}{rented}",
                        "mend that; the same command tries again",
                        self.engine.remote.host,
                    ) from error
                time.sleep(self.every)
        raise AssertionError("the last try returns or raises")

    def _bring(self, seen: JobLook, *, while_it_runs: bool) -> None:
        """What is there of the run: :data:`_BEFORE` as it was seen, and where it is not here already; then the rest.

        A look while it runs is two connections, seldom more: a machine may bear few, and each takes a second.
        """
        remote, there = self.engine.remote, f"{self.engine.folder}/runs/{self.run.name}"
        self.came = seen.parts is not None
        if seen.parts is not None:
            for name, holds in seen.parts.items():
                if while_it_runs and self.brought.get(name) == holds:
                    continue
                exact = name in _PRUNED
                remote.bring(f"{there}/{name}", self.run / name, leave=_HALF, exact=exact, while_it_runs=while_it_runs)
                self.brought[name] = holds
            remote.bring(there, self.run, leave=_LEAVE, while_it_runs=while_it_runs)
            own = self.run / "recipe.yaml"
            if not own.is_file() or own.read_text(encoding="utf-8", errors="replace") != self.recipe:
                write_whole(own, self.recipe)
        if self.came and not while_it_runs:
            self._move_as_there(there)
        if seen.log is not None:
            write_whole(self.log, seen.log)

    def _move_as_there(self, there: str) -> None:
        """What an earlier recipe had made was moved to `replaced/` over there. It has come, and what lies here in its
        old place would be taken for a result of this one. Only what came byte by byte is removed."""
        others: list[str] = []
        listed = self.engine.remote.do(f"cd {shlex.quote(there)} && find . -type f -print0")
        present = {name.removeprefix("./") for name in listed.split("\0")}
        for kept in sorted((self.run / SET_ASIDE).glob("*/**/*")):
            name = Path(*kept.relative_to(self.run / SET_ASIDE).parts[1:])
            old = self.run / name
            if not (kept.is_file() and old.is_file()) or name.as_posix() in present:
                continue
            if not filecmp.cmp(old, kept, shallow=False):  # adapters of one shape have one size, whatever they learned
                others.append(name.as_posix())
                continue
            old.unlink()
            with contextlib.suppress(OSError):  # one of them holds more
                for above in (self.run / each for each in name.parents if each.parts):
                    above.rmdir()
        if others:
            self.say(
                f"{self.run}: {', '.join(others[:3])}{' and more' if others[3:] else ''} ({len(others)}) are no copies "
                f"of what was set aside over there, and no results of this recipe: left as they are; move them away "
                "where they are of worth"
            )

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
        try:
            self._part()
        except KeyboardInterrupt:
            paid = ", and still rented" if self.engine.rented else ""
            self.say(
                f"interrupted again: {self.engine.remote.host} is left as it is{paid}; not all results are home. The "
                "same command follows it again"
            )
            raise

    def _part(self) -> None:
        goes = self.engine.rented
        if self.confirm is not None:
            goes = self.confirm("Stop the job, bring home what there is and give the machine back?")
        if not goes:
            self.say("it goes on there; the same command follows it again")
            return
        self.say(f"told to end with a checkpoint; then it comes home (up to {show_seconds(KILL_SECONDS)})")
        if self._stopped():
            self._home()
        self._close()

    def _stopped(self) -> bool:
        """Stop the job; whether there is one, whose results have to come home."""
        try:
            stop_job(self.engine)
            until = time.monotonic() + KILL_SECONDS
            while (standing := ask_state(self.engine).standing) == "running" and time.monotonic() < until:
                time.sleep(min(self.every, 2.0))
            return standing != "nothing"
        except Unreachable:
            return not self.engine.gone()


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
