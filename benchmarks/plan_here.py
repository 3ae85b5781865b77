"""Predicted beside measured on this machine: peak memory, and time before and after `afina plan --probe`.

    python benchmarks/plan_here.py [SHAPE...]

Six architectures with three methods each, some steps of each training, every one in a process of its own. The peak is a
test as well (``tests/test_plan_measured.py``); seconds are only compared here, because a machine that does other work
at the same time, as the ones that run tests do, gives and takes more than the bound of 1.3.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SENTENCES = 400
"""Of the text: about ten steps."""


def forked(work: Callable[[], dict[str, Any]], file: Path) -> dict[str, Any]:
    """What it returns, from a process of its own."""
    from tests.measure_training import in_a_fork

    in_a_fork(lambda: file.write_text(json.dumps(work()), encoding="utf-8") and None)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Print the table."""
    from tests import measure_training as measuring

    measuring.load_libraries()
    measuring.SENTENCES = SENTENCES
    memory, before, after = [], [], []
    print("| shape | method | peak: predicted / measured | time: before the probe | after it |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["AFINA_HOME"] = folder + "/home"
        for kind in sys.argv[1:] or measuring.SHAPES:
            measuring.in_a_fork(lambda kind=kind: measuring.make_base(kind, place / kind))  # type: ignore[misc]
            for method in measuring.METHODS:
                probed, trained = (
                    forked(lambda work=work, kind=kind, method=method: work(place, kind, method), place / "out.json")
                    for work in (measuring.probe, measuring.train)
                )
                (place / "home/plans.jsonl").unlink(missing_ok=True)  # each stands for itself
                ratios = (
                    trained["predicted"] / trained["measured"],
                    probed["before"] / trained["seconds"],
                    probed["after"]["point"] / trained["seconds"],
                )
                for found, ratio in zip((memory, before, after), ratios, strict=True):
                    found.append(math.exp(abs(math.log(ratio))))
                print(f"| {kind} | {method} | {ratios[0]:.2f} | {ratios[1]:.2f} | {ratios[2]:.2f} |", flush=True)
    for name, found in (("peak", memory), ("time before", before), ("time after the probe", after)):
        print(f"{name}: median factor {statistics.median(found):.2f}, worst {max(found):.2f}")


if __name__ == "__main__":
    main()
