"""How torch says that memory ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from afina.errors import OutOfMemory
from afina.train.memory import shortage_noted


@contextmanager
def memory_errors(*, final: bool = False) -> Iterator[list[str]]:
    """An out-of-memory error of the block is noted instead of raised.

    Args:
        final: raise it after all. With sharded weights the other ranks wait in the middle of the block.

    Raises:
        OutOfMemory: where it is final.
    """
    with shortage_noted(is_out_of_memory, _empty_cache) as short:
        yield short
    if short and final:
        raise OutOfMemory(
            f"a rank with a part of every weight is out of memory ({short[0]})",
            "or a smaller train.batch_tokens with as much more train.accumulate, or more ranks; the same command "
            "goes on from the newest checkpoint",
        )


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has several ways to say it.

    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    text = str(error).lower()
    said = "out of memory" in text or "defaultcpuallocator" in text or "can't allocate memory" in text
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or said
