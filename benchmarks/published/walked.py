"""Plans of families that are read from the model itself, beside figures that others published of them.

    python -m benchmarks.published.walked

prints the table of docs/planning.md. The rows are in ``walked.json``: `reserved` is torch's reserved memory in GiB
before the first step (the weights and the adapter) and at the peak; `assumed` says which settings are not stated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.model.shape import Shape
from afina.model.shape_read import read_shape
from afina.plan.memory import Setup, training_memory
from afina.plan.programs import AXOLOTL, CUDA_CONTEXT_BYTES, UNSLOTH

FILE = Path(__file__).with_name("walked.json")
PROGRAMS = {"Unsloth": UNSLOTH, "Axolotl": AXOLOTL}
EIGHT_BIT = 2.03
"""Bytes of AdamW's moments per parameter; every row uses an 8-bit optimizer."""


@dataclass(frozen=True)
class Compared:
    """One row: what was published, and what a plan says, in GiB."""

    case: Mapping[str, Any]
    start: float
    peak: float

    @property
    def error(self) -> float:
        """Of the peak, as a share."""
        return self.peak / float(self.case["reserved"][1]) - 1


def models() -> dict[str, dict[str, Any]]:
    """Configurations as published, by name."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["models"]
    return found


def shape_of(name: str) -> Shape:
    """The shape of one of them."""
    return read_shape(models()[name], name)


def compared() -> list[Compared]:
    """Every row."""
    cases: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
    return [_compare(case) for case in cases]


def _compare(case: Mapping[str, Any]) -> Compared:
    program = PROGRAMS[case["program"]]
    offloads = program.offloads_inputs or case.get("offloads", False)
    fixed = max(0.1e9, program.fixed_bytes - CUDA_CONTEXT_BYTES)
    adapted = "experts adapted" in case.get("assumed", "")
    program = replace(
        program,
        packs_experts=case["kind"] == "qlora",
        remakes_experts=adapted,
        offloads_inputs=offloads,
        fixed_bytes=fixed,
    )
    if case.get("whole_logits"):
        program = replace(program, chunk_logits=None)
    rows, length = case["rows"], case["length"]
    targets = case.get("targets", "all-linear")
    setup = Setup(
        kind=case["kind"],
        batch_tokens=rows * length,
        target_tokens=rows * length,
        rank=case["rank"],
        targets=targets if isinstance(targets, str) else tuple(targets),
        place="cuda",
        program=program,
        length=length,
        checkpointing=True,
        state_bytes=EIGHT_BIT,
    )
    parts = training_memory(shape_of(case["model"]), setup)
    start = (parts["weights"].point + parts["adapter"].point) / 2**30
    return Compared(case, start, sum(part.point for part in parts.values()) / 2**30)


def table() -> str:
    """The rows as Markdown."""
    lines = [
        "| model | what ran | published, GiB | planned, GiB | error | assumed | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in compared():
        case, (start, peak) = row.case, row.case["reserved"]
        before = f"{start:.1f}, then " if start else ""
        planned = f"{row.start:.1f}, then {row.peak:.1f}" if start else f"{row.peak:.1f}"
        what = f"{case['program']}, {case['kind']}, rank {case['rank']}, {case['rows']} x {case['length']}"
        lines.append(
            f"| {case['model']} | {what} | {before}{peak:.1f} | {planned} | {row.error:+.0%} | {case['assumed']} "
            f"| {case['source']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
