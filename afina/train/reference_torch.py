"""The reference of a method that needs one: what the model before training says of every row, in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from afina.evaluate.loss import by_length
from afina.model.loss_torch import make_batch
from afina.recipe import Train
from afina.record import read_rows
from afina.run import Progress, no_progress
from afina.tokenizer.encode import Row
from afina.train.guard import in_smaller_batches
from afina.train.memory_torch import memory_errors
from afina.train.methods import ReferenceObjective, objective_of
from afina.whole import write_whole


@torch.no_grad()
def write_reference(
    model: Any,
    rows: Sequence[Row],
    file: Path,
    settings: Train,
    *,
    pad_id: int,
    device: torch.device,
    progress: Progress = no_progress,
) -> None:
    """Write the log-probabilities that the method asks for, of every row by the model that training starts from.

    The model changes while it is trained; a file also serves a training that goes on after a kill, and
    costs one forward pass whatever the number of epochs.

    Raises:
        DoesNotFit: not even a single row fits the memory.
    """
    model.eval()
    judge = cast(ReferenceObjective, objective_of(settings))
    rows = list({row.example.id: row for row in rows}.values())  # one that is seen several times is judged once

    def judged(batch_tokens: int) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for numbers in by_length(rows, batch_tokens):
            batch = make_batch([rows[number] for number in numbers], pad_id, device)
            for number, said in zip(numbers, judge.judge(model, batch).T.tolist(), strict=True):
                found[rows[number].example.id] = said
            progress(len(found), len(rows), "rows judged by the reference")
        return found

    found = in_smaller_batches(judged, settings.batch_tokens, rows, "the reference", memory_errors)
    write_whole(
        file,
        "".join(
            json.dumps({"id": name, **dict(zip(judge.judgements, said, strict=True))}) + "\n"
            for name, said in found.items()
        ),
    )


def read_reference(file: Path, rows: Sequence[Row], settings: Train) -> list[Row]:
    """Every row with what :func:`write_reference` wrote of it."""
    names = cast(ReferenceObjective, objective_of(settings)).judgements
    found = {
        each.required_text("id"): tuple(each.required_number(name) for name in names) for each in read_rows(file) or []
    }
    return [replace(row, reference=found[row.example.id]) for row in rows]
