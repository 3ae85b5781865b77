"""The shape of a recipe's base without downloading it: a folder, the local cache, or a table of common models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.model.base import (
    NOT_IN_FOUR_BITS,
    check_length,
    check_targets,
    check_trainable,
    look_at_base,
    looks_like_path,
    no_such_place,
    place_of,
)
from afina.model.base_kind import kind_of
from afina.model.shape import Shape
from afina.model.shape_read import read_shape, shape_of_folder
from afina.model.shape_table import scratch_shape
from afina.plan.tables import table
from afina.recipe import Recipe, nearest
from afina.recipe.changed import ADAPTER_KINDS
from afina.recipe.home import from_home


def known_bases() -> dict[str, dict[str, Any]]:
    """Hub id -> the part of its ``config.json`` that fixes the shape; the user's own among them."""
    return table("architectures")


def recipe_shape(recipe: Recipe) -> Shape:
    """The shape of what the recipe trains.

    Raises:
        RecipeError: as :func:`find_shape`, and where the base cannot be trained by this recipe.
    """
    if recipe.train.method == "scratch":
        return scratch_shape(recipe.scratch, recipe.train.max_length)
    base = recipe.base or ""
    folder = local_base(base, recipe.base_revision)
    if folder is not None:
        look_at_base(folder, base, recipe.trust_remote_code, weights=False)
        return check_trainable(folder, recipe)
    shape = find_shape(base, recipe.base_revision, trust_remote_code=recipe.trust_remote_code)
    check_targets(shape, recipe.adapter)
    check_length(shape, recipe.train.max_length)
    return shape


def find_shape(
    base: str,
    revision: str | None = None,
    cache_folder: Path | None = None,
    *,
    quantized: bool = False,
    trust_remote_code: bool = False,
) -> Shape:
    """The shape of a base: its folder's ``config.json``, the Hugging Face cache's, or the table's.

    >>> find_shape("Qwen/Qwen3-8B").parameters
    8190735360

    Args:
        base: a folder or a hub id.
        revision: hub revision to look for in the cache; any snapshot where not given.
        cache_folder: the Hugging Face cache; its usual place where not given.
        quantized: whether a base that is already quantized is taken, for a plan of serving it.
        trust_remote_code: whether code that comes with it may run.

    Raises:
        RecipeError: when the model is nowhere to be found, with the nearest known id; when its
            config cannot be read; when its weights are already quantized.
    """
    folder = local_base(base, revision, cache_folder)
    if folder is not None:
        return _shape_in(folder, base, quantized, trust_remote_code)
    config = known_bases().get(base)
    if config is None and looks_like_path(base):
        raise no_such_place(base)
    if config is None:
        guess = nearest(base, list(known_bases()))
        meant = f"did you mean {guess}? otherwise " if guess else ""
        raise RecipeError(
            f"the shape of {base!r} is not known here and it is not on this machine",
            f"{meant}name its folder, or download it (config.json is enough for a plan: "
            f"`hf download {base} config.json`)",
            "base",
        )
    return read_shape(config, base)


def rounding_of(recipe: Recipe) -> str | None:
    """What the weights of a base in FP8 or MXFP4 are opened as; None where it holds whole ones, or is not here."""
    folder = local_base(recipe.base, recipe.base_revision) if recipe.base else None
    kind = kind_of(folder) if folder else None
    return f"the base {kind.what}; what rounding them took is lost" if kind and kind.name == "rounded" else None


def adapter_kinds(recipe: Recipe, shape: Shape) -> list[str]:
    """Values of ``adapter.kind`` that can be trained over a recipe's base, as far as its files are here to say."""
    folder = local_base(recipe.base, recipe.base_revision) if recipe.base else None
    trained = kind_of(folder).trains if folder else ADAPTER_KINDS
    return [kind for kind in trained if kind != "qlora" or shape.model_type not in NOT_IN_FOUR_BITS]


def local_base(base: str, revision: str | None = None, cache_folder: Path | None = None) -> Path | None:
    """Where a base, or its ``config.json`` at least, is on this machine: the path itself, what was written of a GGUF,
    or a snapshot of the hub's cache; None where it is not."""
    place = place_of(base, weights=False)
    if place is not None:
        return place
    snapshots = _snapshots(base, revision, cache_folder or _hub_cache())
    return next((snapshot for snapshot in snapshots if (snapshot / "config.json").is_file()), None)


def _shape_in(folder: Path, base: str, quantized: bool, trust_remote_code: bool) -> Shape:
    kind = look_at_base(folder, base, trust_remote_code=True, weights=False)  # read_shape asks before code of it runs
    if not kind.trains and not quantized:
        raise BaseError(f"{kind.what}, over which nothing is trained", kind.instead, base)
    return shape_of_folder(folder, trust_remote_code=trust_remote_code)


def _hub_cache() -> Path:
    """Where huggingface_hub keeps its files, by its own rules."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return from_home(named)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return from_home(home) / "hub"


def _snapshots(base: str, revision: str | None, cache_folder: Path) -> list[Path]:
    """Snapshots of a hub id in the cache: the one that `revision` (or `main`) names first, or all, newest first."""
    model = cache_folder / ("models--" + base.replace("/", "--"))
    if not (model / "snapshots").is_dir():
        return []
    reference = model / "refs" / (revision or "main")
    named = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    found = sorted((model / "snapshots").iterdir(), key=lambda snapshot: snapshot.stat().st_mtime, reverse=True)
    if revision is not None:
        return [snapshot for snapshot in found if snapshot.name == named]
    return sorted(found, key=lambda snapshot: snapshot.name != named)
