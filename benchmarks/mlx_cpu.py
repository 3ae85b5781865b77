"""Training by MLX on this machine's CPU: afina's loop beside `mlx_lm.lora`, and what that does with two kinds of rows.

The same small Llama (1.8 M parameters, a BPE of 8,000, both trained on other rows before), LoRA of rank 8 on seven
matrices from the same first values, the same 100 Canarim rows with the prompts masked, the same constant rate, Adam
without clipping, float32, as many epochs, as many threads. Every contestant runs in a process of its own, in turn, and
says how many real tokens a second it put through (padding is not counted): over all of its steps, and from the second
epoch on, when mlx-lm has compiled its step for every length that occurs. The held-out loss of both adapters is measured
by one function, in PEFT.

    python benchmarks/mlx_cpu.py --base /tmp/mlx-base --rounds 3

For the record, mlx-lm on two more files: a row whose prompt alone is too long, with --mask-prompt at batch size 1, and
59 rows at batch size 4. And what afina says of the first, and does with the second.

MLX's build for Linux CPUs is slow (some GFLOP/s): a proportion of two programs over one library, no figure for a Mac.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contestants import peak_bytes, print_result, run_contestant
from train_cpu import MAX_LENGTH, encode, held_out, make_base, read_held_out, read_rows

SHAPE = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
VOCAB, TINY_VOCAB = 8000, 2000
RANK, SCALE, RATE = 8, 2.0, 1e-3
BATCH = 4
"""Rows of mlx-lm's batches; its own default."""
BATCH_TOKENS = 384
"""Of afina's micro-batches: about as many steps an epoch as batches of four rows make."""
NO_CLIP = 1e30
CONTESTANTS = ("afina", "mlx-lm")
Pairs = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Steps:
    """What each step of a contestant took: seconds, real tokens, places with padding."""

    seconds: list[float]
    tokens: list[int]
    places: list[int]
    per_epoch: int

    def as_json(self) -> dict[str, Any]:
        """Tokens a second over all steps and from the second epoch on, and what they are made of."""
        later = slice(self.per_epoch, None)
        return {
            "steps": len(self.seconds),
            "tokens": sum(self.tokens),
            "padding": 1 - sum(self.tokens) / sum(self.places),
            "speed": sum(self.tokens) / sum(self.seconds),
            "later_speed": sum(self.tokens[later]) / sum(self.seconds[later]),
            "peak_mib": peak_bytes() / (1 << 20),
        }


# ---- the same rows, settings and first values for both


def kept(base: Path, rows: Pairs) -> tuple[list[Any], Pairs]:
    """Encoded rows that are not too long, and the same as pairs."""
    encoded, _ = encode(base, list(rows))
    turns = [row.example.messages for row in encoded]
    return encoded, [{"prompt": each[0]["content"], "completion": each[1]["content"]} for each in turns]


def settings_of(base: Path, epochs: int) -> Any:
    """The recipe by which afina trains."""
    from afina.recipe import Adapter, Train

    _, recipe = encode(base, [])
    train = Train(
        max_length=MAX_LENGTH,
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
        clip=NO_CLIP,
        epochs=epochs,
        batch_tokens=BATCH_TOKENS,
        checkpoint_seconds=1e9,
    )
    adapter = Adapter(rank=RANK, alpha=SCALE * RANK)
    return recipe.model_copy(update={"train": train, "adapter": adapter, "backend": "mlx"})


