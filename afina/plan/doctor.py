"""Is this machine ready? Looks without loading torch or anything else that is heavy.

Only the matrix rate is measured, by a process of its own, where the newest measurement is not of today.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal

from afina.errors import AfinaError
from afina.machine import (
    HIDES,
    Memory,
    NvidiaCard,
    cpu_name,
    is_apple_chip,
    is_translated,
    main_memory,
    nvidia_cards,
    processors,
)
from afina.plan.device import Device, local_device, wired_share
from afina.plan.matrix_rate import kept_rate, measure_rate
from afina.recipe.profiles import profile_for
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
    "liger-kernel": "faster training on this card (train.kernels): pip install 'afina[liger]'",
    "mlx-lm": "training on this chip with MLX (backend: mlx): pip install 'afina[mlx]'",
    "textual": "the live monitor `afina watch`: pip install 'afina[watch]'",
    "matplotlib": "pictures, `afina plot`: pip install 'afina[plot]'",
}
"""What each is for, and how it is installed."""
LEAST_MACOS = 14
"""MLX's packages are built for it and what came later."""
LEAST_MEMORY = 4 * 2**30
LEAST_DISK = 5 * 2**30


@dataclass(frozen=True)
class DoctorCheck:
    """One thing that was looked at.

    Args:
        status: `ok`, `warning` (works, with a limit) or `missing` (something will not work).
        fix: what to do; empty where nothing is to be done.
        values: the figures in `found`, in bytes and floating-point operations per second, for machines.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine(runs: Path = Path("runs")) -> list[DoctorCheck]:
    """Everything that a run needs from this machine.

    >>> [check.name for check in examine()][:3]
    ['python', 'chip', 'memory']

    Args:
        runs: the folder that runs are written to; it need not exist yet, and is not created.
    """
    cards = nvidia_cards()
    libraries = [*map(_library, LIBRARIES), *_torch_for(cards), *_extras(cards)]
    return [_python(), *_machine(cards), _disk(runs), _writable(runs), *libraries, _hub()]


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
    if is_translated():
        fix = "make the environment with a Python for Apple's chips (python.org, or brew install python@3.12)"
        return DoctorCheck("python", "missing", f"{found}, built for Intel: it sees no Apple chip, and no MLX", fix)
    return DoctorCheck("python", "ok" if fit else "missing", found, "" if fit else "use Python 3.11, 3.12 or 3.13")


def _machine(cards: Sequence[NvidiaCard]) -> Iterator[DoctorCheck]:
    count = processors()
    mac = platform.mac_ver()[0]
    system = f"macOS {mac}" if mac else f"{platform.system()} {platform.release()}"
    cpu = f"{cpu_name()}, {count} processor{'s' * (count != 1)}, {platform.machine()}, {system}"
    yield DoctorCheck("chip", "ok", cpu, values={"name": cpu_name(), "processors": count})
    try:
        memory = main_memory()
    except AfinaError as error:
        yield DoctorCheck("memory", "warning", error.problems[0].what, error.problems[0].fix)
        return
    yield _memory(memory)
    yield _rate()
    try:
        yield _gpu(local_device() if cards or is_apple_chip() else None, memory, cards)
    except AfinaError as error:
        yield DoctorCheck("gpu", "warning", error.problems[0].what, error.problems[0].fix)
    profile = profile_for(cards[0].total if cards else memory.total)
    said = f"train.profile: auto takes {profile.in_words}"
    yield DoctorCheck("profile", "ok", said, values={"name": profile.name, **profile.settings})


def _memory(memory: Memory) -> DoctorCheck:
    enough = memory.usable >= LEAST_MEMORY
    wired = "" if memory.wired is None else f", {show_bytes(memory.wired)} wired"
    return DoctorCheck(
        "memory",
        "ok" if enough else "warning",
        f"{show_bytes(memory.usable)} free of {show_bytes(memory.total)}{wired}",
        "" if enough else "close other programs: even a small base needs about 4 GiB",
        asdict(memory),
    )


def _rate() -> DoctorCheck:
    """Of the CPU, measured once a day."""
    today = datetime.combine(date.today(), time.min).timestamp()
    rate = kept_rate(since=today) or measure_rate()
    if rate is None:
        fix = "install torch: without it times on this CPU are planned by its clock, and may be off several times"
        return DoctorCheck("matrix rate", "warning", "not measured", fix)
    found = f"float32 products: {rate.in_words}"
    return DoctorCheck("matrix rate", "ok", found, values=asdict(rate))


def _gpu(device: Device | None, memory: Memory, cards: Sequence[NvidiaCard]) -> DoctorCheck:
    if device is None:
        hidden = f", with {HIDES}={os.environ[HIDES]}" if HIDES in os.environ else ""
        return DoctorCheck("gpu", "warning", f"none found{hidden}", "bases up to about 1 G parameters train on the CPU")
    values = {"name": device.name, "memory": device.memory_bytes, "usable": device.usable_bytes}
    if device.kind == "cuda":
        others = f", and {len(cards) - 1} more" if len(cards) > 1 else ""
        driver = f", driver {cards[0].driver}" if cards[0].driver else ""
        found = f"{device.name}, {show_bytes(device.usable_bytes)} free of {show_bytes(device.memory_bytes)}"
        return DoctorCheck("gpu", "ok", found + driver + others, values=values | {"driver": cards[0].driver})
    if memory.wired_limit is not None:
        whose = "as iogpu.wired_limit_mb was set"
    else:
        whose = f"{wired_share(memory.total):.0%}, as macOS has it; more: sudo sysctl iogpu.wired_limit_mb=MIB"
    found = f"{device.name}: may hold {show_bytes(device.usable_bytes)} of {show_bytes(memory.total)} ({whose})"
    return DoctorCheck("gpu", "ok", found + (f"; {device.note}" if device.note else ""), values=values)


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


def _torch_for(cards: Sequence[NvidiaCard]) -> Iterator[DoctorCheck]:
    """Whether torch can use the card that is here."""
    try:
        build = importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:
        return
    if cards and build == "cpu":
        fix = "pip uninstall torch, then install it for CUDA as pytorch.org/get-started/locally says"
        yield DoctorCheck("torch for cuda", "missing", f"torch {build} computes on the CPU alone", fix)


def _extras(cards: Sequence[NvidiaCard]) -> Iterator[DoctorCheck]:
    """Libraries that only some machines have a use for."""
    useless = {"mlx-lm"} if not is_apple_chip() else {"bitsandbytes"}
    for name in [name for name in OPTIONAL if name not in useless and (cards or name != "liger-kernel")]:
        try:
            yield DoctorCheck(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            if name == "mlx-lm" and (system := _macos()) and system < LEAST_MACOS:
                found = f"not installed; it needs macOS {LEAST_MACOS}, and this is {platform.mac_ver()[0]}"
                yield DoctorCheck(name, "warning", found, "update macOS; until then torch trains on this chip")
                continue
            yield DoctorCheck(name, "warning", "not installed (optional)", OPTIONAL[name])


def _macos() -> int | None:
    """The release of macOS; None elsewhere, and where a Python built long ago is told 10.16 instead."""
    release = platform.mac_ver()[0].partition(".")[0]
    return int(release) if release.isdigit() and int(release) > 10 else None


def _hub() -> DoctorCheck:
    """huggingface_hub takes 1, ON, YES and TRUE for yes."""
    offline = [key for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(os.environ.get(key, ""))]
    if offline:
        return DoctorCheck(
            "hub", "warning", f"{offline[0]} is set: nothing is downloaded", "bases must be on this machine"
        )
    mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return DoctorCheck("hub", "ok", f"downloads are allowed{f', from {mirror}' if mirror else ''} (none was tried)")


def _is_on(value: str) -> bool:
    return value.strip().upper() in ("1", "ON", "YES", "TRUE")
