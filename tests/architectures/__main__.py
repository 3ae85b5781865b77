"""``make architectures``: every column of every family, for ``docs/architectures.md`` and ``afina base show``.

Each family is measured in a fork of this process, which has loaded the libraries once; a crash of one is a finding.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bitsandbytes  # noqa: F401
import peft  # noqa: F401
import torch
import transformers

from afina.model.proven import COLUMNS, FILE, Cell, Proven, ProvenFamily, read_proven
from afina.run import write_json, write_whole
from architectures.families import FAMILIES, Family
from architectures.measure import measure
from architectures.page import PAGE, page_of

SECONDS = 900
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "gguf")


def in_a_fork(family: Family, columns: list[str]) -> dict[str, Cell]:
    """The cells of a family, measured in a process of its own."""
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[dict[str, Cell]] = context.Queue()

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["AFINA_HOME"] = f"{folder}/home"
            answers.put(measure(family, Path(folder), columns))

    process = context.Process(target=work)
    process.start()
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            found = answers.get(timeout=1)
            break
        except queue.Empty:
            if process.is_alive() and time.monotonic() < deadline:
                continue
            process.kill()
            said = "took too long" if process.exitcode is None else f"the process ended with {process.exitcode}"
            found = dict.fromkeys(columns, Cell("wrong", said))
            break
    process.join()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="names; all of them where none is given")
    parser.add_argument("--columns", help="comma-separated heads; the others keep what was measured before")
    arguments = parser.parse_args()
    columns = arguments.columns.split(",") if arguments.columns else list(COLUMNS)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    wanted = [family for family in FAMILIES if not arguments.families or family.name in arguments.families]
    before = {family.name: family.cells for family in read_proven().families} if FILE.exists() else {}
    for family in wanted:
        started = time.monotonic()
        before[family.name] = {**before.get(family.name, {}), **in_a_fork(family, columns)}
        wrong = [f"{head}: {cell.said}" for head, cell in before[family.name].items() if cell.state != "right"]
        print(f"{family.name:22} {time.monotonic() - started:5.0f} s  {'; '.join(wrong) or 'right'}", flush=True)
        rows = [ProvenFamily(each.name, each.what, before[each.name]) for each in FAMILIES if each.name in before]
        made = {name: version(name) for name in LIBRARIES}
        proven = Proven(datetime.now(UTC).date().isoformat(), made, tuple(rows))
        write_json(FILE, proven.as_json())
        write_whole(PAGE, page_of(proven))
    return int(any(cell.state == "wrong" for name in before for cell in before[name].values()))


if __name__ == "__main__":
    raise SystemExit(main())
