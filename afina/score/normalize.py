"""How a text is made comparable before it is scored; the rules stand in every report (:func:`published`).

Two views of a text:

- :func:`squad_normal`, for exact match and token F1: the steps of the SQuAD script, for every alphabet and with the
  articles of the answer's own language.
- :func:`words_of`, for ROUGE: runs of letters, marks and digits of any alphabet. (`rouge_score` keeps a-z and 0-9
  only and cuts "coração" into "cora" and "o".)
"""

from __future__ import annotations

import re
import string
import unicodedata

from afina.errors import RecipeError

ARTICLES: dict[str, tuple[str, ...]] = {
    "en": ("a", "an", "the"),
    "pt": ("o", "a", "os", "as", "um", "uma", "uns", "umas"),
    "none": (),
}
"""Language -> the articles that exact match and token F1 leave out. Contractions ("da", "no") are kept."""
_ARTICLE = {
    language: re.compile(rf"\b(?:{'|'.join(words)})\b") if words else None for language, words in ARTICLES.items()
}


class _Characters(dict[int, int | str | None]):
    """A table for ``str.translate`` that decides a character when it is first met."""

    def __init__(self, instead: str | None, categories: str, more: str = "", *, keep: bool = False) -> None:
        self.instead, self.categories, self.more, self.keep = instead, categories, more, keep

    def __missing__(self, code: int) -> int | str | None:
        letter = chr(code)
        found = unicodedata.category(letter)[0] in self.categories or letter in self.more
        self[code] = code if found == self.keep else self.instead
        return self[code]


_WITHOUT_PUNCTUATION = _Characters(None, "P", string.punctuation)
_ONLY_WORDS = _Characters(" ", "LMN", keep=True)


def language_key(language: str) -> str:
    """The key of :data:`ARTICLES` for a language's code.

    >>> language_key("pt-BR"), language_key("en"), language_key("none")
    ('pt', 'en', 'none')

    Raises:
        RecipeError: a language whose articles are not known.
    """
    key = language.partition("-")[0].casefold()
    if key not in ARTICLES:
        raise RecipeError(
            f"the articles of {language!r} are not known",
            "choose " + ", ".join(ARTICLES) + " (none leaves every word in)",
            "language",
        )
    return key


def folded(text: str) -> str:
    """Composed (NFC) and without case, for every alphabet.

    >>> folded("CORAC\u0327A\u0303O")
    'coração'
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def squad_normal(text: str, language: str = "en") -> str:
    """Without case, punctuation, articles and superfluous white space, in the order of the SQuAD script.

    Punctuation is what Unicode calls so (categories P*) and ASCII's own signs. On ASCII texts the result in English
    is that of the official script.

    >>> squad_normal("The  Eiffel-Tower!"), squad_normal("“O Coração” — não é?", "pt")
    ('eiffeltower', 'coração não é')
    """
    plain = folded(text).translate(_WITHOUT_PUNCTUATION)
    article = _ARTICLE[language_key(language)]
    return " ".join((article.sub(" ", plain) if article else plain).split())


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, combining marks and digits, without case.

    >>> words_of("O coração, 2ª vez: d'água_fria")
    ['o', 'coração', '2ª', 'vez', 'd', 'água', 'fria']
    """
    return folded(text).translate(_ONLY_WORDS).split()


def published(language: str) -> dict[str, str]:
    """The rules in words, for the report."""
    articles = ARTICLES[language_key(language)]
    return {
        "exact_match, token F1": "Unicode NFC and casefold; punctuation (Unicode P*, ASCII signs) deleted; "
        + (f"articles deleted ({', '.join(articles)})" if articles else "no articles deleted")
        + "; runs of white space as one space",
        "ROUGE": "Unicode NFC and casefold; words are runs of letters, marks and digits; no stemming; F1",
    }
