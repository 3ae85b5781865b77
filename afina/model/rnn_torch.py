"""A recurrent language model: an embedding, LSTM or GRU layers, and an output layer, as a transformers model.

    h_t, c_t = LSTM(E[x_t], h_{t-1}, c_{t-1})        logits_t = W h_t + b

What it keeps of all tokens before is its state, whatever their number. Written in one file with the classes that
transformers asks for, so that evaluation, chat, serving and export take it as they take any other model; torch's own
fused layers compute it.

Shapes: B rows, L tokens, E embedding, D hidden size, N layers, S tensors of a layer's state (LSTM: h and c; GRU: h),
V vocabulary.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from afina.model.shape_table import RECURRENT
from afina.recipe import Scratch


@strict
class RecurrentConfig(PreTrainedConfig):  # type: ignore[misc]
    """What ``config.json`` says of it."""

    model_type = RECURRENT
    keys_to_ignore_at_inference = ("past_key_values",)

    cell: Literal["lstm", "gru"] = "lstm"
    vocab_size: int = 256
    embedding_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 1
    dropout: float = 0.0
    """Of what one layer gives to the next, while training."""
    tie_word_embeddings: bool = False
    """Never: the output layer has a matrix of its own, whatever the sizes are."""
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class _StateLayer(CacheLayerMixin):  # type: ignore[misc]
    """The state of all layers, in the place where transformers' caches have the keys and values of one."""

    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.state_BSND: torch.Tensor | None = None
        self.read = 0

    def lazy_initialization(self, *_: Any) -> None:
        raise TypeError("a recurrent model keeps no keys and values")

    def update(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a recurrent model keeps no keys and values")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return self.read

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.state_BSND, self.read = None, 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        if self.state_BSND is not None:
            self.state_BSND = self.state_BSND.index_select(0, beam_idx.to(self.state_BSND.device))


class StateCache(Cache):  # type: ignore[misc]
    """What the model keeps for the next token, in the form that transformers' generation passes around."""

    def __init__(self) -> None:
        super().__init__(layers=[_StateLayer()])

    def state(self) -> torch.Tensor | None:
        """S x N x B x D; None where nothing was read."""
        held = self.layers[0].state_BSND
        return None if held is None else held.permute(1, 2, 0, 3).contiguous()

    def advance(self, state_SNBD: torch.Tensor, tokens: int) -> None:
        """Keep the state after so many more tokens."""
        self.layers[0].state_BSND = state_SNBD.permute(2, 0, 1, 3)
        self.layers[0].read += tokens

    def joined_by(self, other: StateCache) -> StateCache:
        """The states of these rows, then those of others, which may have read another number of tokens."""
        joined, held = StateCache(), [each.layers[0].state_BSND for each in (self, other)]
        joined.layers[0].state_BSND = torch.cat(held)
        joined.layers[0].read = max(each.layers[0].read for each in (self, other))
        return joined


class _Recurrent(PreTrainedModel):  # type: ignore[misc]
    config_class = RecurrentConfig
    base_model_prefix = "model"

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """torch's own first weights; an LSTM's forget gates begin open (bias 1), so that a state lasts."""
        if isinstance(module, torch.nn.Embedding | torch.nn.Linear | torch.nn.RNNBase):
            module.reset_parameters()
        if isinstance(module, torch.nn.LSTM):
            for name, bias in module.named_parameters():
                if name.startswith("bias"):
                    init.zeros_(bias)
                if name.startswith("bias_ih"):
                    init.ones_(bias[module.hidden_size : 2 * module.hidden_size])


class RecurrentModel(_Recurrent):
    """Embedding and recurrent layers: token ids to hidden states."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        layers = torch.nn.LSTM if config.cell == "lstm" else torch.nn.GRU
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = layers(
            config.embedding_size,
            config.hidden_size,
            config.num_hidden_layers,
            batch_first=True,
            dropout=config.dropout,
        )
        self.post_init()

    def read(self, embedded_BLE: torch.Tensor, state_SNBD: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states B x L x D of tokens that follow a state, and the state after them.

        Args:
            state_SNBD: what was kept of the tokens before; None at the beginning of a text, where it is zero.
        """
        if state_SNBD is not None:
            state_SNBD = state_SNBD.to(embedded_BLE.dtype)
        if self.config.cell == "lstm" and state_SNBD is not None and embedded_BLE.shape[1] == 1 and self._only_reads():
            return self._one_token(embedded_BLE[:, 0], state_SNBD)
        if self.config.cell == "lstm":
            hidden, after = self.rnn(embedded_BLE, None if state_SNBD is None else tuple(state_SNBD))
            return hidden, torch.stack(after)
        hidden, last = self.rnn(embedded_BLE, None if state_SNBD is None else state_SNBD[0])
        return hidden, last[None]

    def _only_reads(self) -> bool:
        return not self.training and not torch.is_grad_enabled() and self.rnn.weight_hh_l0.device.type == "cpu"

    def _one_token(self, hidden_BD: torch.Tensor, state_SNBD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same by torch's cells: on a CPU its LSTM lays out all weights anew at each call (oneDNN), which takes
        longer than the token: 8.6 ms instead of 3 for two layers of 512."""
        after = []
        for hidden_and_cell, weights in zip(state_SNBD.unbind(1), self.rnn.all_weights, strict=True):
            after.append(torch.stack(torch.lstm_cell(hidden_BD, tuple(hidden_and_cell), *weights)))
            hidden_BD = after[-1][0]
        return hidden_BD[:, None], torch.stack(after, 1)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: StateCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> Any:
        """As transformers' models.

        Raises:
            ValueError: a row is padded on the left. Its padding would be read as text.
            TypeError: a cache of keys and values.
        """
        if attention_mask is not None and not bool(attention_mask[:, 0].all()):
            raise ValueError("rows of a recurrent model are padded on the right: on the left, padding is read as text")
        if past_key_values is not None and not isinstance(past_key_values, StateCache):
            raise TypeError("its state holds all that it has read, padding too")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        hidden, state = self.read(inputs_embeds, None if past_key_values is None else past_key_values.state())
        if self.config.use_cache if use_cache is None else use_cache:
            past_key_values = StateCache() if past_key_values is None else past_key_values
            past_key_values.advance(state, inputs_embeds.shape[1])
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)


class RecurrentForCausalLM(_Recurrent, GenerationMixin):  # type: ignore[misc]
    """The same with its output layer."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The model makes its cache by itself."""
        return False

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **more: Any,
    ) -> Any:
        """Logits, of the last positions alone where `logits_to_keep` is not 0, and the mean loss of `labels`."""
        output = self.model(input_ids, **more)
        logits_BLV = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits_BLV, past_key_values=output.past_key_values)


@cache
def register_recurrent() -> None:
    """Let transformers' Auto classes open this model; once for a process."""
    AutoConfig.register(RECURRENT, RecurrentConfig)
    AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM)


def make_recurrent(scratch: Scratch, vocab: int, **tokens: int | None) -> RecurrentForCausalLM:
    """A model with random weights, in the sizes of a recipe.

    Args:
        tokens: ids of the special tokens, as ``config.json`` names them.
    """
    config = RecurrentConfig(
        cell=scratch.kind,
        vocab_size=vocab,
        embedding_size=scratch.embedding or scratch.hidden,
        hidden_size=scratch.hidden,
        num_hidden_layers=scratch.layers,
        dropout=scratch.dropout,
        **tokens,
    )
    return RecurrentForCausalLM(config)