def write_files(folder: Path, base: Path, arguments: argparse.Namespace) -> None:
    """What mlx-lm reads: the rows, its configuration, and the first values of afina's adapter."""
    from afina.model.mlx.adapter_mlx import trained_factors, write_mlx_lm
    from afina.model.mlx.to_train_mlx import model_to_train

    _, pairs = kept(base, read_rows(arguments.data / "train.jsonl", arguments.rows))
    write_rows(folder / "rows", pairs)
    _, model = model_to_train(base, settings_of(base, arguments.epochs), "fp32")
    write_mlx_lm(trained_factors(model), folder / "begin", layers=SHAPE["num_hidden_layers"])
    iterations = arguments.epochs * (len(pairs) // BATCH)
    begin = {"resume_adapter_file": str(folder / "begin/adapters.safetensors")}
    write_config(folder / "config.yaml", base, folder / "rows", batch=BATCH, iterations=iterations, **begin)


def write_rows(folder: Path, pairs: Pairs) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")


def write_config(file: Path, base: Path, rows: Path, *, batch: int, iterations: int, **more: Any) -> None:
    """A configuration of `mlx_lm.lora`; JSON is YAML."""
    config = {
        "model": str(base),
        "train": True,
        "data": str(rows),
        "mask_prompt": True,
        "num_layers": -1,
        "lora_parameters": {"rank": RANK, "scale": SCALE, "dropout": 0.0},
        "optimizer": "adam",
        "optimizer_config": {"adam": {"bias_correction": True}},  # as torch and afina have it
        "learning_rate": RATE,
        "batch_size": batch,
        "iters": iterations,
        "max_seq_length": MAX_LENGTH,
        "save_every": iterations,
        "steps_per_report": 1 if iterations < 100 else 10,
    }
    file.write_text(json.dumps(config | more), encoding="utf-8")


# ---- the contestants


def run_afina(base: Path, out: Path, arguments: argparse.Namespace) -> Steps:
    """afina's loop with its back end for MLX."""
    from afina.model.mlx.adapter_mlx import trained_factors, write_peft
    from afina.model.mlx.to_train_mlx import model_to_train
    from afina.train.backend_mlx import MlxBackend
    from afina.train.loop import TrainingJob, train

    recipe = settings_of(base, arguments.epochs)
    rows, _ = kept(base, read_rows(arguments.data / "train.jsonl", arguments.rows))
    _, model = model_to_train(base, recipe, "fp32")
    backend = MlxBackend(model, recipe.train, pad_id=0, say=lambda _: None)
    steps: list[dict[str, Any]] = []

    def log(event: str, **values: Any) -> None:
        if event == "step":
            steps.append(values)

    train(backend, rows, [], recipe.train, TrainingJob(out / "checkpoints", "bench"), log=log, say=lambda _: None)
    write_peft(trained_factors(model), out / "adapter", base_name=str(base))
    return Steps(
        [step["tokens"] / step["tokens_per_second"] for step in steps],
        [step["tokens"] for step in steps],
        [round(step["tokens"] / (1 - step["padded_share"])) for step in steps],
        per_epoch=sum(step["epoch"] == 0 for step in steps),
    )


def run_mlx_lm(base: Path, out: Path, arguments: argparse.Namespace) -> Steps:
    """`mlx_lm.lora` as its command line starts it; its batches are counted as it draws them."""
    from mlx_lm import lora
    from mlx_lm.tuner import trainer

    from afina.model.mlx.adapter_mlx import mlx_lm_to_peft

    drawn: list[float] = []
    tokens: list[int] = []
    places: list[int] = []

    def counted(*given: Any, **named: Any) -> Iterator[Any]:
        for batch, lengths in trainer.iterate_batches(*given, **named):
            drawn.append(time.perf_counter())
            tokens.append(int(lengths[:, 1].sum().item()))
            places.append(batch.size)
            yield batch, lengths

    lora.train = partial(trainer.train, iterate_batches=counted)
    config = arguments.files / "config.yaml"
    sys.argv = ["mlx_lm.lora", "--config", str(config), "--adapter-path", str(out / "mlx-lm")]
    lora.main()
    ended = time.perf_counter()
    mlx_lm_to_peft(out / "mlx-lm", out / "adapter", base_name=str(base))
    count = json.loads(config.read_text(encoding="utf-8"))["iters"]
    seconds = [after - before for before, after in zip(drawn, [*drawn[1:], ended], strict=True)]
    # It draws one batch more than it trains on.
    return Steps(seconds[:count], tokens[:count], places[:count], per_epoch=count // arguments.epochs)


def contestant(name: str, arguments: argparse.Namespace) -> None:
    """One contestant in this process; prints one line of JSON."""
    out = Path(arguments.out)
    run = {"afina": run_afina, "mlx-lm": run_mlx_lm}[name]
    print_result(run(Path(arguments.base), out, arguments).as_json())


def compare(arguments: argparse.Namespace, base: Path, folder: Path) -> None:
    """Both in turn, and the table in Markdown, as it stands in docs/benchmarks.md."""
    files = folder / "files"
    files.mkdir()
    write_files(files, base, arguments)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    command = [sys.executable, __file__, "--base", base, "--data", arguments.data, "--files", files]
    command += ["--rows", arguments.rows, "--epochs", arguments.epochs]
    for turn in range(arguments.rounds):
        for name in CONTESTANTS:
            out = folder / f"{name}-{turn}"
            out.mkdir()
            result, said = run_contestant([*command, "--contestant", name, "--out", out])
            if result is None:
                sys.exit(f"{name} failed:\n{said}")
            results[name].append(result)
            print(f"  round {turn + 1} {name}: {result}", flush=True)
    rows = read_held_out(arguments)
    speeds = {
        key: {name: statistics.median(each[key] for each in done) for name, done in results.items()}
        for key in ("speed", "later_speed")
    }
    print(f"\nheld-out loss of the base: {held_out(base, None, rows):.4f}")
    print(
        "\n| | tokens/s | afina is | from the second epoch on | afina is | padding | held-out loss | steps | peak MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, done in results.items():
        loss = held_out(base, folder / f"{name}-0/adapter", rows)
        faster = [f"{by[name]:.0f} | {by['afina'] / by[name]:.2f}x" for by in speeds.values()]
        peak = max(each["peak_mib"] for each in done)
        padding, steps = done[0]["padding"], done[0]["steps"]
        print(f"| {name} | {' | '.join(faster)} | {padding:.1%} | {loss:.4f} | {steps} | {peak:.0f} |")


# ---- for the record


def record_nan(arguments: argparse.Namespace, base: Path, folder: Path) -> str:
    """A prompt that alone is too long, prompts masked, batch size 1: what both programs make of it."""
    import numpy as np
    from safetensors.numpy import load_file

    from afina.errors import DataError

    rows = read_rows(arguments.data / "train.jsonl", 12)
    long = {"prompt": "Resume: " + "um texto muito comprido, " * 2 * MAX_LENGTH, "completion": "Um resumo."}
    rows = [*rows[:5], long, *rows[5:]]
    write_rows(folder / "rows", rows)
    write_config(folder / "config.yaml", base, folder / "rows", batch=1, iterations=len(rows))
    command = [sys.executable, "-m", "mlx_lm", "lora", "--config", folder / "config.yaml"]
    command += ["--adapter-path", folder / "mlx-lm"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    tensors = load_file(folder / "mlx-lm/adapters.safetensors").values() if done.returncode == 0 else ()
    wrong = sum(bool(np.isnan(each).any()) for each in tensors)
    losses = len(re.findall(r"^\s*\d+\s+nan\b", said, re.MULTILINE))
    theirs = f"exit code {done.returncode}, {losses} losses that are nan, {wrong} of {len(tensors)} tensors NaN, saved"
    try:
        strict(base, rows)
        ours = "took it"
    except DataError as error:
        ours = f"refused: {error.problems[0].what}"
    return f"a prompt alone too long, batch 1, prompts masked: mlx-lm {theirs}; afina {ours}"


def strict(base: Path, rows: Pairs) -> None:
    """Encode rows as a recipe without choices does: what is too long is an error."""
    from afina.recipe import Chat
    from afina.text.example import Example
    from afina.tokenizer.chat import Renderer
    from afina.tokenizer.encode import encode_examples
    from afina.tokenizer.load import load_tokenizer

    _, recipe = encode(base, [])
    strictly = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"on_too_long": "error"})})
    turns = [[("user", row["prompt"]), ("assistant", row["completion"])] for row in rows]
    examples = [
        Example(
            messages=tuple({"role": role, "content": content} for role, content in each), path="rows.jsonl", line=line
        )
        for line, each in enumerate(turns, start=1)
    ]
    encode_examples(examples, Renderer(load_tokenizer(str(base), Chat()), Chat()), strictly)


