"""Folders as `datasets` and its hub keep them, and exports: which of their files say something about the data only."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from afina.recipe.yaml_text import parse_yaml
from afina.run import parse_json
from afina.text.document import Split
from afina.text.formats import format_of, is_packed, kind_of
from afina.text.front_matter import front_matter
from afina.text.splits import split_named

_CARD_KEYS = frozenset({
    "configs", "dataset_info", "task_categories", "task_ids", "size_categories", "annotations_creators",
    "language_creators", "source_datasets", "pretty_name",
})  # fmt: skip
_NOTES = "note of the dataset beside it"
_BESIDE_CONVERSATIONS = frozenset({
    "chat.html", "user.json", "users.json", "user_settings.json", "message_feedback.json", "shared_conversations.json",
    "model_comparisons.json", "projects.json", "memories.json", "export_manifest.json", "group_chats.json",
})  # fmt: skip
CONVERSATIONS = re.compile(r"(.*/)?conversations(-\d+)?\.json")
"""The files of an exported chat history that hold its conversations."""


def about_the_data(folder: Path, names: list[str]) -> dict[str, str]:
    """The files of a folder that are no data themselves -> why.

    Args:
        names: of what lies in the folder.
    """
    found: dict[str, str] = {}
    here = set(names)
    arrows = [name for name in names if (of := format_of(name)) and of.name == "Arrow"]
    if "dataset_info.json" in here and arrows:
        found |= dict.fromkeys({"state.json", "dataset_info.json"} & here, _NOTES)
        if "state.json" in here and (parts := _saved_parts(folder / "state.json")):
            found |= {name: "cache beside a saved dataset" for name in arrows if name not in parts}
    if "dataset_dict.json" in here and any((folder / name / "state.json").is_file() for name in names):
        found["dataset_dict.json"] = _NOTES
    if "README.md" in here and (_has_rows(folder) if _card(folder) else _has_rows(folder, alone=True)):
        found["README.md"] = "card of the dataset beside it"
        if "dataset_infos.json" in here:
            found["dataset_infos.json"] = _NOTES
    if "conversations.json" in here:
        found |= dict.fromkeys(_BESIDE_CONVERSATIONS & here, "file beside the conversations of a chat export")
    return found


def _saved_parts(state: Path) -> set[str]:
    try:
        parsed = parse_json(state.read_bytes())
    except ValueError:  # damaged: then every part is read
        return set()
    files = parsed.get("_data_files") if isinstance(parsed, dict) else None
    return {str(each.get("filename")) for each in files or () if isinstance(each, dict)}


def _card(folder: Path) -> Mapping[str, Any] | None:
    """What the front matter of a dataset's card says; None where there is no card."""
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    front = front_matter(readme.read_text("utf-8", errors="replace").replace("\r\n", "\n"))
    try:
        said = parse_yaml("\n".join(front.split("\n")[1:-2])) if front.startswith("---") else None
    except YAMLError:
        return None
    return said if isinstance(said, dict) and _CARD_KEYS & said.keys() else None


def _has_rows(folder: Path, *, alone: bool = False) -> bool:
    """Whether a folder holds tables up to two folders down; `alone`: and packed ones are all that it holds.

    A README without settings is the page of a dataset only beside files that nobody writes by hand.
    """
    found = [file for pattern in ("*", "*/*", "*/*/*") for file in folder.glob(pattern) if file.is_file()]
    data = [file.name for file in found if kind_of(file.name) == "rows"]
    if alone:
        others = {file.name for file in found if not file.name.startswith(".")} - set(data)
        return bool(data) and others <= {"README.md", "LICENSE", "dataset_infos.json"} and all(map(is_packed, data))
    return bool(data)


def declared_splits(folder: Path) -> Iterator[tuple[Path, Split]]:
    """The files for which a dataset's card says what they are for."""
    card = _card(folder)
    configs = card.get("configs") if card else None
    for config in configs if isinstance(configs, list) else ():
        files = config.get("data_files") if isinstance(config, dict) else None
        if isinstance(files, dict):
            files = [{"split": split, "path": path} for split, path in files.items()]
        for each in files if isinstance(files, list) else ():
            split = split_named(str(each.get("split"))) if isinstance(each, dict) else None
            patterns = each.get("path") if split else []
            for pattern in patterns if isinstance(patterns, list) else [patterns]:
                if split and isinstance(pattern, str) and not Path(pattern).is_absolute():
                    yield from ((file, split) for file in sorted(folder.glob(pattern)) if file.is_file())


def is_chat_export(full: Path) -> bool:
    """Whether a .zip holds an exported chat history."""
    try:
        with zipfile.ZipFile(full) as packed:
            return any(CONVERSATIONS.fullmatch(name) for name in packed.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
