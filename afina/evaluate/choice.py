"""Choosing the true sentence among eight: what is asked, and who is right.

A sentence's score is its log-probability as the answer to a question that was never trained, less what its term costs
by itself, as the answer to a neutral request (the pointwise mutual information of sentence and term): a rare term makes
any sentence unlikely, whether it is true or not. The first of the ranking is right or wrong. What a model finds
likelier for another reason than knowledge it found likelier before training, so that only the change tells something.
"""

from __future__ import annotations

from dataclasses import dataclass

from afina.errors import DataError
from afina.text.document import Message
from afina.text.prose_question import CHOICES, ProseQuestion

BY_CHANCE = 1 / CHOICES
CHOICES_FILE = "choices.jsonl"
"""In the run's folder: every choice with the scores of its sentences before and after."""


@dataclass(frozen=True)
class Choice:
    """One question with its sentences and the term that each has in the gap, the true one first."""

    prompt: str
    sentences: tuple[str, ...]
    terms: tuple[str, ...]
    where: str
    cluster: str
    """The section: questions about one are no independent ones."""

    def conversation(self, sentence: str) -> tuple[Message, Message]:
        """The question, answered by a sentence."""
        return {"role": "user", "content": self.prompt}, {"role": "assistant", "content": sentence}


@dataclass(frozen=True)
class Ranked:
    """What a model makes of a choice."""

    log_probs: tuple[float, ...]
    """Of each sentence in nats, less what all of them have in common."""
    costs: tuple[float, ...]
    """Of each term by itself, less the true one's."""

    @property
    def scores(self) -> tuple[float, ...]:
        """What decides, the true sentence first."""
        return tuple(one - other for one, other in zip(self.log_probs, self.costs, strict=True))

    @property
    def right(self) -> bool:
        """Whether the true sentence is ahead of every other.

        >>> Ranked((-9.0, -8.0), (-6.0, -2.0)).right, Ranked((-9.0, -9.0), (-1.0, -1.0)).right
        (True, False)
        """
        true, *others = self.scores
        return all(true > other for other in others)


def choice_of(question: ProseQuestion) -> Choice:
    """The choice that a question about prose asks for.

    Raises:
        DataError: a distractor differs from the true sentence elsewhere than in the gap.
    """
    terms = (question.gap, *(_in_the_gap(question, sentence) for sentence in question.wrong))
    sentences = (question.right, *question.wrong)
    return Choice(question.prompt, sentences, terms, f"{question.path}:{question.line}", question.section)


def _in_the_gap(question: ProseQuestion, sentence: str) -> str:
    """What a distractor has where the true sentence has its term."""
    start = question.right.find(question.gap)
    while start >= 0:
        before, after = question.right[:start], question.right[start + len(question.gap) :]
        fits = sentence.startswith(before) and sentence.endswith(after)
        if fits and (term := sentence[len(before) : len(sentence) - len(after)]):
            return term
        start = question.right.find(question.gap, start + 1)
    raise DataError(
        f"{sentence!r:.80} differs from the true sentence elsewhere than in its gap {question.gap!r:.40}",
        "build the dataset again: `afina data build`",
        f"prose.jsonl, question {question.id}",
    )
