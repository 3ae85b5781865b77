"""What a row's values depend on beside its own tokens: frequencies of positions that follow the longest row.

Two kinds of rotary positions look at the length of what they are given. *Longrope* (Phi-3) turns by one set of
frequencies up to the length that the model was first trained at, and by another set beyond it; *dynamic* (NTK) turns
beyond it by frequencies that follow the length, and keeps them for what comes next. So rows may share a forward only
where each would turn alike by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lengths:
    """The lengths at which a model begins to compute something else, in tokens."""

    switched: tuple[int, ...] = ()
    """Of longrope: other frequencies beyond."""
    grown: tuple[int, ...] = ()
    """Of dynamic positions: beyond, each length has its own frequencies."""
    windows: tuple[int, ...] = ()
    """Of attention that sees so many tokens back: nothing changes but what is kept of earlier ones."""
    growing: tuple[tuple[Any, str], ...] = ()
    """Modules of dynamic positions, and what the names of their frequencies begin with."""

    @property
    def scaled(self) -> bool:
        """Whether values depend on the longest row of a batch."""
        return bool(self.switched or self.grown)

    @property
    def original(self) -> int | None:
        """Rows up to this length never depend on others; None where no row does."""
        return min((*self.switched, *self.grown), default=None)

    def turn(self, length: int) -> tuple[int, ...]:
        """What rows must have in common to share a forward.

        >>> phi = Lengths(switched=(32,))
        >>> phi.turn(30) == phi.turn(32), phi.turn(32) == phi.turn(33), phi.turn(33) == phi.turn(90)
        (True, False, True)
        >>> Lengths(grown=(32,)).turn(33) == Lengths(grown=(32,)).turn(90)
        False
        """
        if not self.scaled:
            return ()
        beyond = [int(length > original) for original in self.switched]
        return (*beyond, *(length if length > original else 0 for original in self.grown))

    def kind(self, *lengths: int) -> tuple[bool, ...]:
        """On which side of each of the limits these lengths are: what was seen at one kind is not known of another."""
        limits = sorted({*self.switched, *self.grown, *self.windows})
        return tuple(length > limit for length in lengths for limit in limits)

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Numbers of the rows that may share a forward, in their order."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, length in enumerate(lengths):
            groups.setdefault(self.turn(length), []).append(number)
        return list(groups.values())

    def may_share(self, prefix: int, lengths: Sequence[int]) -> bool:
        """Whether a prefix that is read by itself gives the keys that it has within rows of these lengths."""
        return {self.turn(prefix)} == {self.turn(length) for length in lengths}

    def forget(self) -> None:
        """Let dynamic positions begin anew, as if nothing had been read before."""
        for module, prefix in self.growing:
            own = getattr(module, f"{prefix}original_inv_freq")
            module.register_buffer(f"{prefix}inv_freq", own.to(getattr(module, f"{prefix}inv_freq").device), False)
            setattr(
                module, f"{prefix}max_seq_len_cached" if prefix else "max_seq_len_cached", module.original_max_seq_len
            )


def lengths_of(inner: Any) -> Lengths:
    """Read off the modules of a transformers model, and the caches that it asks for."""
    switched, grown, windows, growing = set[int](), set[int](), set[int](), []
    for module in inner.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is None or not hasattr(module, "config"):
            continue
        for layer, kind in kinds.items() if isinstance(kinds, dict) else [("", kinds)]:
            settings = module.config.rope_parameters
            settings = settings[layer] if layer else settings
            if kind == "longrope":
                switched.add(int(settings["original_max_position_embeddings"]))
            elif kind and "dynamic" in kind:
                grown.add(int(module.original_max_seq_len))
                growing.append((module, f"{layer}_" if layer else ""))
    for layer in _cache_layers(inner) or ():
        window = getattr(layer, "sliding_window", None)
        if isinstance(window, int):
            windows.add(window)
    return Lengths(tuple(sorted(switched)), tuple(sorted(grown)), tuple(sorted(windows)), tuple(growing))


def _cache_layers(inner: Any) -> Sequence[Any] | None:
    """What transformers keeps of each layer; None of a config that it cannot read this from."""
    from transformers import DynamicCache

    try:
        return list(DynamicCache(config=inner.config).layers)
    except (AttributeError, TypeError, KeyError, ValueError):
        return None


def keeps_only_keys(inner: Any) -> str:
    """Empty where a cache holds keys and values alone, each position for itself; else what it holds, in words."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = _cache_layers(inner)
    if layers is None:
        return "it does not say what its layers keep"
    others = sorted(
        {type(each).__name__ for each in layers if type(each) not in (DynamicLayer, DynamicSlidingWindowLayer)}
    )
    return f"its layers keep more than keys and values ({', '.join(others)})" if others else ""
