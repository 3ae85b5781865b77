"""``afina eval --lm-eval``: public benchmarks of the model before and after training."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from afina.errors import RecipeError
from afina.record import read_record
from afina.walk.base import back_end, renderer
from afina.walk.context import Context
from afina.walk.models import open_trained
from afina.whole import write_json

BENCHMARKS = "benchmarks.json"


def measure_benchmarks(context: Context, tasks: Sequence[str], limit: int | None) -> list[dict[str, Any]]:
    """The rows of ``benchmarks.json``, written; those of tasks that are not asked now are kept.

    Raises:
        RecipeError: what the run trained is computed by MLX.
    """
    from afina.evaluate.benchmarks import run_benchmarks

    if (computes := back_end(context)).name == "mlx":
        raise RecipeError(
            f"lm-eval asks models of torch, and this run is computed by mlx ({computes.why})",
            f"afina export {context.folder} --to merged, and give that folder to lm-eval",
            "--lm-eval",
        )
    model, before = open_trained(context)
    with context.open_progress("lm-eval"):
        rows = run_benchmarks(
            tasks, before, lambda: contextlib.nullcontext(model), renderer(context).tokenizer, limit=limit
        )
    rows = [row | {"limit": limit} for row in rows]
    file = context.folder / BENCHMARKS
    there = read_record(file)
    known = there.records("benchmarks") if there else []
    asked = {row["task"] for row in rows}
    kept = [dict(row.values) for row in known if row.required_text("task") not in asked]
    write_json(file, {"benchmarks": kept + rows})
    return rows
