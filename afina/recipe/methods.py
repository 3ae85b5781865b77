"""The methods of training as facts: what each learns from and what it asks of the rest, without torch.

Everything outside of a method's own file (``train/methods/<file>_torch.py``, its loss and its held-out score) asks this
table, and no other place compares a method's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from afina.errors import RecipeError

MethodName = Literal["sft", "cpt", "scratch", "dpo", "orpo", "kto"]
Kind = Literal["text", "messages", "preference", "rated"]
"""What an example is: a plain text, a conversation, one with a better and a worse last answer, or one whose last
answer is said to be good or not."""
Judged = Literal["preference", "rated"]
"""Kinds whose rows say how good an answer is: only a method that learns from that takes them, and it takes no other."""


@dataclass(frozen=True)
class Method:
    """What the walk has to know of a method."""

    file: str
    """Its loss and its held-out score are in ``train/methods/<file>_torch.py``."""
    judged: Judged | None = None
    """The kind of rows that it learns from, where those say how good an answer is. None: texts and conversations."""
    every_token: bool = False
    """Whether a conversation's questions are learned as well, and texts are left whole instead of cut at headings."""
    follows: bool = True
    """Whether it can come after another stage (``train.first``)."""
    needs_reference: bool = False
    """Whether the model before training judges every row first (``reference.jsonl``)."""
    sequences: int = 1
    """Sequences of a row that stand side by side in one micro-batch."""
    mismatched: bool = False
    """Whether each row's question stands with another row's answer too."""
    by_mlx: bool = False
    """Whether the MLX back end has it too: its loss and score are in ``train/methods/<file>_mlx.py``."""
    forward_passes: float = 0.0
    """Passes of a row's tokens without a gradient, in every epoch, beside the step's own."""
    usual_rate: float = 2e-4
    """Peak learning rate to begin with, of an adapter."""
    settings: frozenset[str] = frozenset()
    """Keys of ``train`` that mean something to it and to no method without them."""

    @property
    def learns(self) -> tuple[Kind, ...]:
        """The kinds of examples that it learns."""
        return (self.judged,) if self.judged else ("text", "messages")


METHODS: dict[MethodName, Method] = {
    "sft": Method("answers", by_mlx=True),
    "cpt": Method("answers", every_token=True, follows=False, by_mlx=True),
    "scratch": Method("answers", every_token=True, follows=False, usual_rate=1e-3),
    "dpo": Method(
        "dpo",
        "preference",
        needs_reference=True,
        sequences=2,
        usual_rate=2e-5,
        settings=frozenset({"beta", "label_smoothing"}),
    ),
    "orpo": Method("orpo", "preference", sequences=2, usual_rate=2e-5, settings=frozenset({"beta"})),
    "kto": Method(
        "kto",
        "rated",
        needs_reference=True,
        mismatched=True,
        forward_passes=1.0,
        usual_rate=2e-5,
        settings=frozenset({"beta", "desirable_weight", "undesirable_weight"}),
    ),
}
METHOD_SETTINGS: frozenset[str] = frozenset().union(*(method.settings for method in METHODS.values()))
"""Keys of ``train`` that belong to some methods alone."""
JUDGED: tuple[Judged, ...] = get_args(Judged)


def method_facts(name: str) -> Method:
    """What is known of a method.

    Raises:
        RecipeError: no method has this name; none is taken in its place.

    >>> method_facts("dpo").needs_reference, method_facts("sft").learns
    (True, ('text', 'messages'))
    """
    for known, method in METHODS.items():
        if known == name:
            return method
    raise RecipeError(f"there is no method of training called {name!r}", "one of " + ", ".join(METHODS), "train.method")


def methods_that(**facts: object) -> list[MethodName]:
    """The methods of which these facts hold.

    >>> methods_that(judged="preference")
    ['dpo', 'orpo']
    """
    return [name for name, method in METHODS.items() if all(getattr(method, key) == facts[key] for key in facts)]


def in_words(names: Sequence[str], last: str = "or") -> str:
    """Names as a sentence says them.

    >>> in_words(["dpo", "orpo"]), in_words(["sft", "dpo", "orpo"]), in_words(["sft"])
    ('dpo or orpo', 'sft, dpo or orpo', 'sft')
    >>> in_words([])
    ''
    """
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
