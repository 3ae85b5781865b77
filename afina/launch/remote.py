"""A machine that is reached by the programs ``ssh`` and ``rsync``, whoever owns or rents it.

``$AFINA_SSH`` is the command line of ssh where it is not plain ``ssh``, e.g. ``ssh -F my-config``. Nothing that is
secret is an argument of a program: other users of a machine see those.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.errors import AfinaError, RecipeError

UNREACHABLE = 255
"""What ssh exits with where it does not reach the machine; other codes are the command's own."""
VANISHED = 24
"""What rsync exits with where files went away while it copied: the run goes on meanwhile."""
_NETWORK = (10, 12, 30, 35, UNREACHABLE)
"""What rsync exits with where the connection failed or broke."""
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15")
_BEGINS = "afina-launch-says"
"""Printed before a command's own words: what a login's start-up files print there stands before it."""


class Unreachable(AfinaError):
    """The machine does not answer: it is gone, or the network is."""


@dataclass(frozen=True)
class Remote:
    """A machine by its name for ssh."""

    host: str

    def ssh(self) -> list[str]:
        """The command line of ssh, without the host.

        Raises:
            RecipeError: there is no such program.
        """
        words = shlex.split(os.environ.get("AFINA_SSH", "ssh"))
        if shutil.which(words[0]) is None:
            raise RecipeError(f"there is no program {words[0]}", "install openssh-client, or set AFINA_SSH", "ssh")
        return [*words, *_OPTIONS]

    def do(self, command: str, *, given: str = "", seconds: float = 120.0) -> str:
        """Do a command of a POSIX shell there, whatever shell the login has; what it prints.

        Args:
            given: what it reads.
            seconds: after which the machine counts as unreachable.

        Raises:
            Unreachable: ssh did not reach it in time.
            AfinaError: the command failed, with its words; or nothing there does commands.
        """
        words = ["sh", "-c", f"echo {_BEGINS}; {command}"]
        done = self._run([*self.ssh(), self.host, shlex.join(words)], given, seconds)
        if done.returncode == UNREACHABLE:
            fix = _way_in(self.host, done.stderr)
            raise Unreachable(f"{self.host} cannot be reached: {_last(done.stderr)}", fix, self.host)
        if done.returncode:
            raise AfinaError(
                f"`{shlex.split(command)[0]}` failed there ({done.returncode}): {_last(done.stderr or done.stdout)}",
                "mend it there and start the same command again",
                self.host,
            )
        _, begun, said = done.stdout.partition(f"{_BEGINS}\n")
        if not begun:  # nothing may be concluded from it: least of all that there is nothing
            raise AfinaError(
                f"{self.host} did no command, it said: {_last(done.stdout)}", f"try `ssh {self.host} true`", self.host
            )
        return said

    def holds(self, test: str) -> bool:
        """Whether a test holds there, such as ``-d folder``, quoted for a shell.

        Raises:
            Unreachable, AfinaError: as :meth:`do`.
        """
        return self.do(f"if [ {test} ]; then echo yes; else echo no; fi").strip() == "yes"

    def send(self, folder: Path, to: str, *, leave: Sequence[str] = (), exact: bool = False) -> None:
        """Copy what a folder holds into a folder there.

        Args:
            leave: patterns of what is not sent, nor removed.
            exact: remove there what is not here.

        Raises:
            Unreachable, AfinaError: as :meth:`do`.
        """
        self.do(f"mkdir -p {shlex.quote(to)}")
        words = [*(f"--exclude={each}" for each in leave), *(["--delete"] if exact else [])]
        self._copy([*words, f"{folder}/", f"{self.host}:{to}/"])

    def bring(
        self, of: str, folder: Path, *, leave: Sequence[str] = (), exact: bool = False, while_it_runs: bool
    ) -> None:
        """Copy what a folder there holds into one here. A file is replaced when all of it is here, not before.

        Args:
            exact: remove here what is not there; not where reading there went wrong.
            while_it_runs: files may go away meanwhile; else every one has to come, and is compared by its bytes: one
                that was written again within a second may have its old size and time.

        Raises:
            Unreachable, AfinaError: as :meth:`do`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        words = [*(f"--exclude={each}" for each in leave), *(["--delete-after"] if exact else [])]
        words += [] if while_it_runs else ["--checksum"]
        self._copy([*words, f"{self.host}:{of}/", f"{folder}/"], (0, VANISHED) if while_it_runs else (0,))

    def check_programs(self) -> None:
        """Before anything is asked, sent or rented: whether ssh and rsync are here.

        Raises:
            RecipeError: one is not.
        """
        self.ssh()
        if shutil.which("rsync") is None:
            raise RecipeError("there is no program rsync", "install rsync, here and on the machine", "rsync")

    def _copy(self, words: Sequence[str], good: Sequence[int] = (0,)) -> None:
        self.check_programs()
        done = self._run(["rsync", "-a", "-e", shlex.join(self.ssh()), *words], "", None)
        if done.returncode not in good:
            what = f"copying failed ({done.returncode}): {_last(done.stderr)}"
            if "is your shell clean" in done.stderr:
                raise AfinaError(
                    f"the login of {self.host} prints something where rsync is to answer",
                    "let its start-up files print only where somebody types: `case $- in *i*) ;; *) return ;; esac` at "
                    "the top of ~/.bashrc there",
                    self.host,
                )
            if done.returncode in _NETWORK:
                raise Unreachable(what, "start the same command again", self.host)
            raise AfinaError(what, "start the same command again", self.host)

    def _run(self, words: Sequence[str], given: str, seconds: float | None) -> subprocess.CompletedProcess[str]:
        # A file for what is printed, not a pipe: a process that stays there may keep the pipe open.
        # What is printed may begin with half a character: the end of a log.
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out,
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        ):
            try:
                done = subprocess.run(
                    words, input=given, stdout=out, stderr=errors, text=True, timeout=seconds, check=False,
                    start_new_session=True,
                )  # fmt: skip
                code = done.returncode
            except subprocess.TimeoutExpired:
                code = UNREACHABLE
            texts = []
            for file in (out, errors):
                file.seek(0)
                texts.append(file.read())
        return subprocess.CompletedProcess(list(words), code, *texts)


def exports(names: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Lines that give variables to a shell that reads them: see :data:`READ_EXPORTS`."""
    values = os.environ if environment is None else environment
    return "".join(f"{name}={values[name]}\n" for name in names)


READ_EXPORTS = 'while IFS= read -r line; do export "$line"; done'
"""Takes what :func:`exports` wrote from the shell's input: no file and no argument holds it."""


def _way_in(host: str, said: str) -> str:
    """What to do where ssh did not get in: here nobody types what it would ask a person for.

    >>> _way_in("box", "Host key verification failed.")
    "`ssh box true` by hand shows the machine's own key, and takes it in"
    """
    if "Host key verification failed" in said:
        return f"`ssh {host} true` by hand shows the machine's own key, and takes it in"
    if "Permission denied" in said:
        return (
            f"`ssh -o BatchMode=yes {host} true` has to work by itself: give the key to an agent with `ssh-add`, or "
            "name it in ~/.ssh/config (IdentityFile)"
        )
    return f"try `ssh {host} true`"


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "it says nothing"
