"""Whole texts, read and written: windows of held-out text, and what is written behind the recipe's prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from afina.model.open_model import OpenModel
from afina.recipe import Recipe
from afina.walk.base import pad_id, renderer
from afina.walk.context import Context

if TYPE_CHECKING:
    from afina.evaluate.continuations import Continuations
    from afina.evaluate.text_scores import WindowScores


def measure_windows(context: Context, models: tuple[OpenModel, OpenModel]) -> tuple[WindowScores | None, list[str]]:
    """How the models before and after training predict windows of the held-out texts, and what a reader has to know;
    None where none are read."""
    from afina.evaluate.windows import ReadWindows, compare_windows, context_of, cut_windows, window_bits
    from afina.model.readers import reader_of

    recipe = context.recipe
    file, most = context.folder / "dataset/validation.jsonl", recipe.most_windows
    texts = cut_windows(file, recipe.evaluate.windows.bytes, most) if most else []
    if not texts:
        return None, ["no windows were read: no plain text is held out"] if recipe.evaluate.windows.count else []
    found: list[Any] = []
    for opened in models:
        with opened() as model:
            trained_at = recipe.train.max_length if recipe.base is None else None
            reader = reader_of(model)
            read = ReadWindows.of(texts, renderer(context), context_of(reader, trained_at))
            at_once = reader.tokens_at_once(recipe.train.batch_tokens)
            found.append(window_bits(reader, read, pad_id=pad_id(context), batch_tokens=at_once))
    few = f"the held-out texts hold {len(texts)} of {most} windows of {recipe.evaluate.windows.bytes:,} bytes"
    notes = [few] if recipe.evaluate.windows.count and len(texts) < most else []
    if read.lost:
        whole = sum(map(len, texts))
        notes.append(
            f"{read.lost:,} of {whole:,} characters of the windows are in none of their tokens (unknown, or folded to "
            "others): nobody predicts them, and the bits per byte are too few"
        )
    return compare_windows(read, *found), notes


def measure_continuations(context: Context, recipe: Recipe, trained: OpenModel) -> Continuations:
    """What the trained model writes behind the prompts of the recipe.

    Args:
        recipe: the run's, without what cannot be measured now.
    """
    from afina.evaluate.continuations import CORPUS, Continuations, continue_prompts
    from afina.evaluate.corpus_words import read_corpus
    from afina.evaluate.prompts import prompts_file, read_prompts

    file = prompts_file(recipe)
    if file is None:
        return Continuations()
    prompts, corpus = read_prompts(file), read_corpus([context.folder], name=CORPUS)
    # What a base does by itself was not caused by the training, and it is not asked here.
    limits = recipe.evaluate.limits.guardrails if recipe.base is None else None
    with context.open_progress("prompts") as progress, trained() as model:
        return continue_prompts(model, renderer(context), prompts, corpus, limits, progress=progress, say=context.tell)
