"""How often each example is seen: the share of replay, and the table of what the model will see.

Shares are of visible characters; the trainer counts tokens, which it alone knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from afina.dataset.build.choose import TRAIN
from afina.dataset.build.split import point
from afina.dataset.build.spool import ExampleColumns
from afina.errors import DataError
from afina.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np


def times_seen(columns: ExampleColumns, fate: np.ndarray, recipe: Recipe) -> np.ndarray:
    """For each example how often it is seen in one epoch: its source's `repeat`, and for replay what
    `dataset.replay_share` makes of it.

    With `own` characters of what is to be learned and `r` of replay, replay is to have
    ``R = own * share / (1 - share)`` of the characters seen in one epoch. Every replay example is seen
    ``floor(R / r)`` times as often as its source says, and as many of them as come nearest to `R` once more, in the
    order of a hash of seed and content. What is seen no time at all is 0 here, and left out.

    Raises:
        DataError: a share is wanted, but no source is marked as replay, or nothing else is.
    """
    import numpy as np

    source = np.frombuffer(columns.source, np.uint16)
    times: Any = np.array([each.repeat for each in recipe.sources], np.uint32)[source]
    share = recipe.dataset.replay_share
    if share is None:
        return times
    seen = np.frombuffer(columns.chars, np.uint64).astype(np.int64) * times
    replay = np.array([each.replay for each in recipe.sources])[source]
    train = fate == TRAIN
    own, there = int(seen[train & ~replay].sum()), int(seen[train & replay].sum())
    if not there or not own:
        missing, fix = "every source is marked as replay", "leave `replay` out on those that are to be learned"
        if len(recipe.sources) == 1:
            missing = "the only source is to be learned or replayed, not both"
            fix = "name a second source and set `replay: true` on one of them, or leave dataset.replay_share out"
        elif not there and any(each.replay for each in recipe.sources):
            missing, fix = (
                "no example of a replay source is left to train on",
                "give it more, or a smaller `validation`",
            )
        elif not there:
            missing, fix = "no source is marked as replay", "set `replay: true` on a source"
        raise DataError(f"{missing}, so there is nothing to mix", fix, "dataset.replay_share")
    wanted = own * share / (1 - share)
    whole = int(wanted // there)
    rest = wanted - whole * there
    rows = np.nonzero(train & replay)[0].tolist()
    factor: Any = np.ones(len(times), np.uint32)
    factor[rows] = whole
    for row in sorted(rows, key=lambda row: (point(recipe.seed, f"replay {columns.content[row]:016x}"), row)):
        if abs(rest - int(seen[row])) < abs(rest):
            rest -= int(seen[row])
            factor[row] += 1
    return times * factor


def mix_table(columns: ExampleColumns, fate: np.ndarray, times: np.ndarray, recipe: Recipe) -> list[dict[str, Any]]:
    """What the model sees in one epoch, per source and apart for made questions.

    Each row: ``source``, ``what`` (``own``, ``made`` or ``replay``), ``examples``, ``seen`` (with repeats),
    ``characters`` (seen) and their ``share``. The trainer adds tokens; every epoch is the same.
    """
    import numpy as np

    train = fate == TRAIN
    source = np.frombuffer(columns.source, np.uint16)
    chars = np.frombuffer(columns.chars, np.uint64).astype(np.int64) * times
    made: Any = np.zeros(len(columns), bool)
    made[list(columns.made)] = True
    total = int(chars[train].sum())
    table = []
    for position, each in enumerate(recipe.sources):
        here = train & (source == position)
        kinds = {"replay": here} if each.replay else {"own": here & ~made, "made": here & made}
        for what, rows in kinds.items():
            if rows.any():
                own = int(chars[rows].sum())
                table.append(
                    {
                        "source": each.path,
                        "what": what,
                        "examples": int(rows.sum()),
                        "seen": int(times[rows].sum()),
                        "characters": own,
                        "share": round(own / total, 6) if total else 0.0,
                    }
                )
    return table
