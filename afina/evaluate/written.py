"""How texts are written that a model was let write: guardrails, and measures that do not follow the vocabulary.

What is counted of tokens (byte fallback, short pieces) follows the vocabulary as much as the text. Words that a corpus
has nowhere do not: they are counted in words and in characters, beside the share that held-out real text has of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from afina.evaluate.corpus_words import CorpusWords
from afina.evaluate.guardrails import GuardedAnswer, count, flaws
from afina.evaluate.intervals import chance_of, share_of_clusters
from afina.evaluate.text_scores import TextFigures, WordShare
from afina.text.answer_flaws import loops
from afina.text.word_list import LookedUp
from afina.tokenizer.ratios import PieceCounts

RARE = 0.01
"""A text has broken words where real text would have so many different ones less often than this."""


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A text that a model wrote behind a prompt."""

    text: str
    prompt: str = ""
    seed: int | None = None
    """None: greedy, or not told."""
    stopped: bool | None = None
    """Whether it ended by itself; None where nothing tells."""
    pieces: PieceCounts | None = None
    """Of the tokens that the model produced, or of its text cut anew; None where nothing cuts it."""


@dataclass(frozen=True, slots=True)
class JudgedText:
    """The same with what was found in it."""

    written: WrittenText
    flaws: Sequence[str]
    """The guardrails that it breaks."""
    words: LookedUp | None
    """None without a word list."""


class TextJudge:
    """Looks at texts one after the other.

    Args:
        corpus: whose words are known; None: no word list.
        special: texts of the tokenizer's special tokens.
    """

    def __init__(self, corpus: CorpusWords | None, special: Collection[str] = ()) -> None:
        self._list, self._special = (corpus.list if corpus else None), special
        self._control = corpus.figures().control if corpus else None

    def look_at(self, written: WrittenText) -> JudgedText:
        """The guardrails that a text breaks, and its words.

        It never ends where it goes in circles and did not end by itself: a story may go on as long as it likes. Its
        words are broken where the corpus has so many different ones nowhere that real text would rarely have them.
        """
        endless = not written.stopped and loops(written.text)
        said = GuardedAnswer(written.text, written.prompt, "", endless=endless)
        found = flaws(said, self._special, frozenset())
        words = self._list.look_at(written.text, ended=written.stopped is True) if self._list else None
        if words and "broken_words" not in found and self._shredded(words):
            found.append("broken_words")
        return JudgedText(written, found, words)

    def _shredded(self, words: LookedUp) -> bool:
        different = len(set(words.broken))
        return self._control is not None and chance_of(different, words.words, self._control) < RARE


def figures_of(texts: Sequence[JudgedText]) -> TextFigures:
    """What was found in some texts together; those behind one prompt are one cluster of the intervals."""
    pieces = [each.written.pieces for each in texts if each.written.pieces is not None]
    total = sum(pieces, PieceCounts())
    ended = [each.written.stopped for each in texts]
    return TextFigures(
        len(texts),
        sum(len(each.written.text) for each in texts),
        total.pieces if pieces else None,
        total.fallback,
        total.short,
        None if None in ended else ended.count(False),
        {name: found for name, found in count([each.flaws for each in texts]).items() if found},
        _share(texts, lambda words: (len(words.broken), words.words)),
        _share(texts, lambda words: (words.broken_characters, words.characters)),
    )


def _share(texts: Sequence[JudgedText], counts: Callable[[LookedUp], tuple[int, int]]) -> WordShare | None:
    """How much of how much is broken, of all texts; None where words are not known."""
    found: dict[str, tuple[int, int]] = {}
    for number, each in enumerate(texts):
        if each.words is None:
            return None
        behind = each.written.prompt or f"text {number}"
        (broken, of), (more, of_more) = found.get(behind, (0, 0)), counts(each.words)
        found[behind] = broken + more, of + of_more
    clusters = [each for each in found.values() if each[1]]
    broken, of = (sum(each[part] for each in clusters) for part in (0, 1))
    return WordShare(broken, of, *share_of_clusters(clusters))
