"""``afina eval --lm-eval``: public benchmarks of the model before and after training."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from afina.run import read_json, write_json
from afina.walk.base import renderer
from afina.walk.context import Context
from afina.walk.models import open_trained

BENCHMARKS = "benchmarks.json"


def measure_benchmarks(context: Context, tasks: Sequence[str], limit: int | None) -> list[dict[str, Any]]:
    """The rows of ``benchmarks.json``, written; those of tasks that are not asked now are kept."""
    from afina.evaluate.benchmarks import run_benchmarks

    model, before = open_trained(context)
    with context.open_progress("lm-eval"):
        rows = run_benchmarks(
            tasks, before, lambda: contextlib.nullcontext(model), renderer(context).tokenizer, limit=limit
        )
    rows = [row | {"limit": limit} for row in rows]
    file = context.folder / BENCHMARKS
    known = read_json(file)["benchmarks"] if file.exists() else []
    asked = {row["task"] for row in rows}
    write_json(file, {"benchmarks": [row for row in known if row["task"] not in asked] + rows})
    return rows
