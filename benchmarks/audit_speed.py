"""An audit of many rows: rows a second and memory, afina beside dropoutt and finelint on the same file.

    python benchmarks/audit_speed.py [--rows 1000000] [--peers VENV/bin] [--folder DIR] [--limit 3600]

The rows are made, the same ones each time: question and answer of invented words, some 60 words a row, one in a
hundred a copy of another and one in a hundred almost a copy. The peers live in an environment of their own
(``pip install dropoutt finelint``); each does what it does by default, offline, and one that has not finished after
`limit` seconds is stopped, and said to be. What they look for differs: this compares what an audit costs, not what it
finds.

Memory is the largest sum over a process and its children, looked at ten times a second, of what is not backed by a
file (``RssAnon``): pages of temporary files that the system may drop at any time are no need.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SYLLABLES = [one + two for one in "bcdfglmnprstv" for two in ("a", "e", "i", "o", "u", "an", "or", "es")]


def main() -> None:
    """Write the rows, run every side on them, print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--peers", type=Path, help="bin folder of the environment of dropoutt and finelint")
    options.add_argument("--folder", type=Path, default=Path("/tmp/afina-audit-speed"))
    options.add_argument("--limit", type=float, default=3600.0, help="seconds that one side may take")
    chosen = options.parse_args()
    file = chosen.folder / f"rows-{chosen.rows}" / "rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write_rows(file, chosen.rows)
    print(f"{chosen.rows} rows, {file.stat().st_size / 1e6:.0f} MB, load before: {os.getloadavg()[0]:.1f}")
    print(f"{'':12}{'seconds':>9}{'rows/s':>9}{'peak MB':>9}")
    sides = {"afina": [sys.executable, "-m", "afina", "data", "audit", str(file)]}
    fine = {"afina": (0, 3)}  # 3: it found what a training would be refused for
    if chosen.peers:
        sides["dropoutt"] = [str(chosen.peers / "dropoutt"), "scan", str(file.parent), "--offline", "--no-open"]
        sides["finelint"] = [str(chosen.peers / "finelint"), "inspect", str(file)]
    for name, command in sides.items():
        seconds, peak, code = watched(command, chosen.limit, chosen.folder / f"{name}.log")
        right = code in fine.get(name, (0, 1, 3))
        said = "" if right else f"  stopped after {seconds:.0f} s" if code is None else f"  failed: {code}"
        print(f"{name:12}{seconds:9.1f}{chosen.rows / seconds:9.0f}{peak / 1e6:9.0f}{said}", flush=True)
        if name == "afina" and code is not None and not right:
            sys.exit((chosen.folder / "afina.log").read_text(encoding="utf-8", errors="replace")[-2000:])
    if not chosen.peers:
        print("dropoutt and finelint are left out: name their environment with --peers")


def write_rows(file: Path, count: int) -> None:
    """The rows, by a seed."""
    chance = random.Random(5)
    words = ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(20_000)]
    summed = list(itertools.accumulate(1 / (place + 10) for place in range(len(words))))
    kept: list[tuple[list[str], list[str]]] = []
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            kind = number % 100
            if kind in (37, 73) and kept:
                question, answer = chance.choice(kept)
                answer = answer if kind == 37 else [*answer[:-1], chance.choice(words)]
            else:
                drawn = chance.choices(words, cum_weights=summed, k=chance.randint(30, 90))
                question, answer = drawn[:12], drawn[12:]
                if len(kept) < 5000:
                    kept.append((question, answer))
            row = {"prompt": sentence(question, "?"), "completion": sentence(answer, ".")}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def sentence(words: list[str], end: str) -> str:
    """Words with a capital, a comma here and there, and a mark at the end."""
    parts = [word + ("," if place % 9 == 8 and place < len(words) - 1 else "") for place, word in enumerate(words)]
    return (" ".join(parts) + end).capitalize()


def watched(command: list[str], limit: float, log: Path) -> tuple[float, int, int | None]:
    """Seconds, largest memory of the process with its children, and its exit code; None where it was stopped."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started, peak = time.perf_counter(), 0
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=log.parent, start_new_session=True
        )
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            if time.perf_counter() - started > limit:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return time.perf_counter() - started, peak, None
            time.sleep(0.1)
    return time.perf_counter() - started, peak, process.returncode


def memory_of(root: int) -> int:
    """Bytes without a file behind them that a process and its descendants hold."""
    parents, held = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines() if ":" in line)
            except OSError:
                continue
            parents[int(entry.name)] = int(status["PPid"])
            held[int(entry.name)] = int(status.get("RssAnon", "0 kB").split()[0]) * 1024
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(held.get(pid, 0) for pid in family)


if __name__ == "__main__":
    main()
