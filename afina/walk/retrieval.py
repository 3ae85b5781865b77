"""The rival of the training: the base with passages of the documents in its prompt, asked the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina.model.open_model import OpenModel
from afina.walk.base import model_shape, pad_id, renderer
from afina.walk.context import Context
from afina.walk.stored_answers import Kept

if TYPE_CHECKING:
    from afina.evaluate.probes import ProbeSet
    from afina.evaluate.retrieval_answers import RetrievalAnswers


def measure_retrieval(
    context: Context, probes: Sequence[ProbeSet], models: tuple[OpenModel, OpenModel], kept: Kept
) -> tuple[RetrievalAnswers | None, list[str]]:
    """What `evaluate.retrieval` asks for, and what a reader has to know about it.

    Args:
        probes: of the evaluation.
        models: before and after training.
    """
    from afina.evaluate.retrieval import read_passages
    from afina.evaluate.retrieval_answers import AskingBase, ask_with_passages

    if context.recipe.evaluate.retrieval is None:
        return None, []
    passages = read_passages(context.folder / "dataset")
    if not passages:
        return None, ["retrieval was not measured: the dataset holds no documents or conversations of the sources"]
    sees = model_shape(context).max_positions or None
    with context.open_progress("retrieval") as progress:
        asking = AskingBase(
            renderer(context), context.recipe, sees, pad_id(context), kept[0], progress=progress, say=context.tell
        )
        found = ask_with_passages(models, probes, passages, asking)
    return found, [] if found else ["retrieval was not measured: no probe asks for what is to be learned"]
