"""What stands between a model's ids and its loss: found by running the model on a few tokens, never by its name.

A loss is computed in parts here: the body gives hidden states, the head makes logits of those that are looked at, and
what the model does to its logits (a factor, a soft bound) is done to them. All three are read off the model's own
forward: what goes into its head, and what it makes of logits that are put in the head's place. Where the parts do not
give the model's own logits its whole forward is used instead, and :attr:`Anatomy.slower` says why.

Shapes: L positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from afina.model.decoder_torch import text_decoder
from afina.model.lengths_torch import Lengths, lengths_of
from afina.model.steps.last_layer_torch import last_layer_at

PROBE_TOKENS = 16
CANNOT = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    NotImplementedError,
    IndexError,
    KeyError,
    AssertionError,
)
"""What a model raises that does not take what it is given; the plain way is right for it, and said."""


@dataclass(slots=True)
class Anatomy:
    """Of one model."""

    lengths: Lengths
    body: Any = None
    """Gives the hidden states that go into the head."""
    factor: float = 1.0
    """What logits are multiplied by, and what hidden states are before the head."""
    cap: float | None = None
    """c of c * tanh(logit / c), afterwards."""
    slower: str = ""
    """Why logits come from the model's whole forward; then the fields above mean nothing."""
    last_layer: bool = False
    """Whether the last layer may be computed only where it is looked at."""
    alone: str = ""
    """Why rows of different lengths do not share a forward."""
    padding_tried: set[Any] = field(default_factory=set)
    """The kinds of lengths (:meth:`~afina.model.lengths_torch.Lengths.kind`) at which padding was tried."""

    balance: str = ""
    """What the model adds to its own loss for its router, which is not trained here."""

    @property
    def remarks(self) -> list[str]:
        """What of all this costs time or is left out, in words."""
        whole = f"slower because the loss needs the whole forward and all logits: {self.slower}"
        alone = f"slower because {self.alone}"
        return [
            text for text, said in ((whole, self.slower), (alone, self.alone), (self.balance, self.balance)) if said
        ]


_KNOWN: WeakKeyDictionary[Any, Anatomy] = WeakKeyDictionary()


def anatomy_of(inner: Any, ids_BL: torch.Tensor) -> Anatomy:
    """What is known of a transformers model; found out the first time, in four small forwards of its first tokens."""
    if inner not in _KNOWN:
        with plainly(inner):
            _KNOWN[inner] = _find(inner, ids_BL[:1, :PROBE_TOKENS])
    return _KNOWN[inner]


@contextmanager
def plainly(inner: Any) -> Iterator[None]:
    """Within, nothing is learned and nothing drawn; afterwards the model trains on if it did."""
    was_training = inner.training
    inner.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        inner.train(was_training)


