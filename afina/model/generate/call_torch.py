"""One forward of a model for rows that each want an adapter of their own, or none."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from afina.model.anatomy_torch import CANNOT, in_short
from afina.model.generate.request import BASE
from afina.model.lengths_torch import lengths_of
from afina.model.loss_torch import causal_lm
from afina.model.steps.few_rows_torch import forward_of, linears_of
from afina.model.steps.forward_torch import other_forwards
from afina.model.steps.lora_torch import answering_forward, plain_layers


class Caller:
    """Calls the model for rows with their adapters, and returns logits of the last position, n x V.

    The model's own state (which adapter is active) is `standing`: rows that want it need no word. Others go by
    PEFT's ``adapter_names``, row by row, where it can mix them, and by switching (and back) where it cannot.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.inner = model, causal_lm(model)
        self.config, self.lengths = self.inner.config, lengths_of(self.inner)
        taken = inspect.signature(self.inner.forward).parameters
        self.keeps_last, self.takes_positions = "logits_to_keep" in taken, "position_ids" in taken
        self._cache_name = "cache_params" if "cache_params" in taken else "past_key_values"  # the former: Mamba's
        weight = next(self.inner.parameters())
        self.device, self.dtype = weight.device, self.inner.dtype
        self.standing = _standing(model)
        self.linears = linears_of(model)
        self.adapted = plain_layers(model) if self.linears else []
        self._mixed: dict[str, tuple[Any, str]] = {}
        """Of each adapter its configuration when it was tried, and why its rows stay apart."""

    def __call__(self, adapters: Sequence[str], **inputs: Any) -> torch.Tensor:
        logits: torch.Tensor = self._output(adapters, inputs).logits
        return logits[:, -1]

    def one_token(self, adapters: Sequence[str], **inputs: Any) -> torch.Tensor:
        """The same for a token of each row, which on a CPU costs what reading the weights costs."""
        with other_forwards(self.linears, forward_of), other_forwards(self.adapted, answering_forward):
            return self(adapters, **inputs)

    def with_cache(self, adapters: Sequence[str], cache: Any, **inputs: Any) -> tuple[torch.Tensor, Any]:
        """The same, and what the model keeps for the next token; `cache` is what it gave before, None at first."""
        if cache is not None:
            inputs[self._cache_name] = cache
        output = self._output(adapters, inputs | {"use_cache": True})
        return output.logits[:, -1], getattr(output, self._cache_name)

    def _output(self, adapters: Sequence[str], inputs: dict[str, Any]) -> Any:
        if self.keeps_last:
            inputs["logits_to_keep"] = 1
        self.lengths.forget()  # or a longer row that was read before would turn this one's positions
        with self._adapters(adapters) as names:
            return self.model(**inputs, **names)

    def names(self) -> list[str]:
        """Adapters that a request may ask for, :data:`BASE` first."""
        return [BASE, *getattr(self.model, "peft_config", {})]

    def mixes(self, adapter: str) -> bool:
        """Whether rows of this adapter may share a forward with rows of others."""
        adapters = getattr(self.model, "peft_config", {})
        if self.standing == BASE or not all(map(_is_lora, adapters.values())):
            return False
        if adapter == BASE:
            return any(map(self.mixes, adapters))
        if adapter not in adapters or not _is_plain_lora(adapters[adapter]):
            return False
        tried, why = self._mixed.get(adapter, (None, ""))
        if tried is not adapters[adapter]:  # another one of that name, or the first
            why = self._why_apart(adapter)
            self._mixed[adapter] = adapters[adapter], why
        return not why

    def why_apart(self) -> str:
        """Why rows of an adapter do not share a forward with rows of others, in words; empty where they do."""
        return next((why for _, why in self._mixed.values() if why), "")

    @torch.no_grad()
    def _why_apart(self, adapter: str) -> str:
        """Ask the model: one row of the base and one of the adapter, and all that is adapted has to see both of them.

        A layer that gets tokens without their rows, as experts and much around them do, would give the one row's
        adapter to the tokens of the other. One that is not told at all, as in MPT, to which PEFT passes no names on,
        would give the adapter to both.
        """
        torn: list[str] = []

        def look(name: str) -> Any:
            def hook(_layer: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], _output: Any) -> None:
                if "adapter_names" not in named:
                    torn.append(f"{name} is not told which row wants which adapter")
                elif inputs and (inputs[0].dim() < 3 or inputs[0].shape[0] != 2):
                    torn.append(f"{name} gets tokens without their rows")

            return hook

        layers = [(name, part) for name, part in self.inner.named_modules() if adapter in getattr(part, "lora_A", ())]
        hooks = [part.register_forward_hook(look(name), with_kwargs=True) for name, part in layers]
        ids = torch.tensor([[1, 2, 3], [1, 2, 3]], device=self.device)
        try:
            with _peft_hooks_removed(self.model):
                self.model(input_ids=ids, use_cache=False, adapter_names=[BASE, adapter])
        except torch.OutOfMemoryError:
            raise
        except CANNOT as error:
            return f"the model does not take rows of several adapters ({in_short(error)})"
        finally:
            for each in hooks:
                each.remove()
        return torn[0] if torn else ""

    @contextlib.contextmanager
    def _adapters(self, adapters: Sequence[str]) -> Iterator[dict[str, Any]]:
        wanted = set(adapters)
        if wanted == {self.standing}:
            yield {}
        elif all(self.mixes(name) for name in wanted):
            with _peft_hooks_removed(self.model):
                yield {"adapter_names": list(adapters)}
        elif wanted == {BASE}:
            with self.model.disable_adapter():
                yield {}
        else:
            (name,) = wanted
            with _switched(self.model, name):
                yield {}


def _standing(model: Any) -> str:
    """The adapter that a plain forward uses now; several active ones are named together."""
    if not hasattr(model, "peft_config") or getattr(model, "_adapters_disabled", False):
        return BASE
    return "+".join(model.active_adapters)


def _is_lora(config: Any) -> bool:
    return str(getattr(config.peft_type, "value", config.peft_type)) == "LORA"


def _is_plain_lora(config: Any) -> bool:
    """PEFT refuses a mixed batch with DoRA, and the invocation tokens of aLoRA need the whole prompt."""
    return _is_lora(config) and not config.use_dora and not getattr(config, "alora_invocation_tokens", None)


@contextlib.contextmanager
def _peft_hooks_removed(model: Any) -> Iterator[None]:
    """PEFT hooks every adapted layer for a forward of several adapters, and leaves that there when the forward fails:
    all later ones would be of those adapters. Within, a failure takes it back."""
    try:
        yield
    except BaseException:
        for part in model.modules():
            for key, hook in list(part._forward_pre_hooks.items()):
                if "adapter_names" in getattr(hook, "keywords", {}):
                    del part._forward_pre_hooks[key]
                    part._forward_pre_hooks_with_kwargs.pop(key, None)
        raise


@contextlib.contextmanager
def _switched(model: Any, name: str) -> Iterator[None]:
    before, disabled = model.active_adapter, getattr(model, "_adapters_disabled", False)
    if disabled:
        model.base_model.enable_adapter_layers()
    model.set_adapter(name, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(before, inference_mode=True)
        if disabled:
            model.base_model.disable_adapter_layers()
