"""Answers of a given form: which tokens may come next, and the bytes of a token. By llguidance.

A grammar travels as a string (:attr:`afina.model.generate.request.Request.grammar`), made by :func:`json_grammar` or
:func:`lark_grammar`. The engine asks one matcher a request before each token and tells it what was chosen.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from afina.errors import DataError, RecipeError

SPACE = r"[ ]?|\n[ \t]{0,40}"
"""White space between two parts of JSON: none, a space, or a new line with its indentation. The library's own default
has no end, and a small model may write spaces up to the limit."""
KEPT = 32
"""Compiled grammars kept: a program asks with the same schema again and again."""


def json_grammar(schema: Mapping[str, Any]) -> str:
    """A JSON value that fits a schema.

    >>> json.loads(json_grammar({"type": "object"}))["grammars"][0]["json_schema"]["type"]
    'object'
    """
    return json.dumps({"grammars": [{"json_schema": spaced(schema)}]})


def lark_grammar(rules: str) -> str:
    """A text by llguidance's Lark rules; ``%json {schema}`` stands for a JSON value, see :func:`spaced`."""
    return json.dumps({"grammars": [{"lark_grammar": rules}]})


def spaced(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that says which white space may stand in its JSON."""
    return {**schema, "x-guidance": {"whitespace_pattern": SPACE}}


class Grammars:
    """Compiled grammars over one tokenizer; loads llguidance when it is first asked. Safe to share between threads.

    Args:
        tokenizer: of transformers, in Rust.
        vocabulary: how many logits the model has.
        stop_ids: tokens that may end an answer where its form is complete.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stop_ids: Sequence[int]) -> None:
        self.tokenizer, self.vocabulary, self.stop_ids = tokenizer, vocabulary, sorted(stop_ids)
        self._lock = threading.Lock()
        self._read: Any = None
        self._kept: dict[str, Any] = {}

    @property
    def takes_tokenizer(self) -> bool:
        """Whether the tokenizer is one that can be read: a fast one."""
        return getattr(self.tokenizer, "backend_tokenizer", None) is not None

    def matcher(self, grammar: str) -> Any:
        """A matcher at the beginning of an answer (llguidance's ``LLMatcher``).

        Raises:
            RecipeError: the grammar cannot be compiled, or llguidance is not installed.
            DataError: the tokenizer is not a fast one.
        """
        tokens = self._tokens()
        with self._lock:
            found = self._kept.get(grammar)
            if found is None:
                found = self._compiled(tokens, grammar)
                while len(self._kept) >= KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[grammar] = found
            return found.deep_copy()

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, half a character's too; UTF-8 of its text where they are not known."""
        if not self.takes_tokenizer:
            return str(self.tokenizer.decode([token])).encode()
        return bytes(self._tokens().decode_bytes([token]))

    def _compiled(self, tokens: Any, grammar: str) -> Any:
        import llguidance

        made = llguidance.LLMatcher(tokens, grammar, log_level=0)
        if made.is_error():
            said = str(made.get_error()).partition("\n<state>")[0].strip()
            raise RecipeError(f"the form of the answer cannot be compiled: {said}", "ask with a simpler schema")
        return made

    def _tokens(self) -> Any:
        with self._lock:
            if self._read is None:
                self._read = self._read_tokenizer()
            return self._read

    def _read_tokenizer(self) -> Any:
        try:
            import llguidance.hf
        except ImportError as error:
            raise RecipeError(
                "answers of a given form need llguidance, which is not installed", "pip install 'afina[serve]'"
            ) from error
        if not self.takes_tokenizer:
            raise DataError(
                "this base's tokenizer is not a fast one, so an answer cannot be held to a form",
                "leave response_format and tool_choice out",
            )
        return llguidance.hf.from_tokenizer(self.tokenizer, n_vocab=self.vocabulary, eos_token=self.stop_ids)
