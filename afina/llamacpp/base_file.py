"""A base as a GGUF file: the very file that it came from, or one that is written once and kept for every run on it."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from afina.cache import user_cache
from afina.errors import BaseError, DiskFull, RecipeError
from afina.llamacpp.gguf_write import check_architecture, write_gguf
from afina.model.base_damage import read_config
from afina.model.gguf_file import find_gguf, read_gguf
from afina.model.gguf_folder import read_origin
from afina.model.shape_read import shape_of_folder
from afina.model.stored_precision import stored_precision
from afina.recipe import Recipe
from afina.run import Progress, hash_file, hash_value, no_progress
from afina.tokenizer.chat import Renderer
from afina.whole import own_partial

KINDS = ("f32", "f16", "bf16", "q8_0")
"""How a served base's weights may be held; rounded further, answers would be another model's than the run's."""
GIVEN = "file"
"""A base that is a GGUF already is served from that file: the run's numbers are those that its bits stand for."""
AUTO = "auto"
"""The base's own file where it is one, else :data:`USUAL`."""
USUAL = "f16"


@dataclass(frozen=True)
class BaseFile:
    """Where a base's file is, or will be."""

    folder: Path
    """Of the base."""
    kind: str
    """How most weights are held."""
    file: Path
    given: bool = False
    """Whether the base came as this very file."""

    @property
    def rounding(self) -> str:
        """The kind by whose limits answers may part: over a file's own few bits only what is multiplied is rounded, to
        8 bits."""
        return "q8_0" if self.given and self.kind not in KINDS else self.kind

    @property
    def there(self) -> bool:
        """Whether it was written already."""
        return self.file.is_file()


def kind_before(base: str, wanted: str) -> str:
    """How a base's weights will be held, by its header alone.

    Raises:
        RecipeError: the base's own file is asked for, and it is none.
    """
    given = find_gguf(base)
    if wanted == GIVEN and given is None:
        raise RecipeError(f"{base} is no GGUF file", f"use --gguf-type {USUAL}, or leave it out", "--gguf-type")
    if given is not None and wanted in (AUTO, GIVEN):
        return next(iter(read_gguf(given).quantization)).lower()
    return USUAL if wanted == AUTO else wanted


def choose_base_file(base: str, folder: Path, weights_sha256: str, renderer: Renderer, wanted: str) -> BaseFile:
    """The base's own file, or where one of its weights is kept; see :func:`find_base_file`.

    Raises:
        BaseError: the file is another one than the base's folder was written from.
    """
    kind, given = kind_before(base, wanted), find_gguf(base)
    if given is None or wanted not in (AUTO, GIVEN):
        return find_base_file(folder, weights_sha256, renderer, kind)
    origin = read_origin(folder)
    if origin is None or origin.get("sha256") != hash_file(given):
        raise BaseError("is not the file that the base was written from", "name that one: base=PATH", str(given))
    return BaseFile(folder, kind, given, given=True)


def find_base_file(folder: Path, weights_sha256: str, renderer: Renderer, kind: str) -> BaseFile:
    """Where the file of these weights is kept, by a hash of all that it is made of.

    Raises:
        RecipeError: the kind is not known, or there is no place to keep it.
        BaseError: llama.cpp's format could not say what the base's configuration says.
    """
    if kind not in KINDS:
        raise RecipeError(f"a base is not served as {kind} here", f"use {', '.join(KINDS)}", "--gguf-type")
    config = read_config(folder)
    check_architecture(config)
    place = user_cache()
    if place is None:
        raise RecipeError(
            "there is no place to keep the base's GGUF file", "set AFINA_CACHE to a folder", "AFINA_CACHE"
        )
    own = [hash_file(Path(__file__).with_name(name)) for name in ("gguf_write.py", "gguf_vocab.py")]
    tokenizer = renderer.tokenizer.backend_tokenizer.to_str() if renderer.tokenizer.is_fast else ""
    stops = [renderer.stop_ids(), renderer.tokenizer.chat_template]
    key = hash_value([weights_sha256, kind, config, tokenizer, stops, own, version("gguf")])
    return BaseFile(folder, kind, place / "gguf" / f"{folder.name}-{kind}-{key[:16]}.gguf")


def write_base_file(
    base: BaseFile,
    recipe: Recipe,
    renderer: Renderer,
    say: Callable[[str], None],
    progress: Progress = no_progress,
) -> Path:
    """Write it where it is not there yet; returns its place.

    Raises:
        BaseError: the base cannot be opened, or a weight has no place in the file.
        DiskFull: there is no room for it.
    """
    if base.there:
        return base.file
    import torch

    from afina.model.load_torch import load_base

    base.file.parent.mkdir(parents=True, exist_ok=True)
    shape = shape_of_folder(base.folder, trust_remote_code=recipe.trust_remote_code)
    needed = shape.parameters * (4.0 if base.kind == "f32" else 2.0)
    if needed * 1.02 > shutil.disk_usage(base.file.parent).free:
        raise DiskFull(f"there is no room for the base as GGUF ({base.kind})", "make room", str(base.file.parent))
    say(f"writing the base as GGUF ({base.kind}), once: {base.file}")
    precision = stored_precision(base.folder, read_config(base.folder))
    model = load_base(base.folder, recipe, torch.device("cpu"), precision=precision, dequantized=True)
    try:
        with own_partial(base.file) as beside:
            write_gguf(model, renderer.tokenizer, renderer, beside, base.kind, name=base.folder.name, progress=progress)
            beside.rename(base.file)
    except OSError as error:
        raise BaseError(f"the base's GGUF cannot be written: {error}", "make room", str(base.file)) from error
    finally:
        del model
        gc.collect()
    return base.file
