"""How training programs hold things: what differs between them, as data.

afina's own rows are counted (torch's saved-tensor hooks) and measured on a CPU. The others' are
what their code does, and the few numbers that cannot be read from code are fitted over all published
cases of a kind at once; ``benchmarks/plan_accuracy.py`` says how well they do on sources left out.
They are here so that afina's formulas can be tested on measurements that others made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from afina.model.footprint import LEAST_TARGETS, LOGIT_BYTES

Format = Literal["float32", "16bit", "fp8", "int8", "mxfp4", "nf4", "nf4-double", "gptq-int4", "gptq-int8", "awq-int4"]
MlxFormat = Literal["mlx-4-32", "mlx-4-64", "mlx-4-128", "mlx-8-32", "mlx-8-64", "mlx-8-128"]
"""`mlx-BITS-GROUP`: MLX's, a scale and an offset for each group of values."""


class Kept(NamedTuple):
    """Values that one layer keeps for its backward pass, per token: how many times each size."""

    hidden: float
    query: float
    key: float
    intermediate: float
    """Of a gated MLP; one without a gate keeps two less."""
    normalized_qk: float = 0.0
    """Times q + k, where queries and keys are normalized."""
    rank: float = 0.0
    """Times r, for each adapted matrix."""
    dropped_input: float = 0.0
    """Times the input of each adapted matrix, where the adapter has dropout."""
    dora_output: float = 0.0
    """Times the output of each adapted matrix, for DoRA."""
    parallel_hidden: float = 0.0
    """`hidden` of blocks with LayerNorm and no gate (GPT-2, Phi, Falcon); 0: the same."""
    adapted_input: float = 0.0
    """Times each input that adapted matrices read: a copy of it in the adapter's type."""


_LEAN = Kept(12, 3, 1, 3, 2, 1, 1.5, 2, 8)
"""Everything in 16 bits, as fitcheck-llm 0.3.1 (MIT) has measured it on a T4."""
_LEAN_ALL = _LEAN._replace(rank=0, dropped_input=0, dora_output=0)


@dataclass(frozen=True)
class TrainingProgram:
    """A training program. Byte triples are of one parameter: weight, gradient, the optimizer's moments."""

    name: str
    weights: Format = "16bit"
    """What frozen matrices are held in."""
    four_bit: Format | MlxFormat = "nf4-double"
    rest_bytes: float = 2.0
    """Of one embedding, norm or head weight beside quantized matrices."""
    value_bytes: int = 2
    """Of one activation."""
    residual_bytes: float = 2.0
    """Of one value of a layer's input, which checkpointing keeps."""
    kept_adapter: Kept = _LEAN
    kept_all: Kept = _LEAN_ALL
    adapter_bytes: tuple[float, float, float] = (4.0, 4.0, 8.0)
    full_bytes: tuple[float, float, float] = (4.0, 4.0, 8.0)
    saved_bytes: tuple[float, float, float] = (4.0, 4.0, 8.0)
    """Of a layer trained whole beside an adapter; the frozen one stays as well."""
    step_bytes: tuple[float, float] = (0.0, 0.0)
    """Temporary copies while the optimizer steps: of a parameter trained whole, of an adapter's."""
    logit_bytes: float = 12.0
    """Of one logit that is alive, with its copies and its gradient."""
    chunk_logits: float | None = None
    """Logits made at a time; none: all of a micro-batch."""
    least_chunk: int = 1
    """Targets whose logits are made at a time at least."""
    gradient_with_loss: bool = False
    """Whether a chunk's gradient is made with its loss; otherwise its logits are made again in the backward pass."""
    whole_logit_bytes: float = 0.0
    """Of every logit, beside the chunk's."""
    packs_experts: bool = False
    """Whether a mixture's experts are held in fewer bits too, though they stand in one tensor."""
    remakes_experts: bool = False
    """Whether experts that stand in one tensor are made anew in each forward: with their adapters, or out of 4 bits."""
    packs_tables: bool = False
    """Whether embeddings and output are held in fewer bits too."""
    copies_each_input: bool = False
    """Whether an input that several adapted matrices read is copied for each of them."""
    separate_head: bool = False
    """Whether a tied output matrix is held a second time."""
    keeps_4bit_inputs: bool = False
    """bitsandbytes before 0.44 kept the input of every 4-bit matrix."""
    offloads_inputs: bool = False
    selective_share: float = 0.5
    eager_attention: bool = False
    capped_is_eager: bool = True
    back_hidden: float = 2.0
    back_intermediate: float = 3.0
    back_again: float = 0.0
    """Values of one layer on its way back, per token: times h, times M, and times M where it was computed again."""
    adds_logits: bool = False
    """Whether logits are still held while the last layer is on its way back; otherwise the larger of the two counts."""
    backward_score_bytes: float = 0.0
    """Of one score of one layer, where a fused attention makes the scores again on the way back."""
    gather_bytes: float = 2.0
    gathers_all: bool = False
    """Whether frozen weights that FSDP has put together stay so."""
    dequantized_value: float = 2.0
    fixed_bytes: float = 0.1e9
    """The process, or the driver's context and the libraries' workspaces, as far as the measure counts them."""
    parallel_bytes: float = 0.3e9
    """Buffers of communication, with more than one device."""
    slack: float = 0.0
    """Held but unused by the allocator, as a share of what comes and goes."""
    slack_4bit: float = 0.0
    """That much more of it where matrices come out of their bits between values that are kept: the places which they
    leave fit little else."""
    by_mlx: bool = False
    """Whether MLX computes, which reaches more of an Apple chip than torch."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What differs in time, see :mod:`afina.plan.time`."""


