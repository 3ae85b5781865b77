"""What ``scores.json`` holds of whole texts: windows of held-out text that were read, and texts that were written.

Needs neither torch nor numpy, as :mod:`afina.evaluate.scores`, which it is a part of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from afina.record import Record
from afina.units import show_share

FALLBACK_LIMIT, SHORT_LIMIT = 0.03, 0.12
"""Ratios of byte fallback and of short pieces above which they are marked. They follow the vocabulary as much as the
text, so that they are shown, and no verdict is made of them."""


@dataclass(frozen=True)
class WordShare:
    """So many of so many, with the 95 % interval of the share."""

    count: int
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "of": self.of, "share": self.share, "low": self.low, "high": self.high}

    @classmethod
    def of_record(cls, record: Record) -> WordShare:
        count, of = (record.required_whole(key) for key in ("count", "of"))
        if not 0 <= count <= of:
            raise record.wrong("count", f"0 to {of}", count)
        return cls(count, of, record.required_number("low"), record.required_number("high"))


@dataclass(frozen=True)
class WindowFigures:
    """How one model predicts the windows."""

    bits_per_byte: float
    loss: float
    """Nats per token."""
    accuracy: float
    """WordShare of the tokens that are the likeliest at their place."""
    tokens: int
    interval: tuple[float, float] | None
    """Of the bits per byte, 95 %, over the windows; None where there is one."""

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(min(self.loss, 700.0))

    def as_json(self) -> dict[str, Any]:
        low, high = self.interval or (None, None)
        figures = {"bits_per_byte": self.bits_per_byte, "low": low, "high": high, "loss": self.loss}
        return figures | {"perplexity": self.perplexity, "accuracy": self.accuracy, "tokens": self.tokens}

    @classmethod
    def of(cls, record: Record) -> WindowFigures:
        low, high = record.number("low"), record.number("high")
        bits, loss, accuracy = map(record.required_number, ("bits_per_byte", "loss", "accuracy"))
        ends = None if low is None or high is None else (low, high)
        return cls(bits, loss, accuracy, record.required_whole("tokens"), ends)


@dataclass(frozen=True)
class WindowScores:
    """Windows of held-out text, and how they are predicted before and after training."""

    windows: int
    bytes: int
    """Of all windows together, UTF-8."""
    sha256: str
    """Hash of their texts: figures of two runs compare where it is the same."""
    contexts: int
    """Pieces that the windows were read in: more than windows where one does not fit into the model."""
    context: int | None
    """Longest piece in tokens; None where the model sets no limit."""
    before: WindowFigures
    after: WindowFigures
    change: tuple[float, float, float] | None = None
    """Bits per byte after less those before, with the 95 % interval over the windows."""
    lost: int = 0
    """Characters that the tokens do not hold, which nobody predicts: the bits per byte are too few."""

    def as_json(self) -> dict[str, Any]:
        named = {key: getattr(self, key) for key in ("windows", "bytes", "sha256", "contexts", "context", "lost")}
        change = dict(zip(("value", "low", "high"), self.change, strict=True)) if self.change else None
        return named | {"before": self.before.as_json(), "after": self.after.as_json(), "change": change}

    @classmethod
    def of(cls, record: Record) -> WindowScores:
        change = record.record("change")
        value, low, high = map(change.required_number, ("value", "low", "high")) if change else (None, None, None)
        before, after = (WindowFigures.of(record.required_record(side)) for side in ("before", "after"))
        return cls(
            record.required_whole("windows"),
            record.required_whole("bytes"),
            record.required_text("sha256"),
            record.required_whole("contexts"),
            record.whole("context"),
            before,
            after,
            None if value is None or low is None or high is None else (value, low, high),
            record.whole("lost") or 0,
        )

    def describe_text(self) -> str:
        """What was read, in words.

        >>> figures = WindowFigures(1.5, 2.0, 0.4, 70, None)
        >>> WindowScores(2, 8192, "0", 4, 1024, figures, figures).describe_text()
        '2 windows, 8,192 bytes of held-out text, read in 4 contexts of at most 1,024 tokens'
        """
        many = "window" if self.windows == 1 else "windows"
        cut = f", read in {self.contexts:,} contexts of at most {self.context:,} tokens" if self.context else ""
        return f"{self.windows:,} {many}, {self.bytes:,} bytes of held-out text" + (
            cut if self.contexts > self.windows else ""
        )


@dataclass(frozen=True)
class TextFigures:
    """What was found in a set of texts that a model wrote."""

    texts: int
    characters: int
    tokens: int | None
    """By the tokenizer named beside it; None where there is none."""
    fallback: int
    """Tokens that spell out a character which the vocabulary lacks."""
    short: int
    """Tokens of one or two letters inside a word."""
    reached: int | None
    """Texts that reached their limit; None where nothing tells."""
    flaws: Mapping[str, int]
    """Guardrail -> texts that break it."""
    broken: WordShare | None = None
    """Words that the corpus has nowhere, of all words; None without a word list."""
    broken_characters: WordShare | None = None
    """Characters in those words, of the characters in all words."""

    @property
    def fallback_ratio(self) -> float | None:
        return self.fallback / self.tokens if self.tokens else None

    @property
    def short_ratio(self) -> float | None:
        return self.short / self.tokens if self.tokens else None

    @property
    def above(self) -> list[str]:
        """The ratios above their limits.

        >>> TextFigures(1, 400, 100, 0, 17, None, {}).above
        ['short_ratio']
        """
        limits = {"fallback_ratio": FALLBACK_LIMIT, "short_ratio": SHORT_LIMIT}
        return [key for key, limit in limits.items() if (getattr(self, key) or 0.0) > limit]

    def as_json(self) -> dict[str, Any]:
        parts = {key: each.as_json() if each else None for key, each in self._shares.items()}
        ratios = {"fallback_ratio": self.fallback_ratio, "short_ratio": self.short_ratio}
        return asdict(self) | ratios | {"flaws": dict(self.flaws)} | parts

    @property
    def _shares(self) -> dict[str, WordShare | None]:
        return {"broken": self.broken, "broken_characters": self.broken_characters}

    @classmethod
    def of(cls, record: Record) -> TextFigures:
        flaws = record.record("flaws")
        shares = [record.record(key) for key in ("broken", "broken_characters")]
        return cls(
            record.required_whole("texts"),
            record.required_whole("characters"),
            record.whole("tokens"),
            record.required_whole("fallback"),
            record.required_whole("short"),
            record.whole("reached"),
            {key: flaws.required_whole(key) for key in flaws.values},
            *(WordShare.of_record(each) if each else None for each in shares),
        )


@dataclass(frozen=True)
class CorpusFigures:
    """A word list, and how many words it lacks of real texts like the ones that it was made of: the control."""

    name: str
    words: int
    """Different ones."""
    seen: int
    """Words of the corpus, counted each time."""
    control_words: int
    """0 where the corpus has no held-out texts: then nothing tells what a share means."""
    control_broken: int
    control_characters: int
    control_broken_characters: int

    @property
    def control(self) -> float | None:
        """WordShare of the words of real text that the list lacks."""
        return self.control_broken / self.control_words if self.control_words else None

    @property
    def control_in_characters(self) -> float | None:
        """WordShare of the characters of its words."""
        return self.control_broken_characters / self.control_characters if self.control_words else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"control": self.control, "control_in_characters": self.control_in_characters}

    @classmethod
    def of(cls, record: Record) -> CorpusFigures:
        counts = ["words", "seen", "control_words", "control_broken"]
        counts += ["control_characters", "control_broken_characters"]
        return cls(record.required_text("name"), *map(record.required_whole, counts))

    def describe(self) -> str:
        """What was compared with, in words.

        >>> CorpusFigures("docs", 9000, 120_000, 5000, 100, 25_000, 800).describe()
        'a list of 9,000 words (docs), which lacks 2 % of the words (3.2 % of their characters) of held-out real text'
        """
        control, characters = self.control, self.control_in_characters
        lacks = "; nothing is held out of it, so that no real text tells how many words any list lacks"
        if control is not None and characters is not None:
            of_them = f"({show_share(characters)} of their characters)"
            lacks = f", which lacks {show_share(control)} of the words {of_them} of held-out real text"
        return f"a list of {self.words:,} words ({self.name}){lacks}"


@dataclass(frozen=True)
class ContinuationScores:
    """What the trained model wrote behind the recipe's prompts."""

    prompts: int
    seeds: tuple[int, ...]
    temperature: float
    """Of the texts that were sampled."""
    tokenizer: str
    """Hash of all that decides how a text is cut: ratios of two tokenizers do not compare."""
    greedy: TextFigures
    sampled: TextFigures
    corpus: CorpusFigures
    """Its words come from the texts that were learned, its control from those held out."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "seeds": list(self.seeds),
            "greedy": self.greedy.as_json(),
            "sampled": self.sampled.as_json(),
            "corpus": self.corpus.as_json(),
        }

    @classmethod
    def of(cls, record: Record) -> ContinuationScores:
        seeds = record["seeds"]
        if not isinstance(seeds, list) or not all(type(each) is int for each in seeds):
            raise record.wrong("seeds", "a list of whole numbers", seeds)
        greedy, sampled = (TextFigures.of(record.required_record(key)) for key in ("greedy", "sampled"))
        return cls(
            record.required_whole("prompts"),
            tuple(seeds),
            record.required_number("temperature"),
            record.required_text("tokenizer"),
            greedy,
            sampled,
            CorpusFigures.of(record.required_record("corpus")),
        )
