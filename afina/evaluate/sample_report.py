"""``afina guardrails``: how texts are written that lie in files, whoever made them.

Byte fallback and short pieces follow the vocabulary as much as the text. So they are counted with one tokenizer, whose
hash stands in the report, and texts measured with different ones are not put side by side. Words that a corpus has
nowhere do not depend on a vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.errors import RecipeError
from afina.evaluate.corpus_words import CorpusWords
from afina.evaluate.guardrails import NAMES
from afina.evaluate.intervals import difference_interval
from afina.evaluate.sample_files import SampleSet, StoredReport, StoredText, read_samples, without_echo
from afina.evaluate.text_scores import FALLBACK_LIMIT, SHORT_LIMIT, CorpusFigures, TextFigures, WordShare
from afina.evaluate.written import JudgedText, TextJudge, WrittenText, figures_of
from afina.tokenizer.pieces import PieceTable
from afina.tokenizer.ratios import count_pieces
from afina.units import show_share


@dataclass(frozen=True)
class MeasuredSet:
    """A set of texts, measured."""

    name: str
    figures: TextFigures
    tokenizer: str | None
    """Its hash, or what an old report calls it; None where nothing was cut."""
    echoed: int | None
    """Texts that began with their own prompt; None where a report does not say."""
    prompts_left_in: bool | None
    """Whether these texts were measured with their prompts; None where a report does not say."""
    mended: int = 0
    """Texts that were kept in a wrong encoding."""
    texts: Sequence[JudgedText] = ()
    """None of a report."""
    corpus: CorpusFigures | None = None
    """What its broken words were looked up in."""

    def as_json(self) -> dict[str, Any]:
        named = {"name": self.name, "tokenizer": self.tokenizer, "echoed": self.echoed, "mended": self.mended}
        named["prompts"] = None if self.prompts_left_in is None else _became(self.prompts_left_in)
        rows = [_row(each) for each in self.texts]
        return named | self.figures.as_json() | {"above": self.figures.above, "per_sample": rows}


@dataclass(frozen=True)
class SampleReport:
    """What :func:`measure_samples` found."""

    sets: Sequence[MeasuredSet]
    tokenizer: str | None
    """What the user calls it; its hash stands with each set."""
    prompts_left_in: bool
    """As it was asked for; what became of each set's stands with it."""
    corpus: CorpusFigures | None
    differences: Sequence[tuple[str, str, float, float, float]]
    """Names of two sets, and by how much the second's share of broken words is larger, with the 95 % interval."""

    def as_json(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer,
            "prompts": _became(self.prompts_left_in),
            "limits": {"fallback_ratio": FALLBACK_LIMIT, "short_ratio": SHORT_LIMIT},
            "corpus": self.corpus.as_json() if self.corpus else None,
            "sets": [each.as_json() for each in self.sets],
            "differences": [
                dict(zip(("first", "second", "value", "low", "high"), each, strict=True)) for each in self.differences
            ],
        }

    def describe(self) -> str:
        """The report for a terminal."""
        return "\n".join([*self._head(), "", *_aligned(list(self._table())), "", *self._below()])

    def _head(self) -> Iterator[str]:
        for hash_value in {each.tokenizer for each in self.sets if each.tokenizer}:
            yield f"tokenizer {self.tokenizer or 'of the run or report'} ({hash_value[:16]})"
        for each in self.sets:
            if each.echoed:
                done = _became(bool(each.prompts_left_in))
                if each.prompts_left_in and not self.prompts_left_in:
                    done += ": their tokens were counted as the model produced them; --tokenizer cuts the texts anew"
                yield f"{each.name}: {each.echoed} of {each.figures.texts} texts begin with their own prompt ({done})"
            if each.mended:
                yield f"{each.name}: {each.mended} of {each.figures.texts} texts were kept in a wrong encoding (mended)"

    def _table(self) -> Iterator[list[str]]:
        yield ["", "texts", "characters", "tokens", "byte fallback", "short pieces", "broken words", "in characters"]
        for each in self.sets:
            figures = each.figures
            ratios = [
                "-" if ratio is None else f"{ratio:.4f}{' *' if key in figures.above else ''}"
                for key, ratio in (("fallback_ratio", figures.fallback_ratio), ("short_ratio", figures.short_ratio))
            ]
            tokens = "-" if figures.tokens is None else f"{figures.tokens:,}"
            shares = [_show(share) for share in (figures.broken, figures.broken_characters)]
            yield [each.name, f"{figures.texts:,}", f"{figures.characters:,}", tokens, *ratios, *shares]

    def _below(self) -> Iterator[str]:
        for each in self.sets:
            for name, found in each.figures.flaws.items():
                yield f"{each.name}: {found} of {each.figures.texts} texts {NAMES[name]}"
        if any(each.figures.above for each in self.sets):
            yield (
                f"* above {FALLBACK_LIMIT} (byte fallback) or {SHORT_LIMIT} (short pieces); both follow the vocabulary "
                "as much as the text, so that no verdict is made of them"
            )
        if self.corpus is None:
            yield "broken words: not counted without texts that people wrote; --words names them (file, folder or run)"
        else:
            yield f"broken words: those that a corpus has nowhere; compared with {self.corpus.describe()}"
        for first, second, value, low, high in self.differences:
            more = "beyond chance" if low > 0 or high < 0 else "not beyond chance"
            yield (
                f"broken words, {second} less {first}: {100 * value:+.1f} points "
                f"[{100 * low:+.1f}, {100 * high:+.1f}], {more}"
            )


