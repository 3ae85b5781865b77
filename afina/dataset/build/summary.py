"""What ``dataset.json`` says: how many examples there are, what was left out, that every character is accounted for.

Characters are visible ones: white space does not count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from afina.dataset.build.choose import TEST, TRAIN, VALIDATION
from afina.dataset.build.corpus import Corpus
from afina.dataset.build.mix import mix_table
from afina.dataset.build.spool import DropSpool, ExampleColumns

if TYPE_CHECKING:
    import numpy as np


def summary_of(corpus: Corpus, times: np.ndarray, dropped: DropSpool) -> dict[str, Any]:
    """What ``dataset.json`` holds.

    - ``train``, ``validation``: examples, texts, conversations, characters, ``replay_share`` (of
      the characters seen in one epoch, so `repeat` counts).
    - ``test``: the same of what is left out of training because its file is there for a test; ``splits``: file -> what
      it is for. Both only where the names of files tell it (:mod:`afina.text.splits`).
    - ``sources``: the same per source, with its path.
    - ``made``: the questions made from documents, which are additions: examples, facts, characters, facts per kind,
      and how many facts were left out. They count in ``train``, ``validation`` and ``sources`` too.
    - ``mix``: what is seen in one epoch, see :func:`~afina.dataset.build.mix.mix_table`.
    - ``dropped``: reason -> examples; ``cut``: reason -> lines or words of documents that stay.
    - ``personal_data``: kind -> pieces masked or in examples left out.
    - ``characters``: ``read`` + the sum of ``added`` = ``examples`` - ``context_added`` + the sum of ``dropped``;
      ``made`` stands beside it.
    - ``teacher``: see :func:`~afina.dataset.questions.teacher.teach`; ``prose``, ``probes``: see :mod:`.prose_rows`.
    - ``ledger``: per file path, sha256, chars_in, chars_out, documents, dropped, added; and the files skipped.
    - ``code``: language -> result -> blocks, where ``dataset.check_code`` asks for it; ``answers``: :mod:`.answers`.
    - ``balanced``: whether that sum, and that of every file, is right.

    Args:
        times: of each example how often it is seen in an epoch.
        dropped: all that was left out.
    """
    import numpy as np

    recipe, columns, intake, ledger = corpus.recipe, corpus.columns, corpus.intake, corpus.ledger
    source = np.frombuffer(columns.source, np.uint16)
    chars, context = np.frombuffer(columns.chars, np.uint64), np.frombuffer(columns.context, np.uint32)
    train, validation, test = (corpus.fate == split for split in (TRAIN, VALIDATION, TEST))
    chosen, was_read = train | validation | test, np.arange(len(columns)) < corpus.read
    in_examples, context_added = int(chars[chosen & was_read].sum()), int(context[chosen & was_read].sum())
    in_made = int(chars[chosen & ~was_read].sum())
    made = [(group, kind) for row, (kind, group) in columns.made.items() if chosen[row]]
    delivered = sum(file.chars_out for file in ledger.files)
    sources = []
    for position, each in enumerate(recipe.sources):
        own = source == position
        about = {"path": each.path, "repeat": each.repeat, "replay": each.replay}
        counts = _counts(corpus, times, chosen & own)
        sources.append({**about, **counts, "validation": int((validation & own).sum())})
    return {
        "method": recipe.train.method,
        "section_chars": recipe.section_chars,
        "long_sections": intake.long_sections,
        "documents": intake.documents,
        "train": _counts(corpus, times, train),
        "validation": _counts(corpus, times, validation),
        **({"test": _counts(corpus, times, test)} if test.any() else {}),
        **({"splits": dict(sorted(ledger.splits.items()))} if ledger.splits else {}),
        "sources": sources,
        "made": {
            "examples": len(made),
            "facts": len({group for group, _ in made}),
            "characters": in_made,
            "kinds": dict(Counter(dict(made).values()).most_common()),
            "left_out": len(corpus.notes.questions.left_out) if corpus.notes else 0,
        },
        "mix": mix_table(columns, corpus.fate, times, recipe),
        "dropped": dict(dropped.rows),
        "cut": dict(dropped.parts),
        "personal_data": dict(intake.personal_data),
        "characters": {
            "read": intake.chars_read,
            "added": dict(intake.added),
            "examples": in_examples,
            "made": in_made,
            "context_added": context_added,
            "dropped": {reason: count for reason, count in dropped.chars.items() if count},
        },
        "balanced": intake.chars_read + intake.added.total()
        == in_examples - context_added + sum(dropped.chars.values())
        and intake.chars_read == delivered
        and all(file.balanced for file in ledger.files),
        "ledger": {
            "files": [asdict(file) | {"balanced": file.balanced} for file in ledger.files],
            "skipped": ledger.skipped,
        },
        "code": corpus.code.counts(),
    }


def _counts(corpus: Corpus, times: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    import numpy as np

    columns: ExampleColumns = corpus.columns
    chars = np.frombuffer(columns.chars, np.uint64)[chosen].astype(np.int64)
    source = np.frombuffer(columns.source, np.uint16)[chosen]
    conversations = int(np.frombuffer(columns.conversation, np.uint8)[chosen].sum())
    seen = chars * times[chosen]
    replayed = int(seen[np.array([each.replay for each in corpus.recipe.sources])[source]].sum())
    return {
        "examples": len(chars),
        "texts": len(chars) - conversations,
        "conversations": conversations,
        "characters": int(chars.sum()),
        "replay_share": round(replayed / int(seen.sum()), 6) if replayed else 0.0,
    }
