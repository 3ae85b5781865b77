"""What a run promises before a weight of it changes: ``commitment.json``, hashes of all that its verdict will stand on.

    questions (probes.jsonl)  dataset  base  tokenizer and template  recipe  code   ->   commitment.json   ->   one hash

The hash of the file itself is what can be published: whoever has it can tell later that the questions were chosen
before there was anything that could have been asked them. It is written once, whole, and never written over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from afina.errors import RecipeError
from afina.recipe import Recipe
from afina.record import Record
from afina.run import hash_file, hash_value, read_mapping

COMMITMENT = "commitment.json"
PROBES = "probes.jsonl"
"""Every question that will be asked, in its order; its hash stands in the commitment."""
FILES = (COMMITMENT, PROBES)
AGAIN = "again"
"""The key of :func:`checked_part` under which stands what losses, safety and retrieval are measured again by."""
VERSION = 1
COPY_AGAIN = "copy the export again, whole, from whoever published it"
CHOICE, QUESTION = "choice", "question"
"""The kinds of rows of :data:`PROBES`."""


@dataclass(frozen=True)
class Commitment:
    """A commitment that lies in a folder."""

    values: Record
    sha256: str
    """Of the file: what was published, if anything was."""

    @property
    def promises(self) -> dict[str, Any]:
        """All but the time, which a clock says that anybody can set."""
        return {key: value for key, value in self.values.values.items() if key != "written"}


def read_commitment(folder: Path) -> Commitment | None:
    """The commitment in a folder; None where there is none.

    Raises:
        AfinaError: it is damaged.
        RecipeError: it is of a later version.
    """
    file = folder / COMMITMENT
    if not file.exists():
        return None
    values = Record(read_mapping(file, "version", "probes", "recipe_sha256"), str(file), fix=COPY_AGAIN)
    if values.required_whole("version") != VERSION:
        raise RecipeError(
            f"a commitment of version {values.whole('version')}; this afina reads {VERSION}",
            "use the afina that wrote it, or a newer one",
            str(file),
        )
    return Commitment(values, hash_file(file))


def checked_part(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the check on the other side needs, and nothing about places, documents or endpoints."""
    chat = recipe.chat.model_dump(mode="json")
    if chat["template"] not in (None, "chatml"):
        chat["template"] = _last_part(chat["template"])
    return {
        "language": recipe.dataset.language,
        "chat": chat,
        "backend": recipe.backend,
        "adapter": recipe.adapter.model_dump(mode="json", include={"kind", "bits", "group_size"}),
        "precision": recipe.train.precision,
        "batch_tokens": recipe.train.batch_tokens,
        "max_length": recipe.train.max_length,
        "max_new_tokens": recipe.evaluate.max_new_tokens,
        "limits": recipe.evaluate.limits.model_dump(mode="json"),
        "measured": {
            "tasks": [task.name for task in recipe.evaluate.tasks],
            "safety": bool(recipe.safety.sets or recipe.safety.canaries or recipe.safety.strings),
            "continuations": recipe.evaluate.prompts is not None,
        },
        AGAIN: {
            "method": recipe.train.method,
            **recipe.stages,
            "on_too_long": recipe.dataset.on_too_long,
            "on_not_rendered": recipe.dataset.on_not_rendered,
            "windows": {"count": recipe.most_windows, "bytes": recipe.evaluate.windows.bytes},
            "retrieval": recipe.evaluate.retrieval.model_dump(mode="json") if recipe.evaluate.retrieval else None,
            "safety": recipe.safety.model_dump(mode="json", exclude={"canary_repeats", "strings"})
            | {"strings": recipe.safety.strings is not None},
        },
    }


def as_promised(part: dict[str, Any], promised: str | None) -> dict[str, Any]:
    """A recipe's :func:`checked_part` as a commitment of this hash knows it: an earlier afina promised less."""
    for later in ((AGAIN,), (AGAIN, "measured")):
        earlier = {key: value for key, value in part.items() if key not in later}
        if promised == hash_value(earlier):
            return earlier
    return part


def recipe_hash(recipe: Recipe) -> str:
    """A hash of all that a recipe says of the result: not of where files and the base are (these have hashes of their
    own), nor of money, of whose machine it is and of when something is written."""
    elsewhere = {"root", "base", "base_revision", "device", "budget", "launch", "start_from"}
    values = recipe.model_dump(mode="json", exclude=elsewhere)
    for name in ("trackers", "checkpoint_seconds", "keep_checkpoints", "tries"):
        values["train"].pop(name)
    return hash_value(_without_folders(values))


def _without_folders(value: Any) -> Any:
    """Plain values with absolute paths by their last part: the same recipe on another machine."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(text: str) -> str:
    """
    >>> _last_part("/home/ana/probes.jsonl"), _last_part("probes/a.jsonl"), _last_part("C:\\\\a\\\\b.md")
    ('probes.jsonl', 'probes/a.jsonl', 'b.md')
    """
    if PurePosixPath(text).is_absolute():
        return PurePosixPath(text).name
    return PureWindowsPath(text).name if PureWindowsPath(text).is_absolute() else text


def last_parts(hashes: Mapping[str, str]) -> dict[str, str]:
    """Hashes of files by their paths, those outside of the recipe's `root` by their last part."""
    return {_last_part(name): value for name, value in hashes.items()}


def code_hash() -> str:
    """A hash of afina's own code and of the questions that come with it."""
    package = Path(__file__).parent.parent
    return hash_value([[name, hash_file(package / name)] for name in sorted(_code(package))])


def _code(package: Path) -> Iterator[str]:
    for pattern in ("**/*.py", "**/*.json"):
        yield from (file.relative_to(package).as_posix() for file in package.glob(pattern))
