"""How much there is to learn: counted from a dataset, or estimated from the size of the source files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from afina.errors import RecipeError
from afina.recipe import METHODS, TOKENIZERS, Kind, Recipe, Source, Train, expand_path, is_remote
from afina.run import what_runs_left
from afina.text.document import Split
from afina.text.formats import Format, format_of, names_of, text_share
from afina.text.splits import by_name, describe_splits, recognise
from afina.units import show_count

CHARS_PER_TOKEN = 3.5
"""English prose has about 4.3 characters a token, Portuguese 3.3 and code 3.0 with the vocabularies of common bases."""
ESTIMATE_SPREAD = 1.6
"""An estimate may be this many times too high or too low."""

CHOICE_TOKENS = 240.0
"""What is read of a choice among sentences of some 20 words, where none is counted."""

_ANSWER_SHARE = 0.5
_ROW_CHARS = 400


@dataclass(frozen=True)
class ProseCount:
    """Questions about the prose of a dataset that are asked.

    Args:
        choices: with eight sentences each.
        free: to be answered in words.
        choice_tokens: what is read of a choice: once what its sentences share, then the rest of each, and each term.
    """

    choices: int = 0
    free: int = 0
    choice_tokens: float = CHOICE_TOKENS


@dataclass(frozen=True)
class TokenCount:
    """What one epoch holds.

    Args:
        tokens: real (not padded) tokens of one epoch.
        targets: how many of them are learned.
        rows: examples of one epoch, or the blocks that they became.
        longest: tokens of the longest one.
        held_out: tokens of the held-out rows.
        spread: 1.0 for a count; an estimate may be this many times too high or too low.
        padded: padded tokens of one epoch; none where the lengths are not known.
        micro_batches: of one epoch, and the padded and the learned tokens of the largest of them.
        prose: questions about it that a dataset of documents keeps.
    """

    tokens: int
    targets: int
    rows: int
    longest: int
    held_out: int = 0
    spread: float = 1.0
    padded: int | None = None
    micro_batches: int | None = None
    largest_batch: int | None = None
    largest_targets: int | None = None
    prose: ProseCount = ProseCount()

    @property
    def mean_length(self) -> float:
        """Tokens of an average row."""
        return self.tokens / max(self.rows, 1)

    @property
    def target_share(self) -> float:
        """Learned tokens / tokens."""
        return self.targets / max(self.tokens, 1)


def stream_count(tokens: int, held_out: int, train: Train, *, spread: float = 1.0) -> TokenCount:
    """The same of one stream of so many tokens, which is read in windows, see :mod:`afina.train.stream`.

    >>> train = Train(max_length=16, batch_tokens=64)
    >>> found = stream_count(1000, 0, train)
    >>> found.padded, found.micro_batches, found.largest_batch  # 4 lanes of 250
    (1000, 16, 64)
    """
    largest = min(tokens, train.lanes * train.max_length)
    return TokenCount(
        tokens=tokens,
        targets=tokens,
        rows=max(1, -(-tokens // train.max_length)),
        longest=train.max_length,
        held_out=held_out,
        spread=spread,
        padded=tokens,
        micro_batches=max(1, -(-tokens // (train.lanes * train.max_length))),
        largest_batch=largest,
        largest_targets=largest,
    )


def chars_per_token(recipe: Recipe) -> float:
    """What a token is taken to hold where no tokenizer has counted."""
    if recipe.base is None:
        return TOKENIZERS[recipe.scratch.tokenizer].chars_per_token(recipe.scratch.vocab)
    return CHARS_PER_TOKEN


def estimate_tokens(recipe: Recipe, stage: Literal["first", "second"] = "second") -> TokenCount:
    """A :class:`TokenCount` of a stage of training, from the sizes of the recipe's files; nothing is read.

    tokens = bytes x share of text / characters per token x repeat, per file. What files are called by decides what is
    held out and what is left to a test, as in a build (:mod:`afina.text.splits`).
    """
    train = recipe.train
    each = chars_per_token(recipe)
    tokens = targets = held_out = rows = sections = 0.0
    splits = named_splits(recipe)
    for position, source in enumerate(recipe.sources):
        share = recipe.dataset.validation if source.validation is None else source.validation
        for file in _files(Path(recipe.root), source):
            split = splits.get(_shown(file, recipe))
            if split == "test":
                continue
            validation = share if split is None else float(split == "validation")
            found = format_of(file.name)
            chars = file.stat().st_size * text_share(file.name)
            conversation = source.kind in ("pairs", "rows") or (found is not None and found.kind == "rows")
            answers: Kind = train.facts.judged or "messages"
            kind: Kind = answers if conversation else "text"
            if recipe.stage_of(position, kind) != stage:
                continue
            all_learned = METHODS[recipe.method_of(position, kind)].every_token or not conversation
            kept = chars / each * source.repeat * (1 - validation)
            tokens += kept
            targets += kept * (1.0 if all_learned else _ANSWER_SHARE)
            held_out += chars / each * validation
            if validation < 1:
                rows += max(1.0, chars / (_ROW_CHARS if conversation else recipe.section_chars)) * source.repeat
                sections += 0 if conversation or source.replay else max(1.0, chars / recipe.section_chars)
    if recipe.reads_stream:
        return stream_count(round(tokens), round(held_out), train, spread=ESTIMATE_SPREAD)
    asked = min(recipe.evaluate.questions, round(sections))  # at most: many sections say nothing that only they say
    return TokenCount(
        tokens=round(tokens),
        targets=round(targets),
        rows=max(1, round(rows)),
        longest=train.max_length,
        held_out=round(held_out),
        spread=ESTIMATE_SPREAD,
        prose=ProseCount(asked, asked),
    )


def assume_learning(recipe: Recipe, tokens: int) -> Learning:
    """An epoch of so many tokens, of which nothing is counted: texts that are learned whole, or judged answers, of
    which half is learned; rows as long as a recipe cuts them, and the longest as long as it may be.

    Raises:
        RecipeError: the recipe trains in two stages, of which each learns its own tokens.
    """
    train, judged = recipe.train, recipe.train.facts.judged is not None
    if train.first:
        raise RecipeError(
            "so many tokens do not say which stage of `train.first` learns them", "leave --tokens out", "--tokens"
        )
    validation = min(recipe.dataset.validation, 0.99)
    held_out = round(tokens * validation / (1 - validation))
    notes = (f"an epoch of {show_count(tokens)} tokens is assumed; the recipe's files were not looked at",)
    if recipe.reads_stream:
        return Learning(stream_count(tokens, held_out, train), notes=notes)
    chars = tokens * chars_per_token(recipe)
    sections = 0 if judged else max(1, round(chars / recipe.section_chars))
    asked = min(recipe.evaluate.questions, sections)
    counted = TokenCount(
        tokens=tokens,
        targets=round(tokens * (_ANSWER_SHARE if judged else 1.0)),
        rows=sections or max(1, round(chars / _ROW_CHARS)),
        longest=train.max_length,
        held_out=held_out,
        prose=ProseCount(asked, asked),
    )
    return Learning(counted, notes=notes)


def named_splits(recipe: Recipe) -> dict[str, Split]:
    """What each file is for, by its path below the recipe's root, where names tell it."""
    placed = [
        by_name(_shown(file, recipe))
        for source in recipe.sources
        if source.splits == "auto" and source.kind != "pairs"
        for file in _files(Path(recipe.root), source)
    ]
    return recognise(placed)