CUDA_CONTEXT_BYTES = 0.5e9
"""What the driver takes: 0.14 (T4) to 0.65 GB seen, 1.4 quoted for the newest stacks."""

AFINA_CPU = TrainingProgram(
    "afina on a CPU",
    weights="float32",
    rest_bytes=4.0,
    value_bytes=4,
    residual_bytes=4.0,
    kept_adapter=Kept(4, 2, 2, 4, 1, 1, 1.25, 2),
    kept_all=Kept(6, 2, 2, 4, 2),
    dequantized_value=4.0,
    logit_bytes=8.0,
    chunk_logits=LOGIT_BYTES / 4,
    least_chunk=LEAST_TARGETS["cpu"],
    gradient_with_loss=True,
    packs_experts=True,
    remakes_experts=True,
    fixed_bytes=0.48e9,
    parallel_bytes=0.0,
    slack=0.12,
    slack_4bit=0.35,
)
AFINA_CUDA = TrainingProgram(
    "afina on a GPU",
    kept_adapter=Kept(9, 3, 2, 4, 2, 2, 2.5, 4),  # autocast; without it 32-bit copies of inputs stay: 14, 4, 2, 5
    kept_all=Kept(8, 2, 2, 4, 3),
    full_bytes=(2.0, 2.0, 4.0),
    saved_bytes=(2.0, 2.0, 4.0),
    chunk_logits=LOGIT_BYTES / 4,
    least_chunk=LEAST_TARGETS["cuda"],
    gradient_with_loss=True,
    packs_experts=True,
    remakes_experts=True,
    fixed_bytes=CUDA_CONTEXT_BYTES + 0.3e9,
    slack=0.05,
)
AFINA_MPS = replace(
    AFINA_CPU, name="afina on an Apple chip", least_chunk=LEAST_TARGETS["mps"], fixed_bytes=0.6e9, slack=0.1
)

