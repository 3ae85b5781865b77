"""What is known of a base before anything is done with it: what it is, its size, how it talks, and what was proven of
its architecture. Neither weights nor torch are opened, but to read the shape of an architecture that is in no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afina.model.base import look_at_base
from afina.model.base_kind import BaseKind, kind_of_config
from afina.model.proven import COLUMNS, Proven, ProvenFamily, read_proven
from afina.model.shape import Shape
from afina.plan.bases import find_shape, known_bases, local_base
from afina.recipe import Chat
from afina.run import read_json
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.units import show_count


@dataclass(frozen=True, slots=True)
class ChatForm:
    """How a base is talked to."""

    has_template: bool
    stops: tuple[str, ...]
    """Tokens that end an answer."""
    vocabulary: int
    """Entries of the tokenizer."""


@dataclass(frozen=True)
class BasePage:
    """All of it."""

    base: str
    config: Mapping[str, Any]
    kind: BaseKind
    shape: Shape
    talk: ChatForm | None
    """None where its tokenizer is not on this machine."""
    proven: Proven
    """What was measured of every architecture."""

    @property
    def families(self) -> list[ProvenFamily]:
        """Those of its architecture; empty where none was tried."""
        return self.proven.of(self.config)

    def describe(self) -> str:
        """For people, a line each."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        shape = self.shape
        yield f"{self.base} {self.kind.what}"
        yield f"  architecture  {self._architecture}"
        yield f"  parameters    {show_count(shape.parameters)}{self._active}"
        yield f"  layers        {self._layers}"
        yield f"  positions     {shape.max_positions or 'any number'}"
        tied = "one matrix with the output" if shape.tied_embeddings else "apart from the output"
        yield f"  vocabulary    {shape.vocab} rows, {tied}"
        yield f"  chat          {self._chat}"
        trains = [{"none": "every weight (none)"}.get(each, each) for each in self.kind.trains]
        yield f"  adapter.kind  {', '.join(trains) or 'nothing trains over it: ' + self.kind.instead}"
        for note in shape.uncertain:
            yield f"  note          {note}"
        yield from self._what_was_proven()

    @property
    def _architecture(self) -> str:
        named = self.config.get("architectures") or ()
        return f"{self.shape.model_type}" + (f" ({named[0]})" if named else "")

    @property
    def _active(self) -> str:
        experts = {
            f"{linear.count} experts, a token goes through {linear.active:g}"
            for layer in self.shape.layers
            for linear in layer.linears
            if linear.role == "expert"
        }
        if not experts:
            return ""
        return f", {show_count(self.shape.active_parameters)} of them for a token ({'; '.join(sorted(experts))})"

    @property
    def _layers(self) -> str:
        counts: dict[str, int] = {}
        for layer in self.shape.layers:
            what = layer.mixer + (f" of {layer.window}" if layer.window else "")
            counts[what] = counts.get(what, 0) + layer.count
        return f"{self.shape.depth}: " + ", ".join(f"{count} {what}" for what, count in counts.items())

    @property
    def _chat(self) -> str:
        if self.talk is None:
            return "its tokenizer is not on this machine"
        template = "a template of its own" if self.talk.has_template else "no template: chat.template: chatml gives one"
        return f"{template}; an answer ends with {' or '.join(self.talk.stops)}"

    def _what_was_proven(self) -> Iterator[str]:
        if not self.families:
            yield (
                f"not proven here: {self.shape.model_type} is none of the architectures that were measured "
                f"({self.proven.date}, transformers {self.proven.versions['transformers']}); its plan is read from the "
                "model itself, and training compares its loss with the model's own before the first step"
            )
            return
        yield f"proven on tiny bases ({self.proven.date}, transformers {self.proven.versions['transformers']}):"
        for family in self.families:
            yield f"  {family.name}: {family.what}"
            for head in COLUMNS:
                cell = family.cells.get(head)
                if cell is None:
                    said = "not measured"
                else:
                    said = "yes" if cell.state == "right" and not cell.said else f"{cell.state}: {cell.said}"
                yield f"    {head:13} {said}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "base": self.base,
            "architecture": self.shape.model_type,
            "kind": asdict(self.kind),
            "parameters": self.shape.parameters,
            "active_parameters": round(self.shape.active_parameters),
            "shape": self.shape.as_json(),
            "talk": asdict(self.talk) if self.talk else None,
            "measured": {"date": self.proven.date, "versions": dict(self.proven.versions)},
            "proven": [asdict(family) for family in self.families],
        }


def base_page(base: str) -> BasePage:
    """The page of a base: a folder, a hub id whose ``config.json`` is on this machine, or one of the planner's table.

    Raises:
        BaseError: it is no model that writes text, or is damaged.
        RecipeError: it is nowhere to be found.
    """
    shape = find_shape(base, quantized=True)
    folder = local_base(base)
    if folder is None:
        config = known_bases()[base]
        return BasePage(base, config, kind_of_config(config), shape, None, read_proven())
    kind = look_at_base(folder, base, trust_remote_code=True, weights=False)  # no code of it runs here
    return BasePage(base, read_json(folder / "config.json"), kind, shape, _chat_form(folder), read_proven())


def _chat_form(folder: Path) -> ChatForm | None:
    """None where the folder holds no tokenizer, as where only ``config.json`` was downloaded for a plan."""
    if not any(folder.glob("tokenizer*")):
        return None
    tokenizer = load_tokenizer(str(folder), Chat())
    stops = Renderer(tokenizer, Chat()).stop_ids()
    return ChatForm(bool(tokenizer.chat_template), tuple(tokenizer.convert_ids_to_tokens(stops)), len(tokenizer))
