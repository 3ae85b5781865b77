"""Is an answer of llama.cpp that is not the run's word for word another model's, or rounding?

llama.cpp is led along the run's answer. At each place where it would write another token, it says how much likelier it
holds that token than the one that the run wrote there: its margin, in nats. The same model in fewer bits
parts only where that is small; another adapter does not.

A run keeps the text of an answer and not its tokens; how it is followed says :mod:`afina.model.generate.led`.

How numbers are added up follows from how many answers are under way. One that came out otherwise among others may be
the run's to the letter when it is led alone: then it is led along what it wrote among them, and the margins there say
whether that was near.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from afina.llamacpp.completion import completion_body, logprobs_of
from afina.llamacpp.program import LlamaCppServer
from afina.model.generate.led import TOP, Led
from afina.model.generate.led import lead as follow
from afina.model.generate.request import Request, TokenLogprob
from afina.serve.identity import Explain, Parting, Stored
from afina.serve.opened import Served
from afina.text.document import Message


def explain_by_llama_cpp(
    server: LlamaCppServer,
    served: Mapping[str, Served],
    token_bytes: Callable[[int], bytes],
    stop_ids: Sequence[int],
    *,
    longest: int,
    limit: float,
) -> Explain:
    """
    Args:
        token_bytes: the bytes that a token stands for.
        longest: tokens of an answer, in the run.
        limit: largest margin that is rounding, in nats.
    """

    def explain(name: str, asked: Stored, right: str, given: str) -> Parting:
        texts, rounding = lead(name, asked, right)
        if texts or not rounding:
            return Parting(tuple(texts), rounding)
        texts, rounding = lead(name, asked, given)
        if not texts:
            # What it keeps of a prompt changes its sums too: it writes the one and the other, and both are its own.
            return Parting(("asked again it writes the run's answer, and this one too",), rounding)
        return Parting(("alone it answers as the run does", *texts), rounding)

    def lead(name: str, asked: Stored, answer: str) -> tuple[list[str], bool]:
        """Where it parts from an answer, and whether all of that is rounding."""
        messages: list[Message] = [dict(turn) for turn in asked.messages]  # type: ignore[misc]
        renderer = served[name].renderer
        prompt, own = renderer.prompt(messages), renderer.tokenizer(answer, add_special_tokens=False)["input_ids"]
        led = Led(answer, own, token_bytes, frozenset(stop_ids), limit)
        adapters = sum(each.inside is not None for each in served.values())

        def write(begun: list[int], most: int) -> Sequence[TokenLogprob]:
            request = Request(prompt=[*prompt, *begun], max_new_tokens=most, adapter=served[name].inside, logprobs=TOP)
            written = server.ask("/completion", completion_body(request, adapters, streamed=False))
            return logprobs_of(written["completion_probabilities"], TOP)

        return follow(led, write, longest)

    return explain
