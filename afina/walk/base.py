"""What a run starts from: the base, what of it counts, and the tokenizer with its chat template."""

from __future__ import annotations

from pathlib import Path

from afina.errors import AfinaError, RecipeError
from afina.model.back_ends import BackEnd
from afina.model.base import BaseIdentity, check_trainable, find_base, hash_model, identify_base
from afina.model.hub import hub_commit
from afina.model.opened_by import back_end_of
from afina.model.shape import Shape
from afina.model.shape_read import check_built, shape_of_folder
from afina.model.shape_table import scratch_shape
from afina.outcome import chat_of, outcome_kind
from afina.run import again
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of
from afina.tokenizer.load import load_tokenizer
from afina.walk.context import Context, once


@once
def back_end(context: Context) -> BackEnd:
    """What computes this run: its training, and what is asked of its model.

    Raises:
        RecipeError: the recipe names mlx, and it is not here or the run is one of several processes.
    """
    return back_end_of(context.recipe, "several processes train together by torch alone" if context.ranks else "")


@once
def base_folder(context: Context) -> Path | None:
    """The base's folder, checked; None for a model from scratch.

    Raises:
        BaseError: it is not there, or it is no base.
    """
    recipe = context.recipe
    if recipe.base is None:
        return None
    folder = find_base(
        recipe.base,
        revision=recipe.base_revision,
        trust_remote_code=recipe.trust_remote_code,
        program="mlx" if back_end(context).name == "mlx" else "transformers",
        say=context.tell,
    )
    commit = hub_commit(folder)
    if commit and commit != recipe.base_revision:
        context.tell(f"base: {recipe.base} as it is now; to have the same one later: `base_revision: {commit}`")
    return folder


def check_base(context: Context) -> None:
    """Say what is wrong with the base, or with training over it by this recipe, before any work is done and paid.

    Raises:
        RecipeError: with everything that is wrong.
    """
    folder = base_folder(context)
    if folder is not None:
        check_trainable(folder, context.recipe)
        if "dataset" not in context.run.stages:
            check_built(folder, trust_remote_code=context.recipe.trust_remote_code)


@once
def base_files(context: Context) -> dict[str, str]:
    """Hashes of everything in the base that the result depends on; empty for a model from scratch."""
    if context.base_files is not None:
        return context.base_files
    folder = base_folder(context)
    return {} if folder is None else hash_model(folder)


@once
def model_shape(context: Context) -> Shape:
    """The layers and sizes of the model that is trained; from scratch with the vocabulary that was reached."""
    folder = base_folder(context)
    if folder is None:
        scratch = context.recipe.scratch
        if trained := context.run.stages.get("tokenizer"):
            scratch = scratch.model_copy(update={"vocab": trained["result"]["vocab"]})
        return scratch_shape(scratch, context.recipe.train.max_length)
    return shape_of_folder(folder, trust_remote_code=context.recipe.trust_remote_code)


def tokenizer_folder(context: Context) -> Path:
    """Where the tokenizer is: with the base, or in the run for a model from scratch.

    Raises:
        RecipeError: a model from scratch, whose tokenizer is not trained yet.
    """
    folder = base_folder(context)
    if folder is None:
        folder = context.folder / "tokenizer"
        if not folder.is_dir():
            raise RecipeError(
                f"the run {context.folder} has no tokenizer yet",
                again(context.folder, "train"),
                "tokenizer",
            )
    return folder


@once
def renderer(context: Context) -> Renderer:
    """What turns conversations into tokens, with the base's tokenizer or the one trained for a model from scratch.

    Raises:
        RecipeError: a model from scratch, whose tokenizer is not trained yet.
    """
    recipe, folder = context.recipe, tokenizer_folder(context)
    chat = chat_of(context.folder / outcome_kind(recipe), recipe)
    tokenizer = load_tokenizer(str(folder), chat, root=Path(recipe.root), trust_remote_code=recipe.trust_remote_code)
    return Renderer(tokenizer, chat)


def check_chat(context: Context) -> None:
    """That the base's tokenizer opens, has an end, and that its chat template or the recipe's is one, before any work
    is done and paid; and that it can tell the codes of canaries apart.

    Raises:
        BaseError, RecipeError: what is wrong.
    """
    if context.recipe.base is None:
        return
    renderer(context).stop_ids()
    if context.recipe.safety.canaries and "numbers" in folds_of(renderer(context).tokenizer):
        raise RecipeError(
            "safety.canaries are codes of digits, and the base's tokenizer reads all numbers alike: none could be told "
            "from another, and no model could say one",
            "set `safety.canaries: 0`",
            "safety.canaries",
        )


def pad_id(context: Context) -> int:
    """The token that fills up rows shorter than the longest of their batch."""
    tokenizer = renderer(context).tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer(context).end_id)


@once
def identity(context: Context) -> BaseIdentity:
    """The base's hashes, as they are written beside an adapter."""
    folder = base_folder(context)
    if folder is None:
        raise AfinaError("a model from scratch has no base", "this is a defect")
    return identify_base(folder, str(context.recipe.base), renderer(context).tokenizer)
