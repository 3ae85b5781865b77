"""What a training step holds at a time, in numbers: the loop lives by them and the plan counts with them.

Every number stands here once and without torch. A test looks for a second copy.
"""

from __future__ import annotations

LOGIT_BYTES = 24 << 20
"""Logits held at a time: N x V x 4 bytes. Memory blocks of more than 32 MiB are fetched from the system each time anew
by glibc, which costs as much as the softmax."""
LEAST_TARGETS = {"cpu": 100, "cuda": 512, "mps": 512}
"""With fewer at a time, reading the head's weights takes longer than multiplying with them."""
READING_BYTES = 128 << 20
"""What a batch that is read without gradients may hold where the training's batches are smaller: a small model that is
trained by a few rows a step is still measured by many."""
GOOD_STEPS = 20
"""The state to go back to is noted at every step whose number divides by this."""
ORTHOGONAL_ITERATIONS = 5
"""Newton-Schulz iterations of each of Muon's steps."""
MEMORY_BYTES = 2 << 30
"""A state to go back to of up to this many bytes is kept in memory; a larger one is the newest checkpoint on disk."""


def chunk_targets(vocabulary: int, place: str) -> int:
    """Targets whose logits are made at a time.

    >>> chunk_targets(32_000, "cpu"), chunk_targets(256_000, "cpu")
    (196, 100)
    """
    return max(LEAST_TARGETS[place], LOGIT_BYTES // (4 * vocabulary))


def reading_tokens(outputs: int, number_bytes: int, least: int) -> int:
    """Padded tokens of a batch that is read without gradients.

    Args:
        outputs: numbers that the matrices of all layers give of one token: more than is held at a time.
        least: tokens of a batch of the training, which fits.

    >>> reading_tokens(4 * 512 * 2, 4, 1280), reading_tokens(32 * 40_000, 2, 4096)
    (8192, 4096)
    """
    return max(least, READING_BYTES // max(1, outputs * number_bytes))


def state_in_memory(trained_bytes: int) -> bool:
    """Whether the state to go back to stays in memory: the trained weights and AdamW's two moments, each as large.

    >>> state_in_memory(100 << 20), state_in_memory(1 << 30)
    (True, False)
    """
    return 3 * trained_bytes <= MEMORY_BYTES


def kept_states(trained_bytes: int, steps: int) -> float:
    """How many copies of trained weights and moments are in memory to go back to, where the loop takes so many steps.

    The weights alone before step :data:`GOOD_STEPS`, all of it from then on, and the old beside the new one while the
    third is made.

    >>> [round(kept_states(100 << 20, steps), 2) for steps in (20, 40, 41)], kept_states(1 << 30, 41)
    ([0.33, 1.0, 2.0], 0.0)
    """
    if not state_in_memory(trained_bytes):
        return 0.0
    return 1 / 3 if steps <= GOOD_STEPS else 1.0 if steps <= 2 * GOOD_STEPS else 2.0
