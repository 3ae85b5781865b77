"""Would an answer that was cut have ended? Asked once more with more room, as the evaluation did.

Whether an answer never stops is a guardrail, and of one that was cut no stored text tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from afina.evaluate.evaluate import reference_tokens
from afina.evaluate.room import ceiling_of, find_endless
from afina.evaluate.scores import RoomToEnd
from afina.model.generate.generate_torch import Answer, generate
from afina.recipe import Recipe
from afina.run import Progress
from afina.tokenizer.chat import Renderer
from afina.verify.asked_again import WHO, AskedAgain, AskedRow, Leader
from afina.verify.held_against import HeldAgainst

NEVER_STOPS = "never_stops"


def endings_again(
    model: Any,
    renderer: Renderer,
    rows: Sequence[AskedRow],
    name: str,
    told: RoomToEnd | None,
    recipe: Recipe,
    limit: float,
    found: HeldAgainst,
    progress: Progress,
) -> AskedAgain:
    """Ask one model for more of its answers that were cut, and hold what becomes of them against what is stored.

    Args:
        rows: those that were asked again; of them, those whose guardrails are counted.
        name: as rows call the model.
        told: what the scores say of all such rows; None where only some were drawn, or where they say nothing.
        limit: nats that are rounding.

    Returns:
        What rounding turned.
    """
    asked = [each for each in rows if f"{name}_flaws" in each.row]
    answers, room = [each.stored(name) for each in asked], recipe.evaluate.max_new_tokens
    if told is not None and told.ceiling != ceiling_of(room):
        said = f"{told.ceiling}, and this afina gives {ceiling_of(room)} tokens; another one's is verified by that one"
        found.wrong.append(f"scores.json: `guardrails.room.ceiling` is {said}")
        return AskedAgain()
    longer: dict[int, Answer] = {}

    def put(numbers: Iterable[int], ceiling: int) -> list[Answer]:
        these = list(numbers)
        prompts = [asked[number].prompt(renderer) for number in these]
        written = generate(model, renderer, prompts, max_new_tokens=ceiling, progress=progress)
        longer.update(zip(these, written, strict=True))
        return written

    if ceiling_of(room) == room:  # none is given more: how long it was cut is what counts, and no stored text tells it
        cut = [number for number, answer in enumerate(answers) if not answer.stopped]
        for number, written in zip(cut, put(cut, room), strict=True):
            answers[number] = replace(answers[number], tokens=written.tokens)
    references = [(each.question.reference, reference_tokens(each.question, renderer)) for each in asked]
    endless, mine = find_endless(answers, references, room, put)
    found.computed = True
    leader, again = Leader(model, renderer, limit), AskedAgain()
    for each, never_ends in zip(asked, endless, strict=True):
        stored = NEVER_STOPS in each.row.texts(f"{name}_flaws")
        if stored == never_ends:
            continue
        said = f"{WHO[name]}, asked {each.question.prompt!r:.80}: stored is that it {_ends(stored)}, here it "
        said += _ends(never_ends)
        if leader.may_part(each.prompt(renderer), mine.ceiling):
            again.rounded.append(said)
            again.turned[name, "whether they ever end", never_ends] += 1  # one that ends is the better one
        else:
            again.wrong.append(said)
    if told is not None and told.ended != mine.ended:
        may = sum(leader.may_part(asked[number].prompt(renderer), mine.ceiling) for number in longer)
        said = f"{WHO[name]}: {told.ended} of the answers that were cut ended with more room, here {mine.ended}"
        near = abs(told.ended - mine.ended) <= may
        (again.rounded if near else again.wrong).append(said)
    return again


def _ends(never: bool) -> str:
    return "never ends" if never else "ends"
