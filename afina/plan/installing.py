"""``afina doctor --fix``: what is missing, installed by the commands that the checks print, into this Python only."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from afina.errors import AfinaError, RecipeError
from afina.plan.doctor import DoctorCheck

PIP_INSTALL = "pip install "
ELSEWHERE = ("target", "prefix", "root", "user", "python")
"""Settings of pip by which it installs somewhere else than into the Python that runs it."""
OWN = "make an environment of your own: python3 -m venv my-afina, then install afina by my-afina/bin/pip"
Examine = Callable[[], Sequence[DoctorCheck]]


def command_of(check: DoctorCheck) -> list[str]:
    """The words behind `pip` of the command that a check's advice ends with; none where nothing is to be installed.

    >>> command_of(DoctorCheck("mlx-lm", "warning", "not installed", "for this chip: pip install 'afina[mlx]'"))
    ['install', 'afina[mlx]']
    >>> command_of(DoctorCheck("disk", "warning", "1.0 GiB free", "make room"))
    []
    """
    _, pip, rest = check.fix.partition(PIP_INSTALL)
    return ["install", *shlex.split(rest)] if pip and check.status != "ok" else []


def mend(examine: Examine, *, ask: Callable[[str], bool] | None, say: Callable[[str], None]) -> Sequence[DoctorCheck]:
    """Install what the checks miss, one command after the other, each said; returns the checks as they are then.

    Args:
        examine: looks at this machine, before and after.
        ask: asked before each command; None: all are run.

    Raises:
        RecipeError: nothing may be installed into this Python, see :func:`check_python`.
        AfinaError: a command failed, or ended well and what it was to install is still missing.
    """
    checks = examine()
    todo = [(check, words) for check in checks if (words := command_of(check))]
    if not todo:
        say("nothing is missing that pip could install")
        return checks
    check_python()
    installed = []
    for check, words in todo:
        command = shlex.join(["pip", *words])
        said = f"{check.name}: {check.found}\n  {command}"
        if ask is not None and not ask(f"{said}\nInstall it?"):
            say(f"left out: {command}")
            continue
        if ask is None:
            say(said)
        code = pip(words)
        if code:
            raise AfinaError(f"`{command}` ended with exit code {code}", "its own words stand above", "--fix")
        installed.append(check.name)
    importlib.invalidate_caches()
    after = examine()
    left = [check.name for check in after if check.name in installed and check.status != "ok"]
    if left:
        raise AfinaError(
            f"pip ended well, and {', '.join(left)} is still missing in {sys.prefix}",
            "look at what pip says of it: python -m pip show",
            "--fix",
        )
    return after


def check_python() -> None:
    """Whether this Python is one that may be installed into.

    Raises:
        RecipeError: it belongs to the system (PEP 668), cannot be written, has no pip, or a setting of pip leads
            elsewhere.
    """
    packages = Path(sysconfig.get_path("purelib"))
    if sys.prefix == sys.base_prefix and externally_managed():
        raise RecipeError(
            f"{sys.executable} belongs to the system, whose own programs stand on it (PEP 668)", OWN, "--fix"
        )
    if not os.access(packages, os.W_OK):
        raise RecipeError(f"{packages} cannot be written", OWN, "--fix")
    if find_spec("pip") is None:
        raise RecipeError(
            f"{sys.executable} has no pip",
            "python -m ensurepip; or install by uv what `afina doctor` says",
            "--fix",
        )
    if away := settings_elsewhere(_asked("config", "list")):
        raise RecipeError(
            f"pip is set to install elsewhere: {', '.join(away)}",
            "take that out of pip's configuration (python -m pip config debug says where it is) or of the environment",
            "--fix",
        )


def externally_managed() -> bool:
    """Whether the system keeps pip out of this Python's own folder, as PEP 668 has it."""
    return Path(sysconfig.get_path("stdlib", sysconfig.get_default_scheme()), "EXTERNALLY-MANAGED").is_file()


def settings_elsewhere(listed: str) -> list[str]:
    """The settings in what `pip config list` prints by which it installs somewhere else.

    >>> settings_elsewhere("global.timeout='60'\\n:env:.target='/x'\\ninstall.user='false'")
    [":env:.target='/x'"]
    """
    found = []
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        means_no = value.strip("'\"").lower() in ("", "0", "false", "no", "off")
        if name.rpartition(".")[2] in ELSEWHERE and not means_no:
            found.append(line)
    return found


def _asked(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AfinaError(f"pip does not start: {done.stderr.strip()[-500:]}", OWN, "--fix")
    return done.stdout


def pip(words: Sequence[str]) -> int:
    """Run this Python's pip; what it prints goes to stderr, where it asks nothing. Returns its exit code."""
    # Not into the folder of the user's own packages, which is where pip goes by itself if this one cannot be written.
    environment = os.environ | {"PIP_USER": "0", "PIP_NO_INPUT": "1"}
    command = [sys.executable, "-m", "pip", *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, env=environment, check=False).returncode