LITGPT = TrainingProgram(
    "LitGPT, bf16-true",
    four_bit="nf4",
    kept_adapter=Kept(9, 3, 1, 3, 2, 1, 0.75, 2, 7),
    kept_all=Kept(9, 3, 1, 3, 2, 0, 0, 0, 7),
    adapter_bytes=(2.0, 2.0, 4.0),
    full_bytes=(2.0, 2.0, 4.0),
    step_bytes=(2.0, 2.0),
    logit_bytes=8.0,
    chunk_logits=128 * 64e3,
    whole_logit_bytes=10.0,
    separate_head=True,
    keeps_4bit_inputs=True,
    gathers_all=True,
)
TORCHTUNE = TrainingProgram(
    "torchtune",
    adapter_bytes=(2.0, 2.0, 4.0),
    full_bytes=(2.0, 2.0, 4.0),
    logit_bytes=8.0,
    chunk_logits=512 * 128e3,
    fixed_bytes=0.2e9,
)
TORCHTUNE_WHOLE = replace(TORCHTUNE, name="torchtune, whole logits", chunk_logits=None, logit_bytes=16.0)
"""Before its loss went in chunks: logits in 16 bits and in float32, their log-softmax, and both gradients."""
TRANSFORMERS = TrainingProgram(
    "transformers + PEFT, autocast",
    logit_bytes=12.0,
    saved_bytes=(2.0, 2.0, 4.0),
    full_bytes=(4.0, 4.0, 8.0),
    step_bytes=(4.0, 4.0),
    fixed_bytes=CUDA_CONTEXT_BYTES + 1.1e9,
)
TRANSFORMERS_UPCAST = replace(TRANSFORMERS, name="transformers + PEFT, logits in float32", logit_bytes=17.0)
DEEPSPEED = replace(
    TRANSFORMERS,
    name="transformers + DeepSpeed",
    adapter_bytes=(6.0, 8.0, 8.0),
    full_bytes=(6.0, 8.0, 8.0),
    saved_bytes=(6.0, 8.0, 8.0),
    step_bytes=(0.0, 0.0),
    logit_bytes=8.0,
    fixed_bytes=CUDA_CONTEXT_BYTES + 1.7e9,
)
"""ZeRO keeps 16-bit weights and gradients, float32 master weights, moments and gradients of its part, and buckets."""
UNSLOTH = TrainingProgram(
    "Unsloth",
    kept_adapter=Kept(5, 3, 2, 2, 2, 1, 0, 2),
    chunk_logits=64e6,
    logit_bytes=6.0,
    offloads_inputs=True,
    four_bit="nf4",
    fixed_bytes=0.2e9,
    slack=0.1,
)
AXOLOTL = replace(
    TRANSFORMERS,
    name="Axolotl",
    chunk_logits=16e6,
    logit_bytes=8.0,
    fixed_bytes=0.4e9,
    four_bit="nf4-double",
    slack=0.1,
)
FSDP_QLORA = replace(
    TRANSFORMERS_UPCAST, name="fsdp_qlora", four_bit="nf4", fixed_bytes=0.2e9, slack=0.12, step_bytes=(0.0, 0.0)
)
TORCHTITAN = TrainingProgram(
    "torchtitan, FSDP2",
    full_bytes=(4.0, 4.0, 8.0),
    logit_bytes=14.0,
    selective_share=0.33,
    fixed_bytes=1.0e9,
    slack=0.05,
)
MLX = TrainingProgram(
    "mlx-lm",
    four_bit="mlx-4-64",
    packs_tables=True,
    packs_experts=True,
    adapter_bytes=(4.0, 0.0, 8.0),  # gradients come as activations go
    kept_adapter=Kept(2, 2, 2, 5.75, 1, 4, 1.5, 2, adapted_input=2),
    kept_all=Kept(4, 2, 2, 5, 1),
    dequantized_value=0.0,
    logit_bytes=8.0,
    backward_score_bytes=8.7,
    fixed_bytes=0.6e9,
    by_mlx=True,
)
"""Embeddings are quantized too. Adapters are in float32: a copy of each input that they read, in that type, waits for
the backward pass, where a frozen matrix alone would need none. What layers keep is fitted to seven shapes measured on a
CPU, to 12 % (adapters on few matrices take less). Attention is fused on the way forward; its backward pass makes the
scores of one layer at a time (8.716 bytes of each, measured by mlx-train-perf on an Apple chip)."""
MLX_EAGER = replace(MLX, name="mlx-lm before 0.20", eager_attention=True, backward_score_bytes=0.0)
"""Its attention kept the scores of every layer: 160 GB of a 7B at 7,500 tokens."""
MLX_CPU = replace(
    MLX,
    name="mlx-lm on a CPU",
    back_hidden=24.0,
    back_intermediate=2.0,
    back_again=16.0,
    adds_logits=True,
    backward_score_bytes=17.8,
)
"""There MLX fetches memory ahead of what it computes, and has no fused attention."""
AFINA_MLX = replace(MLX, name="afina with MLX", adapter_bytes=(4.0, 4.0, 8.0), copies_each_input=True, logit_bytes=12.0)
"""Not compiled, so each matrix that reads an input has a copy of its own. Logits of learned positions, in float32."""
AFINA_MLX_FLOAT32 = replace(
    AFINA_MLX,
    name="afina with MLX, float32",
    weights="float32",
    rest_bytes=4.0,
    value_bytes=4,
    residual_bytes=4.0,
    kept_adapter=AFINA_MLX.kept_adapter._replace(rank=2, adapted_input=0),
)
"""The same in float32, where every weight is trained: an input needs no copy."""
AFINA_MLX_CPU = replace(
    AFINA_MLX_FLOAT32,
    name="afina with MLX on a CPU",
    back_hidden=MLX_CPU.back_hidden,
    back_intermediate=MLX_CPU.back_intermediate,
    back_again=MLX_CPU.back_again,
    adds_logits=True,
    backward_score_bytes=2 * MLX_CPU.backward_score_bytes,
    fixed_bytes=0.5e9,
)
"""With the libraries that are loaded."""
