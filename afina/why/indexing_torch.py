"""Making a run's index, and asking it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import ResultError
from afina.model.base import hash_tokenizer
from afina.outcome import find_outcome
from afina.run import hash_file, hash_folder
from afina.tokenizer.encode import Row
from afina.units import show_bytes
from afina.walk.base import tokenizer_folder
from afina.walk.context import Context
from afina.walk.rows import template_hash
from afina.whole import write_whole
from afina.why.ekfac_torch import (
    DAMPING,
    LONGEST_SIDE,
    SKETCH,
    Curvature,
    Sketcher,
    fit_curvature,
    shapes_of,
    sketch_rows,
)
from afina.why.index import CURVATURE, FOLDER, IndexBlock, IndexFolder, damaged
from afina.why.rows import EncodedRow, TrainedRow, encoded_rows, split_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 2
"""Of how the numbers are computed: another one makes the index anew."""
FIT_ROWS = 1024
"""Rows that the curvature is taken over, drawn with the run's seed; all of fewer."""
BLOCK = 128
"""Examples in a file of the index: what a stopped build does again at most."""


def index_key(context: Context) -> dict[str, Any]:
    """All that the index depends on, as plain values."""
    recipe = context.recipe
    return {
        "version": VERSION,
        "adapter": hash_folder(find_outcome(context.folder, recipe).folder),
        "rows": hash_file(split_file(context, "train")),
        "tokenizer": hash_tokenizer(tokenizer_folder(context)),
        "chat": recipe.chat.model_dump(mode="json"),
        "template": template_hash(context),
        "max_length": recipe.train.max_length,
        "on_too_long": recipe.dataset.on_too_long,
        "on_not_rendered": recipe.dataset.on_not_rendered,
        "seed": recipe.seed,
        "ekfac": {"damping": DAMPING, "longest_side": LONGEST_SIDE, "sketch": SKETCH, "rows": FIT_ROWS},
    }


@dataclass(frozen=True)
class OpenIndex:
    """A whole index beside the model that it was made of."""

    model: Any
    curvature: Curvature
    sketcher: Sketcher
    rows: list[TrainedRow]
    left_out: int
    """Rows of the run that are not in it."""
    blocks: Sequence[IndexBlock]

    def scores(self, asked: Row) -> NDArray[Any]:
        """How each row speaks for (+) or against (-) what is answered, from -1 to 1: the cosine of the whitened
        gradients of both losses.

        Raises:
            ResultError: the answer's gradient is no number.
        """
        import numpy as np

        query = sketch_rows(self.model, [asked], self.curvature, self.sketcher)[0].cpu().numpy()
        if not np.isfinite(query).all():
            raise _no_number("the answer's gradient is no number")
        query = query / max(float(np.linalg.norm(query)), 1e-30)
        found = np.zeros(len(self.rows), np.float32)
        for block in self.blocks:
            found[block.numbers] = block.sketches.astype(np.float32) @ query
        return found


def open_index(context: Context, model: Any) -> OpenIndex:
    """A run's index, made where it is not there yet.

    Args:
        model: the run's, with its adapter, in evaluation mode.
    """
    place = IndexFolder(context.folder / FOLDER)
    if place.begin(index_key(context)):
        context.tell("why/: the adapter or the rows are others now; the index is made anew")
    if not place.whole:
        with context.open_progress("why") as progress:
            rows, left_out = encoded_rows(context, "train", progress)
            _build(context, model, place, rows, left_out, progress)
    told, left_out, blocks = place.rows()
    device = next(model.parameters()).device
    curvature = _read_curvature(place.folder / CURVATURE, device)
    sketcher = Sketcher(shapes_of(model), device=device)
    return OpenIndex(model, curvature, sketcher, told, left_out, [*place.blocks(blocks)])


def _build(
    context: Context, model: Any, place: IndexFolder, rows: Sequence[EncodedRow], left_out: int, progress: Any
) -> None:
    """Write what is missing of an index."""
    sketcher = Sketcher(shapes_of(model), device=next(model.parameters()).device)
    context.tell(f"why/: an index of {len(rows)} rows is made, {show_bytes(2 * sketcher.size * len(rows))} on the disk")
    curvature = _curvature(context, model, place.folder / CURVATURE, rows, progress)
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].rows[0].ids))
    blocks = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
    for number, numbers in enumerate(blocks):
        if not place.block_file(number).is_file():
            place.write_block(number, _block(model, rows, numbers, curvature, sketcher))
        progress(min((number + 1) * BLOCK, len(rows)), len(rows), "rows in the index")
    place.finish([row.described for row in rows], left_out, len(blocks))


def _curvature(context: Context, model: Any, file: Path, rows: Sequence[EncodedRow], progress: Any) -> Curvature:
    from safetensors.torch import save

    if file.is_file():
        return _read_curvature(file, next(model.parameters()).device)
    every = [row for example in rows for row in example.rows]
    drawn = random.Random(context.recipe.seed).sample(every, min(FIT_ROWS, len(every)))
    found = fit_curvature(model, drawn, seed=context.recipe.seed, progress=progress)
    tensors: Mapping[str, Any] = {name: value.cpu() for name, value in found.tensors().items()}
    write_whole(file, save(dict(tensors)))
    return found


def _read_curvature(file: Path, device: Any) -> Curvature:
    """The curvature of an index, or of one that is being made.

    Raises:
        AfinaError: the file is no curvature.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Curvature.of({name: value.to(device) for name, value in load_file(file).items()})
    except (OSError, SafetensorError, KeyError) as error:
        raise damaged(file, error) from error


def _no_number(what: str) -> ResultError:
    """Sorted, a score that is none would stand before every other."""
    return ResultError(what, "look at the run's losses: `afina why RUN` counts the rows that have none", "why/")


def _block(
    model: Any, rows: Sequence[EncodedRow], numbers: Sequence[int], curvature: Curvature, sketcher: Sketcher
) -> IndexBlock:
    import numpy as np

    pairs = [(row, owner) for owner, number in enumerate(numbers) for row in rows[number].rows]
    sketches = sketch_rows(model, [row for row, _ in pairs], curvature, sketcher, [owner for _, owner in pairs])
    norms = sketches.norm(dim=1)
    wrong = [rows[numbers[place]].described.place for place in (~norms.isfinite()).nonzero().flatten().tolist()]
    if wrong:
        raise _no_number(f"the gradient of {len(wrong)} rows is no number (first {wrong[0]})")
    unit = sketches / norms.clamp(min=1e-30)[:, None]
    return IndexBlock(np.array(numbers), unit.half().cpu().numpy(), norms.float().cpu().numpy())
