"""Where the dial of an adapter may stand, as it is given on the command line and written into ``temper.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from afina.errors import RecipeError

MOST = 2.0
"""A higher strength than that is no tempering."""
STRENGTHS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Of a mix: how much of it is the run's own adapter."""


@dataclass(frozen=True)
class Setting:
    """One position of the dial."""

    strengths: tuple[float, ...] = (1.0,)
    """Of all layers; or of each group of layers, the first ones first. Of a mix, the share of the run's own adapter."""

    @property
    def name(self) -> str:
        """
        >>> Setting((0.6,)).name, Setting((0.6, 1.0, 0.25)).name
        ('0.6', '0.6 1 0.25')
        """
        return " ".join(f"{each:g}" for each in self.strengths)

    @property
    def mean(self) -> float:
        """Where it stands on one axis."""
        return sum(self.strengths) / len(self.strengths)

    @property
    def full(self) -> bool:
        """Whether it is the adapter as it was trained."""
        return all(each == 1.0 for each in self.strengths)

    def at(self, group: int, strength: float) -> Setting:
        """The same with another strength of one group.

        >>> Setting((1.0, 1.0)).at(1, 0.5)
        Setting(strengths=(1.0, 0.5))
        """
        return Setting((*self.strengths[:group], strength, *self.strengths[group + 1 :]))


def read_settings(given: str | None, *, shares: bool = False) -> list[Setting]:
    """The settings to try, the strongest first; each once.

    Args:
        given: numbers with commas between them; None for tenths.
        shares: whether they are shares of a mix, which may be 0 and are at most 1.

    >>> [each.name for each in read_settings("0.5,1, 0.5")]
    ['1', '0.5']

    Raises:
        RecipeError: one of them is no number, or none that the dial has.
    """
    if given is None:
        return _settings(SHARES if shares else STRENGTHS)
    low, high = (0.0, 1.0) if shares else (0.0, MOST)
    found: list[float] = []
    for word in given.split(","):
        try:
            strength = float(word)
        except ValueError:
            strength = float("nan")
        if not low <= strength <= high or (strength == 0 and not shares):
            allowed = "from 0 to 1" if shares else f"above 0 and at most {MOST:g}; at 0 the base answers"
            raise RecipeError(
                f"{word.strip()!r} is no strength", f"give numbers {allowed}, e.g. 1,0.8,0.6", "--strengths"
            )
        found.append(strength)
    return _settings(found)


def _settings(strengths: Sequence[float]) -> list[Setting]:
    return [Setting((each,)) for each in sorted(set(strengths), reverse=True)]
