"""``start_from``: the adapter's settings that a recipe leaves out are those of the adapter that it starts from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from afina.errors import Problem
from afina.recipe.home import from_home
from afina.recipe.yaml_text import parse_yaml

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_A(?:\.\w+)?\.weight")
_NUMBERED = re.compile(r"\D+\.(\d+)\.(\D+)")
"""``model.layers.3.mlp.up_proj``: the layer's number, and the matrix within it."""


def resolve_start(raw: dict[str, Any], anchor: Path, where: str) -> list[Problem]:
    """Make ``start_from`` absolute and write the adapter's settings into the raw recipe; what does not agree.

    Args:
        anchor: what a relative path counts from.
        where: the recipe's name, for messages.
    """
    given = raw.get("start_from")
    if not isinstance(given, str) or not given.strip():  # refused as it is
        return []
    folder = (anchor / from_home(given)).resolve()
    raw["start_from"] = str(folder)
    place = f"{where}: start_from"
    if not folder.is_dir():
        return [Problem(f"there is no folder {folder}", "name a run's folder, or an adapter's", place)]
    try:
        settings = _settings_of(folder)
    except (OSError, ValueError, KeyError, RecursionError, YAMLError) as error:
        return [Problem(f"what is in {folder} cannot be read: {error}", "name another run or adapter", place)]
    if settings is None:
        fix = f"go on from a whole model with `base: {folder}`" if (folder / "config.json").is_file() else "train it"
        return [Problem(f"{folder} is neither a run nor an adapter: it holds no {CONFIG}", fix, place)]
    if raw.get("adapter") is None:
        raw["adapter"] = CommentedMap()
    own = raw["adapter"]
    return list(_fill(own, settings, folder, where)) if isinstance(own, CommentedMap) else []


def _fill(own: CommentedMap, settings: Mapping[str, Any], folder: Path, where: str) -> Iterator[Problem]:
    for key, value in settings.items():
        if key not in own:
            own[key] = value
        elif _in_order(own[key]) != _in_order(value):
            yield Problem(
                f"adapter.{key} is {own[key]}; what start_from names ({folder}) has {value}",
                f"leave adapter.{key} out, or write {value}",
                f"{where}: adapter.{key}",
            )


def _in_order(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _settings_of(folder: Path) -> dict[str, Any] | None:
    """The keys of ``adapter`` as they are trained further; None where there is nothing to go on from.

    PEFT's file says what the adapter is by now: one begun as PiSSA is a plain one of twice the rank. What it does not
    say, such as the base in 4 bits, is in the run's recipe.
    """
    run = folder if (folder / "recipe.yaml").is_file() else None
    saved: Mapping[str, Any] = {}
    if run is not None:
        whole = parse_yaml((run / "recipe.yaml").read_text(encoding="utf-8"))
        saved = _mapping(_mapping(whole, "recipe.yaml")["adapter"], "`adapter` in recipe.yaml")
        if saved["kind"] == "none":
            return {"kind": "none"}
    file = (folder / "adapter" if run else folder) / CONFIG
    if not file.is_file():
        return None
    config = _mapping(json.loads(file.read_text(encoding="utf-8")), CONFIG)
    if (kind := str(config.get("peft_type", "LORA"))) != "LORA":
        raise ValueError(f"{CONFIG}: an adapter of kind {kind}, and LoRA alone is trained here")
    targets = saved.get("targets") or config["target_modules"]
    if isinstance(targets, str) and targets != "all-linear":  # a pattern: what it matched is in the weights
        targets = _adapted(file.with_name(WEIGHTS))
    for key, value in (("target_modules", targets), ("modules_to_save", config.get("modules_to_save") or [])):
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(n, str) for n in value)):
            raise ValueError(f"{CONFIG}: {key} is {value!r:.60}")
    return ({"kind": saved["kind"]} if saved else {}) | {
        "variant": "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora",
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config.get("lora_dropout", 0.0),
        "targets": _short(targets) if isinstance(targets, list) else targets,
        "modules_to_save": list(config.get("modules_to_save") or []),
    }


def _adapted(weights: Path) -> list[str]:
    """The matrices that an adapter's file holds an update of, by their names in the base.

    Raises:
        ValueError: it is no safetensors file, or holds none.
    """
    with weights.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        held = json.loads(opened.read(min(length, weights.stat().st_size)))
    found = {match[1] for name in _mapping(held, weights.name) if (match := _FACTOR.fullmatch(name))}
    if not found:
        raise ValueError(f"{weights.name} holds no matrices of LoRA")
    return sorted(found)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    """
    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no mapping of keys to values")
    return value


def _short(targets: list[str]) -> list[str]:
    """PEFT may write the name of every matrix in every layer; those of all layers alike are one name.

    >>> _short([f"model.layers.{layer}.mlp.{name}" for layer in (0, 1) for name in ("up", "down")])
    ['down', 'up']
    >>> _short(["model.layers.1.mlp.up", "q_proj"])
    ['model.layers.1.mlp.up', 'q_proj']
    """
    found = [_NUMBERED.fullmatch(name) for name in targets]
    layers: dict[str, set[int]] = {}
    for each in found:
        if each is None:
            return sorted(targets)
        layers.setdefault(each[2], set()).add(int(each[1]))
    number = 1 + max(max(each) for each in layers.values())
    if any(each != set(range(number)) for each in layers.values()):
        return sorted(targets)
    return sorted({name.rpartition(".")[2] for name in layers})
