"""A GGUF as a Hugging Face folder: written once, kept in the user's cache by the file's hash, and said what it was.

For a plan, an audit or a look, its description is enough: ``config.json`` and the tokenizer, written from the header
without torch. Before anything is trained or answers, the weights come beside them (:mod:`afina.model.gguf_torch`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from afina.cache import once_for_all, user_cache
from afina.errors import AfinaError, BaseError, DiskFull, RecipeError
from afina.model.gguf_base import config_of, tokenizer_config
from afina.model.gguf_file import GgufFile, find_gguf, read_gguf
from afina.model.gguf_tokenizer import build_tokenizer
from afina.recipe import Chat
from afina.run import hash_file, hash_value, read_mapping
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.units import show_bytes, show_seconds
from afina.whole import whole_folder, write_json

ORIGIN = "origin.json"
"""Of a folder that was written from a GGUF: from which, and what its numbers are worth."""
EXACT_UP_TO = 8 * 2**30
"""Bytes that the numbers may take in 32 bits; of a larger model they are written in 16."""
BESIDE_WEIGHTS = 64 * 2**20
"""Bytes for all else in the folder."""
Written = Literal["float32", "bfloat16", "float16"]
SIZES: dict[Written, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

_WRITERS = ("gguf_file.py", "gguf_base.py", "gguf_tokenizer.py", "gguf_folder.py", "gguf_torch.py")
"""What a folder depends on, beside the file."""


Say = Callable[[str], None]


def gguf_folder(file: Path, *, weights: bool, say: Say = lambda _: None) -> Path:
    """The folder of a GGUF in the cache, written where it is not there yet.

    Args:
        weights: whether they have to be there.
        say: told before work that takes more than a moment.

    Raises:
        BaseError: it is damaged, or no model that is opened here.
        DiskFull: there is no room for it.
    """
    cache_folder = _cache_folder()
    key = f"{_sha256(file, cache_folder)[:24]}-{_writer()}"
    whole, described = cache_folder / key, cache_folder / f"{key}-described"
    wanted = whole if weights or whole.is_dir() else described
    return once_for_all(wanted, lambda folder: write_folder(file, folder, weights=weights, say=say))


def write_folder(file: Path, folder: Path, *, weights: bool = True, say: Say = lambda _: None) -> None:
    """Write a GGUF as a Hugging Face folder.

    Args:
        folder: where; it has its name only when all of it is there.

    Raises:
        BaseError: the file is damaged, or no model that is opened here.
        DiskFull: there is no room for it.
    """
    opened = read_gguf(file)
    config = config_of(opened)
    written = written_as(opened)
    config["dtype"] = written
    if weights:
        needed = opened.weights * SIZES[written] + BESIDE_WEIGHTS
        _check_room(folder, needed)
        say(f"reading {file.name} into {folder}, once ({written} as safetensors, {show_bytes(needed)})")
    started = time.monotonic()
    with whole_folder(folder) as beside:
        _describe(opened, config, beside)
        if weights:
            from afina.model.gguf_torch import write_weights

            write_weights(file, beside, written)
        write_json(beside / ORIGIN, _origin(opened, written))
    if weights:
        say(f"read {file.name} in {show_seconds(time.monotonic() - started)}")


def written_as(opened: GgufFile) -> Written:
    """As what the numbers are written: in 32 bits, in which they are exactly those of the file; of a model that would
    take more than :data:`EXACT_UP_TO`, in the 16 bits of its file, or the nearest ones of a quantized file."""
    if opened.weights * SIZES["float32"] <= EXACT_UP_TO:
        return "float32"
    return "bfloat16" if next(iter(opened.quantization)) == "BF16" else "float16"


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What a folder was written from; None where it was not written from a GGUF.

    Raises:
        BaseError: the note is damaged.
    """
    if not (folder / ORIGIN).is_file():
        return None
    try:
        return read_mapping(folder / ORIGIN, "file", "path", "sha256", "precision", "written_as")
    except AfinaError as error:
        raise BaseError(error.problems[0].what, "remove the folder: it is written again", str(folder)) from error


def origin_of(base: str, folder: Path) -> dict[str, Any] | None:
    """:func:`read_origin` of a base as it is named now: the folder may have been written from another copy of the file.

    Raises:
        BaseError: the note is damaged; as :func:`~afina.model.gguf_file.find_gguf`.
    """
    origin, file = read_origin(folder), find_gguf(base)
    return origin if origin is None or file is None else origin | {"file": file.name, "path": str(file.resolve())}


def _origin(opened: GgufFile, written: Written) -> dict[str, Any]:
    lost = "nothing: its numbers are whole"
    if opened.rounded:
        lost = (
            "what rounding took when the file was made: the numbers are those that its bits stand for, "
            "not those that the model was trained with"
        )
    return {
        "file": opened.path.name,
        "path": str(opened.path.resolve()),
        "sha256": hash_file(opened.path),
        "bytes": opened.path.stat().st_size,
        "name": opened.text("general.name"),
        "licence": opened.text("general.license"),
        "architecture": opened.architecture,
        "weights": opened.weights,
        "tensors": {kind: count for kind, (count, _) in opened.quantization.items()},
        "precision": opened.precision(),
        "lost": lost,
        "written_as": written,
        "versions": {name: version(name) for name in ("gguf", "transformers")},
    }


def _describe(opened: GgufFile, config: dict[str, Any], folder: Path) -> None:
    """Write configuration, tokenizer, template and what ends an answer."""
    built = build_tokenizer(opened.values)
    built.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config(opened, config["max_position_embeddings"]))
    write_json(folder / "config.json", config)
    if template := opened.text("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = load_tokenizer(str(folder), Chat())
    stops = Renderer(tokenizer, Chat()).stop_ids()
    ends = stops if len(stops) > 1 else stops[0]
    write_json(folder / "config.json", config | {"eos_token_id": ends})
    named = {"bos_token_id": config["bos_token_id"], "eos_token_id": ends, "pad_token_id": config["pad_token_id"]}
    write_json(folder / "generation_config.json", {key: value for key, value in named.items() if value is not None})


def _check_room(folder: Path, needed: int) -> None:
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFull(
            f"the model takes {show_bytes(needed)} as safetensors, and {show_bytes(free)} are free",
            "make room, or set AFINA_CACHE to a folder on another disk",
            str(folder),
        )


def _cache_folder() -> Path:
    place = user_cache()
    if place is None:
        what = "there is no place to keep a converted base: HOME is unset and the system knows no such user"
        raise RecipeError(what, "set HOME, or AFINA_CACHE to a folder")
    return place / "bases"


def _sha256(file: Path, cache_folder: Path) -> str:
    """The file's hash, noted by path, size and time, so that gigabytes are not read at every start."""
    state = file.stat()
    note = cache_folder / "hashes" / f"{hash_value([str(file.resolve()), state.st_size, state.st_mtime_ns])}.json"
    if note.is_file():
        try:
            return str(read_mapping(note, "sha256")["sha256"])
        except AfinaError:  # half a note: made again
            note.unlink(missing_ok=True)
    found = hash_file(file)
    write_json(note, {"file": str(file.resolve()), "sha256": found}, shared=True)
    return found


@cache
def _writer() -> str:
    """Which version of the writer this is: a folder of another one is not taken."""
    return hash_value([hash_file(Path(__file__).with_name(name)) for name in _WRITERS])[:8]
