"""Unigram and BPE with byte fallback, trained by the library sentencepiece on the user's own text.

sentencepiece normalizes nothing: what is mended, the recipe's cleaning has done, and what the recipe wants folded is
folded before it reads (:mod:`afina.tokenizer.folding`). The trained model becomes one of the library ``tokenizers``
that cuts as sentencepiece does (a test holds them side by side), but for a ``▁`` of the text, which sentencepiece takes
for a space.

What sentencepiece would leave out of its training without a word is cut before it sees it:

    line breaks   a line holds the breaks before it, since sentencepiece takes away those behind it
    long lines    become sentences of at most 256 characters, cut at spaces; no piece crosses a space
    ▁ ▅ NUL       the sentence ends there; these three, and tabs, have no piece and are bytes
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from afina.errors import DataError
from afina.tokenizer.fallback import FIRST, UNKNOWN, with_fallback
from afina.tokenizer.pieces import SPACE
from afina.tokenizer.saving import SPECIAL, Say, silent

SENTENCE = 256
"""Characters."""
SENTENCES = 400_000
"""Of more than that (100 M characters) a random sample is learned from."""
COVERAGE = 0.9995
"""Share of the text's characters that get a piece, the frequent ones first; the rest, some rare signs, are bytes."""
THREADS = 4
"""A fixed number: the sums of a Unigram's training depend on it in the last place, and with them its pieces."""
SEED = 0
FALLBACK_LETTERS = "<>x0123456789ABCDEF"
"""Of the names of the byte tokens. With a piece for each, a text that reads ``<0x41>`` is cut in these, and never the
byte."""

_ENDS = re.compile("[\x00▁▅]")
_LINE = re.compile(r"[\r\n]*[^\r\n]+")
_TOO_FEW = re.compile(r"smaller than required_chars\. (\d+) vs (\d+)")


def train_unigram(texts: Iterable[str], vocab: int, say: Say) -> Any:
    """A Unigram of at most `vocab` entries (:data:`~afina.tokenizer.train.TrainOn`).

    Raises:
        DataError: there is no text, or no room for the characters of the text.
    """
    return as_tokenizer(train_model(texts, "unigram", vocab, say), "unigram")


def train_merges(texts: Iterable[str], vocab: int, say: Say) -> Any:
    """The same of SentencePiece's BPE: characters, merged in pairs."""
    return as_tokenizer(train_model(texts, "bpe", vocab, say), "bpe")


def train_model(texts: Iterable[str], kind: Literal["unigram", "bpe"], vocab: int, say: Say = silent) -> bytes:
    """SentencePiece's own model of a vocabulary that has `vocab` entries with our special tokens."""
    import sentencepiece

    made, given = io.BytesIO(), 0

    def counted() -> Iterator[str]:
        nonlocal given
        for each in sentences(texts):
            given += 1
            yield each

    sentencepiece.set_random_generator_seed(SEED)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=counted(),
            model_writer=made,
            model_type=kind,
            vocab_size=vocab - len(SPECIAL),
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=COVERAGE,
            required_chars=FALLBACK_LETTERS,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            input_sentence_size=SENTENCES,
            max_sentence_length=4 * SENTENCE,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        said = str(error)
        if (found := _TOO_FEW.search(said)) is not None:
            least = int(found[2]) + len(SPECIAL)
            raise DataError(
                f"a vocabulary of {vocab} entries has no room for the characters of the text beside 256 bytes and "
                f"{len(SPECIAL)} special tokens",
                f"scratch.vocab: {least} at least, or byte-bpe, whose alphabet is bytes",
            ) from error
        raise DataError(
            f"sentencepiece trains no tokenizer on this text: {said}", "give it text, or scratch.tokenizer: byte-bpe"
        ) from error
    if given > SENTENCES:
        say(f"learned from a random {SENTENCES} of the text's {given} sentences")
    return made.getvalue()


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """What the training reads: lines, each with the breaks before it, in pieces of at most :data:`SENTENCE` characters.

    >>> list(sentences(["uma\\n\\nduas ▁ três\\n"]))
    ['uma', '\\n\\nduas ', ' três']
    """
    for text in texts:
        for part in _ENDS.split(text):
            for line in _LINE.findall(part):
                yield from _short(line)


def _short(line: str) -> Iterator[str]:
    """A line in sentences, cut before spaces; inside a word only where one is longer than a sentence."""
    start = 0
    while len(line) - start > SENTENCE:
        space = line.rfind(" ", start + 1, start + SENTENCE)
        end = space if space > 0 else start + SENTENCE
        yield line[start:end]
        start = end
    yield line[start:]


def as_tokenizer(model: bytes, kind: Literal["unigram", "bpe"]) -> Any:
    """A SentencePiece model as one of the library ``tokenizers``, its special tokens before it."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import models

    trained = SentencePieceProcessor(model_proto=model)
    pieces = {
        trained.id_to_piece(number).replace(SPACE, " "): trained.get_score(number)
        for number in range(trained.vocab_size())
        if not (trained.is_byte(number) or trained.is_unknown(number))
    }
    if kind == "bpe":
        vocabulary = {piece: number for number, piece in enumerate((*FIRST, *pieces))}
        return with_fallback(
            models.BPE(vocab=vocabulary, merges=_merges(pieces), unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
        )
    # A piece is never chosen whose characters, one by one, score higher: a text may hold these names.
    never = min(pieces.values()) * max(map(len, FIRST)) - 1
    scored = [*((each, never) for each in FIRST), *pieces.items()]
    return with_fallback(models.Unigram(scored, unk_id=FIRST.index(UNKNOWN), byte_fallback=True))


def _merges(pieces: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair that makes a piece, in the order in which sentencepiece merges: by the score of what is made."""
    made = [
        (score, piece[:cut], piece[cut:])
        for piece, score in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    made.sort(key=lambda each: -each[0])
    return [(left, right) for _, left, right in made]
