"""The vocabulary that somebody names: of a folder, a base, a run, or a SentencePiece model."""

from __future__ import annotations

from collections.abc import Callable

from afina.errors import BaseError
from afina.model.base import looks_like_path, no_such_place, place_of
from afina.model.base_damage import TOKENIZERS
from afina.model.hub import told_by_hub
from afina.recipe import read_saved_recipe
from afina.recipe.home import from_home
from afina.tokenizer.load import open_tokenizer
from afina.tokenizer.pieces import PieceTable, read_sentencepiece, read_tokenizer

SENTENCEPIECE_ENDING = ".model"


def open_pieces(name: str, say: Callable[[str], None] = lambda _: None) -> PieceTable:
    """The pieces of a tokenizer, by what the user calls it.

    Args:
        name: a folder with a tokenizer, a base (folder, GGUF, ``package:NAME``, hub id), a run's folder, or the
            ``.model`` file of SentencePiece.
        say: told before a GGUF's tokenizer is written as a folder.

    Raises:
        BaseError: there is no such thing, or no tokenizer in it.
    """
    if not name.strip():
        raise BaseError("no tokenizer is named", "name a folder, a base or a run", "tokenizer")
    place = from_home(name)
    if place.is_file() and place.suffix == SENTENCEPIECE_ENDING:
        return read_sentencepiece(place)
    if (place / "recipe.yaml").is_file():
        if (place / "tokenizer").is_dir():
            return read_tokenizer(open_tokenizer(place / "tokenizer"), name)
        recipe = read_saved_recipe(place)
        if recipe.base is None:
            raise BaseError("the run has no tokenizer yet", f"afina train {place / 'recipe.yaml'}", name)
        return open_pieces(recipe.base, say)
    found = place_of(name, weights=False, say=say)
    if found is None:
        if looks_like_path(name):
            raise no_such_place(name)
        try:
            return read_tokenizer(open_tokenizer(name), name)  # of the hub, or of its cache
        except BaseError as error:
            told = told_by_hub(error, name)
            if told is error:
                raise
            raise told from error
    what = "name a folder with tokenizer.json, a base, a run, or SentencePiece's .model file"
    if not found.is_dir():
        raise BaseError("is no tokenizer", what, name)
    if not any((found / each).is_file() for each in TOKENIZERS):
        raise BaseError("holds no tokenizer", what, name)
    return read_tokenizer(open_tokenizer(found), name)
