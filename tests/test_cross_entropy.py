"""The loss and its gradient in one go, beside torch's own of all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.model.steps.cross_entropy_torch import linear_cross_entropy


def head_of(hidden: int, vocabulary: int, *, bias: bool, trained: bool) -> torch.nn.Linear:
    return torch.nn.Linear(hidden, vocabulary, bias=bias).requires_grad_(trained)


def plain(head, hidden, targets, factor, cap):
    logits = head(hidden) * factor
    return F.cross_entropy(torch.tanh(logits / cap) * cap if cap else logits, targets, reduction="sum")


def test_two_targets_by_hand():
    """Logits 0 and ln 3: probabilities 1/4 and 3/4. The loss of the first is ln 4, its gradient 1/4 - 1 and 3/4."""
    head = head_of(1, 2, bias=False, trained=False)
    head.weight.data = torch.tensor([[0.0], [1.0]])
    hidden = torch.log(torch.tensor([[3.0], [3.0]])).requires_grad_()
    loss = linear_cross_entropy(head, hidden, torch.tensor([0, 1]), 1.0, None, 1)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(4 * 4 / 3)).item())
    loss.backward()
    torch.testing.assert_close(hidden.grad, torch.tensor([[0.75], [-0.25]]))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(2, 12),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.25, 4.0]),
    st.sampled_from([None, 2.0, 30.0]),
)
def test_it_is_torchs_own_whatever_the_chunk(targets, vocabulary, chunk, bias, trained, factor, cap):
    torch.manual_seed(targets * 100 + vocabulary)
    head = head_of(4, vocabulary, bias=bias, trained=trained)
    wanted = torch.randint(vocabulary, (targets,))
    results = []
    for way in (plain, lambda *inputs: linear_cross_entropy(*inputs, chunk)):
        hidden = torch.randn(targets, 4, generator=torch.Generator().manual_seed(1)).mul_(3).requires_grad_()
        head.zero_grad()
        loss = way(head, hidden, wanted, factor, cap)
        (loss / 7).backward()
        results.append([loss, hidden.grad, *(weight.grad for weight in head.parameters() if trained)])
    torch.testing.assert_close(results[0], results[1])


def test_far_logits_are_neither_lost_nor_infinite():
    """A target 2,000 nats below the best: its probability is 0 in 32 bits, its loss is 2,000."""
    head = head_of(1, 2, bias=False, trained=False)
    head.weight.data = torch.tensor([[-1000.0], [1000.0]])
    hidden = torch.ones(1, 1, requires_grad=True)
    loss = linear_cross_entropy(head, hidden, torch.tensor([0]), 1.0, None, 1)
    loss.backward()
    assert loss.item() == 2000 and hidden.grad.item() == 2000


def test_what_is_not_a_number_stays_visible():
    head = head_of(2, 3, bias=False, trained=False)
    hidden = torch.tensor([[1.0, float("nan")], [1.0, 2.0]], requires_grad=True)
    loss = linear_cross_entropy(head, hidden, torch.tensor([0, 1]), 1.0, None, 2)
    loss.backward()
    assert loss.isnan() and hidden.grad[0].isnan().all() and hidden.grad[1].isfinite().all()


def test_nothing_of_the_size_of_the_vocabulary_is_kept():
    head, kept = head_of(4, 5000, bias=False, trained=False), []
    hidden = torch.randn(50, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        linear_cross_entropy(head, hidden, torch.zeros(50, dtype=torch.long), 1.0, None, 10)
    assert max(kept) == 200


def test_in_sixteen_bits_the_softmax_is_in_thirty_two():
    head = head_of(64, 300, bias=False, trained=True).bfloat16()
    hidden = torch.randn(20, 64).bfloat16().requires_grad_()
    wanted = torch.randint(300, (20,))
    loss = linear_cross_entropy(head, hidden, wanted, 1.0, None, 7)
    exact = plain(head.float(), hidden.float(), wanted, 1.0, None)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=5e-3)
