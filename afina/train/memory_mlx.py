"""What MLX holds on an Apple chip, and how it says that memory ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import mlx.core as mx

from afina.train.flops_torch import process_peak_bytes
from afina.train.memory import shortage_noted

CACHE_BYTES = 1 << 30
"""Memory that MLX keeps for later instead of giving it back, at most. Micro-batches come in many lengths, and buffers
of one length do not serve another's."""


def memory_errors() -> AbstractContextManager[list[str]]:
    """An out-of-memory error of the block is noted instead of raised."""
    return shortage_noted(is_out_of_memory, mx.clear_cache)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: MLX has several ways to say it, none of them a class of its own.

    >>> is_out_of_memory(RuntimeError("[malloc] Unable to allocate 4294967296 bytes."))
    True
    >>> is_out_of_memory(RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than the ..."))
    True
    >>> is_out_of_memory(RuntimeError("Command buffer execution failed: Insufficient Memory (00000008)"))
    True
    >>> is_out_of_memory(ValueError("[matmul] Last dimension of first input with shape (2,3) must match"))
    False
    """
    text = str(error).lower()
    said = "malloc" in text or "unable to allocate" in text or "insufficient memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


@contextmanager
def metal_limits() -> Iterator[None]:
    """On an Apple chip: what is held stays wired in memory, and the cache is bounded; as before afterwards. Elsewhere
    nothing."""
    if not mx.metal.is_available():
        yield
        return
    wired = mx.set_wired_limit(mx.device_info()["max_recommended_working_set_size"])
    cached = mx.set_cache_limit(CACHE_BYTES)
    try:
        yield
    finally:
        mx.set_wired_limit(wired)
        mx.set_cache_limit(cached)
        mx.clear_cache()


def memory_bytes() -> int:
    """The most memory that MLX has held so far; on a CPU the most of the whole process, as with torch."""
    return int(mx.get_peak_memory()) if mx.metal.is_available() else process_peak_bytes()
