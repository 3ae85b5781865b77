"""What a launch asks of whoever has the machine: start there, how does it stand, give it back."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from afina.launch.parcel import Parcel
from afina.launch.remote import Remote

Standing = Literal["running", "ended", "lost", "nothing"]


@dataclass(frozen=True)
class JobState:
    """How a job stands on its machine."""

    standing: Standing
    """`lost`: it began, its process is gone and it left no exit code; `nothing`: there is no such job."""
    code: int | None = None
    """Of `afina run`, where it ended; None where its environment could not be made."""
    late: bool = False
    """Whether it was ended because its time was up."""
    seconds: float = 0.0
    """Since it began, by the machine's own clock."""


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
        """Before the first start: remove what an earlier launch of that name has left, refuse one that is at work."""
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


_ASK = """cd {folder} 2>/dev/null || {{ echo nothing; exit 0; }}
[ -f job.began ] && echo "since $(( $(date +%s) - $(cat job.began) ))" || echo "since 0"
if [ -f job.exit ]; then echo "ended $(cat job.exit) $([ -f job.late ] && echo late)"
elif [ -f job.pid ]; then
  if kill -0 "$(cat job.pid)" 2>/dev/null &&
    {{ ! command -v ps >/dev/null || ps -p "$(cat job.pid)" -o args= | grep -q job.sh; }}
  then echo running; else echo lost; fi
else echo nothing; fi"""


def ask_state(engine: LaunchEngine) -> JobState:
    """How the job stands.

    Raises:
        Unreachable: the machine does not answer.
    """
    said = engine.remote.do(_ASK.format(folder=shlex.quote(engine.folder))).split()
    seconds, said = (float(said[1]), said[2:]) if said[:1] == ["since"] else (0.0, said)
    standing: Standing = next((each for each in ("running", "ended", "lost") if said[:1] == [each]), "nothing")
    code = int(said[1]) if standing == "ended" and len(said) > 1 and said[1].isdigit() else None
    return JobState(standing, code, "late" in said, seconds)


def stop_job(engine: LaunchEngine, *, late: bool = False) -> None:
    """Tell the job to end with a checkpoint; `late`: because its time is up."""
    stop = f'{": > job.late && " if late else ""}kill -TERM "$(cat job.pid)"'
    engine.remote.do(f"cd {shlex.quote(engine.folder)} && [ -f job.pid ] && {stop} || true")


def add_run(parcel: Parcel, run: Path, folder: Path) -> None:
    """Put a parcel into a folder, and the run as far as it is."""
    from afina.launch.parcel import link, run_files

    parcel.write(folder)
    for file in run_files(run) if run.is_dir() else ():
        link(file, folder / "runs" / run.name / file.relative_to(run))
