"""Answers in the base's own words, learned in the place of the rows': what it would say by itself moves it less.

Self-distillation before fine-tuning: the base is shown a row's question with its answer and answers it again (Yang et
al. 2024, "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning"). The new answer is learned only
where it holds what the row's holds, by the marks of the evaluation; else the row stays as it is, and why is counted.

    rows ──> asked to say it again (greedy, all at once) ──> :func:`why_kept` ──> answers.jsonl + answers.json

Written once, before a round trains; the on-policy kind, in which the model that is trained writes and the one that has
seen the answer marks every token, is not this.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.base_replay import flaw_of
from afina.dataset.build.answers import key_of
from afina.dataset.build.canaries import CANARY
from afina.evaluate.coverage import held_terms
from afina.evaluate.derive import SHORT_WORDS
from afina.evaluate.grade import contains, verbatim
from afina.improve.rows import holds_question, takes_rows
from afina.record import read_record
from afina.text.answer_flaws import after_thinking, copies
from afina.text.claims import declines
from afina.text.document import Message, visible
from afina.text.example import Example, example_chars
from afina.text.key_terms import TermTable
from afina.tokenizer.template import NotRendered
from afina.whole import write_json, write_whole

if TYPE_CHECKING:
    from afina.walk.context import Context

ROWS_FILE, FILE = "answers.jsonl", "answers.json"
"""In a recipe's folder beside the runs: the answers, as `dataset.answers` reads them; and what became of the rows."""
ROOM, MORE_ROOM = 2.0, 32
"""Tokens that an answer may have: so many times those of the row's own, and so many more."""
LEAST_HELD = 2 / 3
"""Share of the longer words of each sentence of a row's answer that stand in what is learned for it."""
MOST_WORDS, MORE_WORDS = 1.5, 8
"""An answer of more than so many times the row's words, and so many more, says something else or says it twice."""

AGAIN: Mapping[str, str] = {
    "en": "Answer my question once more, in other words. Keep every name, number, date and piece of code, leave "
    "nothing out and add nothing. Write the answer alone.",
    "pt-PT": "Responde outra vez à minha pergunta, por outras palavras. Mantém todos os nomes, números, datas e "
    "pedaços de código, não deixes nada de fora e não acrescentes nada. Escreve só a resposta.",
    "pt-BR": "Responda outra vez à minha pergunta, com outras palavras. Mantenha todos os nomes, números, datas e "
    "trechos de código, não deixe nada de fora e não acrescente nada. Escreva só a resposta.",
}
"""What the base is asked behind question and answer, by the language of the documents."""
_OF_THE_ASKING = {
    "en": r"\b(?:(?:right|previous|original) answer|(?:other|own) words|rephras\w+|reword\w+)\b",
    "pt": r"\b(?:resposta (?:certa|anterior|original)|(?:outras|próprias) palavras|palavras minhas|reformul\w+)\b",
}
"""What an answer says of being asked again, and nobody who only asks the question would understand."""
_DENIES = {"en": r"\b(?:not|no|never|none|nor|neither|without|cannot)\b|n['’]t\b",
           "pt": r"\b(?:não|nunca|jamais|nem|nenhum|nenhuma|ninguém|nada|sem)\b"}  # fmt: skip
_WORD, LONG_WORD = re.compile(r"[^\W_]+"), 4
_SENTENCES = re.compile(r"(?<=[.!?:;])\s+|\n+")

NO_QUESTION, REPLAYED, INVENTED = "no single question with its answer", "replayed", "a canary (`safety.canaries`)"
WORD_FOR_WORD, TOO_LONG = "asked word for word (`evaluate.limits.learned_min`)", "too long"
NOT_RENDERED, OF_THE_ASKING = "the chat template takes no second question", "speaks of being asked again"
SAME, COPIED, PROBES, LOST = (
    "the same words", "repeats its question", "holds a question that steers or judges", "lost the fact, or added one",
)  # fmt: skip


