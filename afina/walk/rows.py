"""The stage ``tokens``: the encoded rows of every training in a folder of the run, which the later stages open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afina.errors import DataError, RecipeError
from afina.model.base import hash_tokenizer
from afina.outcome import chat_of, outcome_kind
from afina.run import again, hash_file
from afina.text.example import Example, ExamplePlace, read_placed_examples
from afina.tokenizer.encode import EncodedCounts, EncodedSet, encode_each, mismatch
from afina.tokenizer.load import id_bound
from afina.tokenizer.tokens import INDEX, open_set, write_index, write_set
from afina.walk.base import renderer, tokenizer_folder
from afina.walk.context import Context, once
from afina.walk.trainings import Training, trainings_of
from afina.whole import whole_folder

TOKENS = "tokens"
SPLITS = ("train", "validation")


def tokens_inputs(context: Context) -> dict[str, Any]:
    """What the rows depend on."""
    recipe = context.recipe
    return {
        "dataset": context.dataset_hash,
        "tokenizer": hash_tokenizer(tokenizer_folder(context)),
        "chat": recipe.chat.model_dump(mode="json"),
        "template": template_hash(context),
        "max_length": recipe.train.max_length,
        "on_too_long": recipe.dataset.on_too_long,
        "on_not_rendered": recipe.dataset.on_not_rendered,
        "method": recipe.train.method,
        **recipe.stages,
    }


def template_hash(context: Context) -> str | None:
    """SHA-256 of the chat template's own file; None where the recipe names none."""
    recipe = context.recipe
    chat = chat_of(context.folder / outcome_kind(recipe), recipe)
    template = None if chat.template is None else Path(recipe.root) / chat.template
    return hash_file(template) if template and template.is_file() else None


def write_tokens(context: Context) -> dict[str, Any]:
    """Write ``tokens/``.

    Raises:
        DataError: conversations are too long, the template does not suit them, or a training has nothing to learn.
        DiskFull: nothing of it is left then.
    """
    recipe, made = context.recipe, renderer(context)
    sets: dict[str, dict[str, Any]] = {}
    with whole_folder(context.folder / TOKENS) as beside:
        for training in trainings_of(recipe):
            for split in SPLITS:
                name, counts = training.folder + split, EncodedCounts()
                with context.open_progress("encode") as progress:
                    examples = _examples(context, split, training)
                    encoded = encode_each(examples, made, recipe, counts, progress)
                    sets[name] = write_set(beside / name, encoded, counts, id_bound(made.tokenizer))
                for line in _told(counts):
                    context.tell(f"{split}: {line}")
            if not sets[training.folder + "train"]["rows"] and not recipe.train.first:
                raise DataError(
                    "nothing is left to train on: every example was left out while it was encoded",
                    "the lines above say why; mend the rows, or set what they ask for",
                    "dataset/train.jsonl",
                )
            if not sets[training.folder + "train"]["rows"]:
                raise DataError(
                    f"the {training.rows} stage of training has nothing to learn",
                    f"give sources for {training.settings.method}, set `stage` on one, or remove `train.first`",
                    "sources",
                )
        write_index(beside, tokens_inputs(context), sets)
    return {"index": hash_file(context.folder / TOKENS / INDEX)}


def _told(counts: EncodedCounts) -> Iterator[str]:
    """What became of rows other than that each is one conversation."""
    for reason, places in counts.dropped_examples.items():
        tokens = f" with {counts.dropped[reason]} tokens" if counts.dropped[reason] else ""
        yield f"{len(places)} examples{tokens} left out, {reason}: {', '.join(places[:5])}"
    for why, (conversations, rows) in counts.split.items():
        yield f"{conversations} conversations became {rows} rows, one for each answer: {why}"
    if counts.lost_thoughts:
        yield f"{counts.lost_thoughts} of {counts.thoughts} thoughts are not learned: the chat template leaves them out"


def _examples(context: Context, split: str, training: Training) -> Iterator[tuple[ExamplePlace, Example]]:
    for place, example in read_placed_examples(context.folder / f"dataset/{split}.jsonl"):
        if context.recipe.stage_of(example.source, example.kind) == training.rows:
            yield place, example


@once
def encoded_rows(context: Context) -> dict[str, tuple[EncodedSet, EncodedSet]]:
    """Training and validation rows, by the name of the training.

    Raises:
        RecipeError: the stage ``tokens`` has not been done.
    """
    folder = context.folder / TOKENS
    if TOKENS not in context.run.stages or not (folder / INDEX).is_file():
        raise RecipeError(f"the run {context.folder} has no tokens yet", again(context.folder, "train"), TOKENS)

    def opened(training: Training, split: str) -> EncodedSet:
        found = open_set(folder, training.folder + split, context.folder / f"dataset/{split}.jsonl")
        if training.settings.facts.mismatched:  # what a row is compared with is another row
            found.rows = list(found.rows)
            mismatch(found.rows, context.recipe.train.max_length)
        return found

    return {each.name: (opened(each, "train"), opened(each, "validation")) for each in trainings_of(context.recipe)}
