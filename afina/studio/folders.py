"""What a folder inside of the runs' folder or the roots holds, for whoever picks a file in a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from afina.studio.refusal import StudioRefusal
from afina.studio.security import inside, is_text, lies_inside
from afina.studio.settings import StudioSettings
from afina.text.formats import kind_of

SHOWN = 2000
"""Entries of a folder at most; how many more there are is told."""


def list_places(settings: StudioSettings) -> dict[str, Any]:
    """The folders to begin with: the roots and the runs' folder."""
    places = list(dict.fromkeys(each.resolve() for each in (*settings.roots, settings.runs)))
    entries = [{"name": str(each), "path": str(each), "folder": True} for each in places if each.is_dir()]
    return {"path": None, "parent": None, "entries": entries, "left_out": 0}


def list_folder(settings: StudioSettings, given: str) -> dict[str, Any]:
    """A folder's entries, its folders first: name, path, whether it is a folder, and of files size and kind (None:
    its ending says nothing). Links that lead outside are left out, and names that are no text, and counted.

    Raises:
        StudioRefusal: 403, it lies outside; 404, it is no folder; 400, it cannot be read.
    """
    folder = inside(settings, given)
    if not folder.is_dir():
        raise StudioRefusal(404, "there is no such folder", "choose another", str(folder))
    try:
        with os.scandir(folder) as found:
            every = list(found)
        entries = [each for each in every if is_text(each.name) and lies_inside(settings, Path(each.path))]
        entries.sort(key=lambda each: (not each.is_dir(), each.name.casefold()))
        shown = [_entry(each) for each in entries[:SHOWN]]
    except OSError as error:
        raise StudioRefusal(400, f"cannot be read: {error.strerror}", "look at its permissions", str(folder)) from error
    roots = {each.resolve() for each in (settings.runs, *settings.roots)}
    parent = None if folder in roots else str(folder.parent)
    return {"path": str(folder), "parent": parent, "entries": shown, "left_out": len(every) - len(shown)}


def _entry(each: os.DirEntry[str]) -> dict[str, Any]:
    if each.is_dir():
        return {"name": each.name, "path": each.path, "folder": True}
    told = {"name": each.name, "path": each.path, "folder": False, "kind": kind_of(each.name)}
    return told | {"bytes": each.stat().st_size if each.is_file() else None}