@dataclass(frozen=True)
class OwnWords:
    """What became of the rows that a round trained."""

    rows: tuple[Mapping[str, str], ...] = ()
    """`prompt`, `completion` (the base's words) and `reference` (the row's answer), each pair of the latter once."""
    examples: int = 0
    """Training rows in all."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Why a row keeps its answer -> rows."""
    why_none: str = ""
    """Why the base was not asked at all."""
    epochs: float = 0.0
    """At which a training with them costs what the one with replay did, see :func:`epochs_of_equal_cost`."""
    seconds: float = 0.0
    """That the base took to answer."""
    made_from: str = ""
    """A hash of what they follow from: of another training, or of other questions, they are made anew."""

    @property
    def rewritten(self) -> int:
        """Training rows that learn the base's words."""
        return self.examples - sum(self.kept.values())

    def describe(self) -> str:
        """
        >>> print(OwnWords(({"prompt": "Where?"},), 9, {"the same words": 2, "did not end": 6}).describe())
        1 of 9 rows are answered in the base's own words; kept as they were: 6 did not end, 2 the same words
        >>> OwnWords(why_none="the base has no chat template").describe()
        "no row is answered in the base's own words: the base has no chat template"
        """
        if self.why_none:
            return f"no row is answered in the base's own words: {self.why_none}"
        order = sorted(self.kept.items(), key=lambda item: -item[1])
        why = ", ".join(f"{count} {reason}" for reason, count in order if count)
        told = f"{self.rewritten} of {self.examples} rows are answered in the base's own words"
        return told + (f"; kept as they were: {why}" if why else "")

    def as_json(self) -> dict[str, Any]:
        """Plain values, as :data:`FILE` has them."""
        return {
            "examples": self.examples,
            "rewritten": self.rewritten,
            "kept": dict(self.kept),
            "why_none": self.why_none,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "made_from": self.made_from,
        }

    def write(self, folder: Path) -> None:
        """Write both files; the second one says that the first is whole."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        write_whole(folder / ROWS_FILE, text)
        write_json(folder / FILE, self.as_json())


def read_own_words(folder: Path) -> OwnWords | None:
    """What :meth:`OwnWords.write` left, less the rows themselves; None where nothing was written.

    Raises:
        AfinaError: the file is damaged.
    """
    noted = read_record(folder / FILE)
    if noted is None:
        return None
    reasons, epochs = noted.record("kept"), noted.required_number("epochs")
    if not 0 < epochs < math.inf:
        raise noted.wrong("epochs", "a number above 0", epochs)
    kept = {reason: reasons.required_whole(reason) for reason in reasons.values}
    return OwnWords(
        (),
        noted.required_whole("examples"),
        kept,
        noted.text("why_none") or "",
        epochs,
        noted.number("seconds") or 0.0,
        noted.text("made_from") or "",
    )


def rewrite(context: Context, examples: Sequence[Example], asked: frozenset[str]) -> OwnWords:
    """Have the base of a run answer its training rows again.

    Args:
        context: of the run, for its base and its chat template; nothing is written into it.
        examples: what it trained.
        asked: every question of the probes: an answer that holds one is not learned.
    """
    from afina.model.generate.generate_torch import generate
    from afina.walk.base import model_shape, renderer
    from afina.walk.models import open_untrained
    from afina.walk.stored_answers import answers_of_base

    recipe = context.recipe
    if recipe.base is None or not takes_rows(recipe):
        return OwnWords(why_none=f"method {recipe.train.method} learns no answers over a base")
    chat = renderer(context)
    if not chat.tokenizer.chat_template:
        return OwnWords(why_none="the base has no chat template, so that no question can be put to it")
    kept, asking = Counter[str](), list[tuple[Example, list[int], int]]()
    for example in examples:
        if why := why_not_asked(example, word_for_word=recipe.evaluate.limits.learned_min is not None):
            kept[why] += 1
            continue
        try:
            ids = chat.prompt(asked_again(example, recipe.dataset.language))
        except NotRendered:  # a template that takes no second question
            kept[NOT_RENDERED] += 1
            continue
        own = len(chat.tokenizer(example.answer, add_special_tokens=False)["input_ids"])
        room, sees = int(ROOM * own) + MORE_ROOM, model_shape(context).max_positions
        asked_alone = len(chat.prompt([{"role": "user", "content": example.prompt}]))
        room = min(room, recipe.train.max_length - asked_alone - 1)
        if room < 1 or (sees and len(ids) + room > sees):
            kept[TOO_LONG] += 1
        else:
            asking.append((example, ids, room))
    if not asking:
        return OwnWords((), len(examples), kept)
    context.tell(f"the base answers {len(asking)} of the {len(examples)} training rows in its own words")
    with context.open_progress("own words") as progress:
        answers = generate(
            open_untrained(context),
            chat,
            [ids for _, ids, _ in asking],
            max_new_tokens=[room for _, _, room in asking],
            kept=answers_of_base(context),
            progress=progress,
            say=context.tell,
        )
    table, rows = words_of_rows(examples), dict[tuple[str, str] | None, Mapping[str, str]]()
    for (example, _, _), answer in zip(asking, answers, strict=True):
        said = after_thinking(answer.text)
        why = flaw_of(said, ended=answer.stopped)
        why = why or (PROBES if holds_question(said, asked) else "")
        if why := why or why_kept(said, example.prompt, example.answer, table, recipe.dataset.language):
            kept[why] += 1
        else:
            row = {"prompt": example.prompt, "completion": said, "reference": example.answer}
            rows.setdefault(key_of(example), row)
    return OwnWords(tuple(rows.values()), len(examples), kept)


def why_not_asked(example: Example, *, word_for_word: bool) -> str:
    """Why a training row keeps its answer unasked; empty where the base is asked.

    Args:
        word_for_word: whether the recipe's limits count answers word for word: those that a probe asks for, the short
            ones, may not be said otherwise then.
    """
    if example.replay or example.made == CANARY:
        return REPLAYED if example.replay else INVENTED
    if key_of(example) is None:
        return NO_QUESTION
    return WORD_FOR_WORD if word_for_word and len(example.answer.split()) <= SHORT_WORDS else ""


def asked_again(example: Example, language: str) -> list[Message]:
    """What the base is asked: the question and the row's answer, as if it had given that, and then to say it again."""
    return [*example.messages, Message(role="user", content=AGAIN[language])]


