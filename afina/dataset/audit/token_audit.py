"""What an audit sees with a base's tokenizer: lengths, what a limit would cost, padding, end tokens, too little data.

:class:`TokenView` is handed in by who knows the base, the batches and the size of what is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from afina.dataset.audit.one_example import excerpt, whole
from afina.errors import DataError, Problem
from afina.text.document import message_texts
from afina.text.example import Example
from afina.tokenizer.chat import Encoded
from afina.tokenizer.encode import EncodedExample
from afina.tokenizer.letters import LACKED, TOLD_ABOVE, LackedLetters
from afina.tokenizer.pieces import PieceTable
from afina.tokenizer.template import NotRendered
from afina.units import show_count, show_share

PARAMETERS_PER_TOKEN = 1000
"""From this many trained parameters per learned token on, an adapter is far larger than what it is to hold."""
FEWEST_STEPS = 10
WASTE_WORTH_A_WARNING = 0.25
EXAMPLES_SHOWN = 5
REFUSED_MARKS = Problem(
    "marks of the base inside the text, which the recipe refuses (chat.marks_in_text: error)",
    "take them out, or set `chat.marks_in_text: words`",
)
FATAL: Literal["fatal"] = "fatal"


@dataclass(frozen=True)
class TokenView:
    """A base's tokenizer and the settings that decide what becomes of the tokens."""

    encode: Callable[[Example], EncodedExample]
    """As for training; a DataError where the chat template cannot be trained on."""
    batches: Callable[[Sequence[int]], Sequence[Sequence[int]]]
    """Lengths of rows -> the micro-batches of one epoch, as lists of row numbers."""
    end_ids: Sequence[int]
    marks_in: Callable[[Example], Sequence[str]]
    """The marks of the base that stand in its text."""
    pieces: PieceTable | None = None
    """Its vocabulary; None where that cannot be read (no tokenizer.json)."""
    marks_in_text: Literal["words", "error"] = "words"
    """What becomes of them."""
    plain_turn_marks: Sequence[str] = ()
    """What the chat template writes between turns that is no mark to the tokenizer."""
    bos_id: int | None = None
    begins_with_bos: bool = False
    max_length: int = 1024
    on_too_long: Literal["error", "drop"] = "error"
    on_not_rendered: Literal["error", "drop"] = "error"
    own_system: str = ""
    """The system text that the chat template writes where a conversation has none."""
    epochs: float = 3.0
    accumulate: int = 1
    trained_parameters: int | None = None


@dataclass(frozen=True, slots=True)
class TokenFinding:
    """A finding before it gets its rule: see :func:`~afina.dataset.audit.rules.make_finding`."""

    name: str
    count: int
    of: int
    what: str = ""
    severity: Literal["fatal", "warning", "note"] | None = None
    examples: list[dict[str, str]] = field(default_factory=list)
    fix: str = ""
    """What to do, where it is not what the rule says."""


