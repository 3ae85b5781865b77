"""How the questions that are made without a model are asked.

The phrasings are plain tables, one per language: :mod:`afina.dataset.questions.phrasings_pt` and
:mod:`afina.dataset.questions.phrasings_en`. A new kind of fact is one entry of eight phrasings in each, and a line per
label in :mod:`afina.dataset.questions.labels`. The phrasings avoid articles and endings that would need the
gender of the subject, and a label that nobody knows is quoted, so that every question is
grammatical whatever stands in its places: ``{subject}``, ``{label}``.

The first phrasings are trained (`dataset.questions.phrasings` of them); those after them are held
out (`dataset.hold_out_phrasings`). So a phrasing held out is trained for no fact at all.
"""

from __future__ import annotations

import re

from afina.dataset.questions.phrasings_en import ENGLISH
from afina.dataset.questions.phrasings_pt import EUROPEAN, brazilian

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "pt-PT": EUROPEAN,
    "pt-BR": {kind: tuple(brazilian(phrasing) for phrasing in phrasings) for kind, phrasings in EUROPEAN.items()},
    "en": ENGLISH,
}
"""Language -> kind -> its phrasings."""

_ARTICLE = re.compile(r"\b(de|em|por|a) (O|A|Os|As) (?=\w)")
_JOINED = {"de": "d{}", "em": "n{}", "por": "pel{}"}


def phrase(language: str, kind: str, number: int, subject: str, label: str = "") -> str:
    """One question. In Portuguese a subject that begins with an article is contracted with the word before it.

    >>> phrase("pt-PT", "birth_date", 1, "Bento"), phrase("pt-PT", "other", 4, "Os Leões", "Sede")
    ('Qual é a data de nascimento de Bento?', 'Na ficha dos Leões, o que aparece em «Sede»?')
    """
    template = TEMPLATES[language][kind][number]
    if language.startswith("pt"):
        head, place, tail = template.partition("{subject}")
        joined = _ARTICLE.sub(_contract, head + subject) if place else head
        return (joined + tail.replace("{subject}", subject)).replace("{label}", label)
    return template.replace("{subject}", subject).replace("{label}", label)


def _contract(found: re.Match[str]) -> str:
    before, article = found[1], found[2].lower()
    if before == "a":
        return {"o": "ao ", "a": "à ", "os": "aos ", "as": "às "}[article]
    return _JOINED[before].format(article) + " "
