"""What the work would run on: this machine, looked at without torch, or one from the table.

A CPU's rate is the one that its matrix products were measured at (:mod:`afina.plan.matrix_rate`). Where there is no
torch to measure it with, it is estimated as ``physical cores x GHz x flops per cycle`` in float32: two fused
multiply-adds a cycle over 8 lanes make 32 with AVX2 or NEON-class units, over 16 lanes 64 with AVX-512. Under a
hypervisor a processor may be one hardware thread of two, so half the cores are counted: an estimate from below, off by
more than two times where it is not.
"""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from afina.errors import RecipeError
from afina.machine import (
    USABLE_SHARE,
    NvidiaCard,
    ask,
    cpu_info,
    cpu_name,
    granted_processors,
    is_apple_chip,
    main_memory,
    nvidia_cards,
    processors,
)
from afina.plan.matrix_rate import rate_here
from afina.plan.tables import table
from afina.recipe import nearest
from afina.units import show_bytes

Kind = Literal["cpu", "cuda", "mps"]

SAYS_NOTHING = frozenset({"nvidia", "geforce", "tesla", "gpu", "generation", "apple"})
"""Words of a device's name that may be left out."""
CPU_BYTES_PER_SECOND = 20e9
"""What two to four cores get from their memory; enough for a rough time of generation."""


@dataclass(frozen=True)
class Device:
    """One device. Rates are those of the arithmetic that training uses there: float32 on `cpu`
    and `mps`, bfloat16 with float32 sums on `cuda`."""

    name: str
    kind: Kind
    memory_bytes: int
    usable_bytes: int
    flops_per_second: float
    bytes_per_second: float
    price_per_hour: float | None = None
    """None where it is not known, or not rented."""
    currency: str = "US$"
    price_source: str = ""
    note: str = ""
    linked: bool = False
    """Whether several of them are joined by NVLink rather than PCIe."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def known_devices() -> dict[str, dict[str, Any]]:
    """Name -> facts as published, the user's own among them."""
    return table("devices")


def price_of(name: str) -> tuple[float, str, str] | None:
    """Price of an hour, its currency, and where and when it was read; none where nobody said.

    >>> price_of("RTX 4090")
    (0.39, 'US$', 'https://akash.network/pricing/gpus/, read 2026-09-20')
    """
    facts = table("prices").get(name)
    if facts is None:
        return None
    where = facts.get("source", "your own price")
    read = f", read {facts['read']}" if "read" in facts else ""
    return float(facts["price_per_hour"]), str(facts.get("currency", "US$")), where + read


def find_device(name: str) -> Device:
    """A device of the table, by its name or a part that fits only one.

    Apple's chips come with several sizes of memory: the smallest is taken, or the one that is
    written behind the name.

    >>> find_device("4090").name, find_device("Apple M3 Max 64GB").memory_bytes == 64 * 2**30
    ('RTX 4090', True)
    >>> find_device("M1").name, find_device("M4 Max 64 GB").name
    ('Apple M1', 'Apple M4 Max')

    Raises:
        RecipeError: for a name that fits none or several, with the nearest.
    """
    devices, wanted, size = known_devices(), name, None
    written = re.fullmatch(r"((?:apple )?m\d.*?)[ -]*(\d+) ?gi?b", name.strip(), re.IGNORECASE)
    if written and name not in devices:
        wanted, size = written[1], int(written[2])
    words = _words(wanted)
    found = [wanted] if wanted in devices else [known for known in devices if _words(known) == words]
    found = found or [known for known in devices if words and words <= _words(known)]
    if len(found) != 1:
        guess = nearest(wanted.lower(), [known.lower() for known in devices])
        close = next((known for known in devices if known.lower() == guess), None)
        what = f"{name!r} fits {', '.join(found)}" if found else f"no device {name!r} is known"
        fix = "write one of them" if found else f"did you mean {close}?" if close else "known are " + ", ".join(devices)
        raise RecipeError(what, fix, "device")
    facts = devices[found[0]]
    _check_complete(found[0], facts)
    sizes: list[int] = facts["memory_gib"]
    if size is not None and size not in sizes:
        raise RecipeError(
            f"{found[0]} has {' or '.join(map(str, sizes))} GiB, not {size}", "write one of them", "device"
        )
    return _from_table(found[0], (size or sizes[0]) * 2**30)


def local_device(prefer: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> Device:
    """This machine, as `recipe.device` asks for it: an NVIDIA GPU, else an Apple chip, else the CPU.

    Raises:
        RecipeError: when the kind that was asked for is not here, or the GPU is not in the table.
        AfinaError: when the system does not tell its memory.
    """
    if prefer in ("auto", "cuda"):
        gpu = _nvidia()
        if gpu is not None:
            return gpu
        if prefer == "cuda":
            raise RecipeError("there is no NVIDIA GPU here", "use device: auto, or plan for a named device", "device")
    apple = is_apple_chip()
    if prefer == "mps" and not apple:
        raise RecipeError("this is not an Apple chip", "use device: auto, or plan for a named device", "device")
    if apple and prefer != "cpu":
        return _apple(cpu_name())
    return _cpu()


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower())) - SAYS_NOTHING


def _check_complete(name: str, facts: dict[str, Any]) -> None:
    if missing := [key for key in ("kind", "memory_gib", "tflops", "gb_per_second") if key not in facts]:
        raise RecipeError(f"{name!r} has no {', '.join(missing)}", "complete it in your devices.json", "device")


