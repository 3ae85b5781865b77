"""Are the texts behind the recipe's prompts what the model writes there? Judged, counted and written again.

A greedy text is held against the stored one as an answer is. A sampled one follows from its seed: where this machine
draws another token, the seed's number has to lie at the end of the stored token's probability, within rounding.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from afina.evaluate.continuations import (
    CORPUS,
    SEEDS,
    TEMPERATURE,
    misses_of,
    room_behind,
    sampling_of,
    special_texts,
)
from afina.evaluate.corpus_words import CorpusWords, read_corpus
from afina.evaluate.probes import Question
from afina.evaluate.prompts import CONTINUATIONS_FILE
from afina.evaluate.scores import Scores
from afina.evaluate.text_scores import ContinuationScores
from afina.evaluate.written import JudgedText, TextJudge, WrittenText, figures_of
from afina.model.generate.drawn_torch import DrawnText, intervals_of, is_drawn
from afina.model.generate.engine_torch import Engine
from afina.model.generate.generate_torch import Answer, Numbers, answer_keys, generate, seed_of
from afina.recipe import Guardrails
from afina.record import Record
from afina.run import Progress, hash_value
from afina.text.document import Message
from afina.text.word_list import LookedUp, without_cut_word, words_in
from afina.tokenizer.chat import Renderer
from afina.tokenizer.pieces import PieceTable, read_tokenizer
from afina.tokenizer.ratios import count_pieces
from afina.verify.asked_again import WHO, AskedAgain, AskedRow, ask_again
from afina.verify.held_against import HeldAgainst, draw_within, same
from afina.verify.proof import Proof, of_the_export

NAME = "adapter"
"""As rows call the model that is asked."""
BROKEN_WORDS = "broken_words"
WIDEST = 0.4
"""Where the ends of a token's probability may part by more, its draw tells nothing."""
NUMBERS = tuple(
    Numbers(f"{dtype} {device}", exact=dtype == "float32")
    for dtype in ("float32", "bfloat16", "float16")
    for device in ("cpu", "cuda", "mps", "mlx gpu", "mlx cpu")
)
"""In what a run may have computed: a draw's seed follows from it too."""


@dataclass(frozen=True)
class StoredTexts:
    """What a proof holds of the texts behind the prompts, each where it belongs."""

    prompts: list[str]
    rows: dict[int | None, list[Record]]
    """Seed (None: greedily) -> a row for each prompt."""
    judge: TextJudge
    misses: list[str] = field(default_factory=list)
    """Limits that the sampled texts miss, in words."""


def continuations_counted(
    proof: Proof,
    stored: Scores,
    promised: Record | None,
    renderer: Renderer,
    data: Path | None,
    limits: Guardrails | None,
    found: HeldAgainst,
) -> StoredTexts | None:
    """Judge and count the stored texts again, and hold that against the stored figures.

    Args:
        promised: what was committed to of the prompts; None by an afina that did not.
        data: the whole committed dataset folder, where it is at hand.
        limits: of the guardrails, where the texts are judged by them.

    Returns:
        None where there are none, or where they are not where they belong.

    Raises:
        AfinaError: a file is damaged.
    """
    scores, rows = stored.continuations, proof.rows(CONTINUATIONS_FILE)
    if scores is None:
        if rows:
            found.wrong.append(f"scores.json: `continuations` is left out, and {CONTINUATIONS_FILE} holds its texts")
        elif promised:
            found.left.append("why none was written: the verdict says so, and no text tells")
        return None
    if not rows:
        said = f"the texts are not here ({CONTINUATIONS_FILE})"
        (found.left if promised is None else found.wrong).append(said)
        return None
    prompts = [row.required_text("prompt") for row in rows if row.whole("seed") is None]
    if (wrong := _elsewhere(rows, prompts, scores)) or not prompts:
        found.wrong.append(wrong or f"{CONTINUATIONS_FILE}: no text was written greedily")
        return None
    if promised is None:
        found.left.append("whether the prompts came first: the afina that committed did not promise each of them")
    elif hash_value(prompts) != promised.text("sha256"):
        found.wrong.append(f"{CONTINUATIONS_FILE}: the prompts are not those committed to")
        return None
    corpus = read_corpus([data], name=CORPUS) if data else None
    judge = TextJudge(corpus, special_texts(renderer))
    texts = StoredTexts(prompts, _by_seed(rows, prompts), judge)
    table = of_the_export(read_tokenizer, renderer.tokenizer, "the export's tokenizer")
    held = None if proof.holds == "gguf" else table  # which cuts as its base does, and names some tokens otherwise
    judged = {
        seed: [_judged_again(row, renderer, judge, table, held, found) for row in own]
        for seed, own in texts.rows.items()
    }
    sampled = [each for seed in SEEDS if seed is not None for each in judged[seed]]
    _counted_otherwise(scores, judged[None], sampled, corpus, found)
    if held is not None:
        found.exactly("continuations: `tokenizer`", table.sha256, scores.tokenizer)
    if corpus is None:
        found.left.append("which words no training text has: the whole dataset is not in an export (--dataset FOLDER)")
    return StoredTexts(prompts, texts.rows, judge, misses_of(sampled, limits) if limits else [])


