"""A large corpus encoded for continued pretraining: peak memory of all processes, seconds, and that it is done once.

    python benchmarks/encode_memory.py [--data FOLDER] [--copies 100] [--limit-mib 700]

The texts of FOLDER (the works of Machado de Assis, 11 MB) become a dataset as `afina data build` makes it, with a
tokenizer of 16,000 entries trained on them; its rows are written `--copies` times (100: 1.1 GB). Then, each in a
process of its own: the stage `tokens` killed (kill -9) in its middle, the same again to its end, and a second start.
Memory is the sum of the resident sets of the process and its children, looked at every 20 ms, and at least the kernel's
own maximum of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contestants import peak_bytes

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MACHADO = ROOT.parent / "shared/data/ptbr/machado"
VOCABULARY = 16_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def prepare(data: Path, folder: Path, copies: int) -> None:
    """A base with a tokenizer of its own, a recipe, and a run whose dataset is built and written several times."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from afina.recipe import load_recipe
    from afina.run import Run, no_progress
    from afina.tokenizer.train import train_tokenizer
    from afina.walk.context import Context
    from afina.walk.walk import do_stages
    from afina.whole import write_json

    files = sorted(data.rglob("*.txt"))
    size = train_tokenizer(
        "byte-bpe", (file.read_text(encoding="utf-8") for file in files), VOCABULARY, folder / "base", 1024
    )
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "vocab_size": size, "max_position_embeddings": 1024}
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder / "base")
    (folder / "recipe.yaml").write_text(
        f"name: corpus\nbase: {folder}/base\nsources: [{{path: {data}}}]\ntrain: {{method: cpt, max_length: 1024}}\n",
        encoding="utf-8",
    )
    with Run.open(folder / "run", load_recipe(folder / "recipe.yaml"), lambda _: None) as run:
        do_stages(Context(run, lambda _: contextlib.nullcontext(no_progress)), "recipe", "dataset")
        rows = folder / "run/dataset/train.jsonl"
        once = rows.read_bytes()
        with rows.open("ab") as out:
            for _ in range(copies - 1):
                out.write(once)
        known = run.stages["dataset"]
        known["outputs"] = run.outputs_hash(["dataset"])
        known.pop("check")  # what was noted is another dataset's
        write_json(folder / "run/stages.json", run.stages)


def encode(folder: Path) -> None:
    """The stage alone, as `afina train` does it."""
    from afina.recipe import load_recipe
    from afina.run import Run, no_progress
    from afina.walk.context import Context
    from afina.walk.walk import do_stages

    with Run.open(folder / "run", load_recipe(folder / "recipe.yaml"), print) as run:
        do_stages(Context(run, lambda _: contextlib.nullcontext(no_progress)), "tokens")


@dataclass
class Watched:
    """What a process and its children took."""

    peak_bytes: int
    seconds: float
    said: str
    status: int


def watch(folder: Path, kill_at: int | None = None) -> Watched:
    """Encode in a new process and look at its memory; killed where the tokens on the disk reach `kill_at` bytes."""
    with (folder / "said").open("w+", encoding="utf-8") as said:
        command = [sys.executable, __file__, "--encode", str(folder)]
        started, peak = time.monotonic(), 0
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while True:
            status = process.poll()
            if status is not None:
                break
            peak = max(peak, peak_bytes(process.pid), sum(map(resident, family(process.pid))))
            ids = folder / "run/tokens.partial/train/ids.npy"
            if kill_at is not None and ids.exists() and ids.stat().st_size >= kill_at:
                process.send_signal(signal.SIGKILL)
                kill_at = None
            time.sleep(0.02)
        said.seek(0)
        return Watched(peak, time.monotonic() - started, said.read(), status)


def family(process: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return [process]
    return [process, *(each for child in children for each in family(int(child)))]


def resident(process: int) -> int:
    """Bytes of a process that are in memory; 0 of one that has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def measure(data: Path, folder: Path, copies: int) -> dict[str, Any]:
    """All of it; the figures as plain values."""
    subprocess.run(
        [sys.executable, __file__, "--prepare", str(folder), "--data", str(data), "--copies", str(copies)], check=True
    )
    return measure_prepared(folder)


def measure_prepared(folder: Path) -> dict[str, Any]:
    """Killed, to the end, and a second start."""
    size = (folder / "run/dataset/train.jsonl").stat().st_size
    killed = watch(folder, kill_at=size // 10)
    left = sorted(path.name for path in (folder / "run").glob("tokens*"))
    first, second = watch(folder), watch(folder)
    for each in (first, second):
        if each.status:
            raise SystemExit(each.said)
    counts = counts_of(folder)
    return {
        "dataset_bytes": size,
        "tokens": counts["counts"]["tokens"],
        "rows": counts["rows"],
        "tokens_bytes": sum(file.stat().st_size for file in (folder / "run/tokens").rglob("*") if file.is_file()),
        "killed": {"status": killed.status, "left": left},
        "peak_bytes": max(killed.peak_bytes, first.peak_bytes, second.peak_bytes),
        "seconds": round(first.seconds, 1),
        "tokens_per_second": round(counts["counts"]["tokens"] / first.seconds),
        "second_start": {"seconds": round(second.seconds, 1), "said": second.said.strip()},
        "left_after": sorted(path.name for path in (folder / "run").glob("tokens*")),
    }


def counts_of(folder: Path) -> dict[str, Any]:
    """What was encoded for the training."""
    index = json.loads((folder / "run/tokens/index.json").read_text(encoding="utf-8"))
    return dict(index["sets"]["train"])


def main() -> None:
    """Measure and print; exit code 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), default=MACHADO)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--limit-mib", type=int, default=700)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--encode", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.encode:
        encode(asked.encode)
    elif asked.prepare:
        prepare(asked.data, asked.prepare, asked.copies)
    elif not asked.data.is_dir():
        print(f"left out: there is no {asked.data}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(asked.data, Path(folder), asked.copies)
        print(json.dumps(found, ensure_ascii=False, indent=2))
        peak = found["peak_bytes"] / (1 << 20)
        print(f"peak {peak:.0f} MiB of all processes, limit {asked.limit_mib} MiB")
        raise SystemExit(int(peak > asked.limit_mib))


if __name__ == "__main__":
    main()
