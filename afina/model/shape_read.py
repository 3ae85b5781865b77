"""The shape of a base from its ``config.json``: by the table of common families, or by building the model itself.

The second takes no memory for weights. It needs torch and transformers, and is done in a process of its own where this
one has not opened them. What it gave is kept in the user's cache folder: a configuration is walked once.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from afina.cache import user_cache
from afina.errors import BaseError, DiskFull
from afina.model.base_damage import read_config
from afina.model.shape import Shape, shape_from
from afina.model.shape_table import KNOWN, in_table, table_shape
from afina.run import hash_file, hash_value, parse_json
from afina.whole import write_whole

READ_BY: tuple[str, ...] = ("shape.py", "shape_apart.py", "shape_walk_torch.py", "adapter_torch.py", "targets_torch.py")
READ_BY += ("decoder_torch.py", "shape_table.py")
"""What a shape depends on, beside the libraries' versions."""
LONGEST_WALK = 300.0
"""Seconds after which a walk is given up."""


def read_shape(
    config: Mapping[str, Any], where: str, *, folder: Path | None = None, trust_remote_code: bool = False
) -> Shape:
    """The shape that a Hugging Face ``config.json`` describes.

    Args:
        config: the file's content.
        where: the file or hub id, for errors.
        folder: where the model's own code is.
        trust_remote_code: whether that code may run.

    Raises:
        RecipeError: a number is missing or does not fit the others.
        BaseError: it is no model that writes text, or one that is not in the table where torch is not installed.
    """
    own_code = folder if trust_remote_code and "auto_map" in config else None
    if own_code is None and in_table(config):
        return table_shape(config, where)
    kept = _cache_file(config, own_code)
    if kept is not None and kept.is_file():
        try:
            return shape_from(parse_json(kept.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError):  # half a file, or another version's: made again
            kept.unlink(missing_ok=True)
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        raise BaseError(
            f"the shape of a {config.get('model_type')!r} model is read from the model itself, for which "
            f"{' and '.join(missing)} must be installed",
            f"pip install {' '.join(missing)}; without them these families are planned: {', '.join(KNOWN)}",
            where,
        )
    shape = _walk_here(config, own_code, where) if "torch" in sys.modules else _walk_apart(config, own_code, where)
    if kept is not None:
        with contextlib.suppress(OSError, DiskFull):  # without a cache it is walked again, and nothing else changes
            write_whole(kept, json.dumps(shape.as_json()), shared=True)
    return shape


def shape_of_folder(folder: Path, *, trust_remote_code: bool = False) -> Shape:
    """:func:`read_shape` of a model's folder."""
    file = folder / "config.json"
    return read_shape(read_config(folder), str(file), folder=folder, trust_remote_code=trust_remote_code)


def check_built(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Refuse a model of the table that transformers does not build; any other was built already, to read its shape.

    Raises:
        BaseError: it does not, with its words.
    """
    config = read_config(folder)
    if (trust_remote_code and "auto_map" in config) or not in_table(config):
        return
    from afina.model.shape_walk_torch import build

    try:
        build({key: value for key, value in config.items() if key != "quantization"}, None)
    except BaseError as error:
        raise BaseError(error.problems[0].what, error.problems[0].fix, str(folder / "config.json")) from error


def _walk_here(config: Mapping[str, Any], folder: Path | None, where: str) -> Shape:
    """In this process, which has torch open already."""
    from afina.model.shape_walk_torch import walk

    try:
        return walk(config, folder)
    except BaseError as error:
        raise BaseError(error.problems[0].what, error.problems[0].fix, where) from error


def _walk_apart(config: Mapping[str, Any], folder: Path | None, where: str) -> Shape:
    """In a process of its own, which leaves out of the libraries what no walk needs; once more with all of them where
    that may be why it says what it says."""
    own_code = [str(folder)] if folder else []
    found = _ask_apart(own_code, config, where)
    if "doubtful" in found and not own_code:
        found = _ask_apart(["--whole"], config, where)
    if "shape" not in found:
        raise BaseError(found["what"], found["fix"], where)
    return shape_from(found["shape"])


def _ask_apart(words: Sequence[str], config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What :mod:`afina.model.shape_apart` answers; of a process that failed what it said at last, which is doubtful.

    Raises:
        BaseError: it took too long.
    """
    command = [sys.executable, "-m", "afina.model.shape_apart", *words]
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    again = "run it again; if it stays so, name the model in an issue"
    try:
        done = subprocess.run(
            command,
            input=json.dumps(config),
            capture_output=True,
            text=True,
            env=environment,
            timeout=LONGEST_WALK,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BaseError(f"its shape was not read within {LONGEST_WALK:.0f} s", again, where) from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return {"what": f"its shape could not be read: {said}", "fix": again, "doubtful": True}
    found: dict[str, Any] = parse_json(lines[-1])
    return found


def _cache_file(config: Mapping[str, Any], folder: Path | None) -> Path | None:
    """Where the shape of this configuration is kept, for these versions of what reads it; None without a place."""
    code = {file.name: hash_file(file) for file in sorted(folder.glob("*.py"))} if folder else {}
    with_what = [_version(name) for name in ("afina", "torch", "transformers", "peft")]
    own = {file: hash_file(Path(__file__).with_name(file)) for file in READ_BY}
    key = hash_value([dict(config), code, with_what, own])
    place = user_cache()
    return None if place is None else place / "shapes" / f"{key}.json"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
