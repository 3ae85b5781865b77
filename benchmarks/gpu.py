"""Training speed on one GPU: afina beside TRL's trainer and beside Unsloth, on the real shapes of two 8B models.

Llama-3.1-8B and Qwen3-8B with random weights, made on the GPU: nothing is downloaded. LoRA of rank 16 on seven
modules, over a bf16 base and over one in 4 bits. Two kinds of rows: full ones of 2048 tokens, all learned, and rows
as long as those of Canarim, whose answers are learned. Every contestant runs in a process of its own, in turn,
learns a few rows first (kernels are compiled and chosen there), and says how many real tokens (padding is not
counted) it then put through per second.

    python benchmarks/gpu.py --peer-python PATH/TO/python-with-trl --unsloth-python PATH/TO/python-with-unsloth
    python benchmarks/gpu.py --device cpu --tiny      # the same script with tiny shapes, in under a minute

    afina          what `auto` chooses: precision, kernels
    trl            SFTTrainer as it comes (activation checkpointing on, batches of 8)
    trl-packing    SFTTrainer with packing into 2048
    trl-liger      SFTTrainer with use_liger_kernel
    unsloth        FastLanguageModel and its own checkpointing, otherwise as trl
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contestants import peak_bytes, print_result, run_contestant
from train_cpu import ALPHA, MODULES, RANK, RATE

CONFIGS: dict[str, dict[str, Any]] = {
    # https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json
    "llama-3.1-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192},
    },
    # https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json
    "qwen3-8b": {
        "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 1e6,
    },
}  # fmt: skip
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512}  # fmt: skip
CANARIM = (
    (25, 5), (30, 6), (33, 7), (35, 8), (37, 9), (39, 9), (41, 10), (43, 10), (44, 11), (46, 11), (48, 14), (49, 15),
    (51, 17), (53, 17), (56, 19), (58, 21), (61, 25), (63, 24), (66, 30), (69, 33), (72, 35), (76, 38), (79, 39),
    (83, 45), (87, 46), (91, 50), (96, 50), (100, 49), (105, 58), (110, 61), (115, 62), (120, 67), (125, 74),
    (131, 78), (137, 73), (145, 68), (155, 61), (170, 55), (193, 56), (279, 121),
)  # fmt: skip
"""Tokens of a row and of its answer: means of the forty shares of 7,995 training rows of Canarim-Instruct-PTBR, sorted
by length (the monograph's split; 16k byte-level BPE trained on them; the longest row has 648)."""
FULL = 2048
LENGTHS = ("2048", "canarim")
CONTESTANTS = ("afina", "trl", "trl-packing", "trl-liger", "unsloth")
WARM_UP = 8
"""Rows learned before the clock starts."""


Rows = list[tuple[list[int], int]]
"""Ids of each row, and how many of its last ones are learned."""
Learn = Callable[[Rows], dict[str, Any]]
"""Learns rows once and says in how many steps."""


def shape_of(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """The model's configuration, or the tiny one of its kind."""
    return CONFIGS[model] | (TINY if arguments.tiny else {})


def make_rows(arguments: argparse.Namespace, lengths: str) -> Rows:
    """Random ids; the same for all contestants. Tiny rows are a sixteenth as long."""
    pick, shrink = random.Random(lengths), 16 if arguments.tiny else 1
    sizes = [(FULL, FULL - 1)] if lengths == "2048" else CANARIM
    rows = []
    for number in range(arguments.rows):
        size, learned = sizes[number % len(sizes)]
        size = max(4, size // shrink)
        rows.append(([pick.randrange(3, 500) for _ in range(size)], min(size - 1, max(1, learned // shrink))))
    pick.shuffle(rows)
    return rows


def make_model(arguments: argparse.Namespace, *, four_bit: bool) -> Any:
    """The shape with random weights, made on the device one module at a time: a 4-bit base is never whole in bf16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device, config = arguments.device, AutoConfig.for_model(**shape_of(arguments, arguments.model), pad_token_id=0)
    config._attn_implementation = "sdpa"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.device(device):  # its frequencies are computed, not learned
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    for path, module in list(model.named_modules()):
        if path.endswith("rotary_emb"):
            continue
        for key, weight in list(module.named_parameters(recurse=False)):
            made = torch.empty(weight.shape, dtype=dtype, device=device)
            made.normal_(0.0, 0.02) if weight.dim() > 1 else made.fill_(1.0)
            setattr(module, key, torch.nn.Parameter(made, requires_grad=False))
        if four_bit and isinstance(module, torch.nn.Linear) and ".layers." in path:
            _to_nf4(model, path, module, dtype)
    model.is_loaded_in_4bit = four_bit  # PEFT asks for it
    return model.eval()


def _to_nf4(model: Any, path: str, linear: Any, dtype: Any) -> None:
    """Put a 4-bit layer in the place of a linear one, as transformers' loading does."""
    import bitsandbytes

    parent, _, name = path.rpartition(".")
    made = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    made.weight = bitsandbytes.nn.Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    ).to(linear.weight.device)
    if hasattr(made, "support_avx512bf16_for_cpu"):
        made.support_avx512bf16_for_cpu = False  # that layout has no gradient
    setattr(model.get_submodule(parent), name, made)


# ---- contestants


def run_afina(arguments: argparse.Namespace) -> Learn:
    """Our loop with what `auto` chooses here."""
    import torch

    from afina.model.choices import choose
    from afina.model.load_torch import attach_adapter, this_machine
    from afina.recipe import Recipe
    from afina.text.example import Example
    from afina.tokenizer.encode import Row
    from afina.train.backend_torch import TorchBackend
    from afina.train.loop import TrainingJob, train

    device = torch.device(arguments.device)
    tiny = {"batch_tokens": 256} if arguments.tiny else {}
    recipe = Recipe.model_validate({
        "name": "bench", "base": "random", "sources": [{"path": "none"}],
        "adapter": {"kind": arguments.adapter, "rank": RANK, "alpha": ALPHA, "targets": MODULES},
        "train": {"max_length": FULL, "epochs": 1, "learning_rate": RATE, "batch_tokens": arguments.batch_tokens,
                  "checkpoint_seconds": 1e9, "checkpoint_activations": arguments.checkpoint_activations} | tiny,
    })  # fmt: skip
    base = make_model(arguments, four_bit=arguments.adapter == "qlora")
    choices = choose(recipe, this_machine(device), model_type=base.config.model_type)
    model = attach_adapter(base, recipe.adapter, 0)

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    def learn(made: Rows) -> dict[str, Any]:
        rows = [
            Row(ids, [False] * (len(ids) - learned) + [True] * learned, Example(text="random")) for ids, learned in made
        ]
        with tempfile.TemporaryDirectory() as folder:
            settings = choices.settings(recipe.train)
            backend = TorchBackend(model, settings, pad_id=0, device=device, say=say)
            job = TrainingJob(Path(folder), "bench")
            state = train(backend, rows, [], settings, job, log=lambda *_, **__: None, say=say)
        return {"steps": state.step, "splits": state.splits, "chosen": str(choices)}

    return learn


def run_trl(arguments: argparse.Namespace) -> Learn:
    """TRL's trainer on the same ids; on Unsloth's model where that is the contestant."""
    unsloth = _unsloth_model(arguments) if arguments.contestant == "unsloth" else None  # it wants to be imported first
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    model = unsloth or make_model(arguments, four_bit=arguments.adapter == "qlora")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM")
    cuda = arguments.device == "cuda"

    def learn(made: Rows) -> dict[str, Any]:
        nonlocal model
        columns = [
            {"input_ids": ids, "completion_mask": [0] * (len(ids) - learned) + [1] * learned} for ids, learned in made
        ]
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=arguments.out, num_train_epochs=1, max_length=FULL // (16 if arguments.tiny else 1),
                packing=arguments.contestant == "trl-packing", completion_only_loss=True,
                use_liger_kernel=arguments.contestant == "trl-liger", save_strategy="no", report_to="none",
                per_device_train_batch_size=arguments.trl_batch, learning_rate=RATE, use_cpu=not cuda, bf16=cuda,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(columns), processing_class=tokenizer,
            peft_config=None if hasattr(model, "peft_config") else lora,
        )  # fmt: skip
        trainer.train()
        model = trainer.model
        return {"steps": trainer.state.global_step}

    return learn


def _unsloth_model(arguments: argparse.Namespace) -> Any:
    """Unsloth opens folders alone: the random weights are written once and read again."""
    from unsloth import FastLanguageModel

    folder = Path(arguments.out) / arguments.model
    if not (folder / "config.json").exists():
        make_model(arguments, four_bit=False).save_pretrained(folder)
    model, _ = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=FULL, load_in_4bit=arguments.adapter == "qlora"
    )
    return FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, target_modules=MODULES, use_gradient_checkpointing="unsloth"
    )


def contestant(arguments: argparse.Namespace) -> None:
    """One contestant in this process: each kind of rows, a few first, then all of them against the clock."""
    import torch

    learn = (run_afina if arguments.contestant == "afina" else run_trl)(arguments)
    cuda, results = arguments.device == "cuda", {}
    for lengths in arguments.lengths:
        rows = make_rows(arguments, lengths)
        learn(rows[:WARM_UP])
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = learn(rows)
        if cuda:
            torch.cuda.synchronize()
        result["seconds"] = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if cuda else peak_bytes()
        results[lengths] = result | {"peak_bytes": peak}
    print_result(results)


# ---- the comparison


def required_flops(arguments: argparse.Namespace, model: str, rows: Rows) -> float:
    """4 per body weight and token, 4 per head weight and learned token, 6 per adapter weight and token."""
    from afina.model.shape_read import read_shape

    shape = read_shape(shape_of(arguments, model), model)
    tokens, learned = sum(len(ids) for ids, _ in rows), sum(learned for _, learned in rows)
    body = 4 * shape.linear_parameters + 6 * shape.lora_parameters(RANK, MODULES)
    return float(body * tokens + 4 * shape.head_parameters * learned)


def peak_flops(arguments: argparse.Namespace) -> float:
    """Of the device's table, of this CPU as measured, or as given."""
    if arguments.peak_tflops:
        return float(arguments.peak_tflops * 1e12)
    if arguments.device == "cuda":
        from afina.plan.device import local_device

        return local_device("cuda").flops_per_second
    from afina.plan.matrix_rate_torch import measured_flops

    return measured_flops()


def compare(arguments: argparse.Namespace, model: str, adapter: str, peak: float) -> list[dict[str, Any]]:
    """Every contestant in turn, `rounds` times; one record for each and each kind of rows."""
    done: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.contestants}
    failed: dict[str, str] = {}
    for _ in range(arguments.rounds):
        for name in arguments.contestants:
            python = arguments.unsloth_python if name == "unsloth" else arguments.peer_python
            command = [sys.executable if name == "afina" else python, __file__, "--contestant", name]
            command += ["--models", model, "--adapters", adapter, "--lengths", *arguments.lengths]
            command += ["--rows", arguments.rows, "--out", arguments.out, "--device", arguments.device]
            command += ["--batch-tokens", arguments.batch_tokens, "--trl-batch", arguments.trl_batch]
            command += [
                f"--{flag}" for flag in ("tiny", "checkpoint-activations") if vars(arguments)[flag.replace("-", "_")]
            ]
            result, said = run_contestant(command)
            if result is None:
                failed[name] = said
                print(f"{model} {adapter} {name} failed:\n{said}", file=sys.stderr, flush=True)
            else:
                done[name].append(result)
    records = []
    for lengths in arguments.lengths:
        rows = make_rows(arguments, lengths)
        flops, tokens = required_flops(arguments, model, rows), sum(len(ids) for ids, _ in rows)
        for name in arguments.contestants:
            record: dict[str, Any] = {"model": model, "adapter": adapter, "rows": lengths, "contestant": name}
            if results := [each[lengths] for each in done[name]]:
                seconds = statistics.median(each["seconds"] for each in results)
                record |= results[-1] | {
                    "rounds": [each["seconds"] for each in results],
                    "tokens_per_second": tokens / seconds,
                    "mfu": flops / seconds / peak,
                    "peak_bytes": max(each["peak_bytes"] for each in results),
                }
            if name in failed:
                record["failed"] = failed[name]
            records.append(record)
            print(_line(record), flush=True)
    return records


def _line(record: dict[str, Any]) -> str:
    head = f"{record['model']:<14}{record['adapter']:<7}{record['rows']:<9}{record['contestant']:<13}"
    if "seconds" not in record:
        return head + "failed"
    return (
        f"{head}{record['tokens_per_second']:>10.0f}{record['mfu']:>8.3f}{record['peak_bytes'] / 2**30:>9.2f}"
        f"{record['steps']:>7}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes and rows that a CPU does in seconds")
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--adapters", nargs="+", choices=["qlora", "lora"], default=["qlora", "lora"])
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--rows", type=int, help="of each run; 64 by default")
    parser.add_argument("--rounds", type=int, help="3 by default, 1 with --tiny")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="afina's micro-batch; halved where it must be")
    parser.add_argument("--checkpoint-activations", action="store_true", help="in afina too")
    parser.add_argument("--trl-batch", type=int, default=8, help="rows in a micro-batch of TRL and Unsloth")
    parser.add_argument("--peer-python", help="a Python that has trl, transformers, peft and datasets")
    parser.add_argument("--unsloth-python", help="a Python that has unsloth")
    parser.add_argument("--peak-tflops", type=float, help="of the device, where its table does not know it")
    parser.add_argument("--json", type=Path, help="write the records here")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.rows = arguments.rows or 64
    arguments.rounds = arguments.rounds or (1 if arguments.tiny else 3)
    if arguments.contestant:
        arguments.model, arguments.adapter = arguments.models[0], arguments.adapters[0]
        contestant(arguments)
        return
    if arguments.device == "cuda" and not _has_cuda():
        print("left out: there is no CUDA device here; `--device cpu --tiny` runs the script with tiny shapes")
        return
    for option, names in (("peer_python", CONTESTANTS[1:4]), ("unsloth_python", CONTESTANTS[4:])):
        if not getattr(arguments, option):
            arguments.contestants = [name for name in arguments.contestants if name not in names]
            print(f"{', '.join(names)}: left out, name a Python that has it with --{option.replace('_', '-')}")
    print(f"{'model':<14}{'':<7}{'rows':<9}{'':<13}{'tokens/s':>10}{'MFU':>8}{'GiB':>9}{'steps':>7}")
    records: list[dict[str, Any]] = []
    peak = peak_flops(arguments)
    with tempfile.TemporaryDirectory() as folder:
        arguments.out = folder
        os.environ["HF_HUB_OFFLINE"] = "1"
        for model in arguments.models:
            for adapter in arguments.adapters:
                records += compare(arguments, model, adapter, peak)
                if arguments.json:
                    arguments.json.write_text(json.dumps(records, indent=2), encoding="utf-8")
    if any("failed" in record for record in records):
        sys.exit("some contestants failed; what they said stands above")


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()
