"""Is this machine ready? Looks without importing torch or anything else that is heavy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from afina.errors import AfinaError
from afina.plan.device import Device, local_device
from afina.units import show_bytes

LIBRARIES = {
    "torch": (2, 6),
    "transformers": (5, 0),
    "peft": (0, 18),
    "tokenizers": (0, 21),
    "safetensors": (0, 5),
    "numpy": (1, 26),
    "pydantic": (2, 9),
    "lxml": (5, 3),
    "markdown-it-py": (3, 0),
}
"""Needed, with the oldest version that works."""
OPTIONAL = {
    "bitsandbytes": "4-bit bases (adapter.kind: qlora): pip install 'afina[qlora]'",
    "mlx": "training on Apple chips with MLX: pip install mlx-lm",
    "textual": "the live monitor `afina watch`: pip install 'afina[watch]'",
    "matplotlib": "pictures, `afina plot`: pip install 'afina[plot]'",
}
LEAST_MEMORY = 4 * 2**30
LEAST_DISK = 5 * 2**30


@dataclass(frozen=True)
class DoctorCheck:
    """One thing that was looked at.

    Args:
        status: `ok`, `warning` (works, with a limit) or `missing` (something will not work).
        fix: what to do; empty where nothing is to be done.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


def examine(runs: Path = Path("runs")) -> list[DoctorCheck]:
    """Everything that a run needs from this machine.

    >>> [check.name for check in examine()][:2]
    ['python', 'memory']

    Args:
        runs: the folder that runs are written to; it need not exist yet, and is not created.
    """
    return [_python(), *_machine(), _disk(runs), _writable(runs), *map(_library, LIBRARIES), *_extras(), _hub()]


def describe_checks(checks: Sequence[DoctorCheck]) -> str:
    """One line for each check, what to do below it.

    >>> print(describe_checks([DoctorCheck("disk", "warning", "1.0 GiB free", "make room")]))
    warning  disk            1.0 GiB free
                             -> make room
    """
    lines = []
    for check in checks:
        lines.append(f"{check.status:<9}{check.name:<16}{check.found}")
        if check.fix:
            lines.append(f"{'':<25}-> {check.fix}")
    return "\n".join(lines)


def _python() -> DoctorCheck:
    fit = (3, 11) <= sys.version_info[:2] < (3, 14)
    found = f"{platform.python_version()} ({sys.executable})"
    return DoctorCheck("python", "ok" if fit else "missing", found, "" if fit else "use Python 3.11, 3.12 or 3.13")


def _machine() -> Iterator[DoctorCheck]:
    try:
        cpu = local_device("cpu")
    except AfinaError as error:
        yield DoctorCheck("memory", "warning", error.problems[0].what, error.problems[0].fix)
    else:
        enough = cpu.usable_bytes >= LEAST_MEMORY
        yield DoctorCheck(
            "memory",
            "ok" if enough else "warning",
            f"{show_bytes(cpu.usable_bytes)} free of {show_bytes(cpu.memory_bytes)}",
            "" if enough else "close other programs: even a small base needs about 4 GiB",
        )
        yield DoctorCheck("cpu", "ok", f"about {cpu.flops_per_second / 1e9:.0f} GFLOP/s: {cpu.note}")
    try:
        device = local_device()
    except AfinaError as error:
        yield DoctorCheck("gpu", "warning", error.problems[0].what, error.problems[0].fix)
    else:
        yield _gpu(device)


def _gpu(device: Device) -> DoctorCheck:
    if device.kind == "cpu":
        return DoctorCheck("gpu", "warning", "none found", "bases up to about 1 G parameters train on the CPU")
    return DoctorCheck("gpu", "ok", f"{device.name}, {show_bytes(device.usable_bytes)} usable")


def _disk(runs: Path) -> DoctorCheck:
    free = shutil.disk_usage(_existing(runs)).free
    enough = free >= LEAST_DISK
    fix = "" if enough else "make room: checkpoints are written beside the old ones before those go"
    return DoctorCheck("disk", "ok" if enough else "warning", f"{show_bytes(free)} free in {_existing(runs)}", fix)


def _writable(runs: Path) -> DoctorCheck:
    place = _existing(runs)
    if not place.is_dir():
        return DoctorCheck("runs", "missing", f"{place} is a file", "move it away, or start in another folder")
    if os.access(place, os.W_OK | os.X_OK):
        return DoctorCheck("runs", "ok", f"{runs} can be written")
    return DoctorCheck("runs", "missing", f"{place} cannot be written", "start in a folder of yours")


def _existing(path: Path) -> Path:
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def _library(name: str) -> DoctorCheck:
    least = LIBRARIES[name]
    needs = f"pip install --upgrade '{name}>={'.'.join(map(str, least))}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return DoctorCheck(name, "missing", "not installed", needs)
    if _numbers(version) < least:
        return DoctorCheck(name, "missing", f"{version} is too old", needs)
    return DoctorCheck(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor: ``2.13.0+cpu`` -> (2, 13)."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _extras() -> Iterator[DoctorCheck]:
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    for name, purpose in OPTIONAL.items():
        if name == "mlx" and not apple:
            continue
        try:
            yield DoctorCheck(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield DoctorCheck(name, "warning", "not installed (optional)", purpose)


def _hub() -> DoctorCheck:
    """huggingface_hub takes 1, ON, YES and TRUE for yes."""
    offline = [key for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(os.environ.get(key, ""))]
    if offline:
        return DoctorCheck(
            "hub", "warning", f"{offline[0]} is set: nothing is downloaded", "bases must be on this machine"
        )
    return DoctorCheck("hub", "ok", "downloads are allowed (none was tried)")


def _is_on(value: str) -> bool:
    return value.strip().upper() in ("1", "ON", "YES", "TRUE")