def _elsewhere(rows: Sequence[Record], prompts: Sequence[str], scores: ContinuationScores) -> str:
    """Why the rows are not one by one behind the prompts, by each seed; empty where they are."""
    wanted = [(seed, prompt) for seed in SEEDS for prompt in prompts]
    if [(row.whole("seed"), row.required_text("prompt")) for row in rows] != wanted:
        return f"{CONTINUATIONS_FILE}: {len(rows)} texts, and not one by one behind {len(prompts)} prompts by each seed"
    drawn = [TEMPERATURE if seed is not None else 0.0 for seed, _ in wanted]
    if [row.required_number("temperature") for row in rows] != drawn or len({*prompts}) != len(prompts):
        return f"{CONTINUATIONS_FILE}: other temperatures than {TEMPERATURE:g}, or a prompt twice"
    told = (scores.prompts, list(scores.seeds), scores.temperature)
    if told != (len(prompts), [seed for seed in SEEDS if seed is not None], TEMPERATURE):
        return f"scores.json: continuations by {told!r:.80} (prompts, seeds, temperature), and others are stored"
    return ""


def _by_seed(rows: Sequence[Record], prompts: Sequence[str]) -> dict[int | None, list[Record]]:
    many = len(prompts)
    return {seed: list(rows[number * many : (number + 1) * many]) for number, seed in enumerate(SEEDS)}


def token_ids(row: Record, renderer: Renderer) -> list[int]:
    """The tokens of a stored text.

    Raises:
        AfinaError: they are none of the tokenizer's.
    """
    given = row.figures("token_ids")
    if not all(type(each) is int and 0 <= each < len(renderer.tokenizer) for each in given):
        raise row.wrong("token_ids", "numbers of the export's tokens", given)
    return [int(each) for each in given]


