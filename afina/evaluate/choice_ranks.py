"""Log-probabilities of the sentences of choices.

The eight sentences of a question share the prompt and their beginning, which are computed once; only what stands from
the first difference on is a target, so that logits are made for little more than the gap and what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from afina.evaluate.choice import Choice, Ranked
from afina.evaluate.loss import by_length
from afina.model.generate.stored_answers import KeptAnswers
from afina.model.reader import Reader
from afina.run import Progress, hash_value, no_progress
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.encode import Row

NEUTRAL = {"pt": ("Escreve um termo.", "O termo é {}."), "en": ("Write a term.", "The term is {}.")}
"""By language, a request that asks for nothing in particular, and an answer to it: what a term costs by itself."""
RANKINGS, RANKED = "rankings", {"log_probs": list, "costs": list}
"""The file beside the runs in which rankings are kept, and what one consists of."""
_NONE = Example()


def rank_choices(
    reader: Reader,
    renderer: Renderer,
    choices: Sequence[Choice],
    language: str,
    *,
    pad_id: int,
    batch_tokens: int,
    kept: KeptAnswers | None = None,
    progress: Progress = no_progress,
) -> list[Ranked]:
    """What the model makes of each choice, in their order.

    Args:
        language: of the neutral request, as ``dataset.language``.
        batch_tokens: padded tokens of a batch of terms; the sentences of one choice are always a batch.
        kept: answers of these weights from before; beside them lie rankings, and new ones are added.
    """
    request, answer = NEUTRAL.get(language[:2], NEUTRAL["en"])

    def alone(term: str) -> Row:
        said: Message = {"role": "assistant", "content": answer.format(term)}
        return _row(renderer, [{"role": "user", "content": request}, said])

    store = kept.beside(RANKINGS, RANKED) if kept else None
    sentences = [[_row(renderer, choice.conversation(each)) for each in choice.sentences] for choice in choices]
    neutral = {term: alone(term) for choice in choices for term in choice.terms}
    keys, found = [], dict[str, dict[str, Any]]()
    for choice, rows in zip(choices, sentences, strict=True):
        ids = {"sentences": [row.ids for row in rows], "terms": [neutral[term].ids for term in choice.terms]}
        keys.append(hash_value({"dtype": reader.dtype} | ids))
        if store and (from_before := store.get(keys[-1])) is not None:
            found[keys[-1]] = from_before
    new = [number for number, key in enumerate(keys) if key not in found]
    terms = list(dict.fromkeys(term for number in new for term in choices[number].terms))
    costs, apart = dict[str, float](), _apart([neutral[term] for term in terms])
    for numbers in by_length(apart, batch_tokens):
        values = _log_probs(reader, [apart[number] for number in numbers], pad_id)
        costs |= {terms[number]: value for number, value in zip(numbers, values, strict=True)}
    for done, number in enumerate(new, start=1):
        of_terms = [costs[term] for term in choices[number].terms]
        found[keys[number]] = {
            "log_probs": _log_probs(reader, _apart(sentences[number]), pad_id),
            # Less the true one's: what all terms of a call have in common is another number in another call.
            "costs": [cost - of_terms[0] for cost in of_terms],
        }
        if store:
            store.put(keys[number], found[keys[number]])
        progress(len(choices) - len(new) + done, len(choices), "choices")
    return [Ranked(tuple(found[key]["log_probs"]), tuple(found[key]["costs"])) for key in keys]


def longest_row(renderer: Renderer, choice: Choice) -> int:
    """Tokens of the longest of its sentences behind the prompt."""
    return max(len(_row(renderer, choice.conversation(each)).ids) for each in choice.sentences)


def _row(renderer: Renderer, turns: Sequence[Message]) -> Row:
    encoded = renderer.conversation(turns, last_only=True)
    return Row(encoded.ids, encoded.mask, _NONE)


def _apart(rows: Sequence[Row]) -> list[Row]:
    """The rows with targets from their first difference on only: what they have in common decides nothing. The end
    token stays a target, so that a sentence that another one goes on from is no likelier for being shorter."""
    if len(rows) < 2:
        return list(rows)
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    shortest = min(len(first), len(last))
    common = next((at for at in range(shortest) if first[at] != last[at]), shortest)
    return [replace(row, mask=[at >= common and flag for at, flag in enumerate(row.mask)]) for row in rows]


def _log_probs(reader: Reader, rows: Sequence[Row], pad_id: int) -> list[float]:
    """Summed log-probability of each row's targets, in nats."""
    return [each.nats for each in reader.log_probs(rows, pad_id, share=True)]