def _shown(file: Path, recipe: Recipe) -> str:
    return PurePath(os.path.relpath(file, recipe.root)).as_posix()


@dataclass(frozen=True)
class Learning:
    """What a run learns, as far as it is known before its rows are encoded."""

    tokens: TokenCount
    first: TokenCount | None = None
    """Of the first stage of ``train.first``."""
    notes: tuple[str, ...] = ()


def estimate_learning(recipe: Recipe) -> Learning:
    """What there is to learn by the sizes of the recipe's files, and how little is known by that."""
    splits = named_splits(recipe)
    tokens = estimate_tokens(recipe)
    first = estimate_tokens(recipe, "first") if recipe.train.first else None
    if first:  # what is asked of documents is asked after both stages
        tokens = replace(tokens, prose=max(tokens.prose, first.prose, key=lambda each: each.choices))
    return Learning(
        tokens,
        first,
        (
            "tokens are estimated from the size of the files; `afina data build` counts them",
            *([describe_splits(splits)] if splits else []),
            *unsized_sources(recipe),
        ),
    )


def unsized_sources(recipe: Recipe) -> list[str]:
    """One note per source of which sizes on disk say little, or nothing: pictures and compression make it a guess."""
    notes = []
    for source in recipe.sources:
        if is_remote(source.path):
            notes.append(f"{source.path} is not on this disk: its tokens are not in these figures")
        elif packed := _packed(_files(Path(recipe.root), source)):
            notes.append(f"{source.path} holds {names_of(packed)} files: how much text is in them is a guess")
    return notes


def _packed(files: Iterator[Path]) -> list[Format]:
    """The packed formats among some files, each once."""
    return list(dict.fromkeys(found for file in files if (found := format_of(file.name)) and found.packed))


def _files(root: Path, source: Source) -> Iterator[Path]:
    if is_remote(source.path):
        return
    excluded = {path for pattern in source.exclude for path in expand_path(root, pattern)}
    patterns = [pattern for pattern in (source.path, source.solutions) if pattern]
    for place in [place for pattern in patterns for place in expand_path(root, pattern)]:
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        excluded |= {folder for folder in inside if folder.is_dir() and what_runs_left(folder)}
        for file in inside:
            if file.is_file() and file not in excluded and not excluded.intersection(file.parents):
                yield file
