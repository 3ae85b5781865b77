"""``--on ssh:HOST``: a machine that is there already."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from afina.errors import RecipeError
from afina.launch.engine import ask_state
from afina.launch.remote import READ_EXPORTS, Remote, exports

FOLDER = "afina-launch"
"""Below the home over there: a folder a launch, and the environments that they share."""
_MARK = "job.sh"


@dataclass
class SshEngine:
    """One launch on a machine of one's own."""

    remote: Remote
    folder: str
    keep: bool = False
    """Leave the job's folder where it is when all is home."""
    rented: bool = False

    def make_room(self) -> None:
        """Remove what an earlier launch has left there (``--keep``).

        Raises:
            RecipeError: a job that nobody here knows of is at work in that folder, or the folder is somebody else's.
        """
        state = ask_state(self)
        if state.standing == "running":
            raise RecipeError(
                "another launch is at work in that folder", "wait for it, or take another --dir or name=", self.folder
            )
        folder = shlex.quote(self.folder)
        if self.remote.do(f"[ -d {folder} ] && echo yes || echo no").strip() == "yes":
            self._remove()

    def start(self, parcel: Path, secrets: tuple[str, ...]) -> None:
        """Send what is new and start the job in a session of its own: it goes on when this machine is switched off."""
        self.remote.send(parcel, self.folder, leave=["/runs/*/.lock"])
        begin = f"cd {shlex.quote(self.folder)} && rm -f job.exit job.pid && {READ_EXPORTS} && "
        begin += "{ nohup setsid sh job.sh > /dev/null 2>&1 < /dev/null & } && sleep 1"
        if self.remote.do("command -v setsid >/dev/null && echo yes || echo no").strip() == "no":
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
        if not self.keep:
            self._remove()

    def _remove(self) -> None:
        folder = shlex.quote(self.folder)
        self.remote.do(f'[ -f {folder}/serve.pid ] && kill "$(cat {folder}/serve.pid)" 2>/dev/null; true')
        said = self.remote.do(f"if [ -f {folder}/{_MARK} ]; then rm -rf {folder} && echo removed; else echo other; fi")
        if said.strip() != "removed":
            raise RecipeError("is not the folder of a launch: left as it is", "look at it there", self.folder)


def job_folder(name: str, given: str | None) -> str:
    """Where a launch works: below the folder that is given, or :data:`FOLDER`."""
    return str(PurePosixPath(given or FOLDER) / name)
