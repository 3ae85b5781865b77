"""The weights of a GGUF as safetensors, through transformers' reader."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from safetensors.torch import save_file

from afina.errors import BaseError

_WHOLE = "get the file again, or name the safetensors model that it was made of"


def write_weights(file: Path, folder: Path, dtype: str) -> None:
    """Write ``model.safetensors``: the numbers that the file's bits stand for.

    Args:
        folder: holds the ``config.json``, by which the model is built.
        dtype: of the numbers, as torch names it.

    Raises:
        BaseError: transformers opens it otherwise than its header says.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    config = AutoConfig.from_pretrained(folder)
    logging.disable_progress_bar()
    arguments = {"gguf_file": str(file.resolve()), "config": config, "dtype": getattr(torch, dtype)}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **arguments)
    except Exception as error:  # the reader looks at no number before it computes with it
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BaseError(f"cannot be opened: {said}", _WHOLE, str(file)) from error
    tied = set(model._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    wrong = [*(set(info["missing_keys"]) - tied), *info["unexpected_keys"], *map(str, info["mismatched_keys"])]
    if wrong:
        named = ", ".join(sorted(wrong)[:3])
        raise BaseError(
            f"{len(wrong)} weights are missing or have no place in the model: {named}",
            _WHOLE,
            str(file),
        )
    # The model cannot save itself ("quantized with gguf and not serializable"), though it holds whole numbers.
    state = {name: weight.contiguous() for name, weight in model.state_dict().items() if name not in tied}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
