"""How fast this CPU multiplies matrices: measured, with the threads that training uses, and kept for this machine.

A clock times cores says little: two virtual processors at 2.45 GHz that may be one core or two come to 78 GFLOP/s by
that, and measure 190. Another program that computes at the same moment makes a measurement lower and never higher. So
each one is added to ``rates.jsonl`` in :func:`afina.plan.tables.home`, and of the newest of them the highest counts.
Other threads, another torch or another processor begin anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from afina.machine import cpu_name, usable_processors
from afina.plan.tables import home
from afina.run import parse_json

NEWEST = 10
"""How many of the newest measurements count."""
LONGEST = 120.0
"""Seconds after which a measurement is given up; most of them are torch's start."""


@dataclass(frozen=True)
class MatrixRate:
    """Float32 matrix products on a CPU, floating-point operations per second, and what they were measured with."""

    flops_per_second: float
    cpu: str
    threads: int
    """As they were asked for, by the environment or by the processors there are."""
    torch: str
    when: float

    @property
    def in_words(self) -> str:
        """How it is known."""
        day = time.strftime("%Y-%m-%d", time.localtime(self.when))
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.flops_per_second / 1e9:.0f} GFLOP/s measured on {day}, {threads}, torch {self.torch}"


def rate_here() -> MatrixRate | None:
    """What is kept for this machine, or a measurement where nothing is; None without torch."""
    return kept_rate() or measure_rate()


def kept_rate(since: float = 0.0) -> MatrixRate | None:
    """The highest of the newest measurements with these threads, this torch and this processor.

    Args:
        since: only where one of them is not older than this, in seconds since 1970.
    """
    try:
        lines = (home() / "rates.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # none yet, or somebody else's: it is measured again
        return None
    found: list[MatrixRate] = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # half a line of a process that was killed
            found.append(MatrixRate(**parse_json(line)))
    this = _this()
    alike = [rate for rate in found if (rate.cpu, rate.threads, rate.torch) == this][-NEWEST:]
    if not alike or max(rate.when for rate in alike) < since:
        return None
    return max(alike, key=lambda rate: rate.flops_per_second)


def measure_rate() -> MatrixRate | None:
    """A measurement of now, kept; the highest of the newest is returned. None without torch, or where it fails.

    In a process of its own, unless this one has torch open already.
    """
    if not _this()[-1]:
        return None
    if "torch" in sys.modules:
        from afina.plan.matrix_rate_torch import measured_flops

        return keep_rate(measured_flops())
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "afina.plan.matrix_rate_torch"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
            timeout=LONGEST,
            check=True,
        )
        return keep_rate(float(done.stdout.split()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def keep_rate(flops_per_second: float) -> MatrixRate:
    """Note a measurement; the highest of the newest. A folder that cannot be written is not worth stopping for."""
    rate = MatrixRate(flops_per_second, *_this(), when=round(time.time(), 1))
    with contextlib.suppress(OSError):
        home().mkdir(parents=True, exist_ok=True)
        with (home() / "rates.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(rate)) + "\n")
    return kept_rate() or rate


def _this() -> tuple[str, int, str]:
    """Processor, threads, and torch's version; an empty one where it is not installed."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = int(asked) if asked.isdigit() and int(asked) else usable_processors()
    try:
        return cpu_name(), threads, version("torch")
    except PackageNotFoundError:
        return cpu_name(), threads, ""
