"""What was measured of each architecture, as data. ``make architectures`` writes it; ``afina base show`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from afina.run import parse_json

FILE = Path(__file__).with_name("proven.json")
COLUMNS: Mapping[str, str] = {
    "plan": "parameters and trained parameters of the plan are the model's, exactly",
    "LoRA": "a walk trains an adapter on every linear layer; plain PEFT opens it with the same logits; "
    "all that is trained gets a gradient",
    "QLoRA": "the same over 4 bits of bitsandbytes, and how much of the base is held in them",
    "full": "every weight trained",
    "loss equal": "loss and gradients of a padded batch, with all that training shortens, against the model's own of "
    "each row alone",
    "greedy equal": "answers of base and adapter side by side, against `generate` of each prompt alone",
    "sharing": "whether rows that begin alike compute their beginning once",
    "merge": "exported merged, and opened by plain transformers with the adapter's logits",
    "GGUF": "exported as GGUF, and what opened it; who can, where afina cannot",
    "served": "the server's answers are the run's",
}
"""A column's head, and what it says where it is right."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one column says of one architecture."""

    state: Literal["right", "refused", "wrong"]
    """``refused``: before anything is built, with the reason in `said`."""
    said: str = ""


@dataclass(frozen=True, slots=True)
class ProvenFamily:
    """One configuration of an architecture."""

    name: str
    """Its ``model_type``, with a word where there are several configurations of it."""
    what: str
    """What of it could go wrong."""
    cells: Mapping[str, Cell]
    """By the heads of :data:`COLUMNS`."""

    @property
    def model_type(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def right(self) -> bool:
        """Whether every column is; a format of other programs that has no place for it is no fault."""
        return set(self.cells) == set(COLUMNS) and all(
            cell.state == "right" for head, cell in self.cells.items() if head != "GGUF" or cell.state == "wrong"
        )


@dataclass(frozen=True, slots=True)
class Proven:
    """All of them, and what they were measured with."""

    date: str
    versions: Mapping[str, str]
    families: tuple[ProvenFamily, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def of(self, config: Mapping[str, Any]) -> list[ProvenFamily]:
        """Those of a ``config.json``'s kind, or of the text model inside it."""
        inside = config.get("text_config")
        kinds = {config.get("model_type"), inside.get("model_type") if isinstance(inside, Mapping) else None}
        return [family for family in self.families if family.model_type in kinds]


def read_proven(file: Path = FILE) -> Proven:
    """The figures that came with this version.

    >>> any(family.model_type == "llama" for family in read_proven().families)
    True
    """
    said = parse_json(file.read_text(encoding="utf-8"))
    families = tuple(
        ProvenFamily(row["name"], row["what"], {head: Cell(**cell) for head, cell in row["cells"].items()})
        for row in said["families"]
    )
    return Proven(said["date"], said["versions"], families)
