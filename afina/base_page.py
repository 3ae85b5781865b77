"""What is known of a base before anything is done with it: what it is, how it talks, what afina does with it, and what
was proven of its architecture. Neither weights nor torch are opened, but to read the shape of an architecture that is
in no table; :mod:`afina.base_answers` asks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afina.errors import BaseError, Problem
from afina.llamacpp.gguf_write import check_architecture
from afina.model.base import look_at_base
from afina.model.base_kind import BaseKind, kind_of_config
from afina.model.gguf_folder import origin_of
from afina.model.licence import licence_of
from afina.model.proven import COLUMNS, Proven, ProvenFamily, read_proven
from afina.model.shape import Shape
from afina.plan.bases import find_shape, known_bases, local_base
from afina.recipe import Chat
from afina.recipe.methods import in_words
from afina.run import read_json
from afina.tokenizer.abilities import Abilities
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of
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
    own_system: str
    """The system text that the template writes where a conversation has none."""
    padding: str | None
    """The token that fills up short rows; None where the tokenizer names none."""
    thinks: bool
    """Whether the template has a place for thoughts."""
    calls: bool
    """Whether it has one for calls of functions."""
    folds: tuple[str, ...] = ()
    """What its tokenizer reads alike (:data:`~afina.tokenizer.folding.FOLDS`)."""


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
    folder: Path | None = None
    """Where it is on this machine."""

    @property
    def families(self) -> list[ProvenFamily]:
        """Those of its architecture; empty where none was tried."""
        return self.proven.of(self.config)

    def describe(self) -> str:
        """For people, a line each."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.base} {self.kind.what}"
        for title, lines in (
            ("what it is", self._what_it_is()),
            ("how it talks", self._how_it_talks()),
            ("what afina does with it", self._what_is_done()),
        ):
            yield title
            yield from (f"  {name:13} {said}" for name, said in lines)
        yield from self._what_was_proven()

    def _what_it_is(self) -> Iterator[tuple[str, str]]:
        shape = self.shape
        if origin := self.origin:
            yield "file", f"GGUF: {origin['path']}{' (' + origin['name'] + ')' if origin.get('name') else ''}"
            yield "numbers", str(origin["precision"])
            gone = f"; gone is {origin['lost'].partition(':')[0]}" if "rounding" in origin["lost"] else ""
            yield "opened as", f"{origin['written_as']}: the numbers that those bits stand for{gone}"
        yield "architecture", self._architecture
        yield "parameters", f"{show_count(shape.parameters)}{self._active}"
        yield "layers", self._layers
        yield "context", f"{shape.max_positions} tokens" if shape.max_positions else "any number of tokens"
        tied = "one matrix with the output" if shape.tied_embeddings else "apart from the output"
        yield "vocabulary", f"{shape.vocab} rows, {tied}"
        if self.folder is not None:
            yield "licence", "{} ({})".format(*licence_of(self.folder))
        for note in shape.uncertain:
            yield "note", note

    def _how_it_talks(self) -> Iterator[tuple[str, str]]:
        talk = self.talk
        if talk is None:
            yield "template", "its tokenizer is not on this machine"
            return
        template = "of its own" if talk.has_template else "none: chat.template: chatml gives one"
        yield "template", f"{template}; an answer ends with {' or '.join(talk.stops)}"
        if talk.has_template:
            yield "system text", self._system_text(talk)
        yield "padding", self._padding(talk)
        if talk.folds:
            yield "folds", f"{in_words(talk.folds, 'and')}: the model neither reads nor writes them"
        yield "thoughts", "its template has a place for them" if talk.thinks else "no place for them in its template"
        yield "functions", "its template writes calls" if talk.calls else "no place for calls in its template"

    @staticmethod
    def _system_text(talk: ChatForm) -> str:
        if not talk.own_system:
            return "none where a conversation has none"
        return (
            f"{talk.own_system!r} is written before a conversation that has none of its own, in training, evaluation "
            "and serving alike; chat.system says another"
        )

    @staticmethod
    def _padding(talk: ChatForm) -> str:
        if talk.padding is None:
            return f"no token of its own: rows are filled up with {talk.stops[0]}, and the filling is not learned"
        if talk.padding in talk.stops:
            return (
                f"{talk.padding}, which ends an answer too: what fills up a row is not learned, "
                "the one behind an answer is"
            )
        return talk.padding

    def _what_is_done(self) -> Iterator[tuple[str, str]]:
        kind = self.kind
        trains = [{"none": "every weight (none)"}.get(each, each) for each in kind.trains]
        yield "adapter.kind", ", ".join(trains) or "nothing trains over it: " + kind.instead
        yield "plan", "`afina plan` computes memory and time from the numbers above"
        engines = ["afina's own server" if each == "transformers" else each for each in kind.opens]
        if "lora" in kind.trains and self._not_as_gguf() is None:
            engines.append("llamacpp")
        yield "serve", ", ".join(engines)
        yield "export", self._export()

    def _export(self) -> str:
        if "lora" not in self.kind.trains and "qlora" not in self.kind.trains:
            return "the adapter alone" if self.kind.trains else "no: nothing is trained over it"
        if problem := self._not_as_gguf():
            return f"adapter, merged; GGUF: {problem.what}; {problem.fix}"
        return "adapter, merged, GGUF, Ollama, MLX"

    def _not_as_gguf(self) -> Problem | None:
        """Why llama.cpp cannot have it; None where it can."""
        try:
            check_architecture(self.config)
        except BaseError as error:
            return error.problems[0]
        return None

    @property
    def has_weights(self) -> bool:
        """Whether its weights are on this machine, and may be asked."""
        return self.folder is not None and (self.origin is not None or any(self.folder.glob("*.safetensors")))

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """What it was written from, where that is a GGUF."""
        return None if self.folder is None else origin_of(self.base, self.folder)

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
            "origin": self.origin,
            "licence": None if self.folder is None else licence_of(self.folder)[0],
            "measured": {"date": self.proven.date, "versions": dict(self.proven.versions)},
            "proven": [asdict(family) for family in self.families],
        }


def base_page(base: str) -> BasePage:
    """The page of a base: a folder, a GGUF, a hub id whose ``config.json`` is on this machine, or one of the planner's
    table.

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
    return BasePage(base, read_json(folder / "config.json"), kind, shape, _chat_form(folder), read_proven(), folder)


def _chat_form(folder: Path) -> ChatForm | None:
    """None where the folder holds no tokenizer, as where only ``config.json`` was downloaded for a plan."""
    if not any(folder.glob("tokenizer*")):
        return None
    tokenizer = load_tokenizer(str(folder), Chat())
    renderer, names = Renderer(tokenizer, Chat()), tokenizer.convert_ids_to_tokens
    has_template = bool(tokenizer.chat_template)
    abilities = renderer.template.abilities if has_template else Abilities()
    return ChatForm(
        has_template=has_template,
        stops=tuple(names(renderer.stop_ids())),
        vocabulary=len(tokenizer),
        own_system=abilities.own_system,
        padding=tokenizer.pad_token,
        thinks=abilities.thinks,
        calls=abilities.calls is not None,
        folds=folds_of(tokenizer),
    )
