"""Measure the peak memory of mlx-lm's own training on this CPU, each shape in a fork of a process that has loaded what
mlx-lm loads of others.

    python tests/measure_mlx.py [NAME...]

Prints one JSON object per shape: what :func:`afina.plan.memory.training_memory` predicts and what
``mx.get_peak_memory`` measures over two steps of ``mlx_lm.tuner.trainer.train``. Random weights; nothing is
downloaded. ``test_plan_mlx.py`` holds both together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from measure_training import in_a_fork

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from afina.model.shape import Shape
from afina.model.shape_table import dense_shape
from afina.plan.memory import Setup, training_memory
from afina.plan.programs import MLX_CPU


@dataclass(frozen=True)
class Job:
    """A tiny training: its Llama, its micro-batch, its adapter. `bits`: of weights and their group; None: bfloat16."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    rows: int
    length: int
    rank: int = 8
    num_layers: int | None = None
    bits: tuple[int, int] | None = (4, 64)
    checkpointing: bool = False
    targets: tuple[str, ...] | None = None

    @property
    def shape(self) -> Shape:
        """As the plan sees it."""
        return dense_shape(
            "llama",
            layers=self.layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            vocab=self.vocab,
            tied_embeddings=False,
            max_positions=4096,
        )

    @property
    def setup(self) -> Setup:
        """As the plan sees it."""
        tokens = self.rows * self.length
        return Setup(
            "qlora" if self.bits else "lora",
            tokens,
            tokens,
            self.rank,
            targets=self.targets or "all-linear",
            place="cpu",
            program=replace(MLX_CPU, copies_each_input=True),  # as it is not compiled here
            length=self.length,
            checkpointing=self.checkpointing,
            weights=None if self.bits else "16bit",
            adapted_layers=self.num_layers,
        )


JOBS = {
    "deep": Job(128, 256, 8, 2, 2, 512, 1, 65),
    "wide": Job(256, 256, 4, 4, 4, 512, 1, 65),
    "wide inside": Job(128, 1024, 4, 2, 2, 512, 1, 65),
    "longer rows": Job(128, 256, 4, 2, 2, 512, 1, 129),
    "many words": Job(128, 256, 4, 2, 2, 4096, 1, 65),
    "high rank": Job(128, 256, 4, 2, 2, 512, 1, 65, rank=64),
    "recomputed": Job(128, 256, 8, 2, 2, 512, 1, 65, checkpointing=True),
}
"""Small, since MLX multiplies matrices of few bits slowly on a CPU."""


def measure(job: Job, steps: int = 2) -> float:
    """The peak in bytes of so many steps, beyond what the libraries themselves hold."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mx.disable_compile()  # which would start a C++ compiler for every shape
    mx.random.seed(0)
    model = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=job.hidden,
            num_hidden_layers=job.layers,
            intermediate_size=job.intermediate,
            num_attention_heads=job.heads,
            num_key_value_heads=job.kv_heads,
            rms_norm_eps=1e-5,
            vocab_size=job.vocab,
            tie_word_embeddings=False,
        )
    )
    model.set_dtype(mx.bfloat16)
    if job.bits:
        nn.quantize(model, bits=job.bits[0], group_size=job.bits[1])
    mx.eval(model.parameters())
    model.freeze()
    keys = {f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}" for name in job.targets or ()} or None
    config = {"rank": job.rank, "scale": 16.0, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, job.num_layers or job.layers, config)
    mx.eval(model.parameters())
    mx.clear_cache()
    mx.reset_peak_memory()
    rows = [([(7 * row + place) % job.vocab for place in range(job.length)], 0) for row in range(job.rows)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArgs(
            batch_size=job.rows,
            iters=steps,
            steps_per_report=1000,
            steps_per_save=1000,
            max_seq_length=job.length,
            adapter_file=f"{folder}/adapters.safetensors",
            grad_checkpoint=job.checkpointing,
        )
        train(model, optim.Adam(learning_rate=1e-4), rows, args=arguments)
    return float(mx.get_peak_memory())


def measured_apart(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Predicted and measured of each shape, by another Python."""
    done = subprocess.run([sys.executable, __file__, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr[-2000:])
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {each["name"]: each for each in found}


def print_one(name: str) -> None:
    """A line of JSON."""
    job = JOBS[name]
    parts = training_memory(job.shape, job.setup)
    counted = {part: size.point for part, size in parts.items() if part != "overhead"}
    found = {"name": name, "predicted": sum(counted.values()), "measured": measure(job), "parts": counted}
    sys.stdout.write(json.dumps(found) + "\n")


def main() -> None:
    """The shapes that are named, or all of them."""
    # Of transformers what mlx-lm takes; MLX itself starts threads, which a fork would not have.
    from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

    _ = AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast
    for name in sys.argv[1:] or JOBS:
        in_a_fork(partial(print_one, name))


if __name__ == "__main__":
    main()
