"""``--on runpod``, ``vast``, ``aws`` ...: a machine that SkyPilot rents, by its own program and in its own environment.

SkyPilot pins uvicorn and click to versions that are not afina's, so it may live in an environment of its own: the
``sky`` on the PATH is taken, or the one beside the Python that ``$AFINA_SKY`` names.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import AfinaError, Problem, RecipeError
from afina.launch.offers import Offer
from afina.launch.providers import Provider
from afina.launch.remote import Remote, Unreachable
from afina.launch.scripts import OF_A_JOB
from afina.recipe import Launch
from afina.recipe.home import from_home
from afina.recipe.yaml_text import yaml_of
from afina.run import parse_json

VERSION = "0.14.1"
"""SkyPilot's, with which tasks were validated."""
WORKDIR = "sky_workdir"
"""Where SkyPilot puts a task's workdir, below the home over there."""
IDLE_MINUTES = 60
"""A machine whose job has ended is given back after these, where nobody is there to do it, with what is on it."""
DEARER = 1.05
"""A machine may cost so many times the price that was shown."""
_INSTALL = "python3 -m venv ~/.afina-sky && ~/.afina-sky/bin/pip install 'skypilot[{extra}]=={version}'"
_GIB = 2**30
DOLLARS = "US$"


@dataclass(frozen=True)
class Sky:
    """SkyPilot as it is here: its program and its Python."""

    program: Path
    python: Path

    def ask(self, *words: str) -> dict[str, Any]:
        """Ask its library, see :mod:`afina.launch.sky_inside`.

        Raises:
            AfinaError: it gave no answer.
        """
        script = Path(__file__).with_name("sky_inside.py")
        done = subprocess.run(
            [str(self.python), str(script), *words], capture_output=True, text=True, check=False, env=_environment()
        )
        for line in reversed(done.stdout.splitlines()):
            if line.startswith("afina:"):
                return dict(parse_json(line.removeprefix("afina:")))
        said = (done.stderr or done.stdout).strip()[-500:]
        raise AfinaError(f"SkyPilot gave no answer: {said}", "try `sky check`", str(self.python))

    def do(self, *words: str) -> None:
        """Run its program, whose words go to the terminal.

        Raises:
            AfinaError: it failed.
        """
        self._run(words, 2)

    def read(self, *words: str) -> str:
        """The same; what it prints.

        Raises:
            AfinaError: it failed.
        """
        return self._run(words, subprocess.PIPE)

    def _run(self, words: Sequence[str], out: int) -> str:
        done = subprocess.run(
            [str(self.program), *words], check=False, stdout=out, text=True, env=_environment(), start_new_session=True
        )
        if done.returncode:
            raise AfinaError(f"`sky {words[0]}` failed ({done.returncode})", "its own words stand above", "SkyPilot")
        return done.stdout or ""


