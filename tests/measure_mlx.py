"""Measure the peak memory of mlx-lm's own training on this CPU, each shape in a process of its own.

    python tests/measure_mlx.py [NAME...]

Prints one JSON object per shape: what :func:`afina.plan.memory.training_memory` predicts and what
``mx.get_peak_memory`` measures over three steps of ``mlx_lm.tuner.trainer.train``. Random weights; nothing is
downloaded. ``test_plan_mlx.py`` holds both together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from afina.model.shape import Shape
from afina.model.shape_table import dense_shape
from afina.plan.memory import Setup, training_memory
from afina.plan.programs import MLX_CPU

FOUR_BITS, EIGHT_BITS = (4, 64), (8, 64)


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
    bits: tuple[int, int] | None = FOUR_BITS
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
            program=MLX_CPU,
            length=self.length,
            checkpointing=self.checkpointing,
            weights=f"mlx-{self.bits[0]}-{self.bits[1]}" if self.bits else "16bit",
            adapted_layers=self.num_layers,
        )


JOBS = {
    "four bits": Job(512, 1408, 6, 8, 4, 4000, 4, 129),
    "long rows": Job(256, 768, 4, 8, 8, 2000, 1, 641),
    "recomputed": Job(512, 1408, 8, 8, 4, 4000, 4, 129, checkpointing=True),
    "last layers": Job(512, 1408, 8, 8, 4, 4000, 4, 129, num_layers=2),
    "many words": Job(256, 768, 3, 4, 2, 32000, 4, 129, targets=("q_proj", "v_proj")),
    "eight bits": Job(384, 1024, 5, 6, 2, 8000, 2, 257, rank=32, bits=EIGHT_BITS),
    "16 bits": Job(512, 1408, 6, 8, 4, 4000, 2, 257, bits=None),
}
"""Six of them are held to fifteen per cent; what each is for is its name."""


def measure(job: Job, steps: int = 3) -> float:
    """The peak in bytes of so many steps, beyond what the libraries themselves hold."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers

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


def measured_apart(name: str) -> dict[str, Any]:
    """Predicted and measured, from a process of its own."""
    done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """One shape, or all of them each in its own process."""
    names = sys.argv[1:]
    if len(names) != 1:
        for name in names or JOBS:
            sys.stdout.write(json.dumps(measured_apart(name)) + "\n")
            sys.stdout.flush()
        return
    job = JOBS[names[0]]
    parts = training_memory(job.shape, job.setup)
    counted = {part: size.point for part, size in parts.items() if part != "overhead"}
    found = {"name": names[0], "predicted": sum(counted.values()), "measured": measure(job), "parts": counted}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
