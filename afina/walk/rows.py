"""The encoded rows of every training."""

from __future__ import annotations

from collections.abc import Iterator

from afina.errors import DataError
from afina.text.example import Example, read_examples
from afina.tokenizer.encode import EncodedSet, encode_examples
from afina.walk.base import renderer
from afina.walk.context import Context, once
from afina.walk.trainings import trainings_of


@once
def encoded_rows(context: Context) -> dict[str, tuple[EncodedSet, EncodedSet]]:
    """Training and validation rows, by the name of the training.

    Raises:
        DataError: a training has nothing to learn.
    """
    recipe = context.recipe

    def examples(split: str, rows: str) -> Iterator[Example]:
        for example in read_examples(context.folder / f"dataset/{split}.jsonl"):
            if recipe.stage_of(example.source, example.kind) == rows:
                yield example

    found: dict[str, tuple[EncodedSet, EncodedSet]] = {}
    for training in trainings_of(recipe):
        with context.open_progress("encode") as progress:
            train, validation = (
                encode_examples(examples(split, training.rows), renderer(context), recipe, progress)
                for split in ("train", "validation")
            )
        for name, encoded in (("train", train), ("validation", validation)):
            for reason, tokens in encoded.dropped.items():
                places = ", ".join(encoded.dropped_examples[:5])
                count = len(encoded.dropped_examples)
                context.tell(f"{name}: {count} examples with {tokens} tokens left out, {reason}: {places}")
        if not train.rows and recipe.train.first:
            raise DataError(
                f"the {training.rows} stage of training has nothing to learn",
                f"give sources for {training.settings.method}, set `stage` on one, or remove `train.first`",
                "sources",
            )
        found[training.name] = train, validation
    return found
