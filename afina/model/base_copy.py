"""A base as a folder of its own, for whoever wants to keep it or hand it on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from afina.errors import RecipeError
from afina.model.base import find_base
from afina.model.gguf_file import find_gguf
from afina.model.gguf_folder import read_origin, write_folder
from afina.whole import whole_folder


def copy_base(base: str, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> dict[str, str]:
    """Write a base into `folder`: a GGUF as safetensors, a folder or the hub's snapshot with the files that it has.

    Returns:
        The folder, and what is in it.

    Raises:
        RecipeError: the folder is there already.
        BaseError: it is no base.
    """
    if folder.exists():
        raise RecipeError("there is something of this name already", "name another folder, or remove it", str(folder))
    if (file := find_gguf(base)) is not None:
        write_folder(file, folder, say=say)
        origin = read_origin(folder) or {}
        return {"folder": str(folder), "what": f"{origin['precision']}, written as {origin['written_as']} safetensors"}
    place = find_base(base, say=say)
    with whole_folder(folder) as beside:
        for each in sorted(place.iterdir()):
            if each.is_file():
                shutil.copyfile(each, beside / each.name)
    return {"folder": str(folder), "what": f"a copy of {place}"}
