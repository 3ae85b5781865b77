"""Writes the table of docs/how-to.md that says which base a GPU holds, as the planner computes it.

python tests/gpu_table.py docs/how-to.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from afina.page_marks import write_between
from afina.plan.bases import find_shape
from afina.plan.device import find_device
from afina.plan.plan import plan_run
from afina.plan.tokens import TokenCount
from afina.recipe import check_recipe

GPUS = ("RTX 3080 10GB", "RTX 3060 12GB", "RTX 4080", "RTX 4090", "RTX 5090", "L40S", "A100 80GB", "H200")
SIZES = ("0.6B", "1.7B", "4B", "8B", "14B", "32B")
KINDS = {"qlora": "QLoRA", "lora": "LoRA", "none": "all weights"}
LONGEST = 2048
ROWS = TokenCount(tokens=1_000_000, targets=500_000, rows=1_000, longest=LONGEST)


def fits(size: str, kind: str, gpu: str) -> str:
    """What the plan says of Qwen3 in one size on one card: yes, maybe or no."""
    base = f"Qwen/Qwen3-{size}"
    recipe = check_recipe(
        {
            "name": "table",
            "base": base,
            "root": str(Path(__file__).parent),
            "sources": [{"path": Path(__file__).name}],
            "adapter": {"kind": kind},
            "train": {"max_length": LONGEST, "batch_tokens": LONGEST, "checkpoint_activations": True},
        }
    )
    return plan_run(recipe, find_shape(base), ROWS, find_device(gpu)).fits


def largest(kind: str, gpu: str) -> str:
    """The largest that fits for sure, and the largest that may, where that is another."""
    answers = {size: fits(size, kind, gpu) for size in SIZES}
    sure = next((size for size in reversed(SIZES) if answers[size] == "yes"), "none")
    maybe = next((size for size in reversed(SIZES) if answers[size] != "no"), sure)
    return sure if maybe == sure else f"{sure} (perhaps {maybe})"


def table() -> str:
    """The table, as Markdown."""
    lines = [f"| GPU | memory | {' | '.join(KINDS.values())} |", "|---|---|" + "---|" * len(KINDS)]
    for gpu in GPUS:
        memory = find_device(gpu).memory_bytes / 2**30
        lines.append(f"| {gpu} | {memory:.0f} GiB | {' | '.join(largest(kind, gpu) for kind in KINDS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write_between(Path(sys.argv[1]), "gpus", table())
