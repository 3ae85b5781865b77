"""What the system says of this machine: memory, processors, chip, NVIDIA cards, ports. No library is loaded for it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from afina.errors import AfinaError

OWN_PORTS = range(20_000, 30_000)
"""Ports that no system gives out by itself: Linux's begin at 32768, those of macOS and Windows at 49152."""
USABLE_SHARE = 0.95
"""Share of the memory that a process can have where nobody has reported it."""


@dataclass(frozen=True)
class Memory:
    """The main memory, in bytes. `usable` is what a process could have of it now; `wired` what the system and GPUs hold
    and cannot be moved out (a Mac's figure), `wired_limit` how much of it a Mac's GPU may hold, where it was set."""

    total: int
    usable: int
    wired: int | None = None
    wired_limit: int | None = None


@dataclass(frozen=True)
class NvidiaCard:
    """A line of nvidia-smi; memory in bytes."""

    name: str
    total: int
    free: int
    driver: str = ""
    uuid: str = ""


MEMORY, OWN_GROUP, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Where Linux tells of its memory, of this process's control group, and of all of them."""


def ask(*command: str) -> str:
    """What a program prints, whatever it ends with: nvidia-smi warns of a card by its exit code, and lists it. Nothing
    where the program is absent."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def is_apple_chip() -> bool:
    """Whether this is a Mac whose memory its GPU shares."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def is_translated() -> bool:
    """Whether this Python is built for Intel's processors and an Apple chip translates it (Rosetta): it then sees no
    Apple chip, and nothing that is built for one can be installed into it."""
    return platform.system() == "Darwin" and ask("sysctl", "-n", "sysctl.proc_translated") == "1"


def nvidia_cards() -> list[NvidiaCard]:
    """The cards that CUDA shows a process of ours, as nvidia-smi tells of them; none where there is no driver. One that
    has no memory of its own (GB10, Jetson) has the machine's."""
    told = ask(
        "nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version,uuid", "--format=csv,noheader,nounits"
    )
    cards = []
    for line in told.splitlines():
        name, *sizes = (part.strip() for part in line.split(",")[:3])
        more = [part.strip() for part in line.split(",")[3:]]
        if len(sizes) < 2:  # no card: a warning of one, or why there is none
            continue
        total, free = sizes
        if total.isdecimal():  # in MiB
            of_which = int(free if free.isdecimal() else total)  # [Insufficient Permissions]: not told everybody
            cards.append(NvidiaCard(name, int(total) * 2**20, of_which * 2**20, *more))
        elif any(word in total for word in ("N/A", "Not Supported")):
            memory = main_memory()
            cards.append(NvidiaCard(name, memory.total, memory.usable, *more))
    return _visible(cards)


HIDES = "CUDA_VISIBLE_DEVICES"
"""Variable that says which cards CUDA shows, and in which order."""


def _visible(cards: list[NvidiaCard]) -> list[NvidiaCard]:
    """Without those that :data:`HIDES` hides: what trains does not see them.

    As CUDA reads it: numbers or (beginnings of) UUIDs; at the first that is none or several, the list ends; one that is
    named twice hides all.
    """
    said = os.environ.get(HIDES)
    if said is None or "MIG-" in said:  # a part of a card, of which nvidia-smi lists the whole
        return cards
    shown: list[int] = []
    for word in map(str.strip, said.split(",")):
        named = [place for place, card in enumerate(cards) if word.startswith("GPU-") and card.uuid.startswith(word)]
        if word.isdecimal() and int(word) < len(cards):
            named = [int(word)]
        if len(named) != 1:
            break
        if named[0] in shown:
            return []
        shown += named
    return [cards[place] for place in shown]


def training_memory_here(device: object = "auto") -> int:
    """All memory of what would train here: the first NVIDIA card's own, or the machine's.

    Args:
        device: as the recipe says it; a card counts where it may be what trains.

    Raises:
        AfinaError: the system does not tell.
    """
    cards = nvidia_cards() if device in ("auto", "cuda") else []
    return cards[0].total if cards else main_memory().total


