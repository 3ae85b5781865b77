"""Before the first round trains: whether there is anything to steer by, and whether the base can write the answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from afina.evaluate.derive import derive_probes
from afina.evaluate.halves import split_probes
from afina.evaluate.probes import ProbeSet, read_probes
from afina.improve.facts import TELLING
from afina.improve.rounds import Stop
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of
from afina.units import show_share
from afina.walk.base import renderer
from afina.walk.context import Context

SHOWN = 3


def why_not(context: Context) -> Stop | None:
    """Why no round would help; None where some may. The dataset is built, and nothing is trained."""
    recipe = context.recipe
    chat = renderer(context)
    probes = [*read_probes(recipe), *derive_probes(recipe, context.folder / "dataset", chat).probes]
    halves = split_probes(probes)
    steering = [probe for probe in halves.steer if probe.role in TELLING]
    if not steering:
        why = "; ".join(halves.notes) or "no probe of the recipe tells whether something was learned"
        return Stop("cannot steer", f"there is nothing to steer by: {why}")
    references, least = list(dict.fromkeys(_references(steering))), recipe.evaluate.limits.learned_min or 0.0
    # A share that is asked for counts answers word for word; a gain without one counts them in any case, and so does
    # all where the tokenizer has no capitals.
    cased = least > 0 and "case" not in folds_of(chat.tokenizer)
    lost = [text for text in references if not can_write(chat, text, cased=cased)]
    if lost and (len(lost) == len(references) or 1 - len(lost) / len(references) < least):
        some = ", ".join(repr(text) for text in lost[:SHOWN])
        return Stop(
            "cannot write",
            f"the base's tokenizer cannot write {len(lost)} of the {len(references)} answers that steer "
            f"({show_share(len(lost) / len(references))}: {some}): no training can mend that, another base can",
        )
    return None


def _references(probes: Iterable[ProbeSet]) -> Iterator[str]:
    for probe in probes:
        for question in probe.questions:
            yield from question.terms or (question.reference,)


def can_write(chat: Renderer, text: str, *, cased: bool = True) -> bool:
    """Whether the tokenizer gives a text back, white space and the form of accents aside; a mark in it is text, too.

    Args:
        cased: whether capitals matter.
    """
    ids = chat.completion_prompt(text)
    back, wanted = _letters(str(chat.tokenizer.decode(ids, skip_special_tokens=True))), _letters(text)
    return back == wanted or (not cased and back.casefold() == wanted.casefold())


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())
