"""What single tokens stand for, whatever library cuts them: bytes of the text, and how the vocabulary came to them.

SentencePiece   ▁não       -> b" n\\xc3\\xa3o"  text
                <0xC3>     -> b"\\xc3"          byte: the vocabulary lacks the character
byte-level BPE  Ġn, Ã      -> b" n", b"\\xc3"   text, part: bytes are its alphabet
WordPiece       na, ##da   -> b" na", b"da"    text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from afina.errors import BaseError
from afina.run import hash_file, hash_value
from afina.tokenizer.folding import folds_by, folds_of

SPACE = "▁"
"""How SentencePiece writes a space in a piece."""

PieceKind = Literal["text", "byte", "part", "unknown", "special"]
"""``byte``: of a character that a vocabulary with byte fallback lacks; ``part``: not whole characters, in a vocabulary
whose alphabet is bytes; ``unknown``: a character that is lost; ``special``: begin, end, a turn's mark."""


class TokenPiece(NamedTuple):
    """One token of a text."""

    data: bytes
    """UTF-8 of what it stands for, a leading space where it begins a word; empty where it stands for no text."""
    kind: PieceKind = "text"

    @property
    def text(self) -> str:
        """Its characters; U+FFFD for half a character."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True)
class PieceTable:
    """A tokenizer as measures of pieces see it: the piece of every id, and how a text is cut."""

    name: str
    """What the user calls it."""
    sha256: str
    """Hash of all that decides how a text is cut; figures of two tokenizers cannot be compared."""
    pieces: Sequence[TokenPiece]
    """By id."""
    encode: Callable[[str], list[int]]
    """A text alone -> ids, no begin or end token."""
    kind: str = ""
    """What cuts it, in words."""
    folds: tuple[str, ...] = ()
    """What it changes before (:data:`~afina.tokenizer.folding.FOLDS`): its pieces are those of the folded text."""

    def __len__(self) -> int:
        return len(self.pieces)

    def of(self, ids: Iterable[int]) -> Iterator[TokenPiece]:
        """The pieces of tokens, such as those that a model produced; an id behind the vocabulary stands for nothing."""
        return (self.pieces[each] if each < len(self.pieces) else TokenPiece(b"", "unknown") for each in ids)

    def cut(self, text: str) -> list[TokenPiece]:
        """The pieces of a text."""
        return [self.pieces[each] for each in self.encode(text)]

    @cached_property
    def has_fallback(self) -> bool:
        """Whether a character can be missing from the vocabulary; none can where bytes are the alphabet."""
        return any(piece.kind in ("byte", "unknown") for piece in self.pieces)


def read_tokenizer(tokenizer: Any, name: str) -> PieceTable:
    """The pieces of a tokenizer that transformers has opened.

    Raises:
        BaseError: it is not one of the library ``tokenizers`` (a fast one).
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise BaseError(
            "its tokenizer has no tokenizer.json, so that the bytes of its tokens are not known",
            "save it as a fast tokenizer (AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)), and name that",
            name,
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    cuts = {key: value for key, value in content.items() if key not in ("padding", "truncation")}
    return PieceTable(name, hash_value(cuts), _pieces_of(content), encode, _kind_of(content), folds_of(tokenizer))


def read_sentencepiece(file: Path) -> PieceTable:
    """The pieces of a SentencePiece model, cut by the library sentencepiece.

    Raises:
        BaseError: it is none.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise BaseError(
            f"is no SentencePiece model: {str(error).splitlines()[0]}", "name the .model file of one", str(file)
        ) from error

    def piece(number: int) -> TokenPiece:
        if model.is_unknown(number):
            return TokenPiece(b"", "unknown")
        if model.is_control(number):
            return TokenPiece(b"", "special")
        if model.is_byte(number):
            return TokenPiece(bytes([int(model.id_to_piece(number)[3:5], 16)]), "byte")
        return TokenPiece(model.id_to_piece(number).replace(SPACE, " ").encode())

    pieces = [piece(number) for number in range(model.vocab_size())]
    folds = folds_by(lambda text: str(model.normalize(text)))
    return PieceTable(file.name, hash_file(file), pieces, lambda text: list(model.encode(text)), "SentencePiece", folds)


def _pieces_of(content: Mapping[str, Any]) -> list[TokenPiece]:
    """By id, of what ``tokenizer.json`` holds; ids that no token has stand for nothing."""
    model, steps = content["model"], list(_steps(content["decoder"]))
    vocabulary = dict(model["vocab"].items() if isinstance(model["vocab"], dict) else _numbered(model["vocab"]))
    unknown = model.get("unk_token")
    if unknown is None and model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    read = _reader(steps, bool(model.get("byte_fallback")))
    size = 1 + max([*vocabulary.values(), *(each["id"] for each in content["added_tokens"])], default=-1)
    pieces = [TokenPiece(b"", "special")] * size
    for token, number in vocabulary.items():
        pieces[number] = TokenPiece(b"", "unknown") if token == unknown else read(token)
    for added in content["added_tokens"]:
        if pieces[added["id"]].kind != "unknown":
            pieces[added["id"]] = (
                TokenPiece(b"", "special") if added["special"] else TokenPiece(added["content"].encode())
            )
    return pieces


def _kind_of(content: Mapping[str, Any]) -> str:
    """In words."""
    model = content["model"]
    if any(step["type"] == "ByteLevel" for step in _steps(content["decoder"])):
        return f"byte-level {model['type']}"
    kind = "characters" if model["type"] == "BPE" and not model["merges"] else str(model["type"])
    return f"{kind} with byte fallback" if model.get("byte_fallback") else kind


def _numbered(scored: Sequence[tuple[str, float]]) -> Iterator[tuple[str, int]]:
    """A Unigram's vocabulary: its order are the ids."""
    return ((token, number) for number, (token, _) in enumerate(scored))


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a decoder, flat."""
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for each in decoder["decoders"]:
            yield from _steps(each)
    else:
        yield decoder


def _reader(steps: Sequence[Mapping[str, Any]], byte_fallback: bool) -> Callable[[str], TokenPiece]:
    """A token as the vocabulary writes it -> its piece."""
    kinds = {step["type"]: step for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level()
    if "WordPiece" in kinds:
        prefix = kinds["WordPiece"]["prefix"]
        return lambda token: TokenPiece(
            token.removeprefix(prefix).encode() if token.startswith(prefix) else b" " + token.encode()
        )
    space = next((step["pattern"].get("String") for step in steps if step["type"] == "Replace"), None)
    space = kinds["Metaspace"]["replacement"] if "Metaspace" in kinds else space

    def read(token: str) -> TokenPiece:
        if byte_fallback and (value := byte_of(token)) is not None:
            return TokenPiece(bytes([value]), "byte")
        return TokenPiece((token.replace(space, " ") if space else token).encode())

    return read


def byte_of(token: str) -> int | None:
    """The byte that a token of a vocabulary with byte fallback stands for; None for any other.

    >>> byte_of("<0xC3>"), byte_of("<0xG1>"), byte_of("a")
    (195, None, None)
    """
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    try:
        return int(token[3:5], 16)
    except ValueError:
        return None


def _byte_level() -> Callable[[str], TokenPiece]:
    """Of a byte-level vocabulary: each character of a token stands for a byte (GPT-2's table)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte = {character: value for value, character in bytes_to_unicode().items()}

    def read(token: str) -> TokenPiece:
        if any(character not in byte for character in token):  # written as it is: "<|end|>" in the vocabulary
            return TokenPiece(token.encode())
        data = bytes(byte[character] for character in token)
        try:
            data.decode()
        except UnicodeDecodeError:
            return TokenPiece(data, "part")
        return TokenPiece(data)

    return read