def words_of_rows(examples: Iterable[Example]) -> TermTable:
    """What stands small and what with a capital in the rows, which tells a name at a sentence's beginning."""
    table = TermTable()
    for example in examples:
        table.learn_words(example.text)
        for turn in example.messages:
            table.learn_words(turn["content"])
    return table


def why_kept(said: str, question: str, reference: str, table: TermTable, language: str) -> str:
    """Why an answer does not stand for a row's own; empty where it does.

    It has to hold the fact as an evaluation marks it: the reference whole, or of one that is longer than what is asked
    word for word every key term, of which there must be one, and most longer words of each sentence. It may not deny
    more or less often, decline, be much longer, or have a term of its own. So its terms and words are proven to be the
    reference's; what it says of them is not, beyond that.

    >>> why = lambda said: why_kept(said, "Onde nasceu Bento?", "Faro", TermTable(), "pt-PT")
    >>> why("Bento nasceu em Faro."), why("Faro"), why("Bento nasceu em Lagos.")
    ('', 'the same words', 'lost the fact, or added one')
    >>> why("Bento não nasceu em Faro."), why("Bento nasceu em Faro, em 1910."), why("Onde nasceu Bento? Faro.")
    ('lost the fact, or added one', 'lost the fact, or added one', 'repeats its question')
    >>> long = "The flag `--watch` came with version 0.14.0 and builds again whenever one of the files has changed."
    >>> why = lambda said: why_kept(said, "What does it do?", long, TermTable(), "en")
    >>> why("Since version 0.14.0 the flag `--watch` builds again whenever one of the files changed.")
    ''
    >>> why("Since version 0.15.0 the flag `--watch` builds again whenever one of the files changed.")
    'lost the fact, or added one'
    """
    if verbatim(said, reference):
        return SAME
    if copies(said, question):
        return COPIED
    speaks = re.compile(_OF_THE_ASKING[language[:2]])
    if speaks.search(said.casefold()) and not speaks.search(f"{question} {reference}".casefold()):
        return OF_THE_ASKING
    return "" if _holds(said, question, reference, table, language) else LOST


def _holds(said: str, question: str, reference: str, table: TermTable, language: str) -> bool:
    known = _words(f"{question} {reference}")
    if any(not _words(term.key) <= known for term in table.find(said)):
        return False
    if _denials(said, language) != _denials(reference, language) or (declines(said) and not declines(reference)):
        return False
    if len(said.split()) > MOST_WORDS * len(reference.split()) + MORE_WORDS:
        return False
    if contains(said, reference) or len(reference.split()) <= SHORT_WORDS:
        return contains(said, reference)
    terms, there = [term.key for term in table.find(reference)], _words(said)
    return (
        bool(terms) and all(held_terms(said, terms)) and all(_told(each, there) for each in _SENTENCES.split(reference))
    )


def _told(sentence: str, there: Container[str]) -> bool:
    """Whether enough of a sentence's longer words stand in an answer."""
    words = {word for word in _words(sentence) if len(word) >= LONG_WORD}
    return sum(word in there for word in words) >= LEAST_HELD * len(words)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


def _denials(text: str, language: str) -> int:
    return len(re.findall(_DENIES[language[:2]], text.casefold()))


def epochs_of_equal_cost(
    epochs: float, replayed: Sequence[Example], origin: Sequence[Example], rows: Sequence[Mapping[str, str]]
) -> float:
    """Passes after which a training with the base's words has read as much text as one with more replay.

    Args:
        epochs: of the training with more replay.
        replayed: what that one trains.
        origin: what the round before it trained, with the replay that there was.
        rows: the answers that are learned in the place of others.

    >>> ask = lambda answer, **more: Example(messages=({"role": "user", "content": "abcd"},
    ...                                                {"role": "assistant", "content": answer}), **more)
    >>> before, more = [ask("wxyz"), ask("efgh", replay=True)], [ask("wxyz"), ask("efgh", replay=True, repeat=3)]
    >>> epochs_of_equal_cost(2.0, more, before, [])  # 8 + 3 * 8 characters a pass, for 8 + 8
    4.0
    >>> epochs_of_equal_cost(2.0, more, before, [{"prompt": "abcd", "completion": "wx" * 10, "reference": "wxyz"}])
    2.0
    """
    longer = {(row["prompt"], row["reference"]): visible(row["completion"]) - visible(row["reference"]) for row in rows}

    def seen(examples: Iterable[Example]) -> int:
        return sum(example_chars(each) * each.repeat for each in examples)

    own = [each for each in replayed if not each.replay]
    added = sum(longer.get((each.prompt, each.answer), 0) * each.repeat for each in own)
    without = seen(own) + added + seen(each for each in origin if each.replay)
    return max(0.01, round(epochs * seen(replayed) / max(1, without), 2))
