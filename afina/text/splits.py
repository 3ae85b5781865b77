"""Which split a file is, where people put `train`, `valid` and `test` side by side: told by names.

Names alone tell something only beside each other: `train.jsonl` alone is all there is of the data, and `test.md` is a
page of a manual. So they count in tables and plain texts, and only in a folder that holds a `train` and something
else. A dataset card that says which file is what (:mod:`afina.sources.saved`) goes before the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from afina.text.document import Split
from afina.text.formats import kind_of

WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "devset": "validation",
    "held": "validation",
    "heldout": "validation",
    "holdout": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testset": "test",
}
"""How the splits are called in names of files and folders."""

_BESIDE = {"data", "dataset", "set", "split", "files"}
"""What may stand beside such a word in the name of a folder."""


def split_named(name: str, *, whole: bool = False) -> Split | None:
    """The split that one name says; None where it says none, or two.

    >>> split_named("train_full.jsonl"), split_named("dev-00000-of-00001.parquet"), split_named("train-test-split.csv")
    ('train', 'validation', None)
    >>> split_named("how-to-test.txt", whole=True), split_named("test.txt", whole=True)
    (None, 'test')

    Args:
        whole: the name has to be the word itself, as for texts: they are called after what they are about.
    """
    found = _splits_in(name, whole)
    return found.pop() if len(found) == 1 else None


def _splits_in(name: str, whole: bool) -> set[Split]:
    words = re.findall(r"[a-z0-9]+", name.partition(".")[0].lower() if whole else name.lower())
    return set() if whole and len(words) != 1 else {WORDS[word] for word in words if word in WORDS}


def _split_of_folder(name: str) -> Split | None:
    """A folder has to be called like a split and nothing else.

    >>> _split_of_folder("train"), _split_of_folder("test_data"), _split_of_folder("test_utils")
    ('train', 'test', None)
    """
    words = set(re.findall(r"[a-z]+", name.lower()))
    return split_named(name) if words <= WORDS.keys() | _BESIDE else None


class PlacedFile(NamedTuple):
    """A file as far as splits go."""

    path: str
    family: str
    """What stands side by side: a folder, or a dataset of the hub."""
    split: Split | None


def by_name(path: str) -> PlacedFile:
    """What a file's own name tells, or else the nearest folder above it that is called like a split.

    >>> by_name("d/valid.jsonl"), by_name("d/train/part/1.csv")  # doctest: +NORMALIZE_WHITESPACE
    (PlacedFile(path='d/valid.jsonl', family='d', split='validation'),
     PlacedFile(path='d/train/part/1.csv', family='d', split='train'))
    >>> by_name("d/train/train-1.csv").family, by_name("d/test/train.csv").family, by_name("d/test.md").split
    ('d', 'd/test', None)
    """
    place, kind = PurePosixPath(path), kind_of(path)
    folder = place.parent
    if kind not in ("rows", "text"):
        return PlacedFile(path, folder.as_posix(), None)
    whole = kind == "text"
    split, two = split_named(place.name, whole=whole), _splits_in(place.name, whole)
    if split is None and not two:
        above = next((each for each in place.parents if _split_of_folder(each.name)), None)
        split = _split_of_folder(above.name) if above else None
        folder = above or folder
    while split and _split_of_folder(folder.name) == split:
        folder = folder.parent
    return PlacedFile(path, folder.as_posix(), split)


def recognise(files: Iterable[PlacedFile]) -> dict[str, Split]:
    """The split of every file where a `train` and something else stand side by side.

    With a validation split, all that is neither held out nor `test` is for training. Without one only `test` is told
    apart: the rest is split by its content, as where there are no names.

    >>> recognise(map(by_name, ["d/train.jsonl", "d/valid.jsonl", "d/more.csv", "e/test.jsonl", "a.jsonl"]))
    {'d/train.jsonl': 'train', 'd/valid.jsonl': 'validation', 'd/more.csv': 'train'}
    >>> recognise(map(by_name, ["train.jsonl", "test.jsonl"]))
    {'test.jsonl': 'test'}
    """
    families: dict[str, list[PlacedFile]] = {}
    for file in files:
        families.setdefault(file.family, []).append(file)
    found: dict[str, Split] = {}
    for family in families.values():
        seen = {file.split for file in family}
        if "train" not in seen or not seen & {"validation", "test"}:
            continue
        for file in family:
            if "validation" in seen:
                found[file.path] = file.split or "train"
            elif file.split == "test":
                found[file.path] = "test"
    return found


def describe_splits(splits: Mapping[str, str], counts: Mapping[str, int] | None = None) -> str:
    """Which file was taken for what, in one line.

    >>> describe_splits({"d/train.jsonl": "train", "d/dev.jsonl": "validation"}, {"validation": 20})
    'splits recognised: validation 20 (d/dev.jsonl), train (d/train.jsonl)'

    Args:
        counts: split -> examples of it, where they are known.
    """
    said = []
    for split in ("validation", "test", "train"):
        if paths := [path for path, own in splits.items() if own == split]:
            number = f" {counts[split]}" if counts and split in counts else ""
            more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
            said.append(f"{split}{number} ({', '.join(paths[:2])}{more})")
    return "splits recognised: " + ", ".join(said)