def main_memory() -> Memory:
    """The memory that this process may have, within the limits of its control group.

    Raises:
        AfinaError: the system does not tell.
    """
    if platform.system() == "Darwin" and (told := ask("sysctl", "-n", "hw.memsize")):
        return _mac_memory(int(told))
    told = MEMORY.read_text(encoding="utf-8") if MEMORY.exists() else ""
    values = {key: int(size) * 1024 for key, size in re.findall(r"^(\w+):\s+(\d+) kB$", told, re.MULTILINE)}
    if "MemTotal" not in values:
        raise AfinaError("this system does not tell how much memory it has", "plan for a named device", "device")
    # Kernels before 3.14 and WSL 1 have no MemAvailable: what is free, and what is only kept of files.
    free = sum(values.get(key, 0) for key in ("MemFree", "Buffers", "Cached"))
    total = min([values["MemTotal"], *_memory_limits()])
    return Memory(total, min(values.get("MemAvailable", free), int(total * USABLE_SHARE)))


def _mac_memory(total: int) -> Memory:
    """What vm_stat counts: free, inactive and speculative pages can be had."""
    told = ask("vm_stat")
    pages = {name: int(count) for name, count in re.findall(r"^Pages ([\w ]+):\s+(\d+)\.$", told, re.MULTILINE)}
    size = re.search(r"page size of (\d+) bytes", told)
    limit = ask("sysctl", "-n", "iogpu.wired_limit_mb")
    set_limit = int(limit) * 2**20 if limit.isdigit() and int(limit) else None
    most = int(total * USABLE_SHARE)
    if not pages or size is None:
        return Memory(total, most, wired_limit=set_limit)
    page = int(size[1])
    free = sum(pages.get(name, 0) for name in ("free", "inactive", "speculative")) * page
    return Memory(total, min(most, free), pages.get("wired down", 0) * page, set_limit)


def cpu_name() -> str:
    """The processor as its maker calls it.

    >>> bool(cpu_name())
    True
    """
    if platform.system() == "Darwin":
        found = ask("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        named = re.search(r"^model name\s*:\s*(.+?)\s*$", cpu_info(), re.MULTILINE)
        found = named[1] if named else ""
    return found or platform.processor() or platform.machine() or "cpu"


def cpu_info() -> str:
    """Linux's description of the processors; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""


def has_amx() -> bool:
    """Whether this processor has matrix units for bf16 (Intel's AMX), as Linux tells it."""
    return re.search(r"^flags\b.*\bamx_bf16\b", cpu_info(), re.MULTILINE) is not None


def free_port() -> int:
    """A port of this machine, for loopback, on which nothing listens. None of those that the system gives to the next
    connection of any program: a server that is started with it takes it seconds later.

    >>> 0 < free_port() < 65536
    True
    """
    for port in (*SystemRandom().sample(OWN_PORTS, 99), 0):  # 0: one of the system's, where all of these are taken
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise AssertionError("the system has no port left")


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def granted_processors() -> float | None:
    """Processors that the control group and those above it grant, if one sets a bound."""
    bounds = []
    for folder, first in _control_groups("cpu"):
        told = [folder / name for name in (("cpu.cfs_quota_us", "cpu.cfs_period_us") if first else ("cpu.max",))]
        words = " ".join(file.read_text(encoding="utf-8") for file in told if file.is_file()).split()
        if len(words) == 2 and all(word.isdigit() for word in words):  # `max` and -1 are no bound
            bounds.append(int(words[0]) / int(words[1]))
    return min(bounds, default=None)


def usable_processors() -> int:
    """Threads, or processes of one, that may compute at a time: one for each processor that shows, and no more than the
    control group grants. One more, and the system holds all of them back together, again and again.
    """
    granted = granted_processors()
    return processors() if granted is None else max(1, min(processors(), int(granted)))


def _memory_limits() -> Iterator[int]:
    for folder, first in _control_groups("memory"):
        file = folder / ("memory.limit_in_bytes" if first else "memory.max")
        if file.is_file() and (text := file.read_text(encoding="utf-8").strip()).isdigit():
            yield int(text)


def _control_groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """This process's control group and those above it, and whether they are of the first version, which has a tree for
    each controller, or for two of them (``cpu,cpuacct``)."""
    for line in OWN_GROUP.read_text(encoding="utf-8").splitlines() if OWN_GROUP.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = GROUPS / controllers
        place = root / path.lstrip("/")
        for folder in (place, *place.parents):
            yield folder, bool(controllers)
            if folder == root:
                break