def _judged_again(
    row: Record,
    renderer: Renderer,
    judge: TextJudge,
    table: PieceTable,
    held: PieceTable | None,
    found: HeldAgainst,
) -> JudgedText:
    """A stored text, looked at again; what is told of it and is not so goes into `found`.

    Args:
        table: the export's tokenizer.
        held: the same, where its names for tokens are those of the run.
    """
    text, stopped, ids = row.required_text("output"), row.required_flag("stopped"), token_ids(row, renderer)
    pieces = count_pieces(table.of(ids))
    written = WrittenText(text, row.required_text("prompt"), row.whole("seed"), stopped, pieces)
    mine = judge.look_at(written)
    if str(renderer.tokenizer.decode(ids)).strip() != text:
        found.wrong.append(f"{row.where}: `output` is {text!r:.60}, and its tokens are another text")
    if held is not None:
        counted: dict[str, Any] = {"tokens": pieces.pieces, "fallback": pieces.fallback, "short": pieces.short}
        counted |= {"tokenizer": held.sha256}
        if other := [key for key in counted if row.values.get(key) != counted[key]]:
            said = f"{row.values.get(other[0])!r:.40}, its tokens give {counted[other[0]]!r:.40}"
            found.wrong.append(f"{row.where}: `{other[0]}` is {said}")
    told, broken = row.texts("flaws"), tuple(row.texts("broken_words"))
    if mine.words is not None:
        if {*told} != {*mine.flaws} or broken != mine.words.broken:
            said = f"{told} and {list(broken)!r:.60}, its text gives {list(mine.flaws)} and {mine.words.broken!r:.60}"
            found.wrong.append(f"{row.where}: `flaws` and `broken_words` are {said}")
        return mine
    words = words_in(text if stopped else without_cut_word(text))
    known, more = {*mine.flaws}, {*told} - {*mine.flaws}
    if not known <= {*told} or more - {BROKEN_WORDS}:  # words that are broken are told by the dataset
        found.wrong.append(f"{row.where}: `flaws` is {told}, its text gives {list(mine.flaws)}")
    if Counter(broken) - Counter(words):
        found.wrong.append(f"{row.where}: `broken_words` has words that do not stand in the text")
    return JudgedText(written, told, LookedUp(len(words), sum(map(len, words)), broken))


def _counted_otherwise(
    scores: ContinuationScores,
    greedy: Sequence[JudgedText],
    sampled: Sequence[JudgedText],
    corpus: CorpusWords | None,
    found: HeldAgainst,
) -> None:
    for name, texts, theirs in (("greedy", greedy, scores.greedy), ("sampled", sampled, scores.sampled)):
        mine, told = figures_of(texts).as_json(), theirs.as_json()
        for key in mine:
            if not same(mine[key], told.get(key)):
                said = f"{told.get(key)!r:.80}, the stored texts give {mine[key]!r:.80}"
                found.wrong.append(f"scores.json: continuations: `{name}.{key}` is {said}")
    if corpus is not None:
        found.exactly("continuations: `corpus`", corpus.figures().as_json(), scores.corpus.as_json())


