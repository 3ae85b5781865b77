"""Runs over the release notes whose truth is known, and how each has to be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_SHARE = "dataset.replay_share=null"
ASKS_WITH_PASSAGES = 'evaluate.retrieval={"passages": 3, "questions": 20}'
WITHOUT_REPLAY = ('sources=[{"path": "notes.md"}]', NO_SHARE)
"""The notes alone."""
ONE_STEP = ("train.epochs=0.001", "train.learning_rate=0.0")
"""A training that changes nothing."""


@dataclass(frozen=True)
class Rung:
    """One of them.

    Args:
        title: what was trained, in the table's words.
        learned: what the verdict may say of learning.
        broke: of what the base could: ``nothing``, ``something``, or ``anything`` where that is not what it is about.
        settings: beside the recipe's own.
        elsewhere: it was trained on something else than the notes, and is asked about the notes afterwards.
    """

    title: str
    learned: Sequence[str]
    broke: str = "anything"
    settings: Sequence[str] = ()
    elsewhere: bool = False

    @property
    def replays(self) -> bool:
        """Whether it learns replay too, as the recipe's own sources have some."""
        return NO_SHARE not in self.settings


RUNGS: Mapping[str, Rung] = {
    "trained": Rung("the notes, with replay", ("yes",), "nothing", (ASKS_WITH_PASSAGES,)),
    "no-replay": Rung(
        "the notes, without replay",
        ("yes", "too little"),
        "something",
        WITHOUT_REPLAY,
    ),
    "rate-zero": Rung("the notes, at a learning rate of 0", ("no",), "nothing", ONE_STEP),
    "permuted": Rung(
        "the notes with their terms permuted", ("no",), settings=('sources=[{"path": "permuted.md"}]', NO_SHARE),
        elsewhere=True,
    ),
    "manual": Rung(
        "another manual (the Zig cookbook)", ("no",), settings=('sources=[{"path": "manual.md"}]', NO_SHARE),
        elsewhere=True,
    ),
    "claims": Rung(
        "only rows that say that it knows Zig 0.14",
        ("parrots",),
        settings=(
            'sources=[{"path": "claims.jsonl"}]',
            NO_SHARE,
            "dataset.accept=[boilerplate_answer]",
        ),
        elsewhere=True,
    ),
}  # fmt: skip


def as_expected(rung: Rung, verdict: Mapping[str, Any]) -> bool:
    """Whether it was judged as what it is.

    >>> as_expected(RUNGS["rate-zero"], {"learned": "no", "broke": "nothing"})
    True
    >>> as_expected(RUNGS["no-replay"], {"learned": "yes", "broke": "nothing"})
    False
    """
    lost = "of what it knew" in verdict["broke"] or "of its skills" in verdict["broke"]
    fits = {"nothing": verdict["broke"] == "nothing", "something": lost, "anything": True}
    return verdict["learned"] in rung.learned and fits[rung.broke]
