"""Whether rows that begin alike compute their beginning once: where it is exact, and said either way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from afina.model.anatomy_torch import CANNOT, anatomy_of, in_short
from afina.model.decoder_torch import text_config
from afina.model.lengths_torch import Lengths, keeps_only_keys, lengths_of
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
    """Whether micro-batches are to share what they begin with: allowed by what the model keeps of each position, and
    tried on the longest micro-batch of each kind of lengths, see :meth:`afina.model.lengths_torch.Lengths.kind`.

    Args:
        micro_batches: of one epoch, as row numbers.
    """
    if not settings.share_prefix:
        return False
    lengths = lengths_of(causal_lm(model))
    saved, longest = 0, dict[tuple[bool, ...], Batch]()
    for numbers in micro_batches:
        batched = [rows[number] for number in numbers]
        if prefix := prefix_of(batched, lengths):
            together = [len(row.ids) for row in side_by_side(batched)]
            saved += (len(together) - 1) * prefix
            kind, most = lengths.kind(prefix, min(together), max(together)), max(together)
            if kind not in longest or most > longest[kind].ids_BL.shape[1]:
                by_length = sorted(batched, key=lambda row: max(len(each.ids) for each in side_by_side([row])))
                few = [by_length[0], by_length[-1]] if len(batched) > 1 else batched
                longest[kind] = replace(make_batch(few, pad_id, device), prefix=prefix)
    if not saved:
        return False
    tokens = row_sizes(rows).tokens
    total = sum(tokens[number] for numbers in micro_batches for number in numbers)
    what = f"{saved:,} of the {total:,} tokens of an epoch repeat the beginning of a neighbouring row"
    reason = _not_built_for_it(model, next(iter(longest.values()))) or _random(model, settings)
    for batch in longest.values():
        reason = reason or _difference(model, batch)
    say(f"train: {what}, and are computed {f'for each row: {reason}' if reason else 'once'}")
    return not reason


def prefix_of(rows: Sequence[Row], lengths: Lengths) -> int:
    """How many first tokens a micro-batch computes once; 0 where that saves too little, or where the model's positions
    would turn otherwise than in whole rows."""
    together = side_by_side(rows)
    prefix = shared_prefix(together)
    return prefix if prefix and lengths.may_share(prefix, [len(row.ids) for row in together]) else 0


def _not_built_for_it(model: Any, batch: Batch) -> str | None:
    inner = causal_lm(model)
    anatomy = anatomy_of(inner, batch.ids_BL)
    if anatomy.slower or anatomy.alone:
        return anatomy.slower or "rows of different lengths do not share a forward"
    return keeps_only_keys(inner) or None


def _random(model: Any, settings: Train) -> str | None:
    """What would be drawn once for all rows instead of for each."""
    if settings.checkpoint_activations:
        return "train.checkpoint_activations keeps no keys and values"
    if settings.neftune_alpha:
        return "train.neftune_alpha draws noise for each row"
    dropout = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
    jitter = [value for name, value in vars(text_config(causal_lm(model))).items() if "jitter" in name and value]
    if jitter:
        return "the router draws noise for each row"
    of_attention = getattr(text_config(causal_lm(model)), "attention_dropout", 0.0)
    if dropout or of_attention:
        return "dropout draws for each row"
    return None


def _difference(model: Any, batch: Batch) -> str | None:
    """Compare loss and gradients of the embedded tokens with those of whole rows; None where they agree."""
    try:
        shared, once, rest = _with_gradients(model, batch)
    except torch.OutOfMemoryError:
        raise
    except CANNOT as error:
        return f"this architecture cannot ({in_short(error)})"
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
        if not torch.is_grad_enabled():  # something is only being tried
            return output
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