class TokenAudit:
    """Feed it the examples of a split with :meth:`add`; then :meth:`findings`. Keeps one number per row.

    Args:
        held_out: whether nothing is learned of them: only what stops their encoding is said.
    """

    def __init__(self, view: TokenView, *, held_out: bool = False) -> None:
        self.view, self.held_out = view, held_out
        self.lengths: list[int] = []
        self.longest = 0
        """Of the conversations over the limit."""
        self.rows: list[int] = []
        self.targets = self.characters = self.examples = 0
        self.texts_over = self.conversations_over = self.cut_tokens = self.over_tokens = 0
        self.counts: dict[str, int] = {}
        self.shown: dict[str, list[dict[str, str]]] = {}
        self.refused: dict[str, dict[str, list[Problem]]] = {}
        """Finding -> what the template cannot render -> the problem of each row."""
        self.droppable: set[str] = set()
        """What the recipe can let be dropped; a missing template is none of it."""
        self.split: dict[str, list[int]] = {}
        """Why conversations became a row for each answer -> how many conversations, and how many rows."""
        self.thoughts = self.lost_thoughts = self.lost_chars = 0
        self.lacked = LackedLetters(view.pieces) if view.pieces else None
        self.plain = re.compile("|".join(map(re.escape, view.plain_turn_marks)) or r"(?!)")

    def add(self, example: Example) -> None:
        """Count one example."""
        view = self.view
        self.examples += 1
        text = whole(example)
        if self.lacked and (letters := self.lacked.add(text)):
            self._hit(LACKED, example, excerpt(text, text.find(letters[0])))
        if marks := view.marks_in(example):
            self._hit("special_token_in_text", example, excerpt(text, text.find(marks[0])))
            if view.marks_in_text == "error":
                return
        if example.messages and (found := self.plain.search(text)):
            self._hit("plain_turn_mark", example, excerpt(text, found.start()))
        try:
            encoded = view.encode(example)
        except DataError as error:
            problem = error.problems[0]
            name = "stop_not_trained" if "end token" in problem.what else "not_rendered"
            self.refused.setdefault(name, {}).setdefault(problem.what, []).append(problem)
            if isinstance(error, NotRendered):
                self.droppable.add(problem.what)
            self._hit(name, example, problem.what)
            return
        self._count_rows(example, encoded)
        longest = encoded.longest
        said = sum(len(each) for turn in example.messages for each in message_texts(turn))
        self.characters += said or len(example.text)
        if longest <= view.max_length:
            self.rows += [len(row.ids) for row in encoded.rows] * example.repeat
            return
        self.over_tokens += encoded.tokens
        self.cut_tokens += sum(max(0, len(row.ids) - view.max_length) for row in encoded.rows)
        if example.messages:
            self.conversations_over += 1
            self.longest = max(self.longest, longest)
            if self.conversations_over == 1:  # texts are split without loss; what stops a run is named first
                self.shown.pop("over_length", None)
            self._hit("over_length", example, f"{longest} tokens: {excerpt(text)[:100]}")
        else:
            self.texts_over += 1
            step = view.max_length - 1  # a block opens with the last token of the one before
            blocks = [min(view.max_length, longest - start) for start in range(0, longest - 1, step)]
            self.rows += blocks * example.repeat
            if not self.conversations_over:
                self._hit("over_length", example, f"{longest} tokens: {excerpt(text)[:100]}")

    def _count_rows(self, example: Example, encoded: EncodedExample) -> None:
        """What is learned of an example, and how many rows it takes."""
        for row in (*encoded.rows, *([encoded.worse] if encoded.worse else [])):
            self.lengths.append(len(row.ids))
            self.targets += sum(row.mask) * example.repeat
            self._ends(example, row)
        if encoded.why:
            split = self.split.setdefault(encoded.why, [0, 0])
            split[0] += 1
            split[1] += len(encoded.rows)
        self.thoughts += sum(row.thoughts for row in encoded.rows)
        if lost := [thought for row in encoded.rows for thought in row.lost]:
            self.lost_thoughts += len(lost)
            self.lost_chars += sum(map(len, lost))
            self._hit("thoughts_not_learned", example, excerpt(lost[0]))
        if self.view.own_system and example.messages and example.messages[0]["role"] != "system":
            self.counts["template_system"] = self.counts.get("template_system", 0) + 1

    def _ends(self, example: Example, encoded: Encoded) -> None:
        """Beginning and end of a row: what a model starts from, and what it learns to stop with."""
        view, ids, end = self.view, encoded.ids, set(self.view.end_ids)
        if not (encoded.mask and encoded.mask[-1] and ids[-1] in end):
            self._hit("end_token_missing", example, "the last token learned is no end token")
        elif len(ids) > 1 and ids[-2] in end:
            self._hit("end_token_doubled", example, excerpt(whole(example)[-100:]))
        if view.bos_id is not None and ids[:2] == [view.bos_id] * 2:
            self._hit("bos_doubled", example, excerpt(whole(example)))
        elif view.begins_with_bos and ids[:1] != [view.bos_id]:
            self._hit("bos_missing", example, excerpt(whole(example)))

    def _hit(self, name: str, example: Example, text: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        shown = self.shown.setdefault(name, [])
        if len(shown) < EXAMPLES_SHOWN:
            shown.append({"where": f"{example.path}:{example.line}", "text": text})

    def findings(self) -> Iterator[TokenFinding]:
        """All of them; those about single rows first."""
        if self.lacked and self.lacked.share > TOLD_ABOVE:
            lacked = self.lacked
            yield TokenFinding(
                LACKED, lacked.lacked.total(), lacked.letters, lacked.describe(), examples=self.shown[LACKED]
            )
        for name, count in self.counts.items():
            if name == LACKED:
                continue
            if self.held_out and name not in {"over_length", *self.refused}:
                continue
            if name == "over_length":
                yield self._over_length()
            elif name in self.refused:
                yield from self._refusals(name)
            else:
                what, severity, fix = "", None, ""
                if name == "special_token_in_text" and self.view.marks_in_text == "error":
                    what, fix, severity = REFUSED_MARKS.what, REFUSED_MARKS.fix, FATAL
                if name == "thoughts_not_learned":
                    what = (
                        f"{self.lost_thoughts} of {self.thoughts} thoughts ({self.lost_chars} characters) are not "
                        "learned: the chat template leaves them out"
                    )
                if name == "template_system":
                    what = (
                        f"the chat template gives {count} conversations its own system text: {self.view.own_system!r}"
                    )
                yield TokenFinding(name, count, self.examples, what, severity, self.shown.get(name, []), fix)
        if self.held_out:
            return
        for why, (conversations, rows) in self.split.items():
            what = f"{conversations} conversations become {rows} rows, one for each answer: {why}"
            yield TokenFinding("row_for_each_answer", conversations, self.examples, what)
        if self.lengths:
            yield self._lengths()
            yield from self._padding()

    def _refusals(self, name: str) -> Iterator[TokenFinding]:
        """Rows that have no tokens, by what the template says of them."""
        for what, problems in self.refused[name].items():
            drop = self.view.on_not_rendered == "drop" and what in self.droppable
            shown = [{"where": each.where, "text": what} for each in problems[:EXAMPLES_SHOWN]]
            severity: Literal["fatal", "warning"] = "warning" if drop else FATAL
            fix = problems[0].fix
            if what in self.droppable and not drop:
                fix += "; or `dataset.on_not_rendered: drop`"
            yield TokenFinding(name, len(problems), self.examples, what, severity, shown, fix)

    def _over_length(self) -> TokenFinding:
        limit, total = self.view.max_length, sum(self.lengths)
        conversations, texts = self.conversations_over, self.texts_over
        by_policy = [
            f"{conversations} conversations and {texts} texts are longer than train.max_length ({limit} tokens).",
            "Split (plain texts, always): loses 0 tokens.",
            f"Drop: loses {self.over_tokens} ({show_share(self.over_tokens / total)}).",
            "Error: stops, and loses none." if conversations else "",
            f"A loader that cuts would lose {self.cut_tokens} ({show_share(self.cut_tokens / total)}) and every end "
            "token among them.",
        ]
        stops = conversations and self.view.on_too_long == "error"
        severity: Literal["fatal", "warning", "note"] = "fatal" if stops else "warning" if conversations else "note"
        count = conversations + texts
        words = " ".join(part for part in by_policy if part)
        fix = f"set `train.max_length: {self.longest}`, or `dataset.on_too_long: drop`" if conversations else ""
        return TokenFinding("over_length", count, self.examples, words, severity, self.shown["over_length"], fix)

    def _lengths(self) -> TokenFinding:
        ordered, total = sorted(self.lengths), sum(self.lengths)
        median, p95 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
        what = (
            f"tokens per example: median {median}, 95 % at most {p95}, longest {ordered[-1]}; {total} in all, "
            f"{self.targets} of them learned; {self.characters / max(1, total):.2f} characters per token"
        )
        return TokenFinding("token_lengths", len(ordered), self.examples, what)

    def _padding(self) -> Iterator[TokenFinding]:
        """What padding costs at the settings chosen, and whether there is enough to learn from."""
        view = self.view
        if not self.rows:
            return
        batches = view.batches(self.rows)
        real = sum(self.rows)
        padded = sum(len(batch) * max(self.rows[row] for row in batch) for batch in batches)
        waste = (padded - real) / padded
        what = f"{show_share(waste)} of what is computed is padding, in {len(batches)} micro-batches an epoch"
        yield TokenFinding(
            "padding", padded - real, padded, what, "warning" if waste > WASTE_WORTH_A_WARNING else "note"
        )
        steps = max(1, round(len(batches) * view.epochs / view.accumulate))
        said = []
        if view.trained_parameters and view.trained_parameters > PARAMETERS_PER_TOKEN * max(1, self.targets):
            ratio = view.trained_parameters / max(1, self.targets)
            said.append(
                f"{show_count(view.trained_parameters)} trained parameters for {self.targets} learned tokens "
                f"({show_count(ratio)} each)"
            )
        if steps < FEWEST_STEPS:
            said.append(f"{steps} optimizer steps in {view.epochs:g} epochs")
        if said:
            yield TokenFinding("too_little_data", len(self.lengths), self.examples, "; ".join(said))