def _environment() -> dict[str, str]:
    """Ours without what would lead its Python to our packages."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours}


def find_sky(extra: str = "runpod") -> Sky:
    """SkyPilot on this machine.

    Raises:
        RecipeError: it is not here; with the commands that install it.
    """
    named = os.environ.get("AFINA_SKY")
    found = named or shutil.which("sky")
    install = _INSTALL.format(extra=extra, version=VERSION) + " && export AFINA_SKY=~/.afina-sky/bin/python"
    if not found:
        raise RecipeError("SkyPilot, which rents the machine, is not here", install, "--on")
    # The program may be a link into its environment; its Python always is a link out of it.
    place = from_home(found)
    folder = place.parent if place.name.startswith("python") else place.resolve().parent
    sky, python = folder / "sky", folder / "python"
    if not (sky.is_file() and python.exists()):
        raise RecipeError("no SkyPilot lies beside it: there is no sky and python", install, f"AFINA_SKY={found}")
    return Sky(sky, python)


def check_credentials(sky: Sky, provider: Provider) -> None:
    """
    Raises:
        RecipeError: there are none, with the command that makes them, and SkyPilot's own words.
    """
    answer = sky.ask("credentials", provider.name)
    if not answer["ok"]:
        raise RecipeError(
            problems=[
                Problem(
                    f"there are no credentials of {provider.title}: {answer['said']}",
                    f"{provider.credentials}; then `sky check {provider.name}`",
                    f"--on {provider.name}",
                )
            ]
        )


def task_of(
    name: str,
    provider: Provider,
    offer: Offer,
    parcel: Path,
    *,
    wanted: Launch,
    sent_bytes: int,
    secrets: Sequence[str],
    port: int | None = None,
) -> dict[str, Any]:
    """SkyPilot's task: the machines with the offer's devices, the parcel as their workdir, the job on each.

    Args:
        wanted: how many machines, and the disk that they share.

    Raises:
        RecipeError: prices in money that SkyPilot's limit does not count in.
    """
    if offer.currency != DOLLARS:
        raise RecipeError(
            f"the price is in {offer.currency}, and what SkyPilot is told not to exceed counts US$",
            f"give budget.price_per_hour and budget.money in US$, and budget.currency={DOLLARS}",
            "budget.currency",
        )
    weights = 2 * int(offer.plan["parameters"])
    disk = 40 + 2 * sent_bytes // _GIB + 4 * weights // _GIB  # libraries; the base, and what training writes of it
    resources: dict[str, Any] = {
        "infra": provider.name,
        "accelerators": {offer.accelerator: wanted.devices},
        "use_spot": wanted.spot,
        "disk_size": int(disk),
        "max_hourly_cost": round((offer.price_per_hour or 0.0) / wanted.nodes * DEARER, 4),  # SkyPilot's is a machine's
        "autostop": {"idle_minutes": IDLE_MINUTES, "down": True},
    }
    if port is not None:
        resources["ports"] = [port]
    task: dict[str, Any] = {"name": name, "resources": resources, "num_nodes": wanted.nodes, "workdir": str(parcel)}
    if wanted.shared is not None and wanted.volume is not None:
        task["volumes"] = {wanted.shared: wanted.volume}
    if secrets:
        task["secrets"] = dict.fromkeys(secrets)
    return task | {"run": "sh job.sh\n"}


def task_text(task: Mapping[str, Any]) -> str:
    """The task as YAML."""
    return yaml_of(task)


@dataclass
class SkyEngine:
    """One rented machine; another one when the provider takes it back."""

    sky: Sky
    cluster: str
    task: Path
    """The file of the task."""
    shared_run: str | None = None
    """Where the run is kept on a disk that outlives the machines."""
    rented: bool = True
    folder: str = WORKDIR

    @property
    def remote(self) -> Remote:
        """SkyPilot writes the cluster's name into ssh's configuration."""
        return Remote(self.cluster)

    def make_room(self) -> None:
        """A machine of this name that another launch has must not be taken for ours, and given back.

        Raises:
            RecipeError: there is one.
            AfinaError: SkyPilot does not say.
        """
        there = self._status()
        if there is None:
            raise AfinaError("SkyPilot does not say which machines are there", "ask `sky status`", "SkyPilot")
        if there:
            raise RecipeError(
                f"SkyPilot has a machine {self.cluster} ({there}) that this launch did not begin",
                f"bring it home from the folder that began it; or give this run a name=; or, if nothing of worth is on "
                f"it, `sky down {self.cluster}`",
                "SkyPilot",
            )

    def start(self, parcel: Path, secrets: tuple[str, ...]) -> None:
        """Rent it, copy the parcel, queue the job; minutes.

        Raises:
            AfinaError: the provider has none at this price, or SkyPilot failed.
        """
        (parcel / ".skyignore").touch()  # else what a .gitignore among the documents names would stay behind
        given = [word for name in secrets for word in ("--secret", name)]
        if self._status() == "UP":  # what a job before this one left would be taken for its state
            self.remote.do(f"cd {WORKDIR} 2>/dev/null && rm -f {' '.join(OF_A_JOB)}; true")
        try:
            self.sky.do("launch", "--cluster", self.cluster, "--yes", "--detach-run", *given, str(self.task))
        except AfinaError as error:
            if not (there := self._status()):
                raise
            raise AfinaError(
                f"{error.problems[0].what}, and the machine {self.cluster} is there ({there}): it may cost money",
                f"the same command goes on with it; `sky down {self.cluster}` gives it back",
                "SkyPilot",
            ) from error

    def address(self, port: int) -> tuple[str, str]:
        """How a port over there is reached from here; the provider may show it under another number."""
        shown = self.sky.read("status", "--endpoint", str(port), self.cluster).split()
        if not shown:
            raise AfinaError(f"SkyPilot names no address of port {port}", f"ask `sky status {self.cluster}`", "--serve")
        address = shown[-1]
        return (address if address.startswith("http") else f"http://{address}"), ""

    def gone(self) -> bool:
        """Whether the provider has taken it back."""
        return self._status() not in (None, "UP")

    def _status(self) -> str | None:
        """Its state in SkyPilot's words, empty where there is no such machine; None where that is not known."""
        try:
            answer = self.sky.ask("status", self.cluster)
        except AfinaError:
            return None
        return str(answer["said"]) if answer["ok"] else None

    def give_back(self) -> None:
        """Tear it down, with its disk; what is kept on a shared one is removed first."""
        if self._status() == "":
            return
        if self.shared_run is not None:
            with contextlib.suppress(Unreachable):
                self.remote.do(f"rm -rf {shlex.quote(self.shared_run)}")
        self.sky.do("down", "--yes", self.cluster)
