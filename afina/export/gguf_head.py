"""The output matrix of a GGUF file: logits of the last layer's states, as llama.cpp makes them.

Shapes: T places, H hidden, V vocabulary, r rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np


class OutputHead:
    """Reads the matrix once.

    Args:
        file: the model's.
        lora: an adapter's, which may change the output matrix.

    Raises:
        RecipeError: the model does more to its logits than a matrix, a bias and a soft cap.
    """

    def __init__(self, file: Path, lora: Path | None = None) -> None:
        import gguf

        reader = gguf.GGUFReader(file)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        found = tensors.get("output.weight") or tensors["token_embd.weight"]
        self._weight_VH = _values(found)
        self._bias_V = _values(tensors["output.bias"]) if "output.bias" in tensors else None
        architecture = _said(reader, "general.architecture")
        if _said(reader, f"{architecture}.logit_scale") is not None:
            raise RecipeError(
                f"a GGUF of {architecture} scales its logits, which is not compared here",
                "--no-check, which proves nothing",
                "--to gguf",
            )
        self._cap = _said(reader, f"{architecture}.final_logit_softcapping")
        if lora is not None:
            changed = gguf.GGUFReader(lora)
            sides = {tensor.name: tensor for tensor in changed.tensors if tensor.name.startswith("output.weight")}
            if sides:
                a_rH, b_Vr = (_values(sides[f"output.weight.lora_{side}"]) for side in "ab")
                scale = _said(changed, gguf.Keys.Adapter.LORA_ALPHA) / len(a_rH)
                self._weight_VH = self._weight_VH + scale * (b_Vr @ a_rH)

    def logits(self, states_TH: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """T x V, float32."""
        import numpy as np

        logits_TV = states_TH @ self._weight_VH.T
        if self._bias_V is not None:
            logits_TV = logits_TV + self._bias_V
        return self._cap * np.tanh(logits_TV / self._cap) if self._cap else logits_TV


def _values(tensor: Any) -> np.ndarray[Any, Any]:
    import gguf

    values: np.ndarray[Any, Any] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return values.astype("float32")


def _said(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
