"""What a launch asks of whoever has the machine: start there, how does it stand, give it back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from afina.errors import AfinaError
from afina.launch.parcel import Parcel, link, run_files, set_aside_before
from afina.launch.remote import Remote
from afina.launch.scripts import CLOCK

Standing = Literal["running", "ended", "lost", "nothing"]


@dataclass(frozen=True)
class JobState:
    """How a job stands on its machine."""

    standing: Standing
    """`lost`: it began, its processes are gone and it left no exit code; `nothing`: there is no such job."""
    code: int | None = None
    """Of afina, where it ended; None where its environment could not be made."""
    late: bool = False
    """Whether it was ended because its time was up."""
    seconds: float = 0.0
    """Since it began, by the machine's own clock."""


@dataclass(frozen=True)
class JobLook:
    """What one look at a machine shows, by one connection."""

    state: JobState
    parts: Mapping[str, str] | None = None
    """Folders of the run that are there -> what changes with what they hold; None where there is no run."""
    log: str | None = None
    """The end of what the job said; None where there is no job."""


class LaunchEngine(Protocol):
    """A machine for one launch."""

    @property
    def rented(self) -> bool:
        """Whether it costs money until it is given back."""
        ...

    @property
    def remote(self) -> Remote:
        """The machine."""
        ...

    @property
    def folder(self) -> str:
        """The job's, on the machine."""
        ...

    def make_room(self) -> None:
        """Before the first start: remove what an earlier launch of that name has left and brought home; refuse to
        where one is at work or its results are not home."""
        ...

    def start(self, parcel: Path, secrets: tuple[str, ...]) -> None:
        """Have the machine, copy the parcel there, begin the job. What is there already goes on."""
        ...

    def address(self, port: int) -> tuple[str, str]:
        """How a port over there is reached from here: an address, and a command that has to run for it, or nothing."""
        ...

    def gone(self) -> bool:
        """Whether the machine is away for good; asked when it does not answer."""
        ...

    def give_back(self) -> None:
        """End what costs money, or remove the job's folder. Only called when results are home."""
        ...


# A number in a file says nothing by itself: after a restart it may be another program's. A `ps` that cannot be asked
# about one process (busybox) is not asked. Without `-ww` it may end a command line behind its 80th column.
ALIVE = """alive() {
  p=$(cat "$1" 2>/dev/null) && [ -n "$p" ] && kill -0 "$p" 2>/dev/null || return 1
  ps -ww -p $$ -o args= >/dev/null 2>&1 || return 0
  ps -ww -p "$p" -o args= | grep -q -e job.sh -e setup.sh -e recipe.yaml -e 'afina serve'
}
"""
"""A shell's function: whether the process whose number stands in a file is there, and one of a launch."""
_ASK = f"""{CLOCK}{ALIVE}began=$(cat job.began 2>/dev/null)
echo "since $(( $(now) - ${{began:-$(now)}} ))"
ended() {{ [ -f job.exit ] && echo "ended $(cat job.exit) $([ -f job.late ] && echo late)"; }}
ended || if alive job.pid || alive run.pid; then echo running
elif ended; then :
elif [ -f job.pid ]; then echo lost
else echo nothing; fi"""
"""Its end is looked for again behind its numbers: it may come between the two looks, and is told before they go."""
_PART = "afina-launch-part\n"
"""Stands between the parts of a look."""
# The number of a file changes where another takes its place: to a minute, as POSIX has it, times tell less.
_PARTS = f"""echo {_PART.strip()}
if [ -d {{run}} ]; then
  echo there
  for name in {{names}}; do
    [ -d {{run}}/"$name" ] || continue
    echo "$name $(find {{run}}/"$name"/. -type f -exec ls -ldin {{{{}}}} + 2>/dev/null | sort | cksum)"
  done
fi
echo {_PART.strip()}
tail -c 200000 job.log 2>/dev/null || true"""
_STOP = f"""{ALIVE}if alive job.pid; then kill -TERM "$(cat job.pid)"
elif alive run.pid; then kill -TERM "$(cat run.pid)"; fi"""
"""The job's shell hands it on; where that one was killed alone, what it had started is told itself."""


def ask_state(engine: LaunchEngine) -> JobState:
    """How the job stands.

    Raises:
        Unreachable: the machine does not answer.
        AfinaError: it answers with something else.
    """
    return _state_of(engine.remote.do(_in_folder(engine, _ASK)), engine)


def look_at_job(engine: LaunchEngine, run: str, names: Sequence[str]) -> JobLook:
    """How the job stands, how folders of its run do, and what it said.

    Args:
        run: its name.
        names: of folders in it.

    Raises:
        Unreachable, AfinaError: as :func:`ask_state`.
    """
    there = shlex.quote(f"runs/{run}")
    answer = engine.remote.do(_in_folder(engine, f"{_ASK}\n{_PARTS.format(run=there, names=shlex.join(names))}"))
    state, *more = answer.split(_PART, 2)
    if len(more) < 2:  # the folder is not there
        return JobLook(_state_of(answer, engine))
    lines = more[0].splitlines()
    parts = dict(line.split(" ", 1) for line in lines[1:]) if lines else None
    return JobLook(_state_of(state, engine), parts, more[1])


def _in_folder(engine: LaunchEngine, command: str) -> str:
    """A command in the job's folder; where there is none, that there is nothing."""
    return f"cd {shlex.quote(engine.folder)} 2>/dev/null || {{ echo nothing; exit 0; }}\n{command}"


def _state_of(answer: str, engine: LaunchEngine) -> JobState:
    """
    Raises:
        AfinaError: it says nothing of a job.
    """
    said = answer.split()
    seconds, said = (float(said[1]), said[2:]) if said[:1] == ["since"] else (0.0, said)
    standing: Standing | None = next((each for each in _STANDINGS if said[:1] == [each]), None)
    if standing is None:
        raise AfinaError(f"how the job stands is not clear: {answer.strip()!r:.200}", "look there", engine.remote.host)
    code = int(said[1]) if standing == "ended" and len(said) > 1 and said[1].isdigit() else None
    return JobState(standing, code, "late" in said, max(0.0, seconds))


_STANDINGS: tuple[Standing, ...] = ("running", "ended", "lost", "nothing")


def stop_job(engine: LaunchEngine, *, late: bool = False) -> None:
    """Tell the job to end with a checkpoint; `late`: because its time is up."""
    why = ": > job.late\n" if late else ""
    engine.remote.do(f"cd {shlex.quote(engine.folder)} 2>/dev/null || exit 0\n{why}{_STOP}")


def add_run(parcel: Parcel, run: Path, folder: Path) -> None:
    """Put a parcel into a folder, and the run as far as it is."""
    parcel.write(folder)
    there = folder / "runs" / run.name
    for file in run_files(run) if run.is_dir() else ():
        link(file, there / file.relative_to(run))
    for name in set_aside_before(run):  # their names are taken: what is set aside over there comes beside them
        (there / name).mkdir(parents=True)