def _from_table(name: str, memory_bytes: int, **changes: Any) -> Device:
    facts = known_devices().get(name)
    if facts is None:
        guess = nearest(name, list(known_devices()))
        raise RecipeError(
            f"the rate of {name!r} is not known",
            f"plan for {guess}, or use device: cpu" if guess else "use cpu",
            "device",
        )
    _check_complete(name, facts)
    kind: Kind = facts["kind"]
    price = price_of(name)
    if facts.get("usable_gib") and memory_bytes == facts["memory_gib"][0] * 2**30:
        usable = int(facts["usable_gib"] * 2**30)
    elif kind == "mps":
        usable = int(memory_bytes * wired_share(memory_bytes))
    else:
        usable = int(memory_bytes * USABLE_SHARE)
    values: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "memory_bytes": memory_bytes,
        "usable_bytes": usable,
        "flops_per_second": facts["tflops"] * 1e12,
        "bytes_per_second": facts["gb_per_second"] * 1e9,
        "price_per_hour": price[0] if price else None,
        "currency": price[1] if price else "US$",
        "price_source": price[2] if price else "",
        "note": facts.get("note", ""),
        "linked": bool(facts.get("linked", False)),
    }
    return Device(**(values | changes))


def wired_share(memory_bytes: int) -> float:
    """Share of a Mac's memory that macOS lets its GPU hold (Metal's recommendedMaxWorkingSetSize): two thirds up to
    32 GiB, then three quarters."""
    return 2 / 3 if memory_bytes <= 32 * 2**30 else 0.75


def _apple(name: str) -> Device:
    """The chip of this Mac. One that is newer than the table is taken for the newest of its class that stands there."""
    memory, known = main_memory(), known_devices()
    changes = {} if memory.wired_limit is None else {"usable_bytes": memory.wired_limit}
    if name in known:
        return _from_table(name, memory.total, **changes)
    written = re.fullmatch(r"Apple M\d+( \w+)?", name)
    alike = [each for each in known if written and re.fullmatch(rf"Apple M\d+{written[1] or ''}", each)]
    if not alike:
        return _from_table(name, memory.total)  # which names the nearest
    newest = max(alike, key=lambda each: int(re.findall(r"M(\d+)", each)[0]))
    said = f"newer than the table of devices: times are those of an {newest}, the newest of its class there"
    return replace(_from_table(newest, memory.total, **changes), name=name, note=said)


def _nvidia() -> Device | None:
    """The first GPU that nvidia-smi lists; its free memory is what is usable."""
    cards = nvidia_cards()
    return _card(cards[0]) if cards else None


def _card(card: NvidiaCard) -> Device:
    name, memory_bytes = card.name, card.total
    words = _words(name)
    fitting = [
        known
        for known, facts in known_devices().items()
        if facts.get("vendor") == "nvidia"
        and {word for word in _words(known) if word != "sxm" and not word.endswith("gb")} <= words
    ]
    if not fitting:
        return _from_table(name, memory_bytes)
    # "A100-SXM4-80GB" fits both sizes: the nearer memory; "4070 Ti" before "4070".
    best = min(
        fitting,
        key=lambda known: (
            abs(known_devices()[known]["memory_gib"][0] * 2**30 - memory_bytes) // 2**32,
            -len(_words(known) & words),
        ),
    )
    return _from_table(best, memory_bytes, usable_bytes=card.free, price_per_hour=None)


def _cpu() -> Device:
    memory, rate = main_memory(), rate_here()
    if rate is None:
        cores, ghz, flops_per_cycle, how = _cpu_facts()
        flops = cores * ghz * 1e9 * flops_per_cycle
        known = (
            f"about {flops / 1e9:.0f} GFLOP/s, not measured: {cores:g} core{'s' * (cores > 1)} x {ghz:.2f} GHz x "
            f"{flops_per_cycle} float32 operations a cycle ({how})"
        )
    else:
        flops, known = rate.flops_per_second, rate.in_words
    return Device(
        name=cpu_name(),
        kind="cpu",
        memory_bytes=memory.total,
        usable_bytes=memory.usable,
        flops_per_second=flops,
        bytes_per_second=CPU_BYTES_PER_SECOND,
        note=f"{known}, {show_bytes(memory.total)} of memory",
    )


def _cpu_facts() -> tuple[float, float, int, str]:
    """Physical cores that this process may use, GHz, float32 operations per cycle, and in words why."""
    if platform.system() == "Darwin":
        cores = float(ask("sysctl", "-n", "hw.physicalcpu") or processors())
        hertz = float(ask("sysctl", "-n", "hw.cpufrequency") or 3.2e9)
        return cores, hertz / 1e9, 32, "AVX2 or NEON"
    text, threads, quota = cpu_info(), float(processors()), granted_processors()
    threads = min(threads, quota) if quota else threads
    flags_line = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    flags = set(flags_line[1].split()) if flags_line else set()
    placed = re.findall(r"^(?:physical id|core id)\s*:\s*(\d+)$", text, re.MULTILINE)
    physical = len(set(zip(placed[0::2], placed[1::2], strict=True))) if placed and len(placed) % 2 == 0 else 0
    listed = len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or 1
    if "hypervisor" in flags:
        cores, how = max(threads / 2, 0.5), "virtual: two processors count as one core"
    elif 0 < physical < listed:
        cores, how = max(threads * physical / listed, 0.5), "threads of one core count once"
    else:
        cores, how = threads, "cores"
    advertised = re.search(r"@\s*([\d.]+)\s*GHz", text)
    running = [float(found) for found in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", text, re.MULTILINE)]
    ghz = float(advertised[1]) if advertised else max(running) / 1000 if running else 2.5
    lanes = "avx512f" in flags
    return cores, ghz, 64 if lanes else 32, f"{'AVX-512' if lanes else 'AVX2 or NEON'}; {how}"
