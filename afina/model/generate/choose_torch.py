"""From logits to tokens.

Shapes: n rows, V vocabulary.
"""

from __future__ import annotations

import torch

from afina.model.generate.request import TokenLogprob


def greedy(logits: torch.Tensor) -> tuple[list[int], list[float], list[float]]:
    """The likeliest token of each row (logits n x V), its logit, and its lead over the second.

    >>> greedy(torch.tensor([[0.0, 3.0, 2.5]]))
    ([1], [3.0], [0.5])
    """
    top = logits.max(-1)
    second_n = logits.scatter(-1, top.indices[:, None], -torch.inf).amax(-1)
    return top.indices.tolist(), top.values.tolist(), (top.values - second_n).tolist()


def allow_only(logits: torch.Tensor, allowed: bytes) -> torch.Tensor:
    """Logits V with minus infinity for every token whose bit in `allowed` (the lowest bit first) is 0.

    >>> allow_only(torch.tensor([1.0, 2.0, 3.0]), bytes([0b011]))
    tensor([1., 2., -inf])
    """
    bytes_B = torch.frombuffer(bytearray(allowed), dtype=torch.uint8)
    bits = (bytes_B[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return logits.masked_fill(bits.flatten()[: len(logits)].to(logits.device) == 0, -torch.inf)


def sample(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token from logits V: the cumulative distribution inverted at one number of the request's own generator.

    So that the draw depends on the request's seed and the row's logits only. With `top_p` below 1, the smallest set
    of likeliest tokens whose probabilities come to `top_p` is kept (Holtzman 2020, arXiv 1904.09751).
    """
    scores = logits.cpu().double()
    # The likeliest first becomes 0: divided by the smallest temperatures there are, anything else would be infinite.
    probabilities = torch.softmax((scores - scores.max()) / temperature, -1)
    draw = torch.rand((), generator=generator, dtype=torch.float64).item()
    if top_p >= 1:
        cumulative = probabilities.cumsum(-1)
        return min(int(torch.searchsorted(cumulative, draw * cumulative[-1], right=True)), len(cumulative) - 1)
    # Those below (1 - top_p) / V come to less than 1 - top_p all together: none of them is in the set.
    candidates = (probabilities >= (1 - top_p) / len(probabilities)).nonzero()[:, 0]
    ordered = probabilities[candidates].sort(descending=True, stable=True)
    cumulative = ordered.values.cumsum(-1)
    kept = min(int(torch.searchsorted(cumulative, top_p)) + 1, len(candidates))
    place = int(torch.searchsorted(cumulative[:kept], draw * cumulative[kept - 1], right=True))
    return int(candidates[ordered.indices[min(place, kept - 1)]])


def logprobs(logits: torch.Tensor, token: int, top: int) -> TokenLogprob:
    """The log probability of a token, and of the `top` likeliest, from logits V."""
    log_V = torch.log_softmax(logits, -1)
    best = log_V.topk(min(top, len(log_V))) if top else None
    pairs = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else ()
    return TokenLogprob(token, log_V[token].item(), pairs)
