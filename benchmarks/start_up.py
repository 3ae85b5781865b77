"""How long it takes until `afina` answers: its help, and plans of a family that is in the table and of one that is not.

    python benchmarks/start_up.py [--runs 5]

Each command is a process of its own, run once before it is counted; the processor's seconds (user and system, of the
children too) say the same on a busy machine, the wall's what a person waits. A plan of an unknown family is counted
without what an earlier one kept. Bytecode is kept in a folder of its own, as an installation has it; without it
(`PYTHONDONTWRITEBYTECODE`) afina's own files are compiled at each start.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"--help": 0.4, "plan of a known family": 1.0, "plan of an unknown family": 5.0}
"""Seconds that a person shall wait at most, on a machine that does nothing else."""
BASE = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16}
BASE |= {"intermediate_size": 8192, "vocab_size": 50304, "max_position_embeddings": 4096}
KINDS = {"plan of a known family": "llama", "plan of an unknown family": "olmo2"}


def jobs(folder: Path) -> dict[str, list[str]]:
    """What is measured -> the words of its command line; recipes and bases are written into `folder`."""
    (folder / "a.md").write_text("Ada opened the valve. " * 200)
    found = {"--help": ["--help"]}
    for name, kind in KINDS.items():
        base = folder / kind
        base.mkdir()
        (base / "config.json").write_text(json.dumps(BASE | {"model_type": kind}))
        (base / "tokenizer.json").write_text('{"model": {"vocab": {}}, "added_tokens": []}')
        recipe = folder / f"{kind}.yaml"
        recipe.write_text(f"name: {kind}\nbase: {kind}\nsources: [{{path: a.md}}]\n")
        found[name] = ["plan", str(recipe), "--device", "RTX 4090"]
    return found


def once(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of the processor and of the wall.

    Raises:
        SystemExit: the command failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as kept:
        settings = environment | {"AFINA_CACHE": kept}
        done = subprocess.run(
            [sys.executable, "-m", "afina", *words], cwd=folder, env=settings, capture_output=True, text=True
        )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def main() -> None:
    """Print a line for each job, with and without bytecode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="each once: shows that it runs, measures nothing")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        own = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        own.pop("PYTHONDONTWRITEBYTECODE", None)
        ways = {
            "with bytecode": own | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")},
            "without": own | {"PYTHONDONTWRITEBYTECODE": "1"},
        }
        if asked.tiny:
            ways = {"as it comes": dict(os.environ) | {"PYTHONPATH": own["PYTHONPATH"]}}
        print(f"{'':<28}{'':<15}{'processor, s':>24}{'wall, s':>24}{'limit':>8}")
        print(f"{'':<28}{'':<15}{'least':>12}{'median':>12}{'least':>12}{'median':>12}")
        for name, words in jobs(folder).items():
            for way, environment in ways.items():
                seen = [once(words, folder, environment) for _ in range(1 if asked.tiny else asked.runs + 1)]
                seen = seen[1:] or seen  # the first one reads files that the others find in memory
                figures = [
                    f"{each(column):>12.2f}" for column in zip(*seen, strict=True) for each in (min, statistics.median)
                ]
                print(f"{name:<28}{way:<15}{''.join(figures)}{LIMITS[name]:>8}")


if __name__ == "__main__":
    main()
