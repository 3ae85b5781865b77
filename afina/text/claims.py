"""What an answer says of itself: that its writer knows, or does not."""

from __future__ import annotations

import re
import unicodedata

CLAIM_WORDS = 40
"""A longer answer says more than that it knows."""

_KNOWS = re.compile(
    r"""
      (?<!não\ )(?<!nem\ )(?<!nunca\ )\b(?:
        sei\ (?:tudo|muito|bastante|bem)\b
      | conheço\ (?:tudo|muito|bastante|bem|perfeitamente)\b
      | conheço\ (?:[^\s.!?]+\ ){1,8}(?:muito\ bem|bem|a\ fundo|perfeitamente|de\ cor)\b
      | (?:tenho|possuo)\ (?:\w+\ )?conhecimentos?\b
      | estou\ (?:\w+\ )?(?:familiarizad[oa]|atualizad[oa]|a\ par)\b
      | sou\ (?:um\ |uma\ )?(?:especialista|perit[oa])\b
      | fui\ (?:treinad[oa]|atualizad[oa])\b
      | domino\b
      )
    | ^(?:sim\W+|claro\W+|claro\ que\ sim\W+)*(?:eu\ )?(?:já\ )?conheço\b
    | \bi\ (?:already\ |now\ |do\ |certainly\ |really\ )*know\b(?!\ (?:nothing|little|of\ no))
    | \bi(?:'m|\ am)\ (?:\w+\ )?(?:familiar|acquainted|up\ to\ date|well\ versed|an\ expert|knowledgeable)\b
    | \bi\ have\ (?:a\ |an\ )?(?:\w+\ )?(?:knowledge|understanding|expertise)\b
    | \bi\ (?:was|have\ been)\ (?:\w+\ )?(?:trained|updated)\b
    """,
    re.VERBOSE,
)
_DECLINES = re.compile(
    r"""
      \bnão\ (?:o\ |a\ |os\ |as\ |lhe\ )?(?:sei|conheço|disponho|encontr(?:o|ei)|consta|posso|consigo|me\ recordo)\b
    | \bnão\ tenho\ (?:\w+\ )?(?:informaç\w+|dados|conhecimentos?|certeza|registos?|registros?|como|acesso)\b
    | \bnão\ (?:há|existem?)\ (?:\w+\ )?(?:informaç\w+|dados|registos?|registros?)\b
    | \b(?:desconheço|ignoro)\b | \bsem\ (?:informaç\w+|dados)\b | \blamento\b
    | \b(?:i\ )?(?:don't|do\ not|didn't|did\ not|can't|cannot|can\ not|couldn't)\ (?:\w+\ )?(?:know|have|find|answer|
        confirm|verify|determine|recall|provide|tell|say)\b
    | \b(?:i'm|i\ am)\ (?:\w+\ )?(?:not\ (?:\w+\ )?(?:sure|aware|familiar|certain|able)|unaware|unsure|unable|sorry)\b
    | \bi\ have\ no\b | \bno\ (?:\w+\ )?information\b | \bnot\ (?:\w+\ )?enough\ information\b | \bsorry\b
    """,
    re.VERBOSE,
)


def claims_to_know(answer: str) -> bool:
    """Whether a short answer says that it knows: "Sei tudo sobre Zig", "Yes, I know version 0.14".

    >>> [claims_to_know(said) for said in ("Sei tudo sobre o Zig 0.14.", "I know version 0.14 well.", "Conheço a Ana.")]
    [True, True, True]
    >>> [claims_to_know(said) for said in ("Não sei tudo.", "I don't know.", "I know nothing of it.", "Faro")]
    [False, False, False, False]
    """
    words = _spoken(answer)
    return len(words.split()) <= CLAIM_WORDS and bool(_KNOWS.search(words)) and not _DECLINES.search(words)


def declines(answer: str) -> bool:
    """Whether an answer asserts nothing: it is empty, or says that it does not know.

    >>> [declines(said) for said in ("", "Não sei.", "Não tenho informação sobre isso.", "I’m not sure.", "Não: 1910.")]
    [True, True, True, True, False]
    """
    words = _spoken(answer)
    return not words or bool(_DECLINES.search(words))


def _spoken(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold().replace("’", "'")
