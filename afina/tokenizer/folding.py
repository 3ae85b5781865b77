"""What a tokenizer folds before it cuts a text: capitals to small letters, numbers to one mark.

Folding is the tokenizer's own normalizer, a part of ``tokenizer.json``. So whatever is encoded is folded alike: text
that is learned, held-out windows, prompts, questions in chat and to a server, here and in plain transformers. What is
decoded is the folded text:

    given    Em 1899, o Dr. Bento leu 3 livros.
    encoded  em 0, o dr. bento leu 3 livros.

Both rules are those of a monograph on Brazilian Portuguese models (v1 to v4 of
github.com/cristovamperes/llm-ptbr-from-scratch-vs-qlora): letters in lower case, and ``\\d{2,}`` as ``0``.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

from afina.recipe import Scratch

NUMBER, MARK = "[0-9]{2,}", "0"
"""What is folded as a number, and to what. A single digit stays."""

FOLDS = {"case": "A", "numbers": "12", "accents": "á"}
"""What a tokenizer may fold -> a text of which then nothing is left."""


def normalizer_of(scratch: Scratch) -> Any | None:
    """The normalizer of the library ``tokenizers`` that a recipe asks for; None where everything is kept.

    >>> made = normalizer_of(Scratch(lowercase=True, normalize_numbers=True))
    >>> made.normalize_str("Em 1899, o Dr. Bento leu 3 livros.")
    'em 0, o dr. bento leu 3 livros.'
    >>> normalizer_of(Scratch())
    """
    from tokenizers import Regex, normalizers

    steps = [normalizers.Replace(Regex(NUMBER), MARK)] if scratch.normalize_numbers else []
    steps += [normalizers.Lowercase()] if scratch.lowercase else []
    return normalizers.Sequence(steps) if steps else None


def folded(texts: Iterable[str], normalizer: Any | None) -> Iterable[str]:
    """Texts as a tokenizer with this normalizer reads them."""
    return texts if normalizer is None else map(normalizer.normalize_str, texts)


def folds_of(tokenizer: Any) -> tuple[str, ...]:
    """Which of :data:`FOLDS` the normalizer of a tokenizer does, of transformers or of the library ``tokenizers``."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", tokenizer), "normalizer", None)
    normalize = getattr(normalizer, "normalize_str", None)  # a tokenizer in Python may call something else so
    return folds_by(normalize) if normalize else ()


def folds_by(normalize: Callable[[str], str]) -> tuple[str, ...]:
    """The same of what normalizes a text.

    >>> folds_by(str.lower), folds_by(str.strip)
    (('case',), ())
    """
    return tuple(name for name, text in FOLDS.items() if text not in unicodedata.normalize("NFC", normalize(text)))


def alike(text: str, folds: Collection[str]) -> str:
    """A text as far as a tokenizer that folds these can tell it from others, numbers apart.

    >>> alike("AÇÃO", ["case"]), alike("AÇÃO", ["case", "accents"])
    ('ação', 'acao')
    """
    if "case" in folds:
        text = "".join(letter.lower() for letter in text)  # each for itself, as the library does
    if "accents" in folds:
        text = "".join(each for each in unicodedata.normalize("NFD", text) if not unicodedata.combining(each))
    return text


def lost_characters(text: str, back: str) -> int:
    """Characters of a text that do not come back, wherever they stand; spaces, which many decoders move, do not count.

    >>> lost_characters("Olá\\n Zé!", "olá zé !"), lost_characters("Olá Zé!", "Olá Zé !")
    (3, 0)
    >>> lost_characters("Em 1899", "em 0")
    5
    """
    return (Counter(text.replace(" ", "")) - Counter(back)).total()
