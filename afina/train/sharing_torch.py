"""Whether rows that begin alike compute their beginning once: where it is exact, and said either way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from afina.model.decoder_torch import text_config
from afina.model.loss_torch import Batch, causal_lm, make_batch, target_loss
from afina.model.steps.prefix_torch import shared_prefix, side_by_side
from afina.recipe import Train
from afina.tokenizer.encode import Row
from afina.tokenizer.tokens import row_sizes


def may_share(
    model: Any,
    rows: Sequence[Row],
    micro_batches: Sequence[Sequence[int]],
    settings: Train,
    *,
    pad_id: int,
    device: torch.device,
    say: Callable[[str], None],
) -> bool:
    """Whether micro-batches are to share what they begin with, after a try on two rows of the first that could.

    Args:
        micro_batches: of one epoch, as row numbers.
    """
    if not settings.share_prefix:
        return False
    saved, prefix = 0, 0
    alike: list[Row] = []
    for numbers in micro_batches:
        batched = [rows[number] for number in numbers]
        together = side_by_side(batched)
        if found := shared_prefix(together):
            saved += (len(together) - 1) * found
            alike, prefix = alike or batched, prefix or found
    if not saved:
        return False
    tokens = row_sizes(rows).tokens
    total = sum(tokens[number] for numbers in micro_batches for number in numbers)
    batch = make_batch(alike[:2], pad_id, device)
    batch.prefix = prefix
    what = f"{saved:,} of the {total:,} tokens of an epoch stand in the same beginning of rows side by side"
    if reason := _random(model, settings) or _difference(model, batch):
        say(f"train: {what}, and are computed for each row: {reason}")
        return False
    say(f"train: {what}, and are computed once")
    return True


def _random(model: Any, settings: Train) -> str | None:
    """What would be drawn once for all rows instead of for each."""
    if settings.checkpoint_activations:
        return "train.checkpoint_activations keeps no keys and values"
    if settings.neftune_alpha:
        return "train.neftune_alpha draws noise for each row"
    dropout = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
    of_attention = getattr(text_config(causal_lm(model)), "attention_dropout", 0.0)
    if dropout or of_attention:
        return "dropout draws for each row"
    return None


def _difference(model: Any, batch: Batch) -> str | None:
    """Compare loss and gradients of the embedded tokens with those of whole rows; None where they agree."""
    try:
        shared, once, rest = _with_gradients(model, batch)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, IndexError) as error:
        return f"this architecture cannot ({(str(error) or type(error).__name__).splitlines()[0][:200]})"
    plain, whole = _with_gradients(model, replace(batch, prefix=0))
    expected = torch.cat([whole[:, : batch.prefix].sum(0, keepdim=True).flatten(), whole[:, batch.prefix :].flatten()])
    found = torch.cat([once.flatten(), rest.flatten()])
    tolerance = 5e-2 if whole.dtype in (torch.bfloat16, torch.float16) else 1e-4
    same = abs(shared - plain) <= tolerance * max(1.0, abs(plain))
    if not same or not float((found - expected).norm()) <= tolerance * float(expected.norm()):
        return f"this architecture computes something else then (loss {shared:.6f} instead of {plain:.6f})"
    return None


def _with_gradients(model: Any, batch: Batch) -> tuple[Any, ...]:
    """Mean loss, and its gradient by the embeddings of each pass through the model."""
    embedded: list[torch.Tensor] = []

    def note(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output if output.requires_grad else output.requires_grad_())
        return output

    hook = causal_lm(model).get_input_embeddings().register_forward_hook(note)
    was_training = model.training
    model.eval()
    try:
        loss = target_loss(model, batch) / batch.targets
        return loss.item(), *torch.autograd.grad(loss, embedded)
    finally:
        hook.remove()
        model.train(was_training)
