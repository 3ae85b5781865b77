"""Which tokens end an answer, written where programs look for them. No torch.

vLLM and transformers' ``generate`` read ``generation_config.json``, mlx-lm and older programs ``config.json``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any


def set_stops(model: Any, stops: Sequence[int], tokenizer: Any) -> None:
    """Give a model that is about to be saved every token that ends an answer.

    The padding token goes into the generation config alone: in ``config.json`` it is also the row of the embedding
    that is never trained, and a tokenizer without one pads with the end token.

    Args:
        model: of transformers, or PEFT's around it.
        stops: from :meth:`afina.tokenizer.chat.Renderer.stop_ids`.
    """
    ends = list(stops) if len(stops) > 1 else stops[0]
    model.config.eos_token_id = ends
    generation = copy.deepcopy(model.generation_config)  # a base's own may be shared with others
    generation.eos_token_id, generation.bos_token_id = ends, tokenizer.bos_token_id
    generation.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
    # Many published ones ask for a temperature and not for sampling (Llama 2, Vicuna). transformers saves such a file
    # back while it is as it was read, and raises where anything in it was changed: hours of training later. What else
    # stands in it is its maker's, and vLLM samples by it.
    generation._original_object_hash = hash(generation)
    model.generation_config = generation