def in_short(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def own_logits(inner: Any, ids_BL: torch.Tensor) -> torch.Tensor:
    """Logits of all positions, B x L x V, by the model's whole forward."""
    logits: torch.Tensor = inner(input_ids=ids_BL, use_cache=False).logits
    return logits


def _find(inner: Any, ids_1L: torch.Tensor) -> Anatomy:
    found = Anatomy(lengths_of(inner))
    try:
        _find_parts(inner, ids_1L, found)
    except torch.OutOfMemoryError:
        raise
    except CANNOT as error:
        found.slower = f"its parts do not run by themselves ({in_short(error)})"
    found.last_layer = not found.slower and _last_layer_is_exact(inner, ids_1L)
    return found


def _find_parts(inner: Any, ids_1L: torch.Tensor, found: Anatomy) -> None:
    """Fill in body, factor and bound, or why there are none."""
    head = inner.get_output_embeddings()
    if head is None:
        found.slower = "it names no output layer"
        return
    bodies = _bodies(inner)
    seen, states, own = _watched(inner, head, bodies, ids_1L)
    if len(seen) != 1 or seen[0].shape[:-1] != own.shape[:-1]:
        found.slower = "its logits are not one product of its output layer"
        return
    scales = [_scale(each, seen[0]) for each in states]
    number = next((number for number, scale in enumerate(scales) if scale is not None), None)
    if number is None:
        found.slower = "what goes into its output layer is not what its layers give"
        return
    body, scale = bodies[number], scales[number] or 1.0
    after = _after_head(inner, head, ids_1L)
    if after is None:
        found.slower = "it does more to its logits than to scale and to bound them"
        return
    if scale != 1.0 and getattr(head, "bias", None) is not None:
        found.slower = "its output layer adds a bias to scaled states"
        return
    found.body, found.factor, found.cap = body, scale * after[0], after[1]


def _bodies(inner: Any) -> list[Any]:
    """Modules that may give the hidden states; of a model that reads images its text half, then all of it."""
    bodies: list[Any] = []
    for body in (text_decoder(inner), inner.base_model):
        if body is not inner and not any(body is other for other in bodies):
            bodies.append(body)
    return bodies


def _watched(
    inner: Any, head: Any, bodies: list[Any], ids_1L: torch.Tensor
) -> tuple[list[torch.Tensor], list[Any], torch.Tensor]:
    """Of one forward: what goes into the head, the last hidden states of each body, the logits.

    Hooks see it, since sharded weights are there only within the model's own forward.
    """
    seen: list[torch.Tensor] = []
    states: list[Any] = [None] * len(bodies)

    def note(number: int) -> Any:
        return lambda _, __, output: states.__setitem__(number, getattr(output, "last_hidden_state", None))

    hooks = [body.register_forward_hook(note(number)) for number, body in enumerate(bodies)]
    hooks.append(head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])))
    try:
        return seen, states, own_logits(inner, ids_1L)
    finally:
        for hook in hooks:
            hook.remove()


def _scale(states_1LD: Any, seen_1LD: torch.Tensor) -> float | None:
    """c where what goes into the head is c times the states; None where it is not."""
    if not isinstance(states_1LD, torch.Tensor) or states_1LD.shape != seen_1LD.shape:
        return None
    low = seen_1LD.dtype in (torch.bfloat16, torch.float16)
    states, seen = states_1LD.double(), seen_1LD.double()
    scale = float((states * seen).sum() / states.square().sum().clamp(min=1e-300))
    if not float((seen - scale * states).norm()) <= (1e-2 if low else 1e-5) * float(seen.norm()):
        return None
    return 1.0 if abs(scale - 1.0) < (1e-3 if low else 1e-6) else scale


def _after_head(inner: Any, head: Any, ids_1L: torch.Tensor) -> tuple[float, float | None] | None:
    """Factor and bound that turn the head's results into logits, read off what becomes of numbers from 2^-10 to 2^20;
    None where no factor and bound do."""
    put: list[torch.Tensor] = []

    def ramp(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        signed = torch.linspace(-10, 20, output.numel(), device=output.device).exp2()
        signed[1::2] *= -1
        signed[0] = 2.0**-10
        signed[-1] = 2.0**20
        put.append(signed.view(output.shape))
        return put[0]

    hook = head.register_forward_hook(ramp)
    try:
        became = own_logits(inner, ids_1L).float()
    finally:
        hook.remove()
    if became.shape != put[0].shape or not torch.isfinite(became).all():
        return None
    given, became = put[0].double().flatten(), became.double().flatten()
    factor, highest = float(became[0] / given[0]), float(became[-1])
    cap = None if abs(highest) > 0.5 * abs(factor) * 2.0**20 else highest
    expected = given * factor if cap is None else cap * torch.tanh(given * factor / cap)
    return (factor, cap) if torch.allclose(became, expected, rtol=1e-5, atol=1e-9) else None


def _last_layer_is_exact(inner: Any, ids_1L: torch.Tensor) -> bool:
    """Whether logits stay what they are where the last layer is computed only before every third of them."""
    length = ids_1L.shape[1]
    looked_at = torch.arange(0, max(1, length - 1), 3, device=ids_1L.device)
    try:
        whole = own_logits(inner, ids_1L)[0, looked_at].float()
        with last_layer_at(inner, looked_at, length) as parts:
            some = own_logits(inner, ids_1L)[0, looked_at].float() if parts else None
    except torch.OutOfMemoryError:
        raise
    except CANNOT:
        return False
    tolerance = 2e-2 if inner.dtype in (torch.bfloat16, torch.float16) else 1e-4
    return some is not None and bool((some - whole).abs().max() <= tolerance * whole.abs().max())
