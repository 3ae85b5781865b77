"""``--on ssh:HOST``: a machine that is there already."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from afina.errors import RecipeError
from afina.launch.engine import ALIVE, ask_state
from afina.launch.remote import READ_EXPORTS, Remote, exports
from afina.launch.scripts import OF_A_JOB

_MARK = "job.sh"
_HOME = "job.home"
"""Says that all of it is home."""
_ITS_OWN = tuple(f"/{name}" for name in (*OF_A_JOB, _HOME, "job.log", "serve.pid"))
"""What the job writes beside itself."""


@dataclass
class SshEngine:
    """One launch on a machine of one's own."""

    remote: Remote
    folder: str
    keep: bool = False
    """Leave the job's folder where it is when all is home."""
    rented: bool = False

    def make_room(self) -> None:
        """Remove what an earlier launch has left there (`launch.keep`).

        Raises:
            RecipeError: a job that nobody here knows of is at work in that folder, or what it made is not home; the
                folder is somebody else's; there is no rsync.
        """
        if ask_state(self).standing == "running":
            raise RecipeError(
                "another launch is at work in that folder",
                "wait for it, or take another launch.folder= or name=",
                self.folder,
            )
        self.remote.do("command -v rsync >/dev/null || { echo 'there is no program rsync' >&2; exit 1; }")
        folder = shlex.quote(self.folder)
        if not self.remote.holds(f"-d {folder}"):
            return
        if self.remote.holds(f"-d {folder}/runs") and not self.remote.holds(f"-f {folder}/{_HOME}"):
            raise RecipeError(
                "a launch that was begun elsewhere lies in that folder, and nothing says that its results are home",
                f"bring it home from the computer that began it; or take another launch.folder= or name=; or remove "
                f"it: ssh {self.remote.host} rm -r {self.folder}",
                self.folder,
            )
        self._remove()

    def start(self, parcel: Path, secrets: tuple[str, ...]) -> None:
        """Send what is new and start the job in a session of its own: it goes on when this machine is switched off."""
        # Exactly what was listed: a document that is here no more would be read there. The run only grows.
        self.remote.send(parcel, self.folder, leave=["/runs", *_ITS_OWN], exact=True)
        if (parcel / "runs").is_dir():
            self.remote.send(parcel / "runs", f"{self.folder}/runs", leave=["/*/.lock"])
        begin = f"cd {shlex.quote(self.folder)} && rm -f {' '.join(OF_A_JOB)} {_HOME} && {READ_EXPORTS} && "
        begin += "{ nohup setsid sh job.sh > /dev/null 2>&1 < /dev/null & } && sleep 1"
        if not self.remote.holds('-n "$(command -v setsid)"'):
            begin = begin.replace("nohup setsid", "nohup")  # macOS
        self.remote.do(begin, given=exports(secrets))

    def address(self, port: int) -> tuple[str, str]:
        """How a port over there is reached from here, and what has to be typed for it first."""
        return f"http://127.0.0.1:{port}", f"ssh -N -L {port}:127.0.0.1:{port} {self.remote.host}"

    def gone(self) -> bool:
        """Nobody but its owner knows: it is asked again."""
        return False

    def give_back(self) -> None:
        """Remove the job's folder, which is all that was sent.

        Raises:
            RecipeError: the folder is not one of a launch.
        """
        if self.keep:
            self._end_all()
            self.remote.do(f": > {shlex.quote(self.folder)}/{_HOME}")
        else:
            self._remove()

    def _end_all(self) -> None:
        """A server, and a run that did not end when it was told to: nothing may write into a folder that goes."""
        ends = "alive serve.pid && kill -TERM $(cat serve.pid)\nalive run.pid && kill -KILL $(cat run.pid)\ntrue"
        self.remote.do(f"cd {shlex.quote(self.folder)} 2>/dev/null || exit 0\n{ALIVE}{ends}")

    def _remove(self) -> None:
        folder = shlex.quote(self.folder)
        if not self.remote.holds(f"-f {folder}/{_MARK}"):
            raise RecipeError("is not the folder of a launch: left as it is", "look at it there", self.folder)
        self._end_all()
        self.remote.do(f"rm -rf {folder}")


def job_folder(name: str, below: str) -> str:
    """Where a launch works: below `launch.folder`, which the environments share."""
    return str(PurePosixPath(below) / name)
