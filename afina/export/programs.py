"""The programs that open an export: each gives prompts, logits and the tokens after which it stops, by its own means.

Nothing of afina enters but the greedy loop: template, tokenizer, weights and stop tokens are what the other program
found in the export.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from afina.errors import RecipeError
from afina.export.gguf_head import OutputHead
from afina.llamacpp.completion import completion_body
from afina.llamacpp.program import INSTALL, LlamaCppOptions, find_llama_cpp, name_of_llama_cpp, running_llama_cpp
from afina.model.base_kind import kind_of
from afina.model.generate.request import Request
from afina.text.document import Message
from afina.tokenizer.day import on_one_day
from afina.tokenizer.load import open_tokenizer

if TYPE_CHECKING:
    import numpy as np


READ_BY_TRANSFORMERS = ("llama", "mistral", "qwen2", "qwen3")
"""Values of ``model_type`` whose GGUF files transformers opens as what they are: ``tests/test_export_gguf.py``."""


class OpenedExport(Protocol):
    """An export, opened."""

    name: str
    """With its version."""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, by the template and tokenizer of the export."""

    def stops(self) -> set[int]:
        """Tokens after which it ends an answer."""

    def logits(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        """float32, one row a place."""

    def greedy(self, ids: Sequence[int], limit: int) -> Iterator[int]:
        """The likeliest next token, again and again, `limit` times unless a stop token ends it before."""

    def close(self) -> None:
        """End what was started for it."""


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of an answer as evaluation stores it: marks that the model wrote stand in it."""
    return str(tokenizer.decode(list(tokens))).strip()


def answer(program: OpenedExport, prompt: Sequence[int], limit: int) -> tuple[list[int], bool]:
    """Greedy tokens up to a stop token of the program's own, and whether one came."""
    tokens: list[int] = []
    stops = program.stops()
    for token in program.greedy(prompt, limit):
        if token in stops:
            return tokens, True
        tokens.append(token)
    return tokens, False


class Transformers:
    """A folder, or a GGUF file in it, as plain transformers opens it; with an adapter through PEFT.

    Args:
        gguf_file: its name in the folder.
        base: folder whose ``config.json`` says the shape of a GGUF's model: transformers takes a few values of it
            (size of a head, biases, scaled positions) for given instead of reading them from the file.
    """

    def __init__(
        self, folder: Path, *, gguf_file: str | None = None, adapter: Path | None = None, base: Path | None = None
    ) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        from transformers.utils import logging

        from afina.model.load_torch import open_adapter, open_by, opening_class, undone

        logging.disable_progress_bar()
        more: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
        with _quiet():
            if gguf_file:
                self.tokenizer = open_tokenizer(folder, gguf_file=gguf_file)
            else:  # not by what its own file says: some kinds of models get their tokenizer's rules whatever it says
                self.tokenizer = open_by(AutoTokenizer, adapter or folder)
            if gguf_file and base:
                said = open_by(AutoConfig, base).to_dict()
                said["tie_word_embeddings"] = not _holds_output(folder / gguf_file)
                kind = said.pop("model_type")  # to GGUF, Mistral is a Llama
                more["config"] = AutoConfig.for_model("llama" if kind == "mistral" else kind, **said)
            opened_by = AutoModelForCausalLM if gguf_file else opening_class(folder)
            if not gguf_file and kind_of(folder).name == "rounded":
                more |= undone(folder)
            self.model = open_by(opened_by, folder, **({"dtype": torch.float32} | more)).eval()
            if "quantization_config" in more:
                self.model = self.model.float()
        self.name = f"transformers {version('transformers')}"
        self._template: str | None = None
        if adapter is not None:
            self.model = open_adapter(self.model, adapter)
            self.name = f"peft {version('peft')}"
            if isinstance(self.tokenizer.chat_template, str):  # as published: a note says which day it was trained with
                self._template = on_one_day(self.tokenizer.chat_template)
        self._stops = {each for each in (self.tokenizer.eos_token_id,) if each is not None}
        if gguf_file:
            self.name += f" (gguf {version('gguf')})"
            self._stops = gguf_stops(folder / gguf_file)
        elif (folder / "generation_config.json").exists() and adapter is None:
            found = open_by(GenerationConfig, folder).eos_token_id
            self._stops = set(found if isinstance(found, list) else [found])
        # Greedy and nothing else: a base's file may ask for penalties that the run's answers were not measured with.
        pad = self.tokenizer.pad_token_id or 0
        self.model.generation_config = GenerationConfig(eos_token_id=sorted(self._stops), pad_token_id=pad)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            list(messages), chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def stops(self) -> set[int]:
        return self._stops

    def logits(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        import torch

        with torch.no_grad():
            found: np.ndarray[Any, Any] = self.model(torch.tensor([list(ids)])).logits[0].float().numpy()
        return found

    def greedy(self, ids: Sequence[int], limit: int) -> Iterator[int]:
        import torch

        # The library's own loop: it knows which positions and which cache each kind of model needs.
        written = self.model.generate(input_ids=torch.tensor([list(ids)]), max_new_tokens=limit)
        yield from written[0, len(ids) :].tolist()

    def close(self) -> None:
        """It is a model in this process."""


class LlamaCpp:
    """A GGUF file in llama.cpp's own server; with an adapter's GGUF beside its base's.

    Its routes give answers, and the last layer's states of a text, but not the logits at every place: those are the
    states times the file's output matrix, as llama.cpp multiplies them itself where it writes.
    """

    def __init__(self, file: Path, context: int, lora: Path | None = None) -> None:
        self.name = name_of_llama_cpp()
        self._running = contextlib.ExitStack()
        loras = [] if lora is None else [lora]
        self._adapter: str | None = "0" if loras else None
        # The cache in 32 bits: what is measured is the file.
        options = LlamaCppOptions(file, loras, context, exact=True)
        try:
            self._answers = self._running.enter_context(running_llama_cpp(options, "--to gguf"))
            states = replace(options, states=True)
            self._states = self._running.enter_context(running_llama_cpp(states, "--to gguf"))
        except BaseException:
            self._running.close()
            raise
        self._head = OutputHead(file, lora)
        self._stops = gguf_stops(file)

    def close(self) -> None:
        self._running.close()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        text = self._answers.ask("/apply-template", {"messages": list(messages)})["prompt"]
        return self.tokens(text, add_special=True)  # as its route for chats does

    def tokens(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of a text, its marks as marks."""
        asked = {"content": text, "add_special": add_special, "parse_special": True}
        return list(self._answers.ask("/tokenize", asked)["tokens"])

    def stops(self) -> set[int]:
        return self._stops

    def logits(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        import numpy as np

        found = self._states.ask("/embedding", {"content": list(ids)})
        return self._head.logits(np.array(found[0]["embedding"], dtype=np.float32))

    def greedy(self, ids: Sequence[int], limit: int) -> Iterator[int]:
        request = Request(prompt=ids, max_new_tokens=limit, adapter=self._adapter)
        asked = completion_body(request, self._adapter is not None, streamed=False)
        yield from self._answers.ask("/completion", asked)["tokens"]  # its end token among them


class Mlx:
    """A folder in mlx-lm."""

    def __init__(self, folder: Path) -> None:
        from mlx_lm import load

        with _quiet():
            self.model, self.tokenizer = load(str(folder))[:2]
        self.name = f"mlx-lm {version('mlx-lm')}"

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return list(self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))

    def stops(self) -> set[int]:
        return set(self.tokenizer.eos_token_ids)

    def logits(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        import mlx.core as mx
        import numpy as np

        return np.array(self.model(mx.array([list(ids)]))[0].astype(mx.float32))

    def greedy(self, ids: Sequence[int], limit: int) -> Iterator[int]:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        given, cache = list(ids), make_prompt_cache(self.model)
        for _ in range(limit):
            given = [int(mx.argmax(self.model(mx.array([given]), cache=cache)[0, -1]).item())]
            yield given[0]

    def close(self) -> None:
        """It is a model in this process."""


def check_opens_gguf(config: Mapping[str, Any]) -> None:
    """
    Raises:
        RecipeError: nothing here opens a GGUF of this kind of model, so that it could not be compared.
    """
    kind = str(config.get("model_type"))
    if find_llama_cpp() is None and kind not in READ_BY_TRANSFORMERS:
        raise RecipeError(
            f"nothing here opens a GGUF of a {kind} model to compare it",
            f"{INSTALL}; or --no-check, which proves nothing",
            "--to gguf",
        )


def open_gguf(file: Path, context: int, base: Path) -> tuple[OpenedExport, str | None]:
    """llama.cpp where it is installed, else transformers; with the second, what that leaves open."""
    if find_llama_cpp():
        return LlamaCpp(file, context), None
    return (
        Transformers(file.parent, gguf_file=file.name, base=base),
        f"llama.cpp is not here ({INSTALL}): weights, tokens and template were read by "
        "transformers; whether llama.cpp itself splits texts and turns positions the same was not seen",
    )


def open_mlx(folder: Path) -> tuple[OpenedExport, str | None]:
    """mlx-lm where it is installed, else transformers."""
    if find_spec("mlx_lm"):
        return Mlx(folder), None
    return (
        Transformers(folder),
        "mlx-lm is not installed: the folder was opened by transformers, whose format mlx-lm reads",
    )


def gguf_stops(file: Path) -> set[int]:
    """The stop tokens that a GGUF file names."""
    import gguf

    reader = gguf.GGUFReader(file)
    keys = [f"tokenizer.ggml.{which}_token_id" for which in ("eos", "eot")]
    return {int(field.contents()) for key in keys if (field := reader.get_field(key)) is not None}


def _holds_output(file: Path) -> bool:
    """Whether a GGUF has an output matrix of its own; otherwise the embedding serves as one."""
    import gguf

    return any(tensor.name == "output.weight" for tensor in gguf.GGUFReader(file).tensors)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and remarks of libraries."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
