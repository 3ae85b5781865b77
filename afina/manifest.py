"""What ``manifest.json`` holds: from which inputs, where, when and at what cost a run made its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from afina.errors import AfinaError
from afina.record import Record, read_record
from afina.run import REDO
from afina.whole import write_json

FILE = "manifest.json"
Kind = Literal["adapter", "model"]
"""What training leaves: an adapter, or a model of which every weight was trained. Also the result's folder."""

NOTHING = Record({}, FILE)


@dataclass(frozen=True)
class TrainedPart:
    """The result of a training: the folder `kind` in the run's."""

    kind: Kind
    parameters: float | None = None
    sha256: str | None = None
    """Of every file in it."""
    weights_sha256: str | None = None
    """Of its weights alone."""

    def as_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "weights_sha256": self.weights_sha256, "parameters": self.parameters}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A run's manifest. None, or an empty record, is what was not recorded (a model from scratch has no base)."""

    name: str | None = None
    afina: str | None = None
    commit: str | None = None
    python: str | None = None
    platform: str | None = None
    libraries: Record = NOTHING
    device: Record = NOTHING
    threads: float | None = None
    ranks: float | None = None
    seed: float | None = None
    started: float | None = None
    """Unix seconds."""
    ended: float | None = None
    seconds_by_stage: Record = NOTHING
    cost: Record = NOTHING
    """``hours``, ``price_per_hour``, ``money``, ``currency``."""
    recipe_sha256: str | None = None
    root: str | None = None
    inputs: list[Record] = field(default_factory=list)
    """``path``, ``sha256``, ``bytes`` of every file that was read."""
    base: Record = NOTHING
    """Hashes, name and number of ``parameters`` of the base; ``origin`` of one that was given as a GGUF."""
    started_from: Record = NOTHING
    """``kind``, ``path`` and ``sha256`` of the weights that `start_from` names; empty where it was the base alone."""
    dataset: Record = NOTHING
    trained: TrainedPart | None = None
    resumed: float | None = None
    measured: Record = NOTHING
    """``steps``, ``tokens``, ``train_seconds``, ``peak_bytes``, ..."""

    @property
    def frozen_parameters(self) -> float:
        """Parameters of the base that training left as they were."""
        whole = self.trained is not None and self.trained.kind == "model"
        return 0.0 if whole else self.base.number("parameters") or 0.0

    @classmethod
    def of(cls, record: Record) -> Manifest:
        """From the file's values.

        Raises:
            AfinaError: a value is of the wrong kind, or two results are claimed.
        """
        texts = ("name", "afina", "commit", "python", "platform", "recipe_sha256", "root")
        numbers = ("threads", "ranks", "seed", "started", "ended", "resumed")
        return cls(
            **{key: record.text(key) for key in texts},  # type: ignore[arg-type]
            **{key: record.number(key) for key in numbers},  # type: ignore[arg-type]
            **{key: record.record(key) for key in _RECORDS},  # type: ignore[arg-type]
            inputs=record.records("inputs"),
            trained=_trained(record),
        )

    def as_json(self) -> dict[str, Any]:
        """The file's values; the trained part stands under its kind, ``adapter`` or ``model``."""
        values = {key: _plain(value) for key, value in vars(self).items() if key != "trained"}
        values |= {key: values[key] or None for key in ("base", "started_from")}
        if self.trained:
            values[self.trained.kind] = self.trained.as_json()
        return values

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into a run's folder."""
        write_json(folder / FILE, self.as_json())


_RECORDS = ("libraries", "device", "seconds_by_stage", "cost", "base", "started_from", "dataset", "measured")


def record_of(values: Mapping[str, Any] | None) -> Record:
    """Plain values as a part of a manifest that is to be written."""
    return Record(values or {}, FILE)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a run; None where it has none.

    Raises:
        AfinaError: the file is damaged.
    """
    record = read_record(folder / FILE)
    return None if record is None else Manifest.of(record)


def _trained(record: Record) -> TrainedPart | None:
    kinds: list[Kind] = [kind for kind in get_args(Kind) if record.record(kind)]
    if len(kinds) > 1:
        raise AfinaError("both `adapter` and `model` are there: a run leaves one of them", REDO, record.where)
    if not kinds:
        return None
    part = record.record(kinds[0])
    return TrainedPart(kinds[0], part.number("parameters"), part.text("sha256"), part.text("weights_sha256"))


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return dict(value.values)
    return [dict(each.values) for each in value] if isinstance(value, list) else value