@dataclass(frozen=True)
class TextsAgain:
    """Lets the trained model write behind the prompts again.

    Args:
        limit: nats that are rounding.
        kl: see :func:`~afina.verify.held_against.mean_within`.
        most: write behind so many prompts, drawn by chance; behind all where None.
    """

    model: Any
    renderer: Renderer
    limit: float
    kl: float
    most: int | None
    progress: Progress

    def write(self, texts: StoredTexts, found: HeldAgainst) -> AskedAgain:
        """Write, and hold the stored texts against it."""
        ids = [self.renderer.completion_prompt(prompt) for prompt in texts.prompts]
        room, chosen = room_behind(texts.prompts, ids), list(range(len(ids)))
        if self.most is not None and self.most < len(chosen):
            found.left.append(f"what is written behind {len(chosen) - self.most} prompts not drawn (--questions)")
            chosen = sorted(random.SystemRandom().sample(chosen, self.most))
        found.computed = True
        greedy = [
            _asked(texts.prompts[number], texts.rows[None][number], ids[number], room, texts.judge) for number in chosen
        ]
        again = ask_again(self.model, self.renderer, greedy, NAME, self.limit, self.progress)
        if draw_within(self.kl) > WIDEST:
            found.left.append("what the seeds draw: with weights in so few bits any text could be drawn")
            return again
        parted: list[_Parted] = []
        equal = 0
        for seed in SEEDS:
            if seed is not None:
                asked = [(texts.rows[seed][number], ids[number], ids[:number].count(ids[number])) for number in chosen]
                other = self._drawn(asked, room, seed)
                equal += len(asked) - len(other)
                parted += other
        again.asked, again.equal = again.asked + equal + len(parted), again.equal + equal
        self._weigh(parted, again, drawn_here=equal > 0)
        return again

    def _drawn(self, asked: Sequence[tuple[Record, list[int], int]], room: int, seed: int) -> list[_Parted]:
        """The sampled texts that come out otherwise here.

        Args:
            asked: of each its row, its prompt, and how many prompts before it are the same tokens.
        """
        sampling, prompts = sampling_of(seed), [prompt for _, prompt, _ in asked]
        written = generate(
            self.model, self.renderer, prompts, max_new_tokens=room, sampling=sampling, progress=self.progress
        )
        parted = []
        for (row, prompt, before), mine in zip(asked, written, strict=True):
            ids, stopped = token_ids(row, self.renderer), row.required_flag("stopped")
            if (ids, stopped) != (list(mine.ids), mine.stopped):
                parted.append(_Parted(row, DrawnText(prompt, ids, stopped), room, seed, before))
        return parted

    def _weigh(self, parted: Sequence[_Parted], again: AskedAgain, *, drawn_here: bool) -> None:
        """Whether the seeds draw the texts that come out otherwise, on this machine or on another.

        Args:
            drawn_here: whether some text came out as it is stored: then the others were drawn by the same numbers.
        """
        if not parted:
            return
        engine = Engine(self.model, self.renderer.tokenizer, self.renderer.stop_ids())
        here, stops = Numbers(engine.dtype, exact=engine.exact), frozenset(engine.stop_ids)
        rooms = [
            each.room if engine.context is None else min(each.room, engine.context - len(each.text.prompt))
            for each in parted
        ]
        intervals = [
            intervals_of(self.model, self.renderer, each.text, TEMPERATURE) if each.fits(room, stops) else None
            for each, room in zip(parted, rooms, strict=True)
        ]

        def drawn_by(numbers: Numbers) -> list[bool]:
            told = zip(parted, rooms, intervals, strict=True)
            return [
                parts is not None and is_drawn(parts, each.seed_by(numbers, room, stops), draw_within(self.kl))
                for each, room, parts in told
            ]

        best = max(map(drawn_by, [here] if drawn_here else [here, *NUMBERS]), key=lambda found: found.count(True))
        for each, is_so in zip(parted, best, strict=True):
            said = f"{WHO[NAME]}, behind {each.row.required_text('prompt')!r:.60} by seed {each.seed}"
            if is_so:
                again.rounded.append(f"{said}: the draw lies at the edge of another token")
            else:
                text = each.row.required_text("output")
                again.wrong.append(f"{said}, does not write what is stored, {text!r:.80}")


@dataclass(frozen=True)
class _Parted:
    """A sampled text that comes out otherwise here."""

    row: Record
    text: DrawnText
    room: int
    seed: int
    before: int
    """Prompts of the same tokens before it, each of which drew by numbers of its own: where a tokenizer folds, texts
    that differ may be the same tokens."""

    def fits(self, room: int, stops: frozenset[int]) -> bool:
        """Whether it can have been written at all: one that was cut fills its room, and no end token is in it."""
        many = len(self.text.ids)
        return not stops.intersection(self.text.ids) and (many < room if self.text.stopped else many == room)

    def seed_by(self, numbers: Numbers, room: int, stops: frozenset[int]) -> int:
        """What its draws follow from, where it was computed in such numbers."""
        prompts = [self.text.prompt] * (1 + self.before)
        return seed_of(answer_keys(prompts, [room] * len(prompts), sampling_of(self.seed), numbers, stops)[-1])


def _asked(prompt: str, row: Record, ids: Sequence[int], room: int, judge: TextJudge) -> AskedRow:
    """A greedy text as an answer that is asked again."""
    stored = {NAME: row.required_text("output"), f"{NAME}_stopped": row.required_flag("stopped")}
    question = Question((Message(role="user", content=prompt),), "", row.where)
    asked = Record(stored, row.where, row.key, row.fix)
    return AskedRow(question, asked, room, "continuations", partial(_worth, judge, prompt), tuple(ids))


def _worth(judge: TextJudge, prompt: str, answer: Answer) -> float:
    """The fewer guardrails a text breaks, the better."""
    return -float(len(judge.look_at(WrittenText(answer.text, prompt, None, answer.stopped)).flaws))
