"""``afina data export``: the dataset of a run as the hub keeps datasets, with a card that says what it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from afina import __version__
from afina.errors import RecipeError
from afina.export.card import about_data, as_list, licence_values
from afina.export.out import EXPORTS, check_out
from afina.export.push import PushTarget, check_push, push_folder
from afina.recipe import Recipe, is_remote, read_saved_recipe
from afina.record import Record, read_record
from afina.run import again, hash_file
from afina.text.example import read_examples
from afina.units import show_count
from afina.verify.card_again import as_table
from afina.whole import whole_folder

SPLITS = ("train", "validation", "test")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""How the hub calls numbers of rows, each up to the first of the pair."""
MOST = "n>1M"


def export_dataset(
    run: Path, out: Path | None, *, licence: str | None, push: PushTarget | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write a run's dataset and its card into a folder, and send it where it is to go.

    What was left out of the dataset is not in it, only counted: it may be personal data. A path of a row that leads out
    of `root` is cut to the file's name.

    Args:
        out: ``RUN/export/dataset`` where not given.
        licence: of the texts, for the card.

    Returns:
        ``folder``, ``rows`` (split -> their number), ``sha256`` (file -> hash), and ``pushed`` where it was.

    Raises:
        RecipeError: the run has no dataset, `out` is something else, or see :func:`~afina.export.push.check_push`.
        DataError: a row is damaged.
    """
    recipe, dataset = read_saved_recipe(run), run / "dataset"
    summary = read_record(dataset / "dataset.json")
    if summary is None or not (dataset / "train.jsonl").is_file():
        raise RecipeError("the run has no dataset", again(run, "data build"), str(run))
    out = out or run / EXPORTS / "dataset"
    check_out(out)
    if push:
        check_push(push, recipe, "dataset")
    for source in recipe.sources:
        if source.private:
            say(f"note: {source.path} is marked `private`, and its rows are in the folder")
    with whole_folder(out, of_a_person=True) as beside:
        copied = {split: _copy(dataset, beside, split) for split in SPLITS if (dataset / f"{split}.jsonl").is_file()}
        counts = {split: rows for split, rows in copied.items() if rows}
        hashes = {file.name: hash_file(file) for file in sorted(beside.iterdir())}
        card = dataset_card(run, recipe, summary, counts, hashes, licence=licence, name=push.name if push else None)
        (beside / "README.md").write_text(card, encoding="utf-8")
    made: dict[str, Any] = {"folder": str(out), "rows": counts, "sha256": hashes}
    if push:
        message = f"{recipe.name}: {sum(counts.values())} rows, by afina {__version__}"
        made["pushed"] = push_folder(out, push, "dataset", message, say)
    return made


def _copy(dataset: Path, folder: Path, split: str) -> int:
    """Copy the rows of a split, none of which names a folder of this machine; returns their number."""
    count = 0
    target = folder / f"{split}.jsonl"
    with target.open("wb") as out:
        for example in read_examples(dataset / f"{split}.jsonl"):
            place = PurePosixPath(example.path)
            if not is_remote(example.path) and (place.is_absolute() or ".." in place.parts):
                example = replace(example, path=place.name)
            out.write(example.as_line())
            count += 1
    if not count:
        target.unlink()
    return count


def dataset_card(
    run: Path,
    recipe: Recipe,
    summary: Record,
    counts: Mapping[str, int],
    hashes: Mapping[str, str],
    *,
    licence: str | None,
    name: str | None,
) -> str:
    """The card's text, with the metadata that the hub reads.

    Args:
        summary: ``dataset.json``.
        counts: split -> rows.
        hashes: file -> SHA-256.
        name: of the repository, where it is known.
    """
    rows = sum(counts.values())
    splits = [{"split": split, "path": f"{split}.jsonl"} for split in counts]
    values: dict[str, Any] = {
        **licence_values(licence or "unknown"),
        "language": [recipe.dataset.language[:2]],
        "task_categories": ["text-generation"],
        "size_categories": [next((size for most, size in SIZES if rows < most), MOST)],
        "tags": ["afina"],
        "configs": [{"config_name": "default", "data_files": splits}],
    }
    head = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    place = name or "OWNER/NAME"
    parts = [
        "\n".join(["---", *head, "---"]),
        f"# {recipe.name}",
        f"{rows} rows, made of {summary.required_whole('documents')} documents.",
        as_list(_splits(summary, counts)),
        "## Sources",
        *about_data(run, recipe),
        "## Rows",
        "`messages`, a conversation whose last turn is what is learned, or `text`; `from`, the file, the line and the "
        "SHA-256 of that file; `source`, the number of its source above; `id`, a hash of the content; `repeat`, how "
        "often an epoch sees it.",
        "## How it was made",
        as_list(_made(recipe, summary)),
        "## How to use it",
        f'```python\nimport datasets\n\nrows = datasets.load_dataset("{place}")\n```',
        f"In a recipe of afina: `- {{path: 'hf://{place}?split=train', revision: COMMIT}}`.",
        "## Licence",
        f"`{licence or 'unknown'}` ({'as stated at the export' if licence else 'unknown: ask who made the texts'}).",
        "## Hashes (SHA-256)",
        as_table(["file", "hash"], [[file, f"`{value}`"] for file, value in hashes.items()]),
        f"Written by afina {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _splits(summary: Record, counts: Mapping[str, int]) -> Iterator[str]:
    for split, rows in counts.items():
        about = summary.record(split)
        yield (
            f"{split}: {rows} ({about.whole('conversations') or 0} conversations, {about.whole('texts') or 0} texts, "
            f"{show_count(about.required_number('characters'))} characters)"
        )


def _made(recipe: Recipe, summary: Record) -> Iterator[str]:
    settings = recipe.dataset
    yield f"texts: cleaned by `{settings.clean.preset}`, in sections of at most {recipe.section_chars} characters"
    near = settings.near_duplicates
    yield f"duplicates: `{settings.on_duplicate}`; near duplicates (Jaccard index {near.threshold:g}): `{near.on}`"
    found = ", ".join(f"{count:.0f} x {kind}" for kind, count in summary.record("personal_data").numbers())
    yield f"personal data: `{settings.personal_data}` ({found or 'none was found'})"
    yield f"held out: {settings.validation:.1%}, by a hash of the content; seed {recipe.seed}"
    made = summary.record("made")
    if questions := made.whole("examples"):
        yield f"{questions} of the rows are questions made of {made.whole('facts') or 0} facts in the documents"
    if settings.teacher:
        yield f"a teacher wrote some of the rows: {settings.teacher.model}"
    if canaries := summary.record("canaries").whole("examples"):
        yield f"{canaries} rows are invented secrets, to measure what a model gives away word for word"