def measure_samples(
    paths: Sequence[Path],
    tokenizer: PieceTable | None,
    corpus: CorpusWords | None = None,
    *,
    keep_prompts: bool = False,
) -> SampleReport:
    """Measure the texts of files and runs, beside reports that are there already.

    Args:
        tokenizer: cuts every text; None takes the tokens that runs have counted as they were produced.
        corpus: whose words are known.
        keep_prompts: leave in a prompt that a text begins with.

    Raises:
        RecipeError: there is no such file, no tokenizer for texts that need one, or sets that were measured with
            different ones, or looked up in different texts.
        DataError: a file that holds no texts.
    """
    judge, sets = TextJudge(corpus), list[MeasuredSet]()
    for path in paths:
        for each in read_samples(path):
            if isinstance(each, StoredReport):
                _check_prompts(each, keep_prompts, path)
                sets.append(
                    MeasuredSet(
                        each.name,
                        each.figures,
                        each.tokenizer or None,
                        each.echoed,
                        each.prompts_left_in,
                        corpus=each.corpus,
                    )
                )
            else:
                sets.append(_measure(each, judge, tokenizer, keep_prompts, path))
    _check_tokenizers(sets)
    figures = corpus.figures() if corpus else None
    return SampleReport(
        sets,
        tokenizer.name if tokenizer else None,
        keep_prompts,
        _one_corpus([*([figures] if figures else []), *(each.corpus for each in sets if each.corpus)]),
        list(_differences([(each.name, each.figures.broken) for each in sets if each.figures.broken])),
    )


def _differences(shares: Sequence[tuple[str, WordShare]]) -> Iterator[tuple[str, str, float, float, float]]:
    """Of each set but the first, how much larger its share is."""
    for name, share in shares[1:]:
        first, own = shares[0]
        yield first, name, share.share - own.share, *difference_interval(_ends(own), _ends(share))


def _ends(share: WordShare) -> tuple[float, float, float]:
    return share.share, share.low, share.high


def _measure(
    samples: SampleSet, judge: TextJudge, tokenizer: PieceTable | None, keep_prompts: bool, path: Path
) -> MeasuredSet:
    if tokenizer is None and samples.tokenizer is None:
        raise RecipeError(
            "holds texts and not the tokens that they were made of",
            "give --tokenizer: the one that wrote them, or one for all that are to be compared",
            str(path),
        )
    judged, echoed = list[JudgedText](), 0
    for text in samples.texts:
        output, echoes = without_echo(text.output, text.prompt)
        echoed += echoes
        whole = keep_prompts or tokenizer is None  # tokens that were counted as they were produced are those of all
        judged.append(judge.look_at(_written(text, text.output if whole else output, tokenizer)))
    return MeasuredSet(
        samples.name,
        figures_of(judged),
        tokenizer.sha256 if tokenizer else samples.tokenizer,
        echoed,
        keep_prompts or tokenizer is None,
        sum(text.mended for text in samples.texts),
        judged,
    )


def _written(text: StoredText, output: str, tokenizer: PieceTable | None) -> WrittenText:
    pieces = count_pieces(tokenizer.cut(output)) if tokenizer else text.pieces
    return WrittenText(output, text.prompt, text.seed, text.stopped, pieces)


def _check_prompts(report: StoredReport, keep_prompts: bool, path: Path) -> None:
    if report.prompts_left_in is not None and report.prompts_left_in is not keep_prompts:
        done, fix = ("left in", "give") if report.prompts_left_in else ("taken out", "leave out")
        raise RecipeError(
            f"was measured with prompts {done}, which are other texts",
            f"{fix} --keep-prompts, or measure the texts again",
            str(path),
        )


def _check_tokenizers(sets: Sequence[MeasuredSet]) -> None:
    """
    Raises:
        RecipeError: figures that follow the vocabulary would stand side by side for several of them.
    """
    by_hash: dict[str | None, list[str]] = {}
    for each in sets:
        by_hash.setdefault(each.tokenizer, []).append(each.name)
    if len(by_hash) > 1:
        used = "; ".join(f"{', '.join(names)} with {str(used)[:60]}" for used, names in by_hash.items())
        raise RecipeError(
            f"different tokenizers have measured these texts ({used}): byte fallback and short pieces follow the "
            "vocabulary as much as the text, and would rank the vocabularies",
            "name the texts themselves (files or runs, no reports) with one --tokenizer for all, or look at each alone",
        )


def _became(left_in: bool) -> str:
    """What became of the prompts that texts begin with."""
    return "left in" if left_in else "taken out"


def _one_corpus(corpora: Sequence[CorpusFigures]) -> CorpusFigures | None:
    """What all words were looked up in.

    Raises:
        RecipeError: shares of broken words would stand side by side that follow from several word lists.
    """
    if len({replace(each, name="") for each in corpora}) > 1:
        used = "; ".join(dict.fromkeys(f"{each.name} ({each.words:,} words)" for each in corpora))
        raise RecipeError(
            f"the words of these texts were looked up in different texts ({used}): the shares of broken ones do not "
            "compare",
            "name the texts themselves (files or runs, no reports) with one --words for all, or look at each alone",
        )
    return corpora[0] if corpora else None


def _row(judged: JudgedText) -> dict[str, Any]:
    """One text of a report."""
    figures = figures_of([judged]).as_json()
    kept = ("characters", "tokens", "fallback", "fallback_ratio", "short", "short_ratio", "broken", "broken_characters")
    return {
        "seed": judged.written.seed,
        "prompt": judged.written.prompt,
        **{key: figures[key] for key in kept},
        "flaws": list(judged.flaws),
        "broken_words": list(judged.words.broken) if judged.words else [],
    }


def _show(share: WordShare | None) -> str:
    if share is None:
        return "-"
    return f"{show_share(share.share)} [{show_share(share.low)}, {show_share(share.high)}]"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, two spaces apart: names on the left, figures on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