def record_rest(arguments: argparse.Namespace, base: Path) -> str:
    """59 rows at batch size 4, an epoch: how many rows each program trains."""
    from mlx_lm.tuner.datasets import CacheDataset, CompletionsDataset
    from mlx_lm.tuner.trainer import iterate_batches
    from transformers import AutoTokenizer

    from afina.train.batches import plan_epoch

    rows, pairs = kept(base, read_rows(arguments.data / "train.jsonl", 59))
    seen: set[int] = set()

    class Seen(CacheDataset):  # type: ignore[misc]
        def __getitem__(self, number: int) -> Any:
            seen.add(number)
            return super().__getitem__(number)

    theirs = CompletionsDataset(list(pairs), AutoTokenizer.from_pretrained(base), "prompt", "completion", True)
    for _ in iterate_batches(Seen(theirs), BATCH, MAX_LENGTH):
        pass
    never = sorted(set(range(len(pairs))) - seen)
    ours = {
        row
        for batch in plan_epoch([len(row) for row in rows], batch_tokens=BATCH_TOKENS, seed=0, epoch=0)
        for row in batch
    }
    return (
        f"{len(pairs)} rows at batch size {BATCH}: mlx-lm trains {len(seen)}, never row "
        f"{', '.join(str(number + 1) for number in never)}; afina trains {len(ours)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=Path, default=here.parent / "shared/data/ptbr/canarim")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rows-before", type=int, default=2000, help="rows that the base has learned, beyond --rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for both")
    parser.add_argument("--base", help="folder of the base, made where it is missing")
    parser.add_argument("--tiny", action="store_true", help="a dozen rows, once: shows that it runs, measures nothing")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        contestant(arguments.contestant, arguments)
        return
    if find_spec("mlx_lm") is None:
        print("left out: mlx-lm is not installed (pip install 'afina[mlx]')")
        return
    if not arguments.data.is_dir():
        print(f"left out: the rows are not here ({arguments.data}); name them with --data")
        return
    if arguments.tiny:
        arguments.rows, arguments.rows_before, arguments.rounds, arguments.epochs = 12, 12, 1, 2
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before torch or MLX is loaded, here and there
        os.environ[name] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = Path(arguments.base or folder / "base").resolve()
        if not (base / "model.safetensors").exists():
            print(f"making the base in {base}", flush=True)
            before = slice(arguments.rows, arguments.rows + arguments.rows_before)
            make_base(base, arguments.data, before, shape=SHAPE, vocab=TINY_VOCAB if arguments.tiny else VOCAB)
        print(f"{arguments.threads} threads, {arguments.rows} rows, {arguments.epochs} epochs", flush=True)
        compare(arguments, base, folder)
        print("\nfor the record:")
        print(f"- {record_nan(arguments, base, folder / 'nan')}")
        print(f"- {record_rest(arguments, base)}")


if __name__ == "__main__":
    main()
