"""A corpus as measures of written texts see it: its words, and how many words of held-out real text it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from afina.dataset.audit.difference import read_placed_rows
from afina.evaluate.text_scores import CorpusFigures
from afina.run import Progress, no_progress
from afina.text.word_list import WordList, words_in

ONE_IN = 10
"""Where nothing is held out, one document in so many is the control."""


class CorpusWords:
    """The word list of a corpus, and as the control the words of texts like it that the list has not seen.

    Args:
        name: what the user calls it.
    """

    def __init__(self, name: str) -> None:
        self.name, self.list = name, WordList()
        self.control: Counter[str] = Counter()

    def figures(self) -> CorpusFigures:
        """Counts, and how many words of the control the list lacks: so many has any text of this kind."""
        known = self.list.counts
        lacking = {word: count for word, count in self.control.items() if word not in known}
        return CorpusFigures(
            self.name,
            len(known),
            known.total(),
            self.control.total(),
            sum(lacking.values()),
            sum(len(word) * count for word, count in self.control.items()),
            sum(len(word) * count for word, count in lacking.items()),
        )


def read_corpus(paths: Sequence[Path], progress: Progress = no_progress, *, name: str = "") -> CorpusWords:
    """The words of data files, folders, dataset folders or runs. Memory grows with the different words alone.

    What is held out there (validation and test) is the control. Where nothing is, one document in :data:`ONE_IN`, in
    the order they are read: a file of prose, or a row of a table; fewer documents have no control.

    Args:
        name: what it is called; the paths where not given.

    Raises:
        RecipeError: there is no such file or folder.
        DataError: a row or a file cannot be read.
    """
    corpus, tenth = CorpusWords(name or ", ".join(map(str, paths))), Counter[str]()
    documents, last = 0, ""
    for path in paths:
        for split, example in read_placed_rows(path, progress):
            text = "\n".join([example.text, *(turn["content"] for turn in example.messages)])
            if split != "train":
                corpus.control.update(words_in(text))
                continue
            here = f"{example.path}:{example.line}" if example.messages else example.path
            documents, last = documents + (here != last), here
            if documents % ONE_IN:
                corpus.list.learn(text)
            else:
                tenth.update(words_in(text))
    if corpus.control:
        corpus.list.counts.update(tenth)
    else:
        corpus.control = tenth
    return corpus
